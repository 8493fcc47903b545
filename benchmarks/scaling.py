"""Calls a second by threads and by processes: threads share one interpreter, so only processes add to what one does.

Local hits are beside functools.lru_cache, remote hits (`local_ttl=0`) beside a bare get and loads; keys are drawn as
`--distribution` says. Each figure is the median of three turns. A machine with two cores shows two processes' worth,
and the server has to live on them, too.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import redis

from aikcache import Cache
from benchmarks._harness import rivals as _rivals
from benchmarks._harness.crew import Act, Crew, in_threads, moment
from benchmarks._harness.measure import Plot, Row, Settings
from benchmarks._harness.plots import number
from benchmarks._harness.server import INSTANCE, record, servers

KEYS = 1000
STEP = 50  # calls between two looks at the clock
TURNS = 3
THREADS, PROCESSES = (1, 2, 4, 8), (1, 2, 4)
PAIRS = {"local hits": "functools.lru_cache", "remote hits": "bare get + loads"}


def run(settings: Settings) -> list[Row | Plot]:
    """A row for each tier by threads, then by processes, and a plot of each."""
    with servers(settings.url) as urls:
        url = next(iter(urls.values()))
        places = settings.draw(KEYS, KEYS)
        with Crew(max(PROCESSES), _open, url, INSTANCE, places, settings.value_size) as crew:
            by = {
                "threads": _rates(crew, settings, [(1, n) for n in THREADS]),
                "processes": _rates(crew, settings, [(n, 1) for n in PROCESSES]),
            }
    rows: list[Row | Plot] = []
    for what, rates in by.items():
        for ours, rival in PAIRS.items():
            most, one = rates[ours][-1][1], rates[ours][0][1]
            rows.append(
                Row(
                    question=f"{ours} a second by {what}",
                    figure=_figure(rates[ours]),
                    rival=f"{rival}: {_figure(rates[rival])}",
                    measured=most / one,
                    unit=f"× of one, with {rates[ours][-1][0]:g}",
                )
            )
        title = f"Calls a second by {what}, keys {settings.distribution}"
        rows.append(Plot(name=f"scaling_{what}", title=title, x=what, y="calls a second", lines=rates, log_y=True))
    return rows


def _rates(crew: Crew, settings: Settings, sizes: list[tuple[int, int]]) -> dict[str, list[tuple[float, float]]]:
    names = [name for pair in PAIRS.items() for name in pair]
    found: dict[tuple[str, int], list[float]] = {}
    for turn in range(TURNS):
        for processes, threads in sizes:
            for name in names:
                done = crew.ask((name, threads, moment(), settings.span), processes)
                found.setdefault((name, processes * threads), []).append(sum(done))
        settings.progress((turn + 1) / TURNS)
    return {name: [(n * m, statistics.median(found[name, n * m])) for n, m in sizes] for name in names}


def _figure(line: list[tuple[float, float]]) -> str:
    return ", ".join(f"{n:g}: {number(rate)}" for n, rate in line)


@contextmanager
def _open(url: str, instance: str, places: list[int], value_size: int) -> Iterator[Act]:
    """A process of the crew. Told (contender, threads, moment, seconds) it gives its calls a second."""
    value = record(value_size)
    text = orjson.dumps(value).decode()
    keys = [f"resource-{place}" for place in places]
    client = redis.Redis.from_url(url)
    client.set(f"{instance}-scaling", orjson.dumps(value), px=600_000)

    def load(key: str) -> dict[str, Any]:
        return value

    with Cache(url, instance=instance) as cache, Cache(url, instance=instance, local_ttl=0) as remote:
        calls: dict[str, Any] = {
            "local hits": cache.cached("bench", ttl=600, operation="text")(lambda key: text),
            "functools.lru_cache": functools.lru_cache(maxsize=_rivals.ENTRIES)(lambda key: text),
            "remote hits": remote.cached("bench", ttl=600, operation="record")(load),
            "bare get + loads": lambda key: orjson.loads(client.get(f"{instance}-scaling")),  # type: ignore[arg-type]
        }
        for call in calls.values():
            for key in set(keys):
                call(key)

        def act(order: tuple[str, int, float, float]) -> float:
            name, threads, begin, seconds = order
            call = calls[name]

            def work() -> int:
                until, count = begin + seconds, 0
                while time.monotonic() < until:
                    place = count % KEYS
                    for key in keys[place : place + STEP]:
                        call(key)
                    count += STEP
                return count

            made: int = sum(in_threads(threads, begin, work))
            return made / (time.monotonic() - begin)

        yield act
    client.close()
