"""One load of a key in this process at a time: who leads it, and who waits for it.

The first to miss leads; whoever misses the same key meanwhile waits, for a bounded time. An invalidation of the key, or
of a group it is in, takes the flight out of sight: who comes later starts one of his own and is never handed what
began before. A leader that fails leaves the waiters to go on by themselves: the next of them leads. The same thread
coming again, through a function that calls itself, is not made to wait for itself.

Threads: the flights are a dictionary used by its own atomic steps; each flight is a bare lock that its leader holds and
that waiters pass on. After `fork` the child has no flights, for their leaders are not in it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ._local import Packed

UNDER_WAY, LANDED, FAILED, ALONE = range(4)


class Held(NamedTuple):
    """A value and how to hand it to more than one caller: itself, or a copy decoded from `packed`."""

    value: object
    packed: Packed | None = None
    size: int = 0  # bytes of the value, where it is known and not packed
    stale: bool = False


class Flight:
    """One load, and what came of it. `ended`: an invalidation has hit it, so its result is for its waiters alone."""

    __slots__ = ("_landing", "aside", "began", "ended", "groups", "held", "key", "state")

    def __init__(self, key: str, groups: tuple[str, ...], began: float) -> None:
        self.key = key
        self.began = began
        self.groups = groups
        self.state = UNDER_WAY
        self.held = Held(None)
        self.ended = False
        self.aside = False  # a background thread lands it
        self._landing = threading.Lock()
        self._landing.acquire()

    def land(self, state: int, held: Held | None = None) -> None:
        """The leader is done, one way or the other."""
        if held is not None:
            self.held = held
        self.state = state
        self._landing.release()

    def wait(self, seconds: float) -> bool:
        """Wait for the landing. False: it has not landed in time."""
        if not self._landing.acquire(timeout=max(seconds, 0)):
            return False
        self._landing.release()
        return True


class Flights:
    """The loads under way in this process for one cache."""

    __slots__ = ("_flying", "_loading")

    def __init__(self) -> None:
        self._flying: dict[str, Flight] = {}
        self._loading: set[tuple[int, str]] = set()  # which thread is running the function for which key

    def __len__(self) -> int:
        return len(self._flying)

    def __contains__(self, key: str) -> bool:
        return key in self._flying

    def join(self, key: str, groups: tuple[str, ...], now: float) -> tuple[Flight, bool]:
        """The flight of a key, and whether the caller leads it."""
        mine = Flight(key, groups, now)
        flight = self._flying.setdefault(key, mine)
        return flight, flight is mine

    def done(self, flight: Flight, state: int, held: Held | None = None) -> None:
        """Land, and let the next caller start anew. (Out of sight first: who comes now must not join.)"""
        if self._flying.get(flight.key) is flight:
            self._flying.pop(flight.key, None)
        flight.land(state, held)

    def end(self, concerns: Callable[[Flight], bool]) -> None:
        """An invalidation: the flights it concerns go on for those who already wait, and for nobody else."""
        for flight in list(self._flying.values()):
            if concerns(flight):
                flight.ended = True
                if self._flying.get(flight.key) is flight:
                    self._flying.pop(flight.key, None)

    def end_key(self, key: str) -> None:
        flight = self._flying.pop(key, None)
        if flight is not None:
            flight.ended = True

    @contextmanager
    def loading(self, *keys: str) -> Iterator[None]:
        """While this thread runs the function for `keys`."""
        thread = threading.get_ident()
        mine = {(thread, key) for key in keys} - self._loading  # not what an outer call of this thread has put there
        self._loading.update(mine)
        try:
            yield
        finally:
            self._loading.difference_update(mine)

    def loading_here(self, key: str) -> bool:
        """Whether this very thread is running the function for `key`: it cannot wait for itself."""
        return (threading.get_ident(), key) in self._loading

    def forget(self) -> None:
        self._flying.clear()
        self._loading = {mine for mine in self._loading if mine[0] == threading.get_ident()}
