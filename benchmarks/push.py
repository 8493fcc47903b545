"""What one process ends another no longer serves after some tenths of a millisecond, 10 ms at most for 99 of 100.

Another process keeps calling a cached function whose entry is in its local tier; this one ends the entry, by key and by
group in turn. Timed is from before `invalidate` until the other's call gives the new value, reload included, on the
clock that both processes share.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

from aikcache import Cache

from ._measure import Bar, Row, Settings, duration
from ._server import INSTANCE, servers

TURNS = 500
PATIENCE = 5.0


def run(settings: Settings) -> list[Row]:
    """By key, then by group."""
    with servers(settings.url) as urls:
        url = next(iter(urls.values()))
        return [_measure(url, what) for what in ("key", "group")]


def _cached(cache: Cache) -> Any:
    @cache.cached("pushed", ttl=600, operation="moment")
    def moment(key: str) -> float:
        return time.monotonic()

    return moment


def _watch(url: str, instance: str, pipe: Connection) -> None:
    """The other process: say when there is an entry, then when it has gone."""
    with Cache(url, instance=instance) as cache:
        moment = _cached(cache)
        while pipe.recv():
            held = moment("a")
            for _ in range(3):  # from the local tier
                moment("a")
            pipe.send(None)
            until = time.monotonic() + PATIENCE
            while (new := moment("a")) == held and time.monotonic() < until:
                pass
            pipe.send(time.monotonic() if new != held else None)


def _measure(url: str, what: str) -> Row:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_watch, args=(url, INSTANCE, there), daemon=True)
    child.start()
    seconds = []
    with Cache(url, instance=INSTANCE) as cache:
        moment = _cached(cache)
        for _ in range(TURNS):
            here.send(True)
            here.recv()
            began = time.monotonic()
            if what == "key":
                moment.invalidate("a")
            else:
                cache.invalidate("pushed:*")
            heard = here.recv()
            if heard is None:
                raise RuntimeError(f"the other process did not hear of a {what} within {PATIENCE:g} seconds")
            seconds.append(heard - began)
        here.send(False)
    child.join(PATIENCE)
    p99 = statistics.quantiles(seconds[20:], n=100)[-1]  # after its channel is up
    return Row(
        question=f"invalidation of a {what} seen by another process, p99",
        figure=f"median {duration(statistics.median(seconds))}, worst {duration(max(seconds[20:]))}",
        measured=p99 * 1000,
        unit=" ms",
        bar=Bar(10, " ms"),
    )
