"""Counts of sessions and key rings in this process: a part of each `Tally`.

Stores of sessions count here, so the counts of a closed one remain. Rings are asked when the counts are read: they
report what they know, and ask nothing of Redis. Several rings are counted by the ids of their keys, so a ring that is
open twice counts once. Threads: any. `x += 1` on an item has no point at which the interpreter could switch threads.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Protocol

EVENTS = (
    "created", "loaded", "written", "touched", "ended", "regenerated", "followed", "dropped", "refused", "unavailable",
)  # fmt: skip
"""What can happen to a session."""
KEY_STATES = ("pending", "active", "expired", "retired", "revoked")
"""The states of a ring's key."""


class Ring(Protocol):
    """What a key ring reports."""

    def key_states(self) -> Mapping[str, str]:
        """The state of each key by its id; empty before the ring has been read."""

    def next_rotation(self) -> float | None:
        """Seconds until a key must be made; below 0: it is overdue. None: the ring has not been read yet."""


class SessionTally:
    """Counts of all session stores, and the open rings."""

    def __init__(self) -> None:
        self.used = False
        self._events = dict.fromkeys(EVENTS, 0)
        self._rings: tuple[weakref.ref[Ring], ...] = ()

    def join(self) -> dict[str, int]:
        """The dictionary in which a session store counts."""
        self.used = True
        return self._events

    def add_ring(self, ring: Ring) -> None:
        """Include a ring, for as long as it exists."""
        self._rings = (*(ref for ref in self._rings if ref() is not None), weakref.ref(ring))

    def events(self) -> dict[str, int]:
        """The count of each event; empty before the first store is made."""
        return dict(self._events) if self.used else {}

    def keys(self) -> dict[str, int]:
        """Keys by state; empty where no ring is known."""
        states = {id: state for ring in self._open() for id, state in ring.key_states().items()}
        if not states:
            return {}
        counts = dict.fromkeys(KEY_STATES, 0)
        for state in states.values():
            counts[state] += 1
        return counts

    def next_rotation(self) -> list[float]:
        """The soonest of all rings; empty where none is known."""
        seconds_left = [seconds for ring in self._open() if (seconds := ring.next_rotation()) is not None]
        return [min(seconds_left)] if seconds_left else []

    def _open(self) -> Iterable[Ring]:
        return [ring for ref in self._rings if (ring := ref()) is not None]
