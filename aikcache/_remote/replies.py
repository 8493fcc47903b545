"""The types of replies, and checks that a reply has the type that its command expects. Pure.

A server, or a connection that is out of step, may answer anything. A reply of another type is an error here, not a
crash somewhere else. Types are compared exactly, because to Python a boolean is a number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

NO_VALUE, NOT_READ = -2, -3
"""PTTLs: Redis replies -1 for a value without expiry and -2 for no value; -3 is aikcache's own."""
VALUE: frozenset[type] = frozenset({bytes, type(None)})
NUMBER: frozenset[type] = frozenset({int})
NAME: frozenset[type] = frozenset({bytes})


class Read(NamedTuple):
    """A value's bytes (`None`: there is none), its remaining milliseconds, and the requested stamps."""

    data: bytes | None
    pttl: int
    stamps: list[bytes | None]


class Life(NamedTuple):
    """The milliseconds that a stamp must live at least, and the expiry that it gets if it would not."""

    least: int
    given: int


class Stamp(NamedTuple):
    """A group's stamp, the milliseconds that it will live at least, and whether it was created now."""

    stamp: bytes
    left_ms: int
    made: bool


class Busy(NamedTuple):
    """Another caller loads this key."""

    lease_ms: int


def are(replies: Any, kinds: frozenset[type], count: int) -> bool:
    """Whether `replies` is an array of `count` elements of these types."""
    return type(replies) is list and len(replies) == count and kinds.issuperset(map(type, replies))


def are_like(replies: Any, kinds: tuple[type, ...]) -> bool:
    """Whether `replies` is an array of these types, in this order."""
    return type(replies) is list and tuple(map(type, replies)) == kinds


def granted(reply: Any) -> Read | Busy | None:
    """`None` for a granted lease, else the value that is there, or `Busy`. Raises `TypeError` for anything else."""
    if reply == b"OK":
        return None
    if type(reply) is int:
        return Busy(reply)
    if are_like(reply, (bytes, int)):
        return Read(reply[0], reply[1], [])
    raise TypeError("no answer to a request for a lease")
