"""With Redis hung, an open breaker adds at most 10 µs to a call, and Redis is used again within 2 s of its return.

With the default settings, but for `local_ttl=0`, so that every call would ask Redis. The server is stopped by SIGSTOP:
its connections stay open and nothing answers. Once the breaker is open, calls of a function that costs nothing are
timed against those of a cache without URL, call by call in turns. One call a second is the probe, and waits; it counts
among the others. Then the server goes on, and calls are made until one is answered from Redis.
"""

from __future__ import annotations

import statistics
import time

from aikcache import Cache
from aikcache.testing import Server
from benchmarks._harness.measure import Bar, Row, Settings, duration

CALLS = 20_000
RETURNS = 5


def run(settings: Settings) -> list[Row]:
    """The added latency, and how long it takes to come back; always on a server of its own."""
    with Server(port=0) as server, Cache(server.url, local_ttl=0) as cache, Cache() as alone:

        @cache.cached("bench", ttl=60)
        def load(key: str) -> str:
            return key

        @alone.cached("bench", ttl=60, local_ttl=0)
        def local(key: str) -> str:
            return key

        load("before")
        hung, without, returns = [], [], []
        for turn in range(RETURNS):
            settings.progress(turn / RETURNS)
            server.pause()
            try:
                while not cache.health().breaker_open:
                    load("opening")
                for i in range(CALLS // RETURNS):
                    key = f"{turn}-{i}"
                    began = time.perf_counter()
                    load(key)
                    between = time.perf_counter()
                    local(key)
                    hung.append(between - began)
                    without.append(time.perf_counter() - between)
            finally:
                server.resume()
            began = time.perf_counter()
            while load.peek(f"again-{turn}") is None:
                load(f"again-{turn}")
                time.sleep(0.001)  # a caller that does something else as well
            returns.append(time.perf_counter() - began)
    added = (statistics.median(hung) - statistics.median(without)) * 1e6
    hung.sort()
    return [
        Row(
            question="call with Redis hung, breaker open, added",
            figure=f"{duration(statistics.median(hung))}, p99 {duration(hung[len(hung) * 99 // 100])}, "
            f"the probes up to {duration(hung[-1])}",
            rival=f"without Redis: {duration(statistics.median(without))}",
            measured=added,
            unit=" µs",
            bar=Bar(10, " µs"),
        ),
        Row(
            question="Redis used again after it returned, worst",
            figure=f"{duration(statistics.median(returns))} median of {len(returns)}",
            measured=max(returns),
            unit=" s",
            bar=Bar(2, " s"),
        ),
    ]
