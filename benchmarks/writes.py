"""`set_many` of 500 values against 500 bare SETs, and a load against a bare GET and SET.

Values as in `remote_hit`, under new keys for each load; `local_ttl=0`. `set_many` proves that each value comes back
equal, ends what was under its key in every process, and is a few round trips; bare SETs are one each. A load is a
lease, asked for without a GET by an operation that mostly loads, and a store that the lease allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import orjson
import redis

from aikcache import Cache
from benchmarks._harness.measure import Bar, Row, Settings, interleaved
from benchmarks._harness.server import INSTANCE, places, record

COUNT = 500
TTL = 600


def run(settings: Settings) -> Iterator[Row]:
    """In each place there is."""
    for place, url in places(settings.url):
        with redis.Redis.from_url(url) as client, Cache(url, instance=INSTANCE, local_ttl=0) as cache:
            yield _set_many(place, cache, client, settings)
            yield _load(place, cache, client, settings)


def _set_many(place: str, cache: Cache, client: Any, settings: Settings) -> Row:
    items = {f"bench:many:{i}": record(settings.value_size, seed=i) for i in range(COUNT)}

    def bare() -> None:
        for key, value in items.items():
            client.set(f"{INSTANCE}-{key}", orjson.dumps(value), px=TTL * 1000)

    samples = interleaved({"aikcache": lambda: cache.set_many(items, ttl=TTL), "bare": bare}, settings)
    if cache.get_many(items) != items:
        raise RuntimeError("set_many did not store what it was given")
    return Row(
        question=f"set_many of {COUNT}, {place}",
        figure=str(samples["aikcache"]),
        rival=f"{COUNT} bare SETs: {samples['bare']}",
        measured=samples["aikcache"].over(samples["bare"]),
        bar=Bar(0.3),
    )


def _load(place: str, cache: Cache, client: Any, settings: Settings) -> Row:
    value, new = record(settings.value_size), count()

    @cache.cached("bench", ttl=TTL, operation=f"load-{place.partition(',')[0]}")
    def load(key: int) -> dict[str, Any]:
        return value

    def bare() -> dict[str, Any]:
        key = f"{INSTANCE}-load-{next(new)}"
        if (data := client.get(key)) is not None:
            return orjson.loads(data)  # type: ignore[no-any-return]
        client.set(key, orjson.dumps(value), px=TTL * 1000)
        return value

    hits = cache.stats().remote_hits
    samples = interleaved({"aikcache": lambda: load(next(new)), "bare": bare}, settings)
    if cache.stats().remote_hits != hits:
        raise RuntimeError("some loads were hits")
    return Row(
        question=f"load, {place}",
        figure=str(samples["aikcache"]),
        rival=f"bare GET + SET: {samples['bare']}",
        measured=samples["aikcache"].over(samples["bare"]),
        bar=Bar(1.5),
    )
