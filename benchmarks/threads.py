"""With 8 threads the counters are exact: no hit, miss or load is lost or counted twice.

Two runs. In the first all keys stay in the local tier, so nothing but hits happens after the first load of each; in the
second there is room for a tenth of them, so entries leave while other threads hit them. The interpreter is told to
switch threads as often as it can.
"""

from __future__ import annotations

import sys
import threading
import time

from aikcache import Cache
from benchmarks._harness.measure import Bar, Row, Settings

THREADS, KEYS = 8, 1000


def run(settings: Settings) -> list[Row]:
    """Room for all keys, then room for a tenth."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        return [*_measure("room for all", KEYS, 50_000), *_measure("room for a tenth", KEYS // 10, 4000)]
    finally:
        sys.setswitchinterval(interval)


def _measure(what: str, room: int, calls: int) -> list[Row]:
    keys = [f"resource-{i}" for i in range(KEYS)]
    loads = [0] * THREADS
    mine = threading.local()
    start = threading.Barrier(THREADS + 1)
    with Cache(local_max_entries=room) as cache:

        @cache.cached("bench", ttl=600, operation="counted")
        def load(key: str) -> str:
            loads[mine.index] += 1
            return key

        def work(index: int) -> None:
            mine.index = index
            start.wait()
            for i in range(calls):
                load(keys[(i * (2 * index + 1)) % KEYS])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(THREADS)]
        for thread in threads:
            thread.start()
        start.wait()
        began = time.perf_counter()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
        stats = cache.stats().operations["bench:counted"]
    wrong = abs(stats.hits + stats.misses - THREADS * calls) + abs(stats.loads - sum(loads))
    rows = [
        Row(
            question=f"{THREADS} threads, {what}",
            figure=f"{THREADS * calls} calls in {seconds:.2f} s: {stats.hits} hits + {stats.misses} misses",
            rival=f"loads: {stats.loads} counted, {sum(loads)} made",
            measured=float(wrong),
            unit=" miscounted",
            bar=Bar(0, " miscounted"),
        )
    ]
    if room >= KEYS:
        again = float(sum(loads) - KEYS)
        bar = Bar(0, " too many")
        rows.append(Row(question=f"{THREADS} threads, loads", figure="", measured=again, unit=" too many", bar=bar))
    return rows
