"""A remote hit of 1 KiB JSON takes 0.73 times a bare `redis.Redis.get` with `orjson.loads`; 0.93 where cores sleep.

`local_ttl=0`, so every call goes to the server. Ours builds the key, proves the frame intact and fresh (checksum, key,
stamps) and asks how long it will live; bare asks for bytes. dogpile.cache, Flask-Caching and diskcache are set up as
their manuals say: all three unpickle what they find. diskcache asks no server, but SQLite on this machine's disk.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import redis

from aikcache import Cache
from benchmarks._harness import rivals as _rivals
from benchmarks._harness.measure import Bar, Row, Settings, absent, interleaved
from benchmarks._harness.server import INSTANCE, places, record

KEY = f"resource-{INSTANCE}"  # so that whatever is named after it is removed
BARS = {"dogpile.cache redis": Bar(2.5, least=True), "Flask-Caching redis": Bar(6, least=True), "diskcache": None}
"""Of one core, on which the server's share is the same for all; as is the bar on CPU time."""


def run(settings: Settings) -> list[Row]:
    """In each place there is; the rivals not over TCP, where there is something else."""
    rows: list[Row] = []
    for place, url in places(settings.url):
        rows += _measure(place, url, settings, rivals=not place.startswith("tcp"))
    return rows


def _measure(place: str, url: str, settings: Settings, *, rivals: bool) -> list[Row]:
    value = record(settings.value_size)
    client = redis.Redis.from_url(url)
    client.set(f"{INSTANCE}-bare", orjson.dumps(value), px=600_000)

    def load(key: str) -> dict[str, Any]:
        return value

    with ExitStack() as stack, Cache(url, instance=INSTANCE, local_ttl=0) as cache:
        ours = cache.cached("bench", ttl=600, operation=place.partition(",")[0])(load)
        contenders: dict[str, Any] = {
            "aikcache": lambda: ours(KEY),
            "bare": lambda: orjson.loads(client.get(f"{INSTANCE}-bare")),  # type: ignore[arg-type]
        }
        if rivals:
            if (dogpile := _rivals.dogpile(load, "redis", url=url)) is not None:
                contenders["dogpile.cache redis"] = lambda: dogpile(KEY)
            if (flask := _rivals.flask_caching_redis(load, url, INSTANCE)) is not None:
                memoized, leave = flask
                stack.callback(leave)
                contenders["Flask-Caching redis"] = lambda: memoized(KEY)
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            if (disk := _rivals.diskcache_memoize(load, directory)) is not None:
                on_disk, close = disk
                stack.callback(close)
                contenders["diskcache"] = lambda: on_disk(KEY)
        samples = interleaved(contenders, settings)
        ours_and_bare = {name: contenders[name] for name in ("aikcache", "bare")}
        cpu = interleaved(ours_and_bare, settings, time.thread_time)
        hits = cache.stats().remote_hits
    client.close()
    if not hits:
        raise RuntimeError("the calls were no remote hits: nothing was measured")
    mine = samples["aikcache"]
    size = len(orjson.dumps(value))
    rows = [
        Row(
            question=f"remote hit, {size} bytes, {place}",
            figure=str(mine),
            rival=f"bare get + loads: {samples['bare']}",
            measured=mine.over(samples["bare"]),
            bar=Bar(1.0),
        ),
        Row(
            question=f"remote hit, {size} bytes, {place}, CPU",
            figure=str(cpu["aikcache"]),
            rival=f"bare get + loads: {cpu['bare']}",
            measured=cpu["aikcache"].over(cpu["bare"]),
            bar=Bar(0.72) if "one core" in place else None,
        ),
    ]
    for rival, asked in BARS.items() if rivals else ():
        bar = asked if "one core" in place else None
        question = f"remote hit, {place}, times faster"
        if rival not in samples:
            rows.append(absent(question, rival, bar))
            continue
        times, rival_figure = samples[rival].over(mine), f"{rival}: {samples[rival]}"
        rows.append(Row(question=question, figure=str(mine), rival=rival_figure, measured=times, bar=bar))
    return rows
