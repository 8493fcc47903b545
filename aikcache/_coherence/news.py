"""Publishes invalidations that a server refused to write. A process that receives one keeps it as its own.

A server that refuses writes still accepts PUBLISH. Each message is JSON: its sender, and the kinds and names of what
was invalidated. A message without names is a question: a process that has just connected may have missed some, and
their publishers publish them again. A received message is data from Redis: it is bounded and checked, and never raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from aikcache._keys import patterns
from aikcache._keys.keyspace import Keyspace
from aikcache.errors import ConfigError, InvalidKeyError

Name = tuple[str, str]
LONGEST_NAME = 2048
PER_MESSAGE = 50
LONGEST_MESSAGE = PER_MESSAGE * (12 * LONGEST_NAME + 20)
"""Bytes of the longest message: JSON writes a character as twelve at most."""


class News(NamedTuple):
    """A message. Without names it is a question."""

    sender: Any
    names: list[Name]


def question(writer: str) -> bytes:
    """A message that asks for everything that was published."""
    return json.dumps([writer, []]).encode()


def pack(writer: str, names: Iterable[Name]) -> Iterator[bytes]:
    """Messages that carry these names. One that is too long is left out; the next heartbeat tries to write it."""
    left = [name for name in names if len(name[1]) <= LONGEST_NAME]
    for start in range(0, len(left), PER_MESSAGE):
        yield json.dumps([writer, left[start : start + PER_MESSAGE]]).encode()


def unpack(message: object, keyspace: Keyspace) -> News | None:
    """Parse a message. None: it is not one of these messages."""
    if not isinstance(message, bytes) or len(message) > LONGEST_MESSAGE:
        return None
    try:
        sender, names = json.loads(message)
        found = [(kind, name) for kind, name in names]
    except (ValueError, TypeError, RecursionError):
        return None
    if len(found) > PER_MESSAGE:
        return None
    if not all(_is_ours(kind, name, keyspace) for kind, name in found):
        return None
    return News(sender, found)


def _is_ours(kind: object, name: object, keyspace: Keyspace) -> bool:
    """Whether such an invalidation can belong to this key space. That is checked because it will be written to
    Redis.
    """
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
        return False
    try:
        name.encode()
        if kind == "keys":
            return keyspace.full(name) == name
        return kind == "groups" or (kind == "globs" and patterns.resolve(name).kind == "glob")
    except (UnicodeEncodeError, InvalidKeyError, ConfigError):
        return False
