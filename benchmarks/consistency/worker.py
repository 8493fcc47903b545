"""A worker of the checker: threads that read, change and invalidate records through cached functions, and log it.

What ends a change is one of many ways (`Shop.ways`); each ends all that its family's functions hold of the records that
were changed, and often more. A worker takes requests through its pipe: fall silent, stop, read all once more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from aikcache import Cache
from aikcache._coherence import pending as _recovery
from aikcache._coherence import recent
from benchmarks.consistency.probes import BREAKS, Probes
from benchmarks.consistency.records import FAMILIES, Log, Read, Row, Table, clock, records_of

VARIETY: tuple[dict[str, Any], ...] = (
    {},
    {"local_max_entries": 12},
    {"local_ttl": 0.7},
    {"local_ttl": 0},
)
"""Workers differ: by what they hold locally they are exposed to other failures."""
READ_WAYS = ("call", "many", "batch", "peek", "refresh", "after", "last")
WRITES = {"many": 0.02, "few": 0.002}
"""The share of operations that change records: what is changed often is repaired before anybody sees that it is old."""
READER = 0
"""The slot whose worker changes nothing, so no error of its own shows it a fault."""
TTL = 600.0
TICK, STALL = 0.02, 0.1
"""Seconds between two looks at the clock, and how late one of them is when the process has stalled."""


class Plan(NamedTuple):
    """What a worker is given when it is started."""

    url: str
    directory: Path
    database: Path
    slot: int
    number: int  # which worker of its slot it is: the one before was killed
    seed: int
    threads: int
    max_staleness: float
    broken: str | None
    just_started: int | None  # instead of five minutes; None: as it is
    replay: int | None  # instead of a minute
    writes: float
    consistency: str

    @property
    def name(self) -> str:
        return f"{self.slot}.{self.number}"


class Way(NamedTuple):
    """A way to end what a change has made old. `end` gets the rows as they were."""

    name: str
    weight: float
    end: Callable[[list[Row]], object]
    most: int = 3  # records changed at once
    deferred: bool = False
    narrow: bool = False  # names what the row before the change had, and so ends that version alone


class Shop:
    """The cached functions, and how to read and end what they hold."""

    def __init__(self, cache: Cache, table: Table) -> None:
        self.cache = cache
        self.table = table

        @cache.cached("plain", TTL, tags=("plain:{number}", "plains"))
        def plain(number: int) -> tuple[int, int, int]:
            row = table.load(number)
            return row.record, row.version, row.shelf

        @cache.cached_many("plain", TTL, operation="plain", tags=("plain:{numbers}", "plains"))
        def plains(numbers: list[int]) -> dict[int, tuple[int, int, int]]:
            return {n: (row.record, row.version, row.shelf) for n, row in table.load_many(numbers).items()}

        @cache.cached("shelved", TTL, tags=lambda row, number: (f"shelf:{row['shelf']}", f"shelved:{number}"))
        def shelved(number: int) -> dict[str, int]:
            return table.load(number)._asdict()

        @cache.cached("aging", 0.5, stale_ttl=TTL, early_refresh=1.0, tags=("aging:{number}",))
        def aging(number: int) -> list[int]:
            return list(table.load(number))

        self.plain, self.plains, self.shelved, self.aging = plain, plains, shelved, aging

    # Reading: all give (record, version) as the function gave it

    def call(self, record: int) -> tuple[int, int]:
        family = _family(record)
        if family == "plain":
            found: Any = self.plain(record)
        elif family == "shelved":
            shelved = self.shelved(record)
            return shelved["record"], shelved["version"]
        elif family == "aging":
            found = self.aging(record)
        else:
            found = self.cache.get_or_load(
                f"loose:thing:{record}", lambda: list(self.table.load(record)), TTL, tags=(f"loose:{record}", "looses")
            )
        return found[0], found[1]

    def many(self, records: Sequence[int]) -> list[tuple[int, int]]:
        if _family(records[0]) == "shelved":
            return [(found["record"], found["version"]) for found in self.shelved.many(records)]
        return [(found[0], found[1]) for found in self.plain.many(records)]

    def batch(self, records: Sequence[int]) -> list[tuple[int, int]]:
        return [(found[0], found[1]) for found in self.plains(list(records)).values()]

    def peek(self, record: int) -> tuple[int, int] | None:
        found = self.plain.peek(record)
        return None if found is None else (found[0], found[1])

    def refresh(self, record: int) -> tuple[int, int]:
        found = self.shelved.refresh(record)
        return found["record"], found["version"]

    # Ending

    def ways(self, family: str) -> tuple[Way, ...]:
        """What ends much is rare: it would end also what another way has failed to end, before anybody sees it."""
        cache, tags = self.cache, self.cache.invalidate_tags

        def calls(function: Any) -> Callable[[list[Row]], object]:
            return lambda rows: [function.invalidate(row.record) for row in rows]

        def shelves(rows: list[Row]) -> None:
            tags(*{f"shelf:{row.shelf}" for row in rows})

        every = (
            Way("group", 0.2, lambda rows: cache.invalidate(family), 6),
            Way("clear", 0.1, lambda rows: cache.clear(), 6),
        )
        if family == "plain":
            return (
                *every,
                Way("call", 4, calls(self.plain)),
                Way("key", 4, lambda rows: cache.invalidate_key(*(f"plain:plain:{row.record}" for row in rows))),
                Way("pattern", 4, lambda rows: cache.invalidate("plain:plain:{row.record}", row=rows[0]), 1),
                Way("tag", 4, lambda rows: tags(*(f"plain:{row.record}" for row in rows))),
                Way("tag of all", 0.2, lambda rows: tags("plains"), 6),
                Way("operation", 0.2, lambda rows: cache.invalidate("plain:plain:*"), 6),
                Way("glob", 0.5, lambda rows: cache.invalidate("pl*:plain:*"), 6),
                Way("call", 2, calls(self.plain), deferred=True),
                Way("tag", 2, lambda rows: tags(*(f"plain:{row.record}" for row in rows)), deferred=True),
            )
        if family == "shelved":
            return (
                *every,
                Way("call", 3, calls(self.shelved)),
                Way("tag of results", 6, shelves, narrow=True),
                Way("tag", 3, lambda rows: tags(*(f"shelved:{row.record}" for row in rows))),
                Way("tag of results", 2, shelves, deferred=True, narrow=True),
            )
        if family == "aging":
            return (
                *every,
                Way("call", 4, calls(self.aging)),
                Way("tag", 4, lambda rows: tags(*(f"aging:{row.record}" for row in rows))),
            )
        return (
            *every,
            Way("key", 4, lambda rows: cache.invalidate_key(*(f"loose:thing:{row.record}" for row in rows))),
            Way("tag", 4, lambda rows: tags(*(f"loose:{row.record}" for row in rows))),
            Way("tag of all", 0.2, lambda rows: tags("looses"), 6),
            Way("glob", 0.3, lambda rows: cache.invalidate("loose:th?ng:*"), 6),
        )


def _family(record: int) -> str:
    return FAMILIES[record // len(records_of(FAMILIES[0]))]


class Busy:
    """One thread's work."""

    def __init__(self, shop: Shop, log: Log, probes: Probes, random: Random, writes: float) -> None:
        self.writes = writes
        self.shop = shop
        self.log = log
        self.probes = probes
        self.random = random
        self.ways = {family: shop.ways(family) for family in FAMILIES}

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                if self.random.random() < self.writes:
                    self._write()
                else:
                    self._read()
            except Exception as error:  # whatever Redis does, a call must not raise: each is a violation
                self.log.event("raised", error=f"{type(error).__name__}: {error}")
            time.sleep(self.random.uniform(0, 0.003))
        self.log.flush()

    def _write(self) -> None:
        family = self.random.choice(FAMILIES)
        ways = self.ways[family]
        way = self.random.choices(ways, [way.weight for way in ways])[0]
        records = sorted({self._record(family) for _ in range(self.random.randint(1, way.most))})
        began = clock()
        self.probes.outcome()
        with self.shop.cache.deferred() if way.deferred else nullcontext():
            before, after = self.shop.table.change(records, self.random)
            committed = clock()
            way.end(before)
        returned = clock()
        kept, slots = self.probes.outcome()
        self.log.event(
            "write",
            way=way.name + (", deferred" if way.deferred else ""),
            records=[(row.record, row.version) for row in after],
            began=began,
            committed=committed,
            returned=returned,
            kept=kept,
            slots=slots,
            narrow=way.narrow,
        )
        for row in after:  # whoever stores now what he read before shows at once
            if self.random.random() < 0.7:
                began = clock()
                self._log("after", [row.record], [self.shop.call(row.record)], began)

    def _read(self) -> None:
        luck = self.random.random()
        family = self.random.choice(FAMILIES if luck < 0.85 else FAMILIES[:2])
        record = self._record(family)
        began = clock()
        found: list[tuple[int, int]] = []
        if luck < 0.85:
            way, asked = "call", [record]
            found.append(self.shop.call(record))
        elif luck < 0.92 or (luck < 0.95 and family == "shelved"):
            way, asked = "many", sorted({self._record(family) for _ in range(5)})
            found += self.shop.many(asked)
        elif luck < 0.95:
            way, asked = "batch", sorted({self._record("plain") for _ in range(5)})
            found += self.shop.batch(asked)
        elif luck < 0.98:
            way, asked = "peek", [self._record("plain")]
            seen = self.shop.peek(asked[0])
            found, asked = ([], []) if seen is None else ([seen], asked)
        else:
            way, asked = "refresh", [self._record("shelved")]
            found.append(self.shop.refresh(asked[0]))
        self._log(way, asked, found, began)

    def read_all(self) -> None:
        """Each record once more."""
        for family in FAMILIES:
            for record in records_of(family):
                began = clock()
                self._log("last", [record], [self.shop.call(record)], began)
        self.log.flush()

    def _log(self, way: str, asked: Sequence[int], found: Sequence[tuple[int, int]], began: float) -> None:
        ended = clock()
        if [record for record, _ in found] != list(asked):
            self.log.event("raised", error=f"{way} of {asked} gave {found}")
        for record, version in found:
            self.log.read(Read(record, version, READ_WAYS.index(way), began, ended))

    def _record(self, family: str) -> int:
        """Some records are asked for, and changed, more often than others."""
        return records_of(family)[min(int(self.random.expovariate(0.1)), len(records_of(family)) - 1)]


def _watch(log: Log) -> None:
    """Log when this process got no processor."""
    while True:
        began = clock()
        time.sleep(TICK)
        if (ended := clock()) - began > TICK + STALL:
            log.event("stalled", began=began, ended=ended)


def serve(plan: Plan, pipe: Connection) -> None:
    """The worker's process: works until its pipe says stop, reads all once more on request, and exits with the pipe."""
    logging.getLogger("aikcache").addHandler(logging.NullHandler())  # it has much to say here
    log = Log(plan.directory, plan.name)
    if plan.broken is not None:
        BREAKS[plan.broken]()
    if plan.just_started is not None:
        _recovery.JUST_STARTED = plan.just_started
    if plan.replay is not None:
        recent.REPLAY = plan.replay
    probes = Probes(log)
    settings = dict(VARIETY[plan.slot % len(VARIETY)])
    if plan.consistency != "bounded":
        settings["consistency"] = plan.consistency
    cache = Cache(
        plan.url,
        instance="consistency",
        max_staleness=plan.max_staleness,
        journal=str(plan.directory / f"journal-{plan.slot}"),
        **settings,
    )
    table = Table(plan.database)
    shop = Shop(cache, table)
    stop = threading.Event()
    workers = [
        Busy(shop, log, probes, Random(f"{plan.seed} {plan.name} {i}"), plan.writes) for i in range(plan.threads)
    ]
    threads = [threading.Thread(target=worker.run, args=(stop,), daemon=True) for worker in workers]
    log.event("start", pending=cache.stats().pending_invalidations)
    for thread in (*threads, threading.Thread(target=_watch, args=(log,), daemon=True)):
        thread.start()
    answers: dict[str, Callable[[], object]] = {
        "pending": lambda: cache.stats().pending_invalidations,
        "last": workers[0].read_all,
    }
    while True:
        try:
            request, *details = pipe.recv()
        except EOFError:
            return
        if request == "silence":
            probes.silence(*details)
        elif request == "stop":
            stop.set()
            for thread in threads:
                thread.join()
            pipe.send("stopped")
        else:
            pipe.send(answers[request]())
