"""What is known while calls of one function are answered: their values, their flights and their leases.

A value or a failure lands the flight of its call, so that those who wait for it go on. Threads: a batch is one
thread's own; only its flights are seen by others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from aikcache._codec.frame import Frame
from aikcache._engine.call import MISSING, Attempt, Run
from aikcache._engine.single_flight import FAILED, LANDED, CachedValue, Flight, hand_out
from aikcache._engine.versioned_store import VersionedStore
from aikcache._remote.leases import Lease
from aikcache._remote.store import Read
from aikcache.errors import RemoteError

if TYPE_CHECKING:
    from aikcache._engine.engine import Engine


class Batch:
    """Calls that are answered together. `together`: one run of the function gives the results of all."""

    def __init__(self, engine: Engine, attempts: Sequence[Attempt], run: Run, *, together: bool = False) -> None:
        self.engine = engine
        self.attempts = attempts
        self.run = run
        self.together = together
        self.values: list[Any] = [MISSING] * len(attempts)
        self.flights: dict[int, Flight] = {}  # that this thread leads and has not landed, by place

    def groups(self, places: Sequence[int]) -> list[Sequence[int]]:
        """The places of one run of the function each."""
        return [[i] for i in places] if not self.together else [places] if places else []

    def land(self, i: int, state: int, held: CachedValue | None = None) -> None:
        flight = self.flights.pop(i, None)
        if flight is not None:
            self.engine.flights.done(flight, state, held)

    def land_rest(self) -> None:
        """What has not landed has failed."""
        for i in list(self.flights):
            self.land(i, FAILED)

    def leases(self, places: Iterable[int]) -> list[Lease]:
        """The leases that are ours of these."""
        return [(attempt.key, attempt.token) for attempt in map(self.attempts.__getitem__, places) if attempt.token]

    # What stands in Redis

    def look(self, remote: VersionedStore, places: Sequence[int]) -> list[int]:
        """Read all values at once; what answers is handed out, the rest comes back."""
        reads = remote.read([self.attempts[i] for i in places])
        for i in places:  # of what was held here, those who join get what was vouched for then
            flight = self.flights.get(i)
            if flight is not None:
                flight.began = min(flight.began, self.attempts[i].read_started_at)
        frames = remote.parse([(self.attempts[i], read.data) for i, read in zip(places, reads, strict=True)])
        return [
            i
            for i, read, frame in zip(places, reads, frames, strict=True)
            if not self.accept(i, read, frame, parsed=True)
        ]

    def accept(self, i: int, read: Read, frame: Frame | None = None, *, parsed: bool = False, hit: bool = True) -> bool:
        """Take what stands in Redis, if it answers. `hit`: that is a hit of the call, which has not missed before."""
        attempt, remote = self.attempts[i], self.engine.remote_tier
        attempt.seen = read.data or b""
        if remote is None or read.data is None:
            return False
        attempt.region.counters.bytes_read += len(read.data)
        if not parsed:
            (frame,) = remote.parse([(attempt, read.data)])
        if frame is None or not remote.current(attempt, frame):
            return False
        found = self.engine.filler.accept(attempt, frame, read.pttl)
        if found is None:
            return False
        self.values[i], held = found
        attempt.region.counters.remote_hits += hit
        self.land(i, LANDED, held)
        return True

    def look_again(self, i: int, *, hit: bool) -> None:
        """Take what stands now that something was invalidated; if the stale value still stands, it is the fallback."""
        attempt, remote = self.attempts[i], self.engine.remote_tier
        attempt.fallback = None
        try:
            if remote is not None:
                self.accept(i, remote.read([attempt])[0], hit=hit)
        except RemoteError:
            pass

    # A stale value

    def fall_back(self, i: int, error: Exception | None) -> None:
        """Answer with the stale value, because the function failed or takes too long."""
        attempt, engine = self.attempts[i], self.engine
        if error is not None:
            engine.refresher.failed(attempt.key)
        why = "takes too long" if error is None else f"failed: {type(error).__name__}"
        engine.reporter.report(
            f"stale:{attempt.region.name}", f"the load of {attempt.key} {why}; a stale value answers."
        )
        attempt.region.counters.stale += 1
        assert attempt.fallback is not None
        self.values[i] = hand_out(attempt.fallback, attempt.policy.codec)
        self.land(i, LANDED, attempt.fallback)
