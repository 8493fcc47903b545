"""`many` of 100 remote hits takes 1.4 times one bare MGET with 100 `orjson.loads`, not compressed 1.2 times.

Values as in `remote_hit`, 100 different keys, `local_ttl=0`: one round trip on both sides.
Bare values are not compressed.
"""

from __future__ import annotations

from typing import Any

import orjson
import redis

from aikcache import Cache
from benchmarks._harness.measure import Bar, Row, Settings, interleaved
from benchmarks._harness.server import INSTANCE, places, record

COUNT = 100


def run(settings: Settings) -> list[Row]:
    """In each place there is."""
    found = []
    for place, url in places(settings.url):
        found.append(_measure(place, url, settings))
        found.append(_measure(place, url, settings, compressed=False))
    return found


def _measure(place: str, url: str, settings: Settings, *, compressed: bool = True) -> Row:
    values = {f"resource-{i}": record(settings.value_size, seed=i) for i in range(COUNT)}
    client = redis.Redis.from_url(url)
    bare_keys = []
    for key, value in values.items():
        bare_keys.append(f"{INSTANCE}-many-{key}")
        client.set(bare_keys[-1], orjson.dumps(value), px=600_000)

    name = place.partition(",")[0] + ("" if compressed else "-plain")
    threshold: dict[str, Any] = {} if compressed else {"compress_min_bytes": settings.value_size + 1}
    with Cache(url, instance=INSTANCE, local_ttl=0, **threshold) as cache:

        @cache.cached("bench", ttl=600, operation=f"many-{name}")
        def load(key: str) -> dict[str, Any]:
            return values[key]

        keys = list(values)
        if load.many(keys) != list(values.values()):
            raise RuntimeError("many gave other values than the function")
        before = cache.stats().misses
        samples = interleaved(
            {
                "aikcache": lambda: load.many(keys),
                "bare": lambda: [orjson.loads(data) for data in client.mget(bare_keys)],  # type: ignore[arg-type]
            },
            settings,
        )
        if cache.stats().misses != before:
            raise RuntimeError("some calls were no hits")
    client.close()
    return Row(
        question=f"many, {COUNT} remote hits, {place}{'' if compressed else ', not compressed'}",
        figure=str(samples["aikcache"]),
        rival=f"bare MGET + loads: {samples['bare']}",
        measured=samples["aikcache"].over(samples["bare"]),
        bar=Bar(1.4 if compressed else 1.2),
    )
