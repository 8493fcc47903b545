"""What sessions and key rings of this process did, as the numbers that are exported: a part of each `Tally`.

Stores of sessions count here, so that a closed one leaves its counts behind. Rings are asked when somebody reads: they
say of what they know, and ask nothing of Redis. Several rings are counted by the ids of their keys, so one ring that is
open twice counts once. Threads: any. `x += 1` on an item has no point at which the interpreter could switch threads.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Protocol

EVENTS = (
    "created", "loaded", "written", "touched", "ended", "regenerated", "followed", "dropped", "refused", "unavailable",
)  # fmt: skip
"""What may happen to a session."""
KEY_STATES = ("pending", "active", "expired", "retired", "revoked")
"""What a key of a ring may be."""


class Ring(Protocol):
    """What a key ring says of itself."""

    def key_states(self) -> Mapping[str, str]:
        """The state of each key by its id; nothing where the ring has not been read yet."""

    def next_rotation(self) -> float | None:
        """Seconds until a key must be made; below 0: it should have been. None: the ring has not been read yet."""


class SessionTally:
    """Counts of all stores of sessions, and the rings that are open."""

    def __init__(self) -> None:
        self.used = False
        self._events = dict.fromkeys(EVENTS, 0)
        self._rings: tuple[weakref.ref[Ring], ...] = ()

    def join(self) -> dict[str, int]:
        """Where a store of sessions counts what happens."""
        self.used = True
        return self._events

    def add_ring(self, ring: Ring) -> None:
        """Ask it too, for as long as it is there."""
        self._rings = (*(ref for ref in self._rings if ref() is not None), weakref.ref(ring))

    def events(self) -> dict[str, int]:
        """How often each event came; nothing before the first store is made."""
        return dict(self._events) if self.used else {}

    def keys(self) -> dict[str, int]:
        """Keys by their state; nothing where no ring is known."""
        states = {id: state for ring in self._open() for id, state in ring.key_states().items()}
        if not states:
            return {}
        counts = dict.fromkeys(KEY_STATES, 0)
        for state in states.values():
            counts[state] += 1
        return counts

    def next_rotation(self) -> list[float]:
        """The soonest of all rings; nothing where none is known."""
        due = [seconds for ring in self._open() if (seconds := ring.next_rotation()) is not None]
        return [min(due)] if due else []

    def _open(self) -> Iterable[Ring]:
        return [ring for ref in self._rings if (ring := ref()) is not None]
