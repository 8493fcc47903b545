"""One load of a key in this process at a time: which call leads it, and which calls wait for it.

The first call to miss leads. Calls that miss the same key meanwhile wait, for a bounded time. An invalidation of the
key, or of one of its groups, hides the flight: a later call starts its own and never gets a value from before. When a
leader fails, the next waiter leads. A thread that comes again, through a function that calls itself, does not wait for
itself, also not through other threads.

Threads: the flights are a dictionary used by its own atomic steps. The leader of a flight holds two bare locks: one
that waiters pass on, and one that tells whether it still leads. After `fork` the child has no flights, because it does
not have their leaders.
"""

from __future__ import annotations

import threading
from _thread import LockType
from collections.abc import Callable
from typing import Any, NamedTuple

from aikcache._local.entry import EncodedValue
from aikcache.errors import DecodeError

UNDER_WAY, LANDED, FAILED, UNSHAREABLE = range(4)
LOOK = 0.25
"""Seconds after which who waits looks whether the flight still has a leader."""


class CachedValue(NamedTuple):
    """A value and how to hand it to more than one caller: itself, or a copy decoded from `packed`."""

    value: object
    packed: EncodedValue | None = None
    codec: Any = None  # that gave the value, where it is not packed
    stale: bool = False


def hold(value: object, packed: EncodedValue, codec: Any, *, shared: bool) -> CachedValue:
    """`shared`: the value itself may be handed to everybody."""
    return CachedValue(value, codec=codec) if shared else CachedValue(None, packed)


def hand_out(held: CachedValue, codec: Any) -> Any:
    """The value for one more caller. Raises `DecodeError` where it is of another type than asked for."""
    packed = held.packed
    if packed is not None:
        return codec.decode(packed.codec, packed.payload, packed.schema, checked=True)
    if held.codec is not codec and not codec.takes(held.value, held.codec):
        raise DecodeError("it was loaded as another type.")
    return held.value


class Flight:
    """One load, and what came of it. `ended`: an invalidation has hit it, so its result is for its waiters alone.

    Its leader is inside a `with` on the lock `leader` from before it is seen until it has landed. An exception from
    outside may keep a leader from landing; then that lock is free, which nothing can prevent, and says so.
    """

    __slots__ = (
        "_landing",
        "began",
        "ended",
        "groups",
        "held",
        "key",
        "leader",
        "state",
        "strong",
        "thread",
    )

    def __init__(self, key: str, groups: tuple[str, ...], began: float, leader: LockType) -> None:
        self.key = key
        self.began = began
        self.groups = groups
        self.leader = leader
        self.thread = threading.get_ident()  # that will land it
        self.state = UNDER_WAY
        self.held = CachedValue(None)
        self.ended = False
        self.strong = False  # nothing that was known before it began has a part in it
        self._landing = threading.Lock()
        self._landing.acquire()

    def over(self) -> bool:
        """Whether there is nothing to wait for: it has landed, or nobody leads it any more."""
        return self.state != UNDER_WAY or not self.leader.locked()

    def land(self, state: int, held: CachedValue | None = None) -> None:
        """The leader is done, one way or the other."""
        if held is not None:
            self.held = held
        self.state = state
        if self._landing.locked():
            self._landing.release()

    def wait(self, seconds: float) -> bool:
        """Wait until it is over. False: it is not in time."""
        while not self.over():
            if seconds <= 0:
                return False
            if self._landing.acquire(timeout=min(seconds, LOOK)):
                self._landing.release()
            seconds -= LOOK
        return True


class Flights:
    """The loads under way in this process for one cache."""

    __slots__ = ("_waiting", "flying", "loading")

    def __init__(self) -> None:
        self.flying: dict[str, Flight] = {}
        self.loading: set[tuple[int, str]] = set()
        """Which thread is running the function for which key. `about` says what to put in, and to take out again, each
        by one call into C: nothing can then come between."""
        self._waiting: dict[int, Flight] = {}  # which thread waits for what

    def __len__(self) -> int:
        return len(self.flying)

    def __contains__(self, key: str) -> bool:
        return key in self.flying

    def join(self, mine: Flight) -> Flight:
        """The flight of a key: `mine`, unless there is one under way."""
        while (flight := self.flying.setdefault(mine.key, mine)) is not mine and flight.over():
            self._hide(flight)
        return flight

    def _hide(self, flight: Flight) -> None:
        if self.flying.get(flight.key) is flight:
            self.flying.pop(flight.key, None)

    def wait(self, flight: Flight, seconds: float) -> bool:
        """Wait for the landing. False: it has not landed in time, or cannot before the caller itself has gone on."""
        thread = threading.get_ident()
        try:
            self._waiting[thread] = flight  # first: of two who come to wait for each other, one then sees it
            return not self._waits_for(thread, flight) and flight.wait(seconds)
        finally:
            self._waiting.pop(thread, None)

    def _waits_for(self, thread: int, flight: Flight) -> bool:
        """Whether the leader of a flight waits for what `thread` leads, maybe through others who wait."""
        seen = {thread}
        while flight.thread not in seen:
            seen.add(flight.thread)
            next_one = self._waiting.get(flight.thread)
            if next_one is None or next_one.over():
                return False
            flight = next_one
        return flight.thread == thread

    def done(self, flight: Flight, state: int, held: CachedValue | None = None) -> None:
        """Land, and let the next caller start anew. (Out of sight first: who comes now must not join.)"""
        self._hide(flight)
        flight.land(state, held)

    def end(self, concerns: Callable[[Flight], bool]) -> None:
        """An invalidation: the flights it concerns go on for those who already wait, and for nobody else."""
        for flight in list(self.flying.values()):
            if concerns(flight):
                flight.ended = True
                self._hide(flight)

    def end_key(self, key: str) -> None:
        flight = self.flying.get(key)
        if flight is not None:
            flight.ended = True
            self._hide(flight)

    def about(self, *keys: str) -> set[tuple[int, str]]:
        """What `loading` does not hold yet when this thread is about to run the function for `keys`."""
        thread = threading.get_ident()
        return {(thread, key) for key in keys} - self.loading  # not what an outer call of this thread has put there

    def loading_here(self, key: str) -> bool:
        """Whether this very thread is running the function for `key`: it cannot wait for itself."""
        return (threading.get_ident(), key) in self.loading

    def loading_any(self) -> bool:
        """Whether this thread is running a function for any key."""
        thread = threading.get_ident()
        return any(loader == thread for loader, _ in self.loading.copy())

    def forget(self) -> None:
        self.flying.clear()
        self._waiting.clear()
        self.loading.intersection_update([mine for mine in self.loading if mine[0] == threading.get_ident()])
