"""Counts of all caches of this process, for export: one `Tally` for each name prefix.

Regions count anyway, and are read when the counts are requested. Only what takes time (round trips, loads), and what no
region counts, is counted here, as an observer. The regions of a closed cache are kept, so that no total ever falls. A
function's region that the next default cache adopts counts on, and is counted once.

Threads: any. `x += 1` on a slot or a list has no point at which the interpreter could switch threads, so all is exact.
"""

from __future__ import annotations

import os
import weakref
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from aikcache._concurrency.shared import items
from aikcache._engine.events import OTHER, BreakerChange, ChannelChange, Closed, Invalidated, Load, RoundTrip
from aikcache._engine.session_tally import SessionTally
from aikcache._engine.stats import SUMMED, OperationStats, counted
from aikcache._local.region import Region

if TYPE_CHECKING:
    from aikcache._engine.engine import Engine
    from aikcache._engine.reading import Reading

BOUNDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of a histogram's buckets, in seconds."""
COMMANDS = ("get", "many", "lease", "store", "invalidate", "sweep", "ping")
MAX_OPERATIONS = 500
"""Operations that have labels of their own; the others are `other`."""
MAX_RECENT = 10_000
"""Of each kind. An SDK takes 5 µs to record one."""
MAX_CLOSED = 2000
"""Regions kept of closed caches. Further ones are added up, and would count twice if a later cache adopted them."""
SEEDED = ("RemoteTimeoutError", "RemoteUnavailableError", "EncodeError", "DecodeError")
"""Classes of errors that are shown from the start: a counter that appears at 1 has no increase."""
MAX_SEEDED, MAX_ERRORS = 1000, 1900
"""Pairs of operation and class, of which seeding takes so many; the rest is `other`, because OpenTelemetry folds all
beyond 2000."""


class Histogram:
    """Counts of durations in buckets."""

    __slots__ = ("counts", "total")

    def __init__(self, counts: list[int] | None = None, total: float = 0.0) -> None:
        self.counts = counts or [0] * (len(BOUNDS) + 1)  # the last one: above every bound
        self.total = total

    def copy(self) -> Histogram:
        return Histogram(self.counts.copy(), self.total)

    def add(self, other: Histogram, times: int = 1) -> None:
        """Add another histogram's counts."""
        for i, count in enumerate(other.counts):
            self.counts[i] += times * count
        self.total += times * other.total

    def observe(self, seconds: float) -> None:
        counts, place = self.counts, bisect_left(BOUNDS, seconds)
        counts[place] += 1
        self.total += seconds


class Recent:
    """The latest round trips and loads, for exporters that need them one by one instead of a histogram."""

    __slots__ = ("_kept", "_reads", "loads", "trips")

    def __init__(self) -> None:
        self._reads: deque[tuple[str, Sequence[float]]] = deque()
        self._kept = 0
        self.trips: deque[RoundTrip] = deque(maxlen=MAX_RECENT)
        self.loads: deque[Load] = deque(maxlen=MAX_RECENT)

    def clear(self) -> None:
        self._reads.clear()
        self._kept = 0
        self.trips.clear()
        self.loads.clear()

    def add_reads(self, operation: str, seconds: Sequence[float]) -> None:
        """Add reads of one operation, in place of the oldest ones where they are too many."""
        self._reads.append((operation, seconds))
        self._kept += len(seconds)
        while self._kept > MAX_RECENT and self._oldest() is not None:
            pass

    def reads(self) -> Iterator[tuple[str, Sequence[float]]]:
        """Take out the stored reads."""
        for _ in range(len(self._reads)):
            if (oldest := self._oldest()) is not None:
                yield oldest

    def _oldest(self) -> tuple[str, Sequence[float]] | None:
        try:
            oldest = self._reads.popleft()
        except IndexError:  # another thread has taken it
            return None
        self._kept -= len(oldest[1])
        return oldest


class Tally:
    """An observer of every cache whose metrics have one prefix."""

    def __init__(self) -> None:
        self.started = monotonic()
        self.id = self.new_id()  # the id of this process's snapshots
        self.base: Reading | None = None  # counts from before this process
        self.published: Reading | None = None  # those in the last snapshot
        self.folded: Reading | None = None  # those in the totals of exited processes, under an earlier id
        self.commands = {command: Histogram() for command in COMMANDS}
        self.latencies: dict[str, Histogram] = {}
        self.load_times: dict[str, Histogram] = {}
        self.failed_loads: Counter[str] = Counter()
        self.command_errors: Counter[tuple[str, str]] = Counter(
            {(command, kind): 0 for command in COMMANDS for kind in SEEDED[:2]}
        )
        self.invalidations = {(kind, direction): 0 for kind in ("group", "key", "glob") for direction in ("out", "in")}
        self.breaker_changes = {"open": 0, "closed": 0}
        self.channel_changes = {"live": 0, "down": 0}
        self.sessions = SessionTally()
        self._engines: dict[int, weakref.ref[Engine]] = {}
        self._closed: dict[int, Region] = {}
        self._past: dict[str, list[int]] = {}
        self._past_errors: Counter[tuple[str, str]] = Counter()
        self._names: dict[str, None] = {}
        self._pairs: dict[tuple[str, str], None] = {}
        self._expected: dict[int, Mapping[str, object]] = {}
        self._recent: tuple[Recent, ...] = ()

    @staticmethod
    def new_id() -> str:
        return os.urandom(8).hex()

    def join(self, engine: Engine) -> None:
        """Count a cache that was just made."""
        for cache_id, ref in items(self._engines):
            if ref() is None:
                self._engines.pop(cache_id, None)
        self._engines[id(engine)] = weakref.ref(engine)
        engine.events.observe(self)

    def expect(self, operations: Mapping[str, object]) -> None:
        """Show these from now on, and what is added to them, also before they are called."""
        self._expected[id(operations)] = operations

    def after_fork(self) -> None:
        """Nothing was counted, timed or published by this process."""
        self.started, self.id = monotonic(), self.new_id()
        self.base = self.published = self.folded = None
        for recent in self._recent:
            recent.clear()

    def follow(self) -> Recent:
        """A queue of what is timed from here on; its caller empties it."""
        recent = Recent()
        self._recent = (*self._recent, recent)
        return recent

    # As an observer

    def round_trips(self, batch: Sequence[RoundTrip]) -> None:
        last, by_command = "get", self.commands["get"]  # of the last command: the next one is mostly the same
        name, by_operation = "", by_command
        for command, operation, seconds, error in batch:
            place = bisect_left(BOUNDS, seconds)
            if command != last:
                last, by_command = command, self.commands[command]
            by_command.counts[place] += 1
            by_command.total += seconds
            if operation is not None:
                if operation != name:
                    name, by_operation = operation, self._timed(self.latencies, operation)
                by_operation.counts[place] += 1
                by_operation.total += seconds
            if error is not None:
                self.command_errors.setdefault((command, error), 0)
                self.command_errors[command, error] += 1
        for recent in self._recent:
            recent.trips.extend(batch)

    def reads(self, operation: str, seconds: Sequence[float]) -> None:
        ordered, places, before = sorted(seconds), {}, 0
        for place, bound in enumerate((*BOUNDS, inf)):
            upto = bisect_right(ordered, bound, before)
            if upto > before:
                places[place], before = upto - before, upto
        total = sum(ordered)
        for histogram in (self.commands["get"], self._timed(self.latencies, operation)):
            for place, count in places.items():
                histogram.counts[place] += count
            histogram.total += total
        for recent in self._recent:
            recent.add_reads(operation, seconds)

    def load(self, details: Load) -> None:
        self._timed(self.load_times, details.operation).observe(details.seconds)
        if details.error is not None:
            label = self.label(details.operation)
            self.failed_loads.setdefault(label, 0)  # a missing key would be made by Python code, between two threads
            self.failed_loads[label] += 1
        for recent in self._recent:
            recent.loads.append(details)

    def invalidated(self, details: Invalidated) -> None:
        what = details.what
        for kind, names in (("group", what.groups), ("key", what.keys), ("glob", what.globs)):
            number = len(names)
            self.invalidations[kind, details.direction] += number

    def channel(self, details: ChannelChange) -> None:
        self.channel_changes["live" if details.live else "down"] += 1

    def breaker(self, details: BreakerChange) -> None:
        self.breaker_changes["open" if details.is_open else "closed"] += 1

    def closed(self, details: Closed) -> None:
        self._closed.update((id(region), region) for region in details.regions)
        for cache_id in list(islice(self._closed, max(len(self._closed) - MAX_CLOSED, 0))):
            region = self._closed.pop(cache_id, None)
            if region is not None:
                name = self.label(region.name)
                _add(self._past, name, region)
                for kind, count in items(region.counters.error_types):
                    self._past_errors[name, kind] += count

    def _timed(self, histograms: dict[str, Histogram], operation: str) -> Histogram:
        found = histograms.get(operation)
        if found is None:
            found = histograms.setdefault(self.label(operation), Histogram())
        return found

    def label(self, operation: str) -> str:
        """The operation, or `other` if there are too many others already."""
        if operation not in self._names:
            if len(self._names) >= MAX_OPERATIONS:
                return OTHER
            self._names[operation] = None
        return operation

    # What is exported

    def flush(self) -> None:
        """Count everything that has happened by now."""
        for ref in list(self._engines.values()):
            engine = ref()
            if engine is not None:
                engine.events.flush()

    @property
    def used(self) -> bool:
        """Whether there has been a cache."""
        return bool(self._engines)

    def engines(self) -> list[Engine]:
        """The caches that are open."""
        found = [ref() for ref in list(self._engines.values())]
        return [engine for engine in found if engine is not None and not engine.closed]

    def operations(self) -> dict[str, OperationStats]:
        """The counters of each operation, over all present and past caches."""
        sums = {name: list(values) for name, values in items(self._past)}
        for region in self._regions():
            _add(sums, self.label(region.name), region)
        for name in self._uncalled():
            sums.setdefault(self.label(name), [0] * len(SUMMED))
        return {name: OperationStats(**dict(zip(SUMMED, values, strict=True))) for name, values in sums.items()}

    def errors(self) -> dict[tuple[str, str], int]:
        """Problems by operation and class."""
        sums: Counter[tuple[str, str]] = Counter()
        for pair, count in items(self._past_errors):
            sums[self._pair(*pair)] += count
        regions = list(self._regions())
        for region in regions:
            for kind, count in items(region.counters.error_types):
                sums[self._pair(self.label(region.name), kind)] += count
        for name in dict.fromkeys(map(self.label, (*(region.name for region in regions), *self._uncalled()))):
            if (name, SEEDED[0]) in self._pairs or len(self._pairs) < MAX_SEEDED:
                sums.update({self._pair(name, kind): 0 for kind in SEEDED})
        return sums

    def _pair(self, name: str, kind: str) -> tuple[str, str]:
        """The operation and the class, or `other` for both if there are too many others already."""
        if (name, kind) not in self._pairs:
            if len(self._pairs) >= MAX_ERRORS:
                return OTHER, OTHER
            self._pairs[name, kind] = None
        return name, kind

    def _uncalled(self) -> list[str]:
        return [name for operations in list(self._expected.values()) for name in list(operations)]

    def _regions(self) -> Iterable[Region]:
        regions = {id(region): region for region in list(self._closed.values())}
        for ref in list(self._engines.values()):
            engine = ref()
            if engine is not None:
                regions.update((id(region), region) for region in engine.local.all_regions())
        return regions.values()


def _add(sums: dict[str, list[int]], name: str, region: Region) -> None:
    values = counted(region)
    sums[name] = [a + b for a, b in zip(sums.get(name, [0] * len(SUMMED)), values, strict=True)]


_tallies: dict[str, Tally] = {}


def tallies() -> list[Tally]:
    """All tallies of this process."""
    return list(_tallies.values())


def instead_of(prefix: str) -> list[str]:
    """The prefixes that caches have, if none ever had this one."""
    used = [name for name, tally in items(_tallies) if tally.used]
    return [] if prefix in used else used


def tally_of(prefix: str) -> Tally:
    """This process's tally for a name prefix."""
    return _tallies.get(prefix) or _tallies.setdefault(prefix, Tally())
