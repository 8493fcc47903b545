"""What a payload may cost whoever reads it, beyond its own size: objects, and keys that collide in a hash table.

A forged payload of a few kilobytes could hold millions of empty lists, or numbers whose hashes are all the same, which
a set compares each with each, for minutes, with no other thread running. So containers are counted before they are
made, and hashes before a set is. msgspec makes its sets and dicts in C, where nothing can be counted: where an
annotation has it hash what a forger may choose (UUIDs, Decimals, tuples, whatever stands for Any), large payloads are
not of its form, and what the writer has of that size it writes in the tagged one. Pure functions, for any thread.
"""

from __future__ import annotations

import datetime as dt
import enum
import re
from collections.abc import Iterable, Mapping, Set
from types import UnionType
from typing import Any, Final, Literal, NewType, Union, get_args, get_origin

__all__ = [
    "MAX_CONTAINERS",
    "Collisions",
    "hashes_what_is_chosen",
    "may_collide",
    "too_many_containers",
    "too_many_packed",
]

MAX_CONTAINERS: Final = 1 << 18
"""Lists and objects of a payload: the least of them take 56 to 232 bytes."""
UNMEASURED: Final = 1 << 16
"""Bytes that msgspec may read whatever they hash: all colliding, they take it less than half a second."""
_FEW: Final = 16
_MAX_ALIKE: Final = 256
_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_HEADS: Final = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
"""What begins a container in msgpack; strings may have such bytes, too."""
_WIDE: Final = (b"\xcb", b"\xcf", b"\xd3")
"""What begins a float or a long int; of tuples whose hashes are the same, each but the first has one."""
_MAX_WIDE: Final = 2000
# Hashes of str, bytes and dates are secret, members are few; of 64-bit ints, floats and times few have the same hash.
_SAFE: Final = (str, bytes, bool, int, float, type(None), dt.date, dt.datetime, dt.time, dt.timedelta)


class Collisions:
    """Counts hashes that are the same, over all the sets and dicts of one payload."""

    __slots__ = ("alike",)

    def __init__(self) -> None:
        self.alike = 0

    def count(self, items: Iterable[Any], number: int) -> None:
        """Before a set is made of them. Raises ValueError when they are too many."""
        if number > _FEW:
            self.alike += number - len(set(map(hash, items)))
            if self.alike > _MAX_ALIKE:
                raise ValueError("too many hashes that are the same")


def too_many_containers(payload: bytes) -> bool:
    """Of JSON, or the tagged form."""
    if len(payload) <= MAX_CONTAINERS or payload.count(b"[") + payload.count(b"{") <= MAX_CONTAINERS:
        return False
    bare = _STRINGS.sub(b"", payload)
    return bare.count(b"[") + bare.count(b"{") > MAX_CONTAINERS


def too_many_packed(payload: bytes) -> bool:
    """Of msgpack, maybe: what is counted may be text. The tagged form then says."""
    size = len(payload)
    return size > MAX_CONTAINERS and size - len(payload.translate(None, _HEADS)) > MAX_CONTAINERS


def may_collide(payload: bytes, *, chosen: bool, anything: bool) -> bool:
    """Whether it may hold enough hashes that are the same, where such are hashed, or `anything` is."""
    if len(payload) <= UNMEASURED:
        return False
    return chosen or (anything and sum(map(payload.count, _WIDE)) > _MAX_WIDE)


def hashes_what_is_chosen(hint: Any) -> bool:
    """Whether the set or dict that a hint is hashes what may be made to collide."""
    origin = get_origin(hint)
    if not isinstance(origin, type) or not issubclass(origin, Mapping | Set) or not get_args(hint):
        return False
    return not _is_safe(get_args(hint)[0])


def _is_safe(hint: Any) -> bool:
    if isinstance(hint, NewType):
        return _is_safe(hint.__supertype__)
    if get_origin(hint) in (Union, UnionType):
        return all(map(_is_safe, get_args(hint)))
    if hint is None or get_origin(hint) is Literal:
        return True
    return hint in _SAFE or (isinstance(hint, type) and issubclass(hint, enum.Enum))
