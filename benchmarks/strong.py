"""A strong remote hit takes 1.3 times a bounded one on one core, with a tag 1.5 times; with two cores 1.02 and 1.1.

Both are remote hits of one record with `local_ttl=0`, in one process and one run. A strong hit asks for three stamps in
the value's own round trip, with a tag for four, and fills in the tag's template to know which; a strong batch asks for
them once. What it saves is the watch over cached stamps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aikcache import Cache
from benchmarks._harness.measure import Bar, Row, Settings, interleaved
from benchmarks._harness.server import INSTANCE, places, record

COUNT = 100


def run(settings: Settings) -> list[Row]:
    """In each place there is."""
    rows: list[Row] = []
    for place, url in places(settings.url):
        rows += _measure(place, url, settings)
    return rows


def _measure(place: str, url: str, settings: Settings) -> list[Row]:
    value = record(settings.value_size)
    keys = [f"resource-{i}" for i in range(COUNT)]
    with Cache(url, instance=INSTANCE, local_ttl=0) as cache:

        def load(key: str) -> dict[str, Any]:
            return value

        functions: dict[str, Any] = {}
        for consistency in ("bounded", "strong"):
            name = f"{place.partition(',')[0]}-{consistency}"
            functions[consistency] = cache.cached("bench", ttl=600, operation=name, consistency=consistency)(load)
            functions[f"{consistency}, tag"] = cache.cached(
                "bench", ttl=600, operation=f"{name}-tag", tags=("resource:{key}",), consistency=consistency
            )(load)
        for function in functions.values():
            function.many(keys)
        misses = cache.stats().misses
        calls: dict[str, Callable[[], object]] = {n: (lambda f=f: f(keys[0])) for n, f in functions.items()}  # type: ignore[misc]
        for consistency in ("bounded", "strong"):
            calls[f"{consistency}, many"] = lambda f=functions[consistency]: f.many(keys)  # type: ignore[misc]
        samples = interleaved(calls, settings)
        if cache.stats().misses != misses:
            raise RuntimeError("some calls were no hits")
    return [
        Row(
            question=f"strong remote hit{what}, {place}",
            figure=str(samples[f"strong{what}"]),
            rival=f"bounded: {samples[f'bounded{what}']}",
            measured=samples[f"strong{what}"].over(samples[f"bounded{what}"]),
            bar=None if "many" in what else Bar(1.15),
        )
        for what in ("", ", tag", ", many")
    ]
