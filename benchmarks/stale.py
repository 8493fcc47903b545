"""With its database away every call is answered with stale data, counted as such; a call during a refresh is a hit.

First a SQLite file is renamed away under threads that call through both tiers, for a minute with `--full`. All values
are past their `ttl` and within `error_ttl`, so each call is to be answered, with what the database held, and counted
as stale. Then the file comes back, and it is timed until all values are fresh.

Then a key whose load takes 100 ms is stale again and again. While its load is under way, threads time calls of that key
and of one that is fresh, in turns; each refresh gives the ratio of their percentiles, and the median of these counts.
A value that nobody can change is without a bar: fresh, the wrapper hands it out without a further call; stale, it is
counted, about a microsecond.
"""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

from aikcache import Cache
from aikcache.testing import Server, wait_until
from benchmarks._harness.measure import Bar, Row, Settings, duration
from benchmarks._harness.server import record

TIERS = {"local": 60.0, "remote": 0.0}
"""Which tier answers, and the `local_ttl` that makes it so."""
THREADS = 4
KEYS = 20
OUTAGE, FULL_OUTAGE = 10.0, 60.0
TTL, ERROR_TTL = 0.5, 300.0
SHORT, SLOW = 0.02, 0.1
"""For how long the key that is refreshed is fresh, and how long its load takes, in seconds."""
REFRESHES = 25


def run(settings: Settings) -> list[Row]:
    """The outage in both tiers at once, then the refreshes in each; always on a server of its own."""
    with Server(port=0) as server:
        rows = outage(server, FULL_OUTAGE if settings.full else OUTAGE)
        value, equal = record(settings.value_size), Bar(1.5)
        rows += refreshes("remote tier", Cache(server.url, instance="remote-again", local_ttl=0), value, equal)
        rows += refreshes("local tier", Cache(server.url, instance="local-again"), value, equal)
        rows += refreshes("local tier, a str", Cache(server.url, instance="str-again"), "x" * settings.value_size, None)
    return rows


class Caller:
    """Calls of one tier, in threads, each answer checked."""

    def __init__(self, cache: Cache, path: Path) -> None:
        self.cache = cache
        self.calls = [0] * THREADS
        self.failed = [0] * THREADS
        self.loads = 0  # roughly: threads may miss each other's
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(i,)) for i in range(THREADS)]

        @cache.cached("bench", TTL, error_ttl=ERROR_TTL)
        def body(number: int) -> str:
            self.loads += 1
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as link:
                (text,) = link.execute("SELECT body FROM record WHERE id = ?", (number,)).fetchone()
            return str(text)

        self.body: Any = body

    def fresh(self) -> int:
        """How many values are, without a call."""
        return sum(self.body.peek(n) is not None for n in range(KEYS))

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, index: int) -> None:
        number = index
        while not self._stop.wait(0.0005):
            number = (number + 1) % KEYS
            self.calls[index] += 1
            try:
                self.failed[index] += self.body(number) != f"record {number}"
            except Exception:
                self.failed[index] += 1


def outage(server: Server, seconds: float) -> list[Row]:
    """A database that is away for so long, under calls."""
    rows = []
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory()), "records.sqlite")
        with closing(sqlite3.connect(path)) as link, link:
            link.execute("CREATE TABLE record (id INTEGER PRIMARY KEY, body TEXT)")
            link.executemany("INSERT INTO record VALUES (?, ?)", [(n, f"record {n}") for n in range(KEYS)])
        caches = [Cache(server.url, instance=tier, local_ttl=local_ttl) for tier, local_ttl in TIERS.items()]
        callers = [Caller(stack.enter_context(cache), path) for cache in caches]
        for caller in callers:
            caller.body.many(range(KEYS))
        away = path.rename(path.with_suffix(".away"))
        wait_until(lambda: not any(caller.fresh() for caller in callers), 10, "the end of every ttl")
        for caller in callers:
            caller.begin()
        time.sleep(seconds)
        for caller in callers:
            caller.end()
        counted = [(sum(c.calls), sum(c.failed), c.cache.stats().stale, c.loads - KEYS) for c in callers]
        away.rename(path)
        began = time.monotonic()
        wait_until(lambda: all(c.body.many(range(KEYS)) and c.fresh() == KEYS for c in callers), 10, "fresh values")
        again = time.monotonic() - began
    for tier, (calls, failed, stale, loads) in zip(TIERS, counted, strict=True):
        question = f"database away {seconds:g} s, answered by the {tier} tier"
        figure = f"{calls} calls, {loads} loads tried of {KEYS} keys; all fresh {duration(again)} after its return"
        rows += [
            Row(question=f"{question}: failed", figure=figure, measured=failed, unit="", bar=Bar(0, "")),
            Row(
                question=f"{question}: not counted as stale",
                figure=f"{stale} counted",
                measured=calls - stale,
                unit="",
                bar=Bar(0, ""),
            ),
        ]
    return rows


class Took(NamedTuple):
    """Seconds of calls made while one load was under way."""

    stale: list[float]
    hit: list[float]


def refreshes(what: str, cache: Cache, value: object, bar: Bar | None) -> list[Row]:
    """Calls during refreshes against plain hits, in turns, in the same threads."""
    under_way, ended = threading.Event(), threading.Event()
    rounds: list[Took] = []

    @cache.cached("bench", lambda _: ERROR_TTL if ended.is_set() else SHORT, stale_ttl=ERROR_TTL)
    def aging(key: str) -> Any:
        rounds.append(Took([], []))
        under_way.set()
        time.sleep(SLOW)
        under_way.clear()
        return value

    @cache.cached("bench", ERROR_TTL)
    def lasting(key: str) -> Any:
        return value

    def work() -> None:
        while not ended.is_set():
            if not under_way.is_set():
                aging("key")
                time.sleep(0.0005)
                continue
            took = rounds[-1]
            turns = [(aging, took.stale), (lasting, took.hit)]
            for _ in range(10):
                turns.reverse()  # whichever is first pays for what the other left in the processor's caches
                for call, seconds in turns:
                    began = time.perf_counter()
                    call("key")
                    seconds.append(time.perf_counter() - began)

    with cache:
        aging("key")
        lasting("key")
        wait_until(lambda: cache.stats().coherent, 10, "the channel")
        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(rounds) > REFRESHES, 60, "the refreshes")
        ended.set()
        for thread in threads:
            thread.join()
        wait_until(lambda: aging("key") and aging.peek("key"), 10, "the last load")
    rounds = [took for took in rounds[1:] if len(took.hit) >= 100]  # the first answered a miss; the last may be cut
    rows = []
    for place in (50, 99):
        stale, hit = ([percentile(some, place) for some in each] for each in zip(*rounds, strict=True))
        rows.append(
            Row(
                question=f"call during a refresh against a hit, {what}, p{place}",
                figure=f"{duration(statistics.median(stale))}, {sum(len(took.stale) for took in rounds)} calls",
                rival=f"hit: {duration(statistics.median(hit))}",
                measured=statistics.median(a / b for a, b in zip(stale, hit, strict=True)),
                bar=bar if place == 99 else None,
            )
        )
    return rows


def percentile(took: list[float], place: int) -> float:
    return sorted(took)[len(took) * place // 100]
