"""What happens beside the answers to calls, for those who log and measure it: one `Observer`, fed frozen details.

A local hit is no event: entries count themselves, and so nothing on that path knows of this module. Neither is an
eviction, which happens under the guard, where no other code may run; regions count those.

An observer is called on the thread where it happened, maybe a call's own. It must return soon and raise nothing.
Round trips are told in batches: right after a system call all code is cold, and telling each by itself cost a remote
hit 11 to 16 %. The fast path, which most calls take, leaves seconds alone.
The rooms below know no observer; each is handed the one function of `Events` that it needs.
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
"""Round trips that are told of at once."""
READS = 256
"""Fast-path reads of one operation that are told of at once."""
_new = tuple.__new__  # a third of what the class itself takes
OTHER = "other"
"""The operation of what belongs to none that is known."""


_Told = TypeVar("_Told")


class RoundTrip(NamedTuple):
    """One exchange with Redis. `command`: get, many, lease, store, invalidate, sweep or ping."""

    command: str
    operation: str | None
    seconds: float
    error: str | None
    """The class of what it raised."""


class Load(NamedTuple):
    """The function of an operation has run."""

    operation: str
    seconds: float
    error: str | None


class Invalidated(NamedTuple):
    """`direction`: made in this process ("out"), or heard of ("in")."""

    what: Invalidation
    direction: str


class ChannelChange(NamedTuple):
    """The invalidation channel is live, or is not any more."""

    live: bool


class BreakerChange(NamedTuple):
    """The breaker of a server has opened, by `cause`, or has closed."""

    is_open: bool
    cause: str


class Closed(NamedTuple):
    """A cache has been closed; `regions` are those that it leaves, with their counts."""

    regions: Sequence[Region]


class Observer(Protocol):
    """Who is told. Called from many threads at once."""

    def round_trips(self, batch: Sequence[RoundTrip], /) -> None: ...
    def reads(self, operation: str, seconds: Sequence[float], /) -> None:
        """More round trips: each a `get` of one key of this operation that was answered."""

    def load(self, details: Load, /) -> None: ...
    def invalidated(self, details: Invalidated, /) -> None: ...
    def channel(self, details: ChannelChange, /) -> None: ...
    def breaker(self, details: BreakerChange, /) -> None: ...
    def closed(self, details: Closed, /) -> None: ...


class LogObserver:
    """Logs what changes how calls are answered; what goes on all the time is left to metrics."""

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
        """Whoever closes it knows."""


class Events:
    """Makes the details and hands them to all observers of one cache."""

    __slots__ = ("_known", "_lead", "_reads", "_trips", "observers", "reporter", "timed")

    def __init__(self, reporter: RateLimitedReporter, lead: int, known: Container[str]) -> None:
        """`lead`: characters of a key before its prefix. `known`: the operations that are told by their names."""
        self.reporter = reporter
        self._lead = lead
        self._trips: deque[RoundTrip] = deque()
        self._reads: dict[str, deque[float]] = {}
        self._known = known
        self.observers: tuple[Observer, ...] = (LogObserver(reporter),)
        self.timed = False  # whether anybody but the log is there, who wants to hear of round trips

    def observe(self, observer: Observer, *, timed: bool = True) -> None:
        """Tell one more. `timed`: it wants to hear of round trips."""
        self.observers = (*self.observers, observer)
        self.timed = self.timed or timed

    def round_trip(self, command: str, about: Any, seconds: float, error: str | None) -> None:
        """`about`: a key, keys, or tuples that begin with one; None: the exchange is about no operation."""
        if self.timed:
            self.add(command, None if about is None else self._operation(about), seconds, error)

    def add(self, command: str, operation: str | None, seconds: float, error: str | None) -> None:
        """The same for who knows the operation, and has looked at `timed`."""
        self._trips.append(_new(RoundTrip, (command, operation, seconds, error)))
        if len(self._trips) >= BATCH:
            self.flush()

    def reads(self, operation: str) -> deque[float]:
        """Where the fast path leaves the seconds of each read that was answered, if `timed`.

        Who finds `READS` there calls `tell_reads`.
        """
        return self._reads.setdefault(operation, deque())

    def flush(self) -> None:
        """Tell of the round trips that nobody has been told of yet."""
        if batch := _taken(self._trips):
            for observer in self.observers:
                observer.round_trips(batch)
        for operation, waiting in items(self._reads):
            self.tell_reads(operation, waiting)

    def tell_reads(self, operation: str, waiting: deque[float]) -> None:
        """Tell of the reads of one operation."""
        if seconds := _taken(waiting):
            for observer in self.observers:
                observer.reads(operation, seconds)

    def _operation(self, about: Any) -> str:
        while type(about) is tuple or type(about) is list:
            if not about:
                return OTHER
            about = about[0]
        name: str = ":".join((about.decode() if type(about) is bytes else about)[self._lead :].split(":", 2)[:2])
        return name if name in self._known else OTHER

    def load(self, operation: str, seconds: float, error: str | None) -> None:
        for observer in self.observers:
            observer.load(Load(operation, seconds, error))

    def invalidated(self, what: Invalidation, direction: str) -> None:
        for observer in self.observers:
            observer.invalidated(Invalidated(what, direction))

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


def _taken(waiting: deque[_Told]) -> list[_Told]:
    """All that waits; of threads that take at once each gets a part."""
    taken: list[_Told] = []
    while waiting:
        try:
            taken.append(waiting.popleft())
        except IndexError:  # another thread has taken it
            break
    return taken
