"""With Redis hung and the breaker open, a call costs a few microseconds more than without a remote tier.

The server is stopped by SIGSTOP: its connections stay open and nothing answers. After the timeouts that open the
breaker every call is a miss whose load costs nothing (`local_ttl=0`), compared with the same misses of a cache without
URL. One call a second is let through as a probe and waits for its timeout: the worst call, not the median.
"""

from __future__ import annotations

import statistics
import time

from aikcache import Cache
from aikcache.testing import Server

from ._measure import Bar, Row, Settings, duration

CALLS = 5000


def run(settings: Settings) -> list[Row]:
    """The median call; always on a server of its own."""
    with Server() as server:
        cache = Cache(server.url, local_ttl=0, timeout=0.05, breaker_reset=1)
        with cache, Cache() as alone:
            load = cache.cached("bench", ttl=60, operation="hung")(_same)
            local = alone.cached("bench", ttl=60, operation="hung", local_ttl=0)(_same)
            load("before")
            server.pause()
            try:
                while not cache.health().breaker_open:
                    load("opening")
                seconds, without = [], []
                for i in range(CALLS):
                    seconds.append(_time(load, f"key-{i}"))
                    without.append(_time(local, f"key-{i}"))
            finally:
                server.resume()
    added = (statistics.median(seconds) - statistics.median(without)) * 1e6
    return [
        Row(
            question="call with Redis hung, breaker open, added",
            figure=f"{duration(statistics.median(seconds))}, worst {duration(max(seconds))}",
            rival=f"without Redis: {duration(statistics.median(without))}",
            measured=added,
            unit=" µs",
            bar=Bar(50, " µs"),
        )
    ]


def _same(key: str) -> str:
    return key


def _time(function: object, key: str) -> float:
    assert callable(function)
    began = time.perf_counter()
    function(key)
    return time.perf_counter() - began
