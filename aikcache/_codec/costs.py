"""Bounds what a payload may cost its reader beyond its own size: objects, and keys that collide in a hash table.

A forged payload of a few kilobytes could contain millions of empty lists, or numbers with equal hashes, which a set
compares each with each, for minutes, while no other thread runs. So containers are counted before they are made, and
hashes before a set is. msgspec makes its sets and dicts in C, where nothing can be counted. Where an annotation makes
it hash values that a forger may choose (UUIDs, Decimals, tuples, anything under Any), large payloads are not read in
its form, and large values are written in the tagged form. Pure functions, for any thread.
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
    "too_many_in_msgpack",
]

MAX_CONTAINERS: Final = 1 << 18
"""Lists and objects of a payload: the smallest take 56 to 232 bytes each."""
UNMEASURED: Final = 1 << 14
"""Bytes that msgspec may read whatever they hash: if all collide, a batch of a hundred takes less than a second."""
_FEW: Final = 16
_MAX_ALIKE: Final = 256
_STRINGS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""Whatever begins with a quote is one, to the end where nothing closes it: nothing is read twice."""
_HEADS: Final = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
"""The first bytes of a container in msgpack; strings may contain such bytes too."""
_WIDE: Final = (b"\xcb", b"\xcf", b"\xd3")
"""The first byte of a float or a long int; of tuples with equal hashes, all but one contain one."""
_MAX_WIDE: Final = 2000
# Hashes of str, bytes and dates are secret, Enum members are few; few 64-bit ints, floats and times have equal hashes.
_SAFE: Final = (str, bytes, bool, int, float, type(None), dt.date, dt.datetime, dt.time, dt.timedelta)


class Collisions:
    """Counts equal hashes over all the sets and dicts of one payload."""

    __slots__ = ("alike",)

    def __init__(self) -> None:
        self.alike = 0

    def count(self, items: Iterable[Any], number: int) -> None:
        """Count the items of a set before it is made. Raises ValueError if there are too many equal hashes."""
        if number > _FEW:
            self.alike += number - len(set(map(hash, items)))
            if self.alike > _MAX_ALIKE:
                raise ValueError("too many hashes that are the same")


def too_many_containers(payload: bytes) -> bool:
    """For JSON, or the tagged form."""
    if len(payload) <= MAX_CONTAINERS or payload.count(b"[") + payload.count(b"{") <= MAX_CONTAINERS:
        return False
    bare = _STRINGS.sub(b"", payload)
    return bare.count(b"[") + bare.count(b"{") > MAX_CONTAINERS


def too_many_in_msgpack(payload: bytes) -> bool:
    """For msgpack. It may count text too; then the value is written in the tagged form."""
    size = len(payload)
    return size > MAX_CONTAINERS and size - len(payload.translate(None, _HEADS)) > MAX_CONTAINERS


def may_collide(payload: bytes, *, chosen: bool, anything: bool) -> bool:
    """Whether a payload may contain too many equal hashes, where `chosen` values are hashed, or `anything` is."""
    if len(payload) <= UNMEASURED:
        return False
    return chosen or (anything and sum(map(payload.count, _WIDE)) > _MAX_WIDE)


def hashes_what_is_chosen(hint: Any) -> bool:
    """Whether a hint is a set or dict whose keys a forger can make collide."""
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
