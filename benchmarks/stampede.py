"""A cold key that 8 processes × 16 threads ask for at once is loaded exactly once.

The load takes 50 ms and counts itself in Redis. Beside ours: GET, load, SET by hand with redis-py; dogpile.cache over
Redis with its distributed lock; Flask-Caching, which has none. A row is judged by the most loads that any key took. The
time given is until the last caller has its answer. For the plot the same with fewer processes.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import orjson
import redis

from aikcache import Cache
from benchmarks._harness import rivals as _rivals
from benchmarks._harness.crew import Act, Crew, in_threads, moment
from benchmarks._harness.measure import Bar, Plot, Row, Settings, absent, duration
from benchmarks._harness.server import INSTANCE, servers

PROCESSES, THREADS = 8, 16
SIZES = (1, 2, 4, PROCESSES)
KEYS, KEYS_OF_RIVALS = 10, 3
LOAD = 0.05
OURS = "aikcache"
RIVALS = ("redis-py by hand", "dogpile.cache redis, locked", "Flask-Caching redis")


def run(settings: Settings) -> list[Row | Plot]:
    """Ours, then each rival, for information; and a plot over the number of callers."""
    lines: dict[str, list[tuple[float, float]]] = {}
    figures: dict[str, str] = {}
    with servers(settings.url) as urls:
        url = next(iter(urls.values()))
        with Crew(PROCESSES, _open, url, INSTANCE) as crew, redis.Redis.from_url(url) as client:
            installed = [
                name for name in (OURS, *RIVALS) if crew.ask((name, f"{INSTANCE}-warm", 1, moment()), 1)[0] is not None
            ]
            keys = map(f"{INSTANCE}-{{}}".format, itertools.count())  # so that whatever is named after them is removed
            for done, (name, processes) in enumerate(itertools.product(installed, SIZES)):
                count = KEYS if name == OURS else KEYS_OF_RIVALS
                rushes = [_rush(crew, client, name, next(keys), processes) for _ in range(count)]
                most = max(loads for loads, _ in rushes)
                lines.setdefault(name, []).append((processes * THREADS, most))
                figures[name] = (
                    f"at most {most} loads, all answered after {duration(statistics.median(s for _, s in rushes))}"
                )
                settings.progress((done + 1) / len(installed) / len(SIZES))
    question = f"cold key, {PROCESSES} processes × {THREADS} threads"
    bar = Bar(1, " loads")
    rows: list[Row | Plot] = [
        Row(
            question=question,
            figure=f"{figures[OURS]}, {KEYS} keys",
            measured=lines[OURS][-1][1],
            unit=" loads",
            bar=bar,
        )
    ]
    for rival in RIVALS:
        if rival in figures:
            rows.append(
                Row(
                    question=question,
                    figure="",
                    rival=f"{rival}: {figures[rival]}",
                    measured=lines[rival][-1][1],
                    unit=" loads",
                )
            )
        else:
            rows.append(absent(question, rival))
    title = f"Loads of a cold key that takes {LOAD * 1000:g} ms"
    return [*rows, Plot(name="stampede", title=title, x="callers at once", y="loads", lines=lines)]


def _rush(crew: Crew, client: Any, name: str, key: str, processes: int) -> tuple[int, float]:
    """How often a key was loaded, and seconds until the last caller had it."""
    begin = moment()
    last = max(crew.ask((name, key, THREADS, begin), processes))
    return int(client.get(_counter(INSTANCE, name, key))), last - begin


def _counter(instance: str, name: str, key: str) -> str:
    return f"{instance}-loads-{name}-{key}"


@contextmanager
def _open(url: str, instance: str) -> Iterator[Act]:
    """A process of the crew. Given (contender, key, threads, moment) it gives when the last thread had the value."""
    client: Any = redis.Redis.from_url(url)

    def loader(name: str) -> Any:
        def load(key: str) -> str:
            client.incr(_counter(instance, name, key))
            time.sleep(LOAD)
            return f"the value of {key}"

        return load

    def by_hand(key: str) -> Any:
        name = f"{instance}-hand-{key}"
        if (data := client.get(name)) is not None:
            return orjson.loads(data)
        value = loader(RIVALS[0])(key)
        client.set(name, orjson.dumps(value), px=600_000)
        return value

    with ExitStack() as stack:
        cache = stack.enter_context(Cache(url, instance=instance))
        locked = {"distributed_lock": True, "thread_local_lock": False}
        flask = _rivals.flask_caching_redis(loader(RIVALS[2]), url, instance)
        calls: dict[str, Any] = {
            OURS: cache.cached("bench", ttl=600, operation="cold")(loader(OURS)),
            RIVALS[0]: by_hand,
            RIVALS[1]: _rivals.dogpile(loader(RIVALS[1]), "redis", url=url, **locked),
            RIVALS[2]: None if flask is None else flask[0],
        }

        def act(order: tuple[str, str, int, float]) -> Any:
            name, key, threads, begin = order
            call = calls[name]
            if call is None:
                return None

            def work() -> float:
                if call(key) != f"the value of {key}":
                    raise RuntimeError(f"{name} gave a wrong value")
                return time.monotonic()

            return max(in_threads(threads, begin, work))

        yield act
    client.close()
