"""One load of a key at a time in this process: one call leads it, the others wait.

The first call to miss leads. Calls that miss the same key meanwhile wait, for a bounded time. An invalidation of the
key, or of one of its groups, hides the flight: a later call starts its own and never gets an older value. When a
leader fails, the next waiter leads. A thread that comes again, through a function that calls itself, does not wait for
itself, also not through other threads.

Threads: the flights are a dictionary used by its own atomic steps. The leader of a flight holds two bare locks: one
that waiters pass on, and one that shows whether it still leads. After `fork` the child has no flights, because it does
not have their leaders.
"""

from __future__ import annotations

import threading
from _thread import LockType
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, NamedTuple

from aikcache._local.entry import EncodedValue

UNDER_WAY, LANDED, FAILED, UNSHAREABLE = range(4)
LEADER_CHECK = 0.25
"""Seconds after which a waiter checks whether the flight still has a leader."""


class CachedValue(NamedTuple):
    """A value in a form that several callers can share, as an entry's."""

    value: object
    codec: Any = None  # the value's
    stale: bool = False
    requested_at: float = inf  # of a local entry, for it is not trusted for ever; else the flight's own start counts


def hold(value: object, encoded: EncodedValue, codec: Any, *, shareable: bool) -> CachedValue:
    """`shareable`: the value itself may be given to all callers."""
    return CachedValue(value if shareable else encoded, codec)


_NOTHING = CachedValue(None)


class Flight:
    """One load, and its result. `invalidated`: an invalidation has hit it, so the result is for its waiters alone.

    Its leader is inside a `with` on the lock `leader` from before it is visible until it has landed. An exception from
    outside may keep a leader from landing; then that lock is free, which nothing can prevent, and shows it.
    """

    __slots__ = (
        "_landing",
        "cached",
        "groups",
        "invalidated",
        "key",
        "leader",
        "started_at",
        "state",
        "strong",
        "thread",
    )

    def __init__(self, key: str, groups: list[str], started_at: float, leader: LockType) -> None:
        self.key = key
        self.started_at = started_at
        self.groups = groups
        self.leader = leader
        self.thread = threading.get_ident()  # the thread that will land it
        self.state = UNDER_WAY
        self.cached = _NOTHING
        self.invalidated = False
        self.strong = False  # it uses nothing that was known before it began
        self._landing = threading.Lock()
        self._landing.acquire()

    def over(self) -> bool:
        """Whether there is nothing to wait for: it has landed, or has no leader any more."""
        return self.state != UNDER_WAY or not self.leader.locked()

    def land(self, state: int, cached: CachedValue | None = None) -> None:
        """The leader is done, successfully or not."""
        if cached is not None:
            self.cached = cached
        self.state = state
        if self._landing.locked():
            self._landing.release()

    def wait(self, seconds: float) -> bool:
        """Wait until it is over. False: it is not over in time."""
        while not self.over():
            if seconds <= 0:
                return False
            if self._landing.acquire(timeout=min(seconds, LEADER_CHECK)):
                self._landing.release()
            seconds -= LEADER_CHECK
        return True


class Flights:
    """The loads that run in this process for one cache."""

    __slots__ = ("_waiting", "flying", "loading")

    def __init__(self) -> None:
        self.flying: dict[str, Flight] = {}
        self.loading: set[tuple[int, str]] = set()
        """Which thread is running the function for which key. `about` returns what to add, and to remove again, each
        by one call into C, so that nothing can come between.
        """
        self._waiting: dict[int, Flight] = {}  # the flight that each thread waits for

    def __len__(self) -> int:
        return len(self.flying)

    def __contains__(self, key: str) -> bool:
        return key in self.flying

    def join(self, mine: Flight) -> Flight:
        """The flight of a key: `mine`, unless one is running."""
        while (flight := self.flying.setdefault(mine.key, mine)) is not mine and flight.over():
            self._hide(flight)
        return flight

    def _hide(self, flight: Flight) -> None:
        if self.flying.get(flight.key) is flight:
            self.flying.pop(flight.key, None)

    def wait(self, flight: Flight, seconds: float) -> bool:
        """Wait for the landing. False: it has not landed in time, or cannot before the caller itself continues."""
        thread = threading.get_ident()
        try:
            self._waiting[thread] = flight  # first, so that of two threads that would wait for each other one sees it
            return not self._waits_for(thread, flight) and flight.wait(seconds)
        finally:
            self._waiting.pop(thread, None)

    def _waits_for(self, thread: int, flight: Flight) -> bool:
        """Whether a flight's leader waits for what `thread` leads, perhaps through other waiters."""
        seen = {thread}
        while flight.thread not in seen:
            seen.add(flight.thread)
            next_one = self._waiting.get(flight.thread)
            if next_one is None or next_one.over():
                return False
            flight = next_one
        return flight.thread == thread

    def done(self, flight: Flight, state: int, cached: CachedValue | None = None) -> None:
        """Land, and let the next caller begin again. (Hidden first: a new caller must not join.)"""
        self._hide(flight)
        flight.land(state, cached)

    def invalidate(self, concerns: Callable[[Flight], bool]) -> None:
        """Hide the flights that `concerns` selects: they continue only for calls that already wait."""
        for flight in list(self.flying.values()):
            if concerns(flight):
                flight.invalidated = True
                self._hide(flight)

    def invalidate_key(self, key: str) -> None:
        flight = self.flying.get(key)
        if flight is not None:
            flight.invalidated = True
            self._hide(flight)

    def about(self, keys: Iterable[str]) -> set[tuple[int, str]]:
        """What to add to `loading` when this thread is about to run the function for `keys`."""
        thread = threading.get_ident()
        return {(thread, key) for key in keys} - self.loading  # without what an outer call of this thread has added

    def loading_here(self, key: str) -> bool:
        """Whether this thread is running the function for `key`: it cannot wait for itself."""
        return (threading.get_ident(), key) in self.loading

    def loading_any(self) -> bool:
        """Whether this thread is running a function for any key."""
        thread = threading.get_ident()
        return bool(self.loading) and thread in [loader for loader, _ in self.loading.copy()]

    def forget(self) -> None:
        self.flying.clear()
        self._waiting.clear()
        self.loading.intersection_update([mine for mine in self.loading if mine[0] == threading.get_ident()])
