"""How long a call takes, tier by tier: a local hit well below 1 µs, a remote hit one round trip, a load three.

Every call is timed by itself, in turns, keys drawn as `--distribution` says. The value is text, so that a local hit is
handed out as it is. A load is of a key never asked for, by a function that costs nothing: what is left is the price of
a miss, the question, the lease and storing. By hand that is GET and SET, without any of the promises.
The two readings of the clock, some 60 ns, are in every figure; pauses of the machine and of the interpreter are, too.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import orjson
import redis

from aikcache import Cache
from benchmarks._harness import rivals as _rivals
from benchmarks._harness.measure import Plot, Row, Settings, duration
from benchmarks._harness.server import INSTANCE, record, servers

KEYS = 1000
PAIRS = {"local hit": "functools.lru_cache", "remote hit": "bare get + loads", "load": "bare get and set"}
Call = Callable[[str], object]


def run(settings: Settings) -> list[Row | Plot]:
    """A row for each tier, and one plot of all distributions."""
    with servers(settings.url) as urls:
        samples = _measure(next(iter(urls.values())), settings)
    rows: list[Row | Plot] = [
        Row(
            question=f"latency of a {ours}, p99",
            figure=_figure(samples[ours]),
            rival=f"{rival}: {_figure(samples[rival])}",
            measured=_quantile(samples[ours], 0.99) / _quantile(samples[rival], 0.99),
        )
        for ours, rival in PAIRS.items()
    ]
    shares = [share / 200 for share in range(1, 200)]
    lines = {name: [(_quantile(s, share) / 1000, 100 * share) for share in shares] for name, s in samples.items()}
    title = f"Latency by tier, {settings.value_size} bytes, keys {settings.distribution}"
    return [*rows, Plot(name="latency", title=title, x="µs", y="% of calls answered within", lines=lines, log_x=True)]


def _measure(url: str, settings: Settings) -> dict[str, list[int]]:
    """Nanoseconds of each call, sorted."""
    text = orjson.dumps(record(settings.value_size)).decode()
    client: Any = redis.Redis.from_url(url)
    names = [f"resource-{i}" for i in range(KEYS)]
    for name in names:
        client.set(f"{INSTANCE}-{name}", orjson.dumps(text), px=600_000)

    def load(key: str) -> str:
        return text

    def by_hand(key: str) -> str:
        if (data := client.get(f"{INSTANCE}-{key}")) is not None:
            found: str = orjson.loads(data)
            return found
        value = load(key)
        client.set(f"{INSTANCE}-{key}", orjson.dumps(value), px=600_000)
        return value

    with Cache(url, instance=INSTANCE) as cache, Cache(url, instance=INSTANCE, local_ttl=0) as remote:
        local = cache.cached("bench", ttl=600, operation="local")(load)
        shared = remote.cached("bench", ttl=600, operation="remote")(load)
        fresh = remote.cached("bench", ttl=600, operation="fresh")(load)
        drawn = itertools.cycle([names[place] for place in settings.draw(10 * KEYS, KEYS)])
        new = map(str, itertools.count())
        calls: dict[str, tuple[Call, Iterator[str]]] = {
            "local hit": (local, drawn),
            "functools.lru_cache": (functools.lru_cache(maxsize=_rivals.ENTRIES)(load), drawn),
            "remote hit": (shared, drawn),
            "bare get + loads": (by_hand, drawn),
            "load": (fresh, new),
            "bare get and set": (by_hand, new),
        }
        for call, keys in calls.values():
            for key in names if keys is drawn else ("first",):
                call(key)
        samples = _timed(calls, settings)
    client.close()
    return samples


def _timed(calls: dict[str, tuple[Call, Iterator[str]]], settings: Settings) -> dict[str, list[int]]:
    samples: dict[str, list[int]] = {name: [] for name in calls}
    order, random, clock = list(calls), Random(1), time.perf_counter_ns
    for done in range(settings.rounds):
        random.shuffle(order)
        for name in order:
            call, keys = calls[name]
            keep = samples[name].append
            until = clock() + settings.seconds * 1e9
            for key in keys:
                began = clock()
                call(key)
                ended = clock()
                keep(ended - began)
                if ended > until:
                    break
        settings.progress((done + 1) / settings.rounds)
    return {name: sorted(found) for name, found in samples.items()}


def _quantile(ordered: list[int], share: float) -> int:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def _figure(ordered: list[int]) -> str:
    quantiles = ", ".join(f"p{100 * share:g} {duration(_quantile(ordered, share) / 1e9)}" for share in (0.99, 0.999))
    return f"median {duration(statistics.median(ordered) / 1e9)}, {quantiles}"
