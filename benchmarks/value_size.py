"""Over a unix socket inflating costs a remote hit more than fewer bytes save it, at any size up to 64 KiB.

The same values, stored compressed (`compress_min_bytes` as it is by default) and as they are, are fetched in turns, and
bare: `redis.Redis.get` with `orjson.loads`. `local_ttl=0`; over a unix socket, where bytes are cheapest.
"""

from __future__ import annotations

from typing import Any

import orjson
import redis

from aikcache import Cache
from benchmarks._harness.measure import Plot, Row, Settings, interleaved
from benchmarks._harness.server import INSTANCE, record, servers

SIZES = (256, 1024, 4096, 16_384, 65_536, 262_144)
NEVER = 2**24
Lines = dict[str, list[tuple[float, float]]]


def run(settings: Settings) -> list[Row | Plot]:
    """A row for each size, and a plot of them all."""
    rows: list[Row | Plot] = []
    lines: Lines = {"compressed": [], "not compressed": [], "bare get + loads": []}
    with servers(settings.url) as urls:
        url = next(iter(urls.values()))
        for size in SIZES:
            rows.append(_measure(url, size, settings, lines))
    title = "Remote hit against value size"
    plot = Plot(name="value_size", title=title, x="bytes as JSON", y="µs", lines=lines, log_x=True, log_y=True)
    return [*rows, plot]


def _measure(url: str, size: int, settings: Settings, lines: Lines) -> Row:
    value = record(size)
    client = redis.Redis.from_url(url)
    client.set(f"{INSTANCE}-size", orjson.dumps(value), px=600_000)

    def load(key: str) -> dict[str, Any]:
        return value

    with (
        Cache(url, instance=INSTANCE, local_ttl=0) as small,
        Cache(url, instance=INSTANCE, local_ttl=0, compress_min_bytes=NEVER) as plain,
    ):
        compressed = small.cached("bench", ttl=600, operation=f"small-{size}")(load)
        as_is = plain.cached("bench", ttl=600, operation=f"plain-{size}")(load)
        contenders = {
            "compressed": lambda: compressed("a"),
            "not compressed": lambda: as_is("a"),
            "bare get + loads": lambda: orjson.loads(client.get(f"{INSTANCE}-size")),  # type: ignore[arg-type]
        }
        samples = interleaved(contenders, settings)
        if small.stats().misses != 1 or plain.stats().misses != 1:
            raise RuntimeError("some calls were no hits")
        stored = [client.strlen(load.key("a")) for load in (compressed, as_is)]
    client.close()
    for name, line in lines.items():
        line.append((size, samples[name].median * 1e6))
    return Row(
        question=f"remote hit of {size} bytes, compressed",
        figure=f"{samples['compressed']}, {stored[0]} bytes",
        rival=f"not: {samples['not compressed']}, {stored[1]} bytes · bare: {samples['bare get + loads']}",
        measured=samples["compressed"].over(samples["not compressed"]),
    )
