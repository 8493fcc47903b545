"""Local keys for arguments that an attacker may choose: long arguments, and many arguments with one hash.

The hash of an int is its remainder by 2**61 - 1, and a UUID's here is that of its int. So a client that chooses ids can
choose any number of them with the same hash, and a dict compares each with all others. And an argument of a million
characters would stay in memory for as long as its entry. Such an entry is held under its key's text instead, where the
wrapper does not find it and `LocalTier.peek` does. Only fills pay for this; a hit pays nothing.

The caller holds the lock of the table. An exception of a signal handler passes through, and nothing has changed.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

MAX_CROWD = 32
"""Entries of one table with the same hash."""
LONGEST = 1024
"""Characters or bytes of an argument that is held."""
_BY_TEXT = object()
"""In the local key of an entry that is held under its key's text; no argument is equal to it."""


class _Counting:
    """Has a given hash, and equals nothing until a dict has compared it with MAX_CROWD of its keys."""

    __slots__ = ("_hash", "left")

    def __init__(self, hashed: int) -> None:
        self._hash = hashed
        self.left = MAX_CROWD

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        self.left -= 1
        return self.left <= 0


def held_as(local_key: Hashable, key: str, table: Mapping[Any, object]) -> Hashable:
    """The key of an entry in `table`: `local_key`, or the text of its key where that would be long or crowded.

    Hashes of str and bytes are secret, and small ints have one each.
    """
    if is_long(local_key):
        return _BY_TEXT, key
    kind = type(local_key)
    if kind is not tuple and (kind is not int or -(2**60) < local_key < 2**60):  # type: ignore[operator]
        return local_key
    if local_key in table or _Counting(hash(local_key)) not in table:
        return local_key
    return _BY_TEXT, key


def is_long(local_key: Hashable) -> bool:
    """Whether a local key has an argument that is too long to be held."""
    return any(map(_long, local_key)) if type(local_key) is tuple else _long(local_key)


def _long(value: Any) -> bool:
    kind = type(value)
    if kind is str or kind is bytes:
        return len(value) > LONGEST
    return kind is int and value.bit_length() > 8 * LONGEST
