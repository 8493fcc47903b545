"""Events for logs and metrics, apart from the answers to calls: one `Observer`, fed frozen details.

A local hit is no event: entries count themselves, so that path does not know this module. An eviction is none either:
it happens under the guard, where no other code may run; regions count it.

An observer is called on the thread where the event happened, perhaps a caller's. It must return soon and raise nothing.
Round trips are reported in batches: right after a system call all code is cold, and reporting each by itself cost a
remote hit 11 to 16 %. The fast path, which most calls take, leaves only seconds.
The rooms below know no observer; each gets the one function of `Events` that it needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Sequence
from logging import INFO
from typing import Any, NamedTuple, Protocol, TypeVar

from aikcache._concurrency.reporter import RateLimitedReporter
from aikcache._concurrency.shared import items
from aikcache._keys.patterns import Invalidation
from aikcache._local.region import Region

BATCH = 256
"""Round trips in one report."""
_new = tuple.__new__  # a third of what the class itself takes
OTHER = "other"
"""The operation of events that belong to no known one."""


_Item = TypeVar("_Item")


class RoundTrip(NamedTuple):
    """One exchange with Redis. `command`: get, many, lease, store, invalidate, sweep or ping."""

    command: str
    operation: str | None
    seconds: float
    error: str | None
    """The class of the exception."""


class Load(NamedTuple):
    """A run of an operation's function."""

    operation: str
    seconds: float
    error: str | None


class Invalidated(NamedTuple):
    """`direction`: made in this process ("out"), or received ("in")."""

    what: Invalidation
    direction: str


class ChannelChange(NamedTuple):
    """The invalidation channel is live, or has been lost."""

    live: bool


class BreakerChange(NamedTuple):
    """A server's circuit breaker has opened, by `cause`, or has closed."""

    is_open: bool
    cause: str


class Closed(NamedTuple):
    """A cache was closed; `regions` hold its counts."""

    regions: Sequence[Region]


class Observer(Protocol):
    """Receives the events. Called from many threads at once."""

    def round_trips(self, batch: Sequence[RoundTrip], /) -> None: ...
    def reads(self, operation: str, seconds: Sequence[float], /) -> None:
        """More round trips: each a `get` of one key of this operation that was answered."""

    def load(self, details: Load, /) -> None: ...
    def invalidated(self, details: Invalidated, /) -> None: ...
    def channel(self, details: ChannelChange, /) -> None: ...
    def breaker(self, details: BreakerChange, /) -> None: ...
    def closed(self, details: Closed, /) -> None: ...


class LogObserver:
    """Logs what changes how calls are answered; frequent events are left to metrics."""

    def __init__(self, reporter: RateLimitedReporter) -> None:
        self._report = reporter.report

    def round_trips(self, batch: Sequence[RoundTrip]) -> None:
        """Too many to log."""

    def reads(self, operation: str, seconds: Sequence[float]) -> None:
        """Too many to log."""

    def load(self, details: Load) -> None:
        """Too many to log."""

    def invalidated(self, details: Invalidated) -> None:
        """Too many to log."""

    def channel(self, details: ChannelChange) -> None:
        state = "live" if details.live else "down"
        self._report(f"channel:{state}", f"the invalidation channel is {state}.", level=INFO)

    def breaker(self, details: BreakerChange) -> None:
        if details.is_open:
            why = f"the breaker has opened, so Redis is not asked for a while; the last cause: {details.cause}"
            self._report("breaker:open", why, level=INFO)
        else:
            self._report("breaker:closed", "the breaker has closed: Redis answers again.", level=INFO)

    def closed(self, details: Closed) -> None:
        """The application knows."""


class Events:
    """Makes the details and passes them to all observers of one cache."""

    __slots__ = ("_operations", "_reads", "_skipped", "_trips", "observers", "reporter", "timed")

    def __init__(self, reporter: RateLimitedReporter, prefix_length: int, operations: Container[str]) -> None:
        """`prefix_length`: characters of a key before its prefix. `operations`: those that are reported by name."""
        self.reporter = reporter
        self._skipped = prefix_length
        self._trips: deque[RoundTrip] = deque()
        self._reads: dict[str, deque[float]] = {}
        self._operations = operations
        self.observers: tuple[Observer, ...] = (LogObserver(reporter),)
        self.timed = False  # whether an observer wants round trips

    def observe(self, observer: Observer, *, timed: bool = True) -> None:
        """Add an observer. `timed`: it wants round trips."""
        self.observers = (*self.observers, observer)
        self.timed = self.timed or timed

    def round_trip(self, command: str, about: Any, seconds: float, error: str | None) -> None:
        """`about`: a key, keys, or tuples that begin with one; None: the exchange concerns no operation."""
        if self.timed:
            self.add(command, None if about is None else self._operation(about), seconds, error)

    def add(self, command: str, operation: str | None, seconds: float, error: str | None) -> None:
        """The same for callers that know the operation and have checked `timed`."""
        self._trips.append(_new(RoundTrip, (command, operation, seconds, error)))
        if len(self._trips) >= BATCH:
            self.flush()

    def reads(self, operation: str) -> deque[float]:
        """Where the fast path leaves the seconds of each read that was answered, if `timed`.

        A caller that finds `fast_path.READS` there calls `report_reads`.
        """
        return self._reads.setdefault(operation, deque())

    def flush(self) -> None:
        """Report the remaining round trips."""
        if batch := _taken(self._trips):
            for observer in self.observers:
                observer.round_trips(batch)
        for operation, waiting in items(self._reads):
            self.report_reads(operation, waiting)

    def report_reads(self, operation: str, waiting: deque[float]) -> None:
        """Report the reads of one operation."""
        if seconds := _taken(waiting):
            for observer in self.observers:
                observer.reads(operation, seconds)

    def _operation(self, about: Any) -> str:
        while type(about) is tuple or type(about) is list:
            if not about:
                return OTHER
            about = about[0]
        name: str = ":".join((about.decode() if type(about) is bytes else about)[self._skipped :].split(":", 2)[:2])
        return name if name in self._operations else OTHER

    def load(self, operation: str, seconds: float, error: str | None) -> None:
        details = Load(operation, seconds, error)
        for observer in self.observers:
            observer.load(details)

    def invalidated(self, what: Invalidation, direction: str) -> None:
        details = Invalidated(what, direction)
        for observer in self.observers:
            observer.invalidated(details)

    def channel(self, *, live: bool) -> None:
        for observer in self.observers:
            observer.channel(ChannelChange(live))

    def breaker(self, is_open: bool, cause: str) -> None:
        for observer in self.observers:
            observer.breaker(BreakerChange(is_open, cause))

    def closed(self, regions: Sequence[Region]) -> None:
        self.flush()
        for observer in self.observers:
            observer.closed(Closed(regions))


def _taken(waiting: deque[_Item]) -> list[_Item]:
    """Take all that waits; concurrent threads each get a part."""
    taken: list[_Item] = []
    while waiting:
        try:
            taken.append(waiting.popleft())
        except IndexError:  # another thread has taken it
            break
    return taken
