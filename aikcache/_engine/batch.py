"""Calls that are answered together: their values, flights and leases.

A value or a failure lands the flight of its call, so that its waiters go on. Threads: a batch belongs to one thread;
other threads see only its flights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from aikcache._engine.call import MISSING, Attempt, Run
from aikcache._engine.single_flight import FAILED, LANDED, CachedValue, Flight
from aikcache._local.entry import hand_out
from aikcache._remote.replies import Read
from aikcache.errors import RemoteError

if TYPE_CHECKING:
    from aikcache._codec.frame import Frame
    from aikcache._engine.engine import Engine
    from aikcache._engine.versioned_store import VersionedStore
    from aikcache._remote.leases import Lease


class Batch:
    """Calls that are answered together. `together`: one run of the function gives the results of all."""

    def __init__(self, engine: Engine, attempts: Sequence[Attempt], run: Run, *, together: bool = False) -> None:
        self.engine = engine
        self.attempts = attempts
        self.run = run
        self.together = together
        self.values: list[Any] = [MISSING] * len(attempts)
        self.flights: dict[int, Flight] = {}  # led by this thread and not landed yet, by place

    def groups(self, places: Sequence[int]) -> list[Sequence[int]]:
        """The places for each run of the function."""
        return [[i] for i in places] if not self.together else [places] if places else []

    def land(self, i: int, state: int, cached: CachedValue | None = None) -> None:
        flight = self.flights.pop(i, None)
        if flight is not None:
            self.engine.flights.done(flight, state, cached)

    def land_rest(self) -> None:
        """Flights that have not landed have failed."""
        for i in list(self.flights):
            self.land(i, FAILED)

    def leases(self, places: Iterable[int]) -> list[Lease]:
        """The leases that these calls hold."""
        return [(attempt.key, attempt.token) for attempt in map(self.attempts.__getitem__, places) if attempt.token]

    # Values in Redis

    def read(self, remote: VersionedStore, places: Sequence[int]) -> list[int]:
        """Read all values at once. Values that answer are used; the places of the others are returned."""
        reads = remote.read([self.attempts[i] for i in places])
        for i in places:  # cached stamps were current at an earlier time, which counts for waiters too
            flight = self.flights.get(i)
            if flight is not None:
                flight.started_at = min(flight.started_at, self.attempts[i].read_started_at)
        frames = remote.parse([(self.attempts[i], read.data) for i, read in zip(places, reads, strict=True)])
        return [
            i
            for i, read, frame in zip(places, reads, frames, strict=True)
            if not self.accept(i, read, frame, parsed=True)
        ]

    def accept(self, i: int, read: Read, frame: Frame | None = None, *, parsed: bool = False, hit: bool = True) -> bool:
        """Use the value in Redis, if it answers. `hit`: count it as a hit, because the call has not missed before."""
        attempt, remote = self.attempts[i], self.engine.remote_tier
        attempt.seen = read.data or b""
        if remote is None or read.data is None:
            return False
        size = len(read.data)
        attempt.region.counters.bytes_read += size
        if not parsed:
            (frame,) = remote.parse([(attempt, read.data)])
        if frame is None or not remote.current(attempt, frame):
            return False
        found = self.engine.filler.accept(attempt, frame, read.pttl)
        if found is None:
            return False
        self.values[i], cached = found
        attempt.region.counters.remote_hits += hit
        attempt.region.absent = 0
        self.land(i, LANDED, cached)
        return True

    def read_again(self, i: int, *, hit: bool) -> None:
        """Read again after an invalidation. If the stale value is still valid, it is the fallback."""
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
        self.use_fallback(i)

    def use_fallback(self, i: int) -> None:
        """Answer with the stale value."""
        attempt = self.attempts[i]
        attempt.region.counters.stale += 1
        assert attempt.fallback is not None
        self.values[i] = hand_out(attempt.fallback.value, attempt.fallback.codec, attempt.policy.codec)
        self.land(i, LANDED, attempt.fallback)
