"""A local entry costs 210 bytes beyond its key and value with the C extension, 304 with a tag of its own.

Counted by tracemalloc while a local cache is filled: all that the entries add, less the text of their keys. Arguments
and values exist before, but for a mutable value, whose encoded form is counted as the entry's. S3-FIFO's queues, the
store, the function's table and the entry itself are in the figure. (Of rivals in Rust tracemalloc sees nothing.)
"""

from __future__ import annotations

import gc
import multiprocessing
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

from aikcache import Cache
from aikcache._compiled import fast
from benchmarks._harness import rivals as _rivals
from benchmarks._harness.measure import Bar, Row, Settings

COUNT = 20_000
KEYS = [f"resource-{i:06}" for i in range(COUNT)]


def run(settings: Settings) -> list[Row]:
    """In a process of its own: after other questions an entry takes 36 bytes more."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_rows)


def _rows() -> list[Row]:
    """An entry as it is handed out; and as information one with a tag, one that is decoded, and the rivals'."""
    value = {"name": "value"}
    rows = []
    for what, options, bar in (
        ("", {}, Bar(210, " bytes") if fast else None),
        (", tagged", {"tags": ("resource:{key}",)}, Bar(320, " bytes") if fast else None),
        (", mutable value", {"type": dict}, None),
    ):
        with Cache(local_max_entries=2 * COUNT) as cache:

            def load(key: str) -> Any:
                return value if options.get("type") is dict else key  # noqa: B023 - called in this turn only

            cached = cache.cached("bench", ttl=600, **options)(load)
            used = _grown(cached) - sum(sys.getsizeof(cached.key(key)) for key in KEYS[:100]) / 100
            if len(cache.engine.local) != COUNT:
                raise RuntimeError("not all entries were kept")
        rows.append(Row(question=f"memory per local entry{what}", figure="", measured=used, unit=" bytes", bar=bar))
    used = _grown(_rivals.cachetools_ttl(lambda key: key), KEYS[: _rivals.ENTRIES])
    rows.append(Row(question="memory per entry", figure=f"{used:.0f} bytes", rival="cachetools TTLCache"))
    return rows


def _grown(function: Callable[[str], Any], keys: list[str] = KEYS) -> float:
    """Bytes per entry that calling `function` for all keys leaves behind."""
    function(keys[0])
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for key in keys[1:]:
            function(key)
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / (len(keys) - 1)
    finally:
        tracemalloc.stop()
