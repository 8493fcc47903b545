"""Ending a group takes 1.5 bare round trips, whatever its size and the size of the keyspace; SCAN takes a second.

A group of 10 000 keys (values of `many` real calls) stands among N other keys of the instance, plain values written by
pipelined SETs. Timed is `cache.invalidate("group:*")` until it returns, against one bare `SET`, and against SCAN with
UNLINK of as many plain keys, as is commonly done. N goes to 100 000, with `--full` to 1 000 000. How flat it is over N
is told in bare round trips of the same moment. On a server that `--url` names the keys are removed afterwards.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import redis

from aikcache import Cache
from benchmarks._harness.measure import Bar, Plot, Row, Samples, Settings, duration, interleaved
from benchmarks._harness.server import INSTANCE, servers

GROUP = 10_000
SINGLES = 2000


def run(settings: Settings) -> list[Row | Plot]:
    """For each N; then flatness, single keys, and a plot over N."""
    lines: dict[str, list[tuple[float, float]]] = {"aikcache": [], "bare SET": [], "SCAN + UNLINK": []}
    with servers(settings.url) as urls:
        url = next(iter(urls.values()))
        client = redis.Redis.from_url(url)
        rows: list[Row | Plot] = []
        ratios, filled = [], 0
        with Cache(url, instance=INSTANCE) as cache:
            for total in (1000, 10_000, 100_000, *((1_000_000,) if settings.full else ())):
                _fill(client, filled, total)
                filled = total
                ours, bare = _measure(cache, client, total, settings)
                ratios.append(ours.over(bare))
                scan = _scan(client)
                for line, seconds in zip(lines.values(), (ours.median, bare.median, scan), strict=True):
                    line.append((total, seconds * 1e6))
                rows.append(
                    Row(
                        question=f"end a group of {min(GROUP, total)} among {total} keys",
                        figure=str(ours),
                        rival=f"bare SET: {bare} · SCAN + UNLINK: {scan * 1000:.3g} ms",
                        measured=ratios[-1],
                        bar=Bar(1.3),
                    )
                )
            flat = ratios[-1] / ratios[0]  # of round trips: the machine may have become slower meanwhile
            rows.append(Row(question=f"end a group, {filled} keys over 1000", figure="", measured=flat, bar=Bar(1.5)))
            rows.append(_single(cache))
        client.close()
    title = f"Ending a group of {GROUP} keys"
    rows.append(
        Plot(
            name="invalidation", title=title, x="keys there are", y="µs until it returns", lines=lines,
            log_x=True, log_y=True,
        )
    )  # fmt: skip
    return rows


def _measure(cache: Cache, client: Any, total: int, settings: Settings) -> tuple[Samples, Samples]:
    """Ending the group, which is then there again, against a bare write."""
    runs = [0]

    def load(number: int) -> int:
        runs[0] += 1
        return number

    fetch = cache.cached("group", ttl=600, operation=f"among_{total}")(load)
    size = min(GROUP, total)
    for start in range(0, size, 1000):
        fetch.many(range(start, min(start + 1000, size)))
    samples = interleaved(
        {"ours": lambda: cache.invalidate("group:*"), "bare": lambda: client.set(f"{INSTANCE}-bare", b"12345678")},
        settings,
    )
    fetch(1)
    if runs[0] != size + 1:
        raise RuntimeError("the group was not ended")
    return samples["ours"], samples["bare"]


def _fill(client: Any, filled: int, total: int) -> None:
    for start in range(filled, total, 10_000):
        pipe = client.pipeline(transaction=False)
        for i in range(start, min(start + 10_000, total)):
            pipe.set(f"{INSTANCE}:v1:plain:other:{i}", b"value", px=3_600_000)
        pipe.execute()


def _scan(client: Any) -> float:
    """Seconds to remove 10 000 plain keys, written for it, by SCAN and UNLINK."""
    names = [f"{INSTANCE}:v1:plain:group:{i}" for i in range(GROUP)]
    for start in range(0, GROUP, 1000):
        client.mset(dict.fromkeys(names[start : start + 1000], b"value"))
    began = time.perf_counter()
    for batch in _batches(client.scan_iter(match=f"{INSTANCE}:v1:plain:group:*", count=1000)):
        client.unlink(*batch)
    return time.perf_counter() - began


def _batches(keys: Iterator[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for key in keys:
        batch.append(key)
        if len(batch) == 1000:
            yield batch
            batch = []
    if batch:
        yield batch


def _single(cache: Cache) -> Row:
    """Ending one key that is held here and remotely, each time until it returns."""

    @cache.cached("single", ttl=600, operation="one")
    def load(number: int) -> int:
        return number

    seconds = []
    for number in range(SINGLES):
        load(number)
        began = time.perf_counter()
        load.invalidate(number)
        seconds.append(time.perf_counter() - began)
    p99 = statistics.quantiles(seconds, n=100)[-1]
    return Row(
        question="end a single key, p99",
        figure=f"median {duration(statistics.median(seconds))}, worst {duration(max(seconds))}",
        measured=p99 * 1000,
        unit=" ms",
        bar=Bar(10, " ms"),
    )
