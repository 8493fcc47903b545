"""What one process ends another no longer serves after some 0.4 ms, 99 times of 100 within 4 ms.

Another process calls a cached function whose entry is in its local tier, ten thousand times a second at most; this one
ends the entry, by key, then by group. Timed is from before `invalidate` until the other's call gives the new value,
reload included, on the clock that both processes share. For information the other calls without a pause: then its own
channel thread has to wait for the interpreter, 5 ms a turn (`sys.getswitchinterval`), which no library can help.
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
PAUSE = 0.0001


def run(settings: Settings) -> list[Row]:
    """By key, then by group."""
    with servers(settings.url) as urls:
        url = next(iter(urls.values()))
        return [_measure(url, "key", PAUSE), _measure(url, "group", PAUSE), _measure(url, "key", 0.0)]


def _cached(cache: Cache) -> Any:
    @cache.cached("pushed", ttl=600, operation="moment")
    def moment(key: str) -> float:
        return time.monotonic()

    return moment


def _watch(url: str, instance: str, pause: float, pipe: Connection) -> None:
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
                if pause:
                    time.sleep(pause)
            pipe.send(time.monotonic() if new != held else None)


def _measure(url: str, what: str, pause: float) -> Row:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_watch, args=(url, INSTANCE, pause, there), daemon=True)
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
        question=f"invalidation of a {what} seen by another process{'' if pause else ' that never rests'}, p99",
        figure=f"median {duration(statistics.median(seconds))}, worst {duration(max(seconds[20:]))}",
        measured=p99 * 1000,
        unit=" ms",
        bar=Bar(10, " ms") if pause else None,
    )
