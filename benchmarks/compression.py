"""Catalog values of 4 KiB take 0.29 of their plain JSON in Redis, the frame included; below 1 KiB they take more.

Compared are the bytes of the value stored (STRLEN) with those of the same value as orjson writes it. What Redis adds
for itself to either (MEMORY USAGE) is shown for information. What it costs in time is `value_size`'s question.
"""

from __future__ import annotations

import statistics
from typing import Any

import orjson
import redis

from aikcache import Cache
from benchmarks._harness.measure import Bar, Row, Settings
from benchmarks._harness.server import INSTANCE, record, servers

SIZES = (512, 1024, 4096, 65536)
JUDGED = 4096
VALUES = 20


def run(settings: Settings) -> list[Row]:
    """A row for each size; 4 KiB is the one that is judged."""
    rows = []
    with servers(settings.url) as urls:
        url = next(iter(urls.values()))
        client = redis.Redis.from_url(url)
        for size in SIZES:
            values = {f"resource-{size}-{i}": record(size, seed=i) for i in range(VALUES)}
            stored, plain, memory = _sizes(url, client, values)
            ratio = statistics.median(a / b for a, b in zip(stored, plain, strict=True))
            rows.append(
                Row(
                    question=f"bytes in Redis, {size}-byte values",
                    figure=f"{statistics.median(stored):.0f} bytes (memory: {memory:.2f}×)",
                    rival=f"plain JSON: {statistics.median(plain):.0f} bytes",
                    measured=ratio,
                    bar=Bar(0.3) if size == JUDGED else None,
                )
            )
        client.close()
    return rows


def _sizes(url: str, client: Any, values: dict[str, dict[str, Any]]) -> tuple[list[int], list[int], float]:
    """Bytes stored by us and as plain JSON, and the ratio of what Redis needs for both."""
    stored, plain, ours, theirs = [], [], 0, 0
    with Cache(url, instance=INSTANCE, local_ttl=0) as cache:

        @cache.cached("bench", ttl=600, operation="compressed")
        def load(key: str) -> dict[str, Any]:
            return values[key]

        for key, value in values.items():
            load(key)
            client.set(f"{INSTANCE}-plain-{key}", orjson.dumps(value), px=600_000)
            stored.append(client.strlen(load.key(key)))
            plain.append(client.strlen(f"{INSTANCE}-plain-{key}"))
            ours += client.memory_usage(load.key(key))
            theirs += client.memory_usage(f"{INSTANCE}-plain-{key}")
    return stored, plain, ours / theirs
