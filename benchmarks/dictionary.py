"""With a trained dictionary the catalog's records of 340 bytes take 0.68 of their memory in Redis, inflated in 1.1 µs.

Three parts. The payloads are those that the catalog of `examples/` stores, from queries over this Python environment.
Levels: what zstd saves and costs by size. Dictionaries: one for each operation, trained on some of its values and used
for others, against what is shipped; `around` a payload are header, key and tags. Remote hits: what compressing adds.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from uuid import UUID

import redis
import zstandard

from aikcache import Cache, configure
from aikcache._codec.frame import Framer
from benchmarks._harness.measure import ROOT, Row, Settings, duration, interleaved
from benchmarks._harness.server import INSTANCE, record, servers

MODULES, CALLS, TESTED = 1500, 1200, 300
LEVELS, ALL_LEVELS = (-1, 1, 3, 6), (-5, -3, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9)
DICTIONARIES, ALL_DICTIONARIES = (0, 4, 16, 112), (0, 4, 16, 32, 64, 112)
BOUNDS = (256, 512, 1024, 2048, 4096, 32768)
SIZES = (256, 512, 1024, 4096, 16384, 65536)
PLAIN = 2**24
"""As `compress_min_bytes`: nothing is compressed."""
OURS = Framer()


class Stored(NamedTuple):
    """A payload as it is before compression, and what its frame adds."""

    payload: bytes
    around: int
    key: str


class Zstd(NamedTuple):
    """What compresses and inflates, the way frames do."""

    compress: Callable[[bytes], bytes]
    inflate: Callable[[bytes], bytes]


def run(settings: Settings) -> list[Row]:
    """Levels by size, remote hits by size and transport, dictionaries by operation."""
    rows: list[Row] = []
    with servers(settings.url) as urls:
        with _catalog(next(iter(urls.values())), None if settings.full else MODULES) as corpora:
            client = redis.Redis.from_url(next(iter(urls.values())))
            payloads = [stored.payload for corpus in corpora.values() for stored in corpus]
            for low, high in pairwise(BOUNDS):
                rows += _levels([p for p in payloads if low <= len(p) < high][:TESTED], low, high, settings)
            for operation, corpus in corpora.items():
                rows += _dictionaries(operation, corpus, client, settings)
            client.close()
        for transport, url in urls.items():
            rows += [_price(transport, url, size, settings) for size in SIZES]
    return rows


@contextmanager
def _catalog(url: str, modules: int | None) -> Iterator[dict[str, list[Stored]]]:
    """What the catalog's queries have stored, by operation."""
    sys.path.append(str(ROOT / "examples"))
    import _catalog_db as db
    import _catalog_queries as queries

    shuffle = random.Random(1).shuffle
    with TemporaryDirectory() as directory:
        path, _ = db.build(Path(directory), modules)
        db.use(path)
        rows = db.connection().execute("SELECT id, name FROM resources ORDER BY id").fetchall()
        ids = [UUID(row[0]) for row in rows]
        words = sorted({word for row in rows for word in row[1].split(".")})
        shuffle(ids)
        shuffle(words)
        asked: tuple[tuple[Any, list[Any]], ...] = (
            (queries.version_history, ids), (queries.get_by_id, ids), (queries.search, words),
            (queries.relationships, ids), (queries.upstream, ids),
        )  # fmt: skip
        found: dict[str, list[Stored]] = {}
        framer, client = Framer(), redis.Redis.from_url(url)
        with configure(url, instance=INSTANCE, local_ttl=0, compress_min_bytes=PLAIN):
            for query, arguments in asked:
                for argument in arguments[:CALLS]:
                    query(argument)
                    key: str = query.key(argument)
                    data: bytes = client.get(key)  # type: ignore[assignment]
                    payload = framer.unpack(key, data).payload
                    found.setdefault(query.__name__, []).append(Stored(payload, len(data) - len(payload), key))
        db.close()
        client.close()
        yield found


def _zstd(level: int, dictionary: zstandard.ZstdCompressionDict | None = None) -> Zstd:
    if dictionary is not None:
        dictionary.precompute_compress(level=level)
    decompress = zstandard.ZstdDecompressor(dict_data=dictionary).decompress

    def inflate(data: bytes) -> bytes:
        return decompress(data, max_output_size=zstandard.frame_content_size(data), allow_extra_data=False)

    return Zstd(zstandard.ZstdCompressor(level=level, dict_data=dictionary).compress, inflate)


def _times(ways: dict[int, Zstd], payloads: Sequence[bytes], settings: Settings) -> dict[int, str]:
    """What compressing and inflating takes, a payload."""
    contenders: dict[str, Callable[[], object]] = {}
    for name, way in ways.items():
        small = [way.compress(payload) for payload in payloads]
        if [way.inflate(data) for data in small] != list(payloads):
            raise RuntimeError("what was inflated is not what was compressed")
        contenders[f"{name} in"] = lambda f=way.compress: [f(payload) for payload in payloads]  # type: ignore[misc]
        contenders[f"{name} out"] = lambda f=way.inflate, s=small: [f(data) for data in s]  # type: ignore[misc]
    samples = interleaved(contenders, settings)
    times = {name: duration(sample.median / len(payloads)) for name, sample in samples.items()}
    return {name: f"{times[f'{name} in']} + {times[f'{name} out']}" for name in ways}


def _levels(payloads: list[bytes], low: int, high: int, settings: Settings) -> list[Row]:
    ways = {level: _zstd(level) for level in (ALL_LEVELS if settings.full else LEVELS)}
    times = _times(ways, payloads, settings)
    plain = sum(map(len, payloads))
    return [
        Row(
            question=f"zstd level {level}, payloads of {low} to {high - 1} bytes",
            figure=f"compress + inflate: {times[level]}",
            rival=f"{len(payloads)} payloads, mean {plain / len(payloads):.0f} bytes",
            measured=sum(len(way.compress(payload)) for payload in payloads) / plain,
        )
        for level, way in ways.items()
    ]


def _dictionaries(operation: str, corpus: list[Stored], client: Any, settings: Settings) -> list[Row]:
    """Trained on some values, asked about others; all at level 3, size 0 is no dictionary."""
    tested, samples = corpus[:TESTED], [stored.payload for stored in corpus[TESTED:]]
    payloads = [stored.payload for stored in tested]
    ways = {
        size: _zstd(3, zstandard.train_dictionary(size * 1024, list(samples)) if size else None)
        for size in (ALL_DICTIONARIES if settings.full else DICTIONARIES)
    }
    times = _times(ways, payloads, settings)
    shipped = [_shipped(payload) for payload in payloads]
    before = _memory(client, tested, shipped)
    plain, around = sum(map(len, payloads)), statistics.mean(stored.around for stored in tested)
    rows = []
    for size, way in ways.items():
        lengths = [min(len(way.compress(payload)), len(payload)) for payload in payloads]
        after = _memory(client, tested, lengths)
        rows.append(
            Row(
                question=f"{operation}, {plain / len(tested):.0f} bytes and {around:.0f} around, {size} KiB dictionary",
                figure=f"payload {sum(lengths) / plain:.2f}×, memory {after:.0f}; compress + inflate: {times[size]}",
                rival=f"as shipped: payload {sum(shipped) / plain:.2f}×, memory {before:.0f}",
                measured=after / before,
            )
        )
    return rows


def _shipped(payload: bytes) -> int:
    """The length of a payload in our frames, which have their own thresholds and levels."""
    ours, plain = (
        framer.pack(
            "", codec=0, schema=bytes(8), digest=bytes(16), cost=0, ttl_ms=0, redis_ttl_ms=0, tags=(), payload=payload
        )
        for framer in (OURS, Framer(compress_min_bytes=PLAIN))
    )
    return len(payload) - len(plain) + len(ours)


def _memory(client: Any, tested: list[Stored], lengths: list[int]) -> float:
    """What Redis needs for a frame with a payload of such a length, key included."""
    for stored, length in zip(tested, lengths, strict=True):
        client.set(stored.key, bytes(stored.around + length), px=600_000)
    used: list[int] = [client.memory_usage(stored.key) for stored in tested]
    return statistics.mean(used)


def _price(transport: str, url: str, size: int, settings: Settings) -> Row:
    """A remote hit of a value that is compressed whatever it saves, against the same value left as it is."""
    value = record(size)

    def load(key: str) -> dict[str, Any]:
        return value

    with (
        Cache(url, instance=INSTANCE, local_ttl=0, compress_min_bytes=0) as small,
        Cache(url, instance=INSTANCE, local_ttl=0, compress_min_bytes=PLAIN) as plain,
        redis.Redis.from_url(url) as client,
    ):
        hits = [
            cache.cached("bench", ttl=600, operation=f"{transport}-{size}-{name}")(load)
            for name, cache in (("small", small), ("plain", plain))
        ]
        contenders: dict[str, Callable[[], object]] = {"small": lambda: hits[0]("a"), "plain": lambda: hits[1]("a")}
        samples = interleaved(contenders, settings)
        cpu = interleaved(contenders, settings, time.thread_time)
        stored = [client.strlen(hit.key("a")) for hit in hits]
    added = statistics.median(a - b for a, b in zip(cpu["small"].rounds, cpu["plain"].rounds, strict=True))
    return Row(
        question=f"remote hit of {size} bytes, compressed, {transport}",
        figure=f"{samples['small']} ({stored[0]} bytes), CPU added {duration(added)}",
        rival=f"not compressed: {samples['plain']} ({stored[1]} bytes)",
        measured=samples["small"].over(samples["plain"]),
    )
