"""With 100 000 entries held locally, what one process ends another no longer serves within 10 ms, 99 times of 100.

Another process holds 100 000 entries beside the one that is watched, which it calls ten thousand times a second at
most. This one ends it by key, by group, by tag, and with everything. Timed is from before the invalidation until the
other's call gives a new value, on the clock both processes share. What everything ends is held anew before each round,
so that there are fewer of these, unless `--full`.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from aikcache import Cache
from benchmarks._harness.measure import Bar, Row, Settings, duration
from benchmarks._harness.server import INSTANCE, servers

HELD = 100_000
ROUNDS = 1000
ROUNDS_OF_EVERYTHING = 100
WARM_UP = 20
PATIENCE = 10.0
PAUSE = 0.0001

WAYS: dict[str, Callable[[Cache], object]] = {
    "a key": lambda cache: cache.invalidate_key("pushed:moment:a"),
    "a group": lambda cache: cache.invalidate("pushed:*"),
    "a tag": lambda cache: cache.invalidate_tags("moments"),
    "everything": lambda cache: cache.clear(),
}


def run(settings: Settings) -> list[Row]:
    """A key, a group, a tag, everything."""
    with servers(settings.url) as urls:
        url = next(iter(urls.values()))
        return [*(_measure(url, way, settings) for way in WAYS), _measure(url, "a key", settings, rests=False)]


def _watch(url: str, instance: str, pipe: Connection, rests: bool) -> None:
    """The other process: say when all is held, then when the entry has gone. It calls in pauses, or all the time."""
    with Cache(url, instance=instance, local_max_entries=HELD + 1000, local_ttl=600) as cache:

        @cache.cached("pushed", ttl=600, tags=("moments",))
        def moment(key: str) -> float:
            return time.monotonic()

        while pipe.recv():
            held = moment("a")
            _fill(cache, HELD - len(cache.engine.local.region("filler:of").table))
            moment("a")
            pipe.send(None)
            until = time.monotonic() + PATIENCE
            while (new := moment("a")) == held and time.monotonic() < until:
                if rests:
                    time.sleep(PAUSE)
            pipe.send(time.monotonic() if new != held else None)


def _fill(cache: Cache, missing: int) -> None:
    """Entries as calls would leave them, without the calls."""
    local, region, now = cache.engine.local, cache.engine.local.region("filler:of"), time.monotonic()
    for number in range(missing):
        key = cache.space.full(f"filler:of:{number}")
        local.fill(
            key, region, (number,), region.epoch, number,
            created_at=now, fresh_until=now + 600, refresh_at=now + 600, expires_at=now + 600, shareable=True,
            tags=(f"filler:{number % 100}",),
        )  # fmt: skip


def _measure(url: str, way: str, settings: Settings, *, rests: bool = True) -> Row:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_watch, args=(url, INSTANCE, there, rests), daemon=True)
    child.start()
    rounds = ROUNDS_OF_EVERYTHING if way == "everything" and not settings.full else ROUNDS
    seconds: list[float] = []
    with Cache(url, instance=INSTANCE) as cache:
        for done in range(WARM_UP + rounds):
            settings.progress(done / (WARM_UP + rounds))
            here.send(True)
            here.recv()
            began = time.monotonic()
            WAYS[way](cache)
            received_at: Any = here.recv()
            if received_at is None:
                raise RuntimeError(f"the other process did not hear of {way} within {PATIENCE:g} seconds")
            seconds.append(received_at - began)
        here.send(False)
    child.join(PATIENCE)
    del seconds[:WARM_UP]
    return Row(
        question=f"{way} ended is seen by a process that holds {HELD} entries{'' if rests else ', never resting'}, p99",
        figure=f"median {duration(statistics.median(seconds))}, worst {duration(max(seconds))}, {rounds} rounds",
        measured=statistics.quantiles(seconds, n=100, method="inclusive")[-1] * 1000,  # of 100 rounds not the worst
        unit=" ms",
        bar=Bar(2 if rests else 7, " ms"),
    )
