"""What Redis answers: the kinds that there are, and whether an answer is one of the kind that was asked for.

A server, or a connection that is out of step, may answer anything; what is not of the kind is an error, not a crash
somewhere else. Types are compared exactly: to Python a boolean is a number. Pure.
"""

from __future__ import annotations

from typing import Any, NamedTuple

NO_VALUE, NOT_ASKED = -2, -3
"""PTTLs: Redis gives -1 for a value without end and -2 for none; -3 is ours."""
VALUE: frozenset[type] = frozenset({bytes, type(None)})
NUMBER: frozenset[type] = frozenset({int})
NAME: frozenset[type] = frozenset({bytes})


class Read(NamedTuple):
    """A value's bytes (`None`: there is none), its remaining milliseconds, and the stamps asked for."""

    data: bytes | None
    pttl: int
    stamps: list[bytes | None]


class Life(NamedTuple):
    """Milliseconds that a stamp must live at least, and those that it is given when it would not."""

    least: int
    given: int


class Stamp(NamedTuple):
    """A group's stamp, the milliseconds that it will live at least, and whether there was none before."""

    stamp: bytes
    left_ms: int
    made: bool


class Busy(NamedTuple):
    """Somebody else loads this key."""

    lease_ms: int


def are(replies: Any, kinds: frozenset[type], count: int) -> bool:
    """Whether it is an array of so many, all of these types."""
    return type(replies) is list and len(replies) == count and kinds.issuperset(map(type, replies))


def are_like(replies: Any, kinds: tuple[type, ...]) -> bool:
    """Whether it is an array of these types, in this order."""
    return type(replies) is list and tuple(map(type, replies)) == kinds


def granted(reply: Any) -> Read | Busy | None:
    """`None` for a lease, else the value that is there, or `Busy`. Raises `TypeError` for anything else."""
    if reply == b"OK":
        return None
    if type(reply) is int:
        return Busy(reply)
    if are_like(reply, (bytes, int)):
        return Read(reply[0], reply[1], [])
    raise TypeError("no answer to a request for a lease")
