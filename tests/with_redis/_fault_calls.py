"""What becomes of calls while a server fails: threads here read and update, threads of another process read.

Each answer is checked. Here none may be older than an update that has returned; in the other process none may be older
than one that had reached Redis `max_staleness` before the call. While a server refuses invalidations, an update
counts from its return, or from when the server began to refuse: of one that could not be sent to a slow server in time
others are valid for as long as it accepts their heartbeats. The database is a file that both have in memory: a
version for each name. Times are CLOCK_MONOTONIC, one clock for all processes of a host.

The tests judge what comes of it, and `python -m benchmarks.faults` prints it as the table of `docs/faults.md`.
"""

from __future__ import annotations

import logging
import mmap
import random
import struct
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from aikcache import Cache
from aikcache.testing import wait_until

from . import _faults_around  # noqa: F401 - more faults
from ._faults import FAULTS
from ._workers import Worker

NAMES = 40
WRITERS, READERS = 6, 2
"""Threads here, and of each of the two caches in the other process: one holds values locally."""
REMAINS = 2.0
"""Seconds that a server goes on refusing after `max_staleness`, in which old answers would show."""
_ONE = struct.Struct("=q")


class Database:
    """A version for each name, in a file."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(NAMES * _ONE.size)
            self._memory = mmap.mmap(file.fileno(), NAMES * _ONE.size)

    def __getitem__(self, n: int) -> int:
        return int(_ONE.unpack_from(self._memory, n * _ONE.size)[0])

    def __setitem__(self, n: int, version: int) -> None:
        _ONE.pack_into(self._memory, n * _ONE.size, version)


class Read(NamedTuple):
    """A call, and what it gave."""

    n: int
    version: int
    began: float
    ended: float


class Updates:
    """When updates of each name returned, and when Redis was known to have received them."""

    def __init__(self, pending: Callable[[], int]) -> None:
        self._returned: list[list[float]] = [[] for _ in range(NAMES)]  # of version 1, 2, …
        self._sent: list[list[float]] = [[] for _ in range(NAMES)]
        self._pending = pending
        self._looking = threading.Lock()

    def returned(self, n: int) -> None:
        self._returned[n].append(time.monotonic())

    def look(self) -> None:
        """If nothing is pending, Redis has received all that had returned."""
        with self._looking:
            counts = [len(returned) for returned in self._returned]
            if any(count > len(sent) for count, sent in zip(counts, self._sent, strict=True)) and not self._pending():
                now = time.monotonic()
                for sent, count in zip(self._sent, counts, strict=True):
                    sent.extend([now] * (count - len(sent)))

    def refresh_at(self, n: int, when: float) -> int:
        """The version of the last update that had returned."""
        return bisect_left(self._returned[n], when)

    def age(self, read: Read, refusing: tuple[float, float]) -> float:
        """Since when the other process had to see a newer version than was read; 0: it had not.

        `refusing`: from when until when the server was known to refuse writes.
        """
        since = [*self._sent[read.n][read.version : read.version + 1]]
        if read.ended < refusing[1]:
            since += [max(when, refusing[0]) for when in self._returned[read.n][read.version : read.version + 1]]
        return max(read.began - min(since), 0.0) if since else 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of calls; seconds. `elsewhere`: in the other process, where `oldest` is the age of the oldest."""

    fault: str
    calls: int
    failed: tuple[str, ...]
    wrong: tuple[str, ...]
    elsewhere: tuple[str, ...]
    oldest: float
    worst: float
    slow: int  # calls that took more than 10 ms while it lasted
    recovered: float
    lines: tuple[str, ...]
    errors: int
    opened: int


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def listening() -> Iterator[list[str]]:
    handler, log = _Lines(), logging.getLogger("aikcache")
    log.addHandler(handler)
    try:
        yield handler.lines
    finally:
        log.removeHandler(handler)


def measure(name: str, binary: Path, lasting: float, other: Worker, **settings: Any) -> Outcome:
    """Stage a fault for `lasting` seconds under calls of threads here and in another process.

    A server that refuses what is written, and answers what is read, does so for `REMAINS` beyond `max_staleness`.
    """
    with ExitStack() as stack:
        lines = stack.enter_context(listening())
        stage = FAULTS[name](stack, binary)
        path = Path(stack.enter_context(TemporaryDirectory()), "database")
        cache = stack.enter_context(Cache(stage.url, instance="faults", local_ttl=0, **settings))
        calls = Calls(cache, Database(path))
        calls.begin()
        stack.callback(calls.end)
        other.run(begin_reading, stage.url, path, settings)
        stack.callback(other.run, end_reading)
        wait_until(lambda: cache.stats().remote_hits > 50, 90, "hits before the fault")
        wait_until(lambda: other.run(hits) > 50, 90, "hits elsewhere")
        del calls.took[:]
        if stage.there:
            other.run(stage.there[0])
        stage.begin()
        refused_from = time.monotonic()
        bound = cache.config.max_staleness
        lasting = max(lasting, bound + REMAINS) if stage.refuses else lasting
        deadline = time.monotonic() + lasting
        wait_until(lambda: time.monotonic() > deadline, lasting + 30, "its time")
        during = list(calls.took)
        if stage.there:
            other.run(stage.there[1])
        refused_until = time.monotonic() if stage.refuses else 0.0
        stage.end()
        began = time.monotonic()
        wait_until(lambda: _usable(cache), 90, "the recovery")
        recovered = time.monotonic() - began
        calls.end()
        calls.updates.look()
        reads, failed = other.run(end_reading)
        ages = [calls.updates.age(read, (refused_from, refused_until)) for read in reads]
        stats = cache.stats()
        return Outcome(
            fault=name,
            calls=len(calls.took),
            failed=(*calls.failed, *failed),
            wrong=tuple(calls.wrong),
            elsewhere=tuple(f"{read}, {age:.2f} s old" for read, age in zip(reads, ages, strict=True) if age > bound),
            oldest=max(ages, default=0.0),
            worst=max(calls.took),
            slow=sum(seconds > 0.01 for seconds in during),
            recovered=recovered,
            lines=tuple(lines),
            errors=stats.errors,
            opened=cache.engine.remote.connections.breaker.opened,  # type: ignore[union-attr]
        )


def _usable(cache: Cache) -> bool:
    """Whether values are stored and found, the channel lives, and no invalidation is pending."""
    key = f"probe:x:{random.random()}"
    cache.set(key, 1)
    stats = cache.stats()
    return cache.get(key) == 1 and stats.coherent and not stats.pending_invalidations


class _Threads:
    """Threads that do something again and again."""

    def __init__(self, count: int, act: Callable[[random.Random], object]) -> None:
        self.failed: list[str] = []
        self._act = act
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(count)]

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
            if thread.is_alive():
                self.failed.append("a call hangs")

    def _work(self, number: int) -> None:
        dice = random.Random(number)
        while not self._stop.wait(0.001):
            try:
                self._act(dice)
            except Exception as error:
                self.failed.append(repr(error))


class Calls(_Threads):
    """Threads that read and update, and check that no answer is older than an update that has returned.

    Of even names the key is invalidated, of odd ones the tag.
    """

    def __init__(self, cache: Cache, database: Database) -> None:
        super().__init__(WRITERS, self._call)
        self.took: list[float] = []
        self.wrong: list[str] = []
        self.updates = Updates(lambda: cache.stats().pending_invalidations)
        self._database = database
        self._updating = [threading.Lock() for _ in range(NAMES)]
        self._get = reader(cache, database)

        @cache.invalidates("thing:get:{n}")
        def update(n: int) -> None:
            database[n] += 1

        @cache.invalidates(tags=["n:{n}"])
        def update_tag(n: int) -> None:
            database[n] += 1

        self._update = update, update_tag

    def _call(self, dice: random.Random) -> None:
        n = dice.randrange(NAMES)
        began = time.monotonic()
        try:
            if dice.random() < 0.03:
                with self._updating[n]:
                    self._update[n % 2](n)
                    self.updates.returned(n)
            else:
                least = self.updates.refresh_at(n, began)
                found = self._get(n)
                if found[0] != n or found[1] < least:
                    self.wrong.append(f"{found} for {n} of {least}")
        finally:
            self.took.append(time.monotonic() - began)
        self.updates.look()


def reader(cache: Cache, database: Database) -> Callable[[int], list[int]]:
    """The function that all of them call."""

    @cache.cached("thing", tags=("n:{n}",))
    def get(n: int) -> list[int]:
        return [n, database[n]]

    return get


# In the other process


class Reading(_Threads):
    """Threads that read, and keep what they have seen."""

    def __init__(self, url: str, path: Path, settings: dict[str, Any]) -> None:
        super().__init__(READERS, self._call)
        self.cache = Cache(url, instance="faults", **settings)
        self.reads: list[Read] = []
        self._get = reader(self.cache, Database(path))

    def _call(self, dice: random.Random) -> None:
        n, began = dice.randrange(NAMES), time.monotonic()
        found = self._get(n)
        if found[0] != n:
            raise AssertionError(f"{found} for {n}")
        self.reads.append(Read(n, found[1], began, time.monotonic()))


_reading: list[Reading] = []


def begin_reading(url: str, path: Path, settings: dict[str, Any]) -> None:
    """Two caches, of which one asks Redis for every value."""
    end_reading()
    logging.getLogger("aikcache").addHandler(logging.NullHandler())
    _reading.extend(Reading(url, path, {**settings, **local}) for local in ({}, {"local_ttl": 0}))
    for reading in _reading:
        reading.begin()


def hits() -> int:
    """Of the cache that has the fewest in Redis."""
    return min(reading.cache.stats().remote_hits for reading in _reading)


def end_reading() -> tuple[Sequence[Read], Sequence[str]]:
    """All that was read, and what failed; again: nothing."""
    reads: list[Read] = []
    failed: list[str] = []
    while _reading:
        reading = _reading.pop()
        reading.end()
        reading.cache.close()
        reads += reading.reads
        failed += reading.failed
    return reads, failed
