"""Whatever is read from outside, mutated, cut, repeated and spliced, is a value or an error of ours, and costs little.

By default a few thousand inputs for each reader; `AIKCACHE_MUTATIONS=4000000` is a run of hours.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import orjson
import pytest
from prometheus_client import generate_latest

from aikcache._codec.codec import JSON, TAGGED, TYPED, Codec
from aikcache._codec.frame import Framer
from aikcache._coherence import news
from aikcache._coherence.journal import HEADER, Journal
from aikcache._engine import fleet, reading
from aikcache._engine.tally import Tally
from aikcache._keys.globs import matcher
from aikcache._keys.keyspace import Keyspace
from aikcache._redis.cluster.topology import own_slots, redirection, topology
from aikcache._settings import url as _url
from aikcache.errors import AikcacheError
from aikcache.prometheus import ReadingCollector

MUTATIONS = int(os.environ.get("AIKCACHE_MUTATIONS", "20000")) // 40
LONGEST = 1 << 16
"""Bytes of an input."""
SPACE = Keyspace("shop", "v1")
KEY = "shop:v1:price:get:1"
FRAME: dict[str, Any] = {
    "codec": 0,
    "schema": bytes(8),
    "digest": bytes(16),
    "cost": 0.5,
    "ttl_ms": 9,
    "redis_ttl_ms": 9,
}
ANNOTATIONS: list[Any] = [None, bool, list[int], dict[str, Any], set[UUID], dict[UUID, Decimal], tuple[int, ...]]
PARTS = (
    b"[", b"]", b"{", b"}", b'"', b",", b":", b"\\", b"*", b"?", b"%", b"@", b"/", b"\xff", b"\0", b"-", b"9" * 20,
    b'{"!S":[', b'{"!i":"1fffffffffffffff"}', b'{"!d":[', b'{"!Z":"UTC"}', b'{"!r":["', b'{"!n":"1e999999999"}',
)  # fmt: skip


def values() -> list[bytes]:
    plain: list[Any] = [[1, 2.5, None, True], {"a": {"b": ["c"] * 9}}, [[]] * 50, "x" * 99]
    unusual: list[Any] = [{1, 2, 3}, (1, {2: b"x"}), {UUID(int=1): Decimal(1)}, {frozenset({1}): 2.5}]
    packed = [msgspec.msgpack.encode(value) for value in (*plain, [str(UUID(int=n)) for n in range(50)])]
    return [*map(orjson.dumps, plain), *(Codec().encode(value).payload for value in unusual), *packed]


def frames(framer: Framer) -> list[bytes]:
    payloads = (b"[1,2]", b"a" * 4000, random.Random(1).randbytes(3000))
    return [framer.pack(KEY, payload=payload, tags=tags, **FRAME) for payload in payloads for tags in ((), ("a", "b"))]


def decoding(form: int, annotation: Any) -> Callable[[bytes], object]:
    codec = Codec(annotation)
    return lambda data: codec.decode(form, data, codec.schema)


def read_view(data: bytes) -> object:
    said = {b"slots": [0, len(data)], b"nodes": [{b"endpoint": data[:9], b"port": data[9:14], b"role": data[14:20]}]}
    return topology(data, [said], ("here", 1), tls=False)


def read_nodes(data: bytes) -> object:
    masters = [{b"endpoint": b"h", b"port": port, b"role": b"master", b"id": b"id"} for port in (1, 2)]
    return topology(VIEW[0], [{b"nodes": masters}], ("here", 1), tls=False, nodes=data)


def match(data: bytes) -> object:
    matches = matcher("p:", data.decode("latin-1")[:2048])
    return [matches("p:" + text) for text in ("a" * 1000, "ab" * 500, data.decode("latin-1")[:1000])]


def read_totals(data: bytes) -> object:
    """A snapshot, and totals of exited processes, up to the answer of a scrape."""
    parsed = reading.parse(data) or {}
    total = reading.merged([reading.unpack(parsed)], fleet._by_host(data).values())
    return generate_latest(ReadingCollector("shop", total))


VIEW = [b"cluster_state:ok\r\ncluster_current_epoch:5\r\ncluster_size:1\r\ncluster_known_nodes:1\r\n"]
NODES = [b"id h:7001@17001,h myself,master - 0 0 7 connected 0-9 12 [13->-other]\n"]
URLS = [b"redis://u:p@h:1/0", b"rediss+sentinel://:p@a:1,[::1]:2/main/0?sentinel_password=x", b"unix:///s?db=1"]
GLOBS = [b"a*b?[a-z]*", b"*" + b"a" * 50 + b"*", b"[^x]*?" * 9, b"*a?" * 20]
NEWS = [orjson.dumps(["w", [["keys", KEY], ["groups", "#a"], ["globs", "a*b"]]])]
SNAPSHOT = json.dumps(reading.pack(reading.take(Tally()))).encode()
COUNTED = (
    b'{"samples":{"hits":[["shop:price","local",5]],"errors":[["a","ValueError",1.5],["b","KeyError",2]]},'
    b'"timings":{"load_seconds":{"shop:price":[%b]}}}' % b",".join([b"1"] * 18)
)
OPEN, SEALED = Framer(), Framer(secret="s" * 32)
READERS: dict[str, tuple[Callable[[bytes], object], list[bytes]]] = {
    "a frame": (lambda data: OPEN.unpack(KEY, data), frames(OPEN)),
    "a sealed frame": (lambda data: SEALED.unpack(KEY, data), frames(SEALED)),
    **{f"{name} under {annotation}": (decoding(form, annotation), values())
       for name, form in (("JSON", JSON), ("tagged", TAGGED), ("typed", TYPED)) for annotation in ANNOTATIONS},
    "a view of a cluster": (read_view, VIEW),
    "a node": (own_slots, NODES),
    "all nodes": (read_nodes, NODES),
    "a redirection": (lambda data: redirection(data.decode("latin-1"), ("here", 1)), [b"MOVED 12 h:7001", b"ASK 1 :1"]),
    "a URL": (lambda data: _url.parse(data.decode("latin-1")), URLS),
    "a glob": (match, GLOBS),
    "what processes publish": (read_totals, [SNAPSHOT, COUNTED, b'{"host":%b,"":%b}' % (SNAPSHOT, COUNTED)]),
    "news": (lambda data: news.unpack(data, SPACE), NEWS),
}  # fmt: skip


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    """One of the seeds, changed in one or several ways."""
    data = rng.choice(seeds)
    for _ in range(rng.randrange(1, 5)):
        at, end = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
        change = rng.randrange(6)
        if change == 0:
            data = data[:at] + data[end:]
        elif change == 1:
            data = data[:at] + data[at:end] * rng.randrange(2, 200) + data[end:]
        elif change == 2:
            data = data[:at] + rng.choice(seeds)[: rng.randrange(200)] + data[at:]
        elif change == 3:
            data = data[:at] + rng.choice(PARTS) * rng.choice((1, 2, 300, 3000)) + data[at:]
        else:
            data = data[:at] + rng.randbytes(rng.randrange(1, 4)) + data[at + 1 :]
        data = data[:LONGEST]
    return data


def highest() -> int:
    """KiB of memory that this process has had at once, since it was last asked to begin anew."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def read_all(read: Callable[[bytes], object], inputs: list[bytes]) -> None:
    """Nothing but an error of ours is raised; each costs less than a second of this thread, all less than 64 MiB."""
    measured = sys.platform == "linux"
    if measured:
        Path("/proc/self/clear_refs").write_text("5")
    before = highest() if measured else 0
    for data in inputs:
        began = time.thread_time()
        with suppress(AikcacheError):
            read(data)
        assert time.thread_time() - began < 1, data[:200]
    if measured:
        assert highest() - before < 64 * 1024


@pytest.mark.parametrize("name", READERS)
def test_whatever_is_read_is_a_value_or_an_error_of_ours(name: str) -> None:
    """Of mutated inputs none raises anything else, takes a second, or much memory."""
    read, seeds = READERS[name]
    rng = random.Random(name)
    for start in range(0, MUTATIONS, 500):
        read_all(read, [mutated(rng, seeds) for _ in range(min(500, MUTATIONS - start))])


def test_whatever_stands_in_a_journal_is_read(tmp_path: Path) -> None:
    """A journal of mutated lines gives names of this key space, and costs as little."""
    path = tmp_path / "journal"
    seeds = [b'["keys","%b"]\n["groups","#a"]\n' % KEY.encode(), b'["globs","price:*:tea"]\n' * 9]
    rng = random.Random(5)

    def read(data: bytes) -> object:
        path.write_bytes(HEADER + data)
        path.chmod(0o600)
        with closing(Journal(str(path), SPACE)) as journal:
            return journal.read()

    read_all(read, [mutated(rng, seeds) for _ in range(max(MUTATIONS // 10, 1))])
