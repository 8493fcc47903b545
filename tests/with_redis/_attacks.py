"""Attacks, each on a process of its own: `python -m tests.with_redis._attacks` prints what each costs its victim.

A victim is a generator, in another process: it sets itself up, yields, and when it is told to go on is measured until
it yields what became of it. The attacker, in this process, does its worst in between.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import available_timezones

import msgspec
import redis
import zstandard

from aikcache import Cache
from aikcache._codec.codec import TAGGED, TYPED
from aikcache.testing import Server, wait_until

from ._hostile import Hostile, array, bulk

LEAD = "attacked:v1:"
SECRET = "k3J9x0QmZ7vT1sLw8RbYc5NfUhGp2DaE6iOoXqWr4tM"
PASSWORD = "hunter2-canary-hunter2"
P = 2**61 - 1
PATIENCE = 60.0
BIG = 30 * 2**20
SAFE = "safe"
Victim = Iterator[str]


class Cost(NamedTuple):
    """`mib`: memory at its highest, beyond that before the attack; `payload`: MiB that the attacker sent."""

    outcome: str
    cpu: float
    wall: float
    mib: float
    payload: float


def open_cache(url: str, **settings: Any) -> Cache:
    return Cache(
        url, instance="attacked", **{"local_ttl": 0, "timeout": 20, "connect_timeout": 20, "lease_wait": 60, **settings}
    )


def judged(results: object, expected: object) -> str:
    return SAFE if results == expected else f"got {str(results)[:80]}"


# Victims


def reader(url: str, annotation: Any = Any, **settings: Any) -> Victim:
    """Reads `x:get:1`, which it has stored, and `x:get:2`, which it has not."""
    with open_cache(url, **settings) as cache:

        def get(n: int) -> Any:
            return {bool: True, set[UUID]: {UUID(int=n)}}.get(annotation, n)

        get.__annotations__["return"] = annotation
        cached = cache.cached("x", operation="get", tags=("x:{n}",))(get)
        expected = [cached(1), cached(1)]
        yield "ready"
        yield judged([cached(1), cached(1)], expected)


def listener(url: str) -> Victim:
    """Holds 5000 entries with keys of the greatest length, and receives invalidations until that of `probe`."""
    with open_cache(url, local_ttl=600) as cache:
        cached = cache.cached("x", operation="get")(lambda *texts: len(texts))
        probe = cache.cached("probe", operation="get")(lambda text: len(text))
        assert cache.wait_coherent(PATIENCE)
        for start in range(0, 5000, 500):
            cached.many([(f"a{n}", *["a" * 60] * 8) for n in range(start, start + 500)])
        probe("a")
        yield "ready"
        wait_until(lambda: probe.cache_info().currsize == 0, PATIENCE, "the end of the attack")
        yield judged(cached("after"), 1)


def invalidator(url: str) -> Victim:
    """Invalidates what an argument names, by a tag and by a glob, while it holds something else."""
    with open_cache(url, local_ttl=600) as cache:
        cached = cache.cached("x", operation="get", tags=("user:{name}",))(lambda name: name)
        texts = [f"{n}".ljust(50, "a") for n in range(2000)]  # longer ones stand as hashes, which such a glob covers
        cached.many(texts)
        tagged = cache.invalidates(tags=("user:{name}",))(lambda name: None)
        globbed = cache.invalidates("x:get:*{name}*")(lambda name: None)
        held = cached.cache_info().currsize
        yield "ready"
        for name in ("x" * 513, "\N{EURO SIGN}" * 60, "a" * 500 + "b" + "a" * 300, "*?" * 300, "x" * 10**6):
            tagged(name)
            globbed(name)
        yield judged(cached.cache_info().currsize, held)


def chooser(url: str) -> Victim:
    """Is called with ids of one hash and arguments of a million characters."""
    with open_cache(url, local_ttl=600) as cache:
        cached = cache.cached("x", operation="get")(lambda text: len(text))
        plain = Cache(instance="attacked").cached("x", operation="plain")(lambda n: n)
        yield "ready"
        for n in range(3000):
            plain(n * P)
        for n in range(5):
            cached(("\N{EURO SIGN}:*%" * 250_000) + str(n))
        yield judged(plain.cache_info().currsize, 3000)


def sealed(url: str, *, batch: bool = False, stale_ttl: float = 0.0, **settings: Any) -> Victim:
    """Has stored 1, then invalidated it and stored 2; its attacker puts 1 back. `stale_ttl`: as it is since then."""
    with open_cache(url, secret=SECRET, **settings) as cache:
        results = iter(range(1, 9))

        def get(n: int) -> int:
            return next(results)

        cached = cache.cached("x", ttl=600)(get)
        cached(1)
        yield "ready"  # the attacker keeps a copy
        cached.invalidate(1)
        assert cached(1) == 2
        cached = cache.cached("x", ttl=600, stale_ttl=stale_ttl)(get)
        yield "ready"  # and puts it back
        yield judged((cached.many([1]) == [1]) if batch else (cached(1) == 1), False)


def batches(url: str, **settings: Any) -> Victim:
    """Reads all at once what it has stored under 100 keys."""
    with open_cache(url, **settings) as cache:
        cached = cache.cached("x", operation="get", tags=("x:{n}",))(lambda n: n)
        cached.many(range(100))
        yield "ready"
        yield judged(cached.many(range(100)), list(range(100)))


def journalled(url: str, names: int) -> Victim:
    """Takes over a journal of odd lines and of many globs."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "journal"
        lines = [
            b"5",
            b"null",
            b"[" * 8000,
            b'["keys","\\ud800"]',
            b'["keys","elsewhere:1"]',
            b"x" * 10**6,
            b"\xff" * 99,
        ]
        some = b"\n".join([*lines, *(b'["globs","x:*%d"]' % n for n in range(names))])
        path.write_bytes(b"aikcache journal 1\n" + some)
        path.chmod(0o600)
        yield "ready"
        with open_cache(url, local_ttl=600, journal=str(path)) as cache:
            cached = cache.cached("x", operation="get")(lambda n: n)
            results = [cached(1), cached(1)]
            wait_until(lambda: cache.stats().pending_invalidations == 0, PATIENCE, "the invalidations to be sent")
        yield judged(results, [1, 1])


def newcomer(url: str) -> Victim:
    """Meets a server that means harm."""
    with open_cache(url, timeout=0.3, connect_timeout=0.3) as cache:
        cached = cache.cached("x", operation="get")(lambda n: n)
        yield "ready"
        results = [cached(n) for n in range(3)]
        said = f"{cache.health()} {cache.stats()}"
        yield "the password is shown" if PASSWORD in said else judged(results, [0, 1, 2])


def publisher(url: str) -> Victim:
    """Publishes what it counts, as it does in each interval, and adds up what all have published."""
    with open_cache(url) as cache:
        assert cache.engine.fleet is not None
        cache.cached("x", operation="get")(lambda n: n)(1)
        before = cache.fleet().misses
        yield "ready"
        cache.engine.fleet.publish(PATIENCE)
        cache.engine.fleet.tidy(PATIENCE)
        yield judged((before, cache.fleet().misses), (1, 1))


# Attackers: each returns the bytes that it has sent

KEY = f"{LEAD}x:get:1"
HEADER = struct.Struct("<2sBBB16s8sfQQII")


def forge(raw: Any, payload: bytes, codec: int = TAGGED, *, zstd: bool = False, tags: int = 0) -> int:
    """The frame that stands at the key, but with this payload, and a checksum that is right."""
    magic, version, _, _, *rest, _, _ = HEADER.unpack_from(raw.get(KEY))
    names = b"".join(b"%d\xff" % n for n in range(tags)) or b"x:1\xff"
    head = HEADER.pack(magic, version, zstd, codec, *rest, len(KEY), len(names))
    body = head + KEY.encode() + names + payload
    return put(raw, KEY, body + struct.pack("<I", zlib.crc32(body)))


def forge_all(raw: Any, payload: bytes, *, zstd: bool = False, tags: int = 0) -> int:
    """The same under 100 keys, each with tags of its own."""
    sent, keys = 0, sorted(raw.scan_iter(f"{LEAD}x:get:*"))
    for number, key in enumerate(keys):
        magic, version, _, _, *rest, _, _ = HEADER.unpack_from(raw.get(key))
        names = b"".join(b"%x\xff" % (number * tags + n) for n in range(tags))
        head = HEADER.pack(magic, version, zstd, 0, *rest, len(key), len(names))
        body = head + key + names + payload
        sent += put(raw, key.decode(), body + struct.pack("<I", zlib.crc32(body)))
    assert len(keys) == 100
    return sent


def put(raw: Any, name: str, value: bytes) -> int:
    raw.set(name, value, px=10**6)
    return len(value) + len(name)


def of_another_type(raw: Any) -> int:
    raw.delete(KEY)
    return int(raw.rpush(KEY, *["x"] * 1000))


def push(raw: Any, *names: str) -> int:
    """Write names that are pushed to all, and then invalidate `probe`."""
    for start in range(0, len(names), 1000):
        raw.mset(dict.fromkeys(names[start : start + 1000], "1"))
    raw.set(f"{LEAD}~stamp:probe", os.urandom(8))
    return sum(map(len, names))


def publish(raw: Any, message: bytes) -> int:
    raw.publish(f"{LEAD}~refused", message)
    push(raw)
    return len(message)


def leased(raw: Any) -> int:
    """A foreign lease without a TTL, on a key whose value is gone."""
    raw.delete(KEY)
    raw.set(f"{LEAD}!lease:{{{KEY}}}", "evil")
    return 100


copies: dict[bytes, bytes] = {}


def keep_copy(raw: Any, names: str = f"{LEAD}*") -> int:
    """Of all that there is, stamps and leases too; the second time it is put back, to stay."""
    if copies:
        for name, copy in copies.items():
            raw.restore(name, 0, copy, replace=True)
        copies.clear()
    else:
        copies.update({name: raw.dump(name) for name in raw.scan_iter(names)})
    return 1000


def nothing(raw: Any) -> int:
    return 0


def node(host: bytes, port: int) -> bytes:
    return array(bulk(b"endpoint"), bulk(host), bulk(b"port"), b":%d\r\n" % port, bulk(b"role"), bulk(b"master"),
                 bulk(b"health"), bulk(b"online"))  # fmt: skip


def shards(first: int, last: int, host: bytes = b"127.0.0.1", port: int = 1) -> bytes:
    slots = array(b":%d\r\n" % first, b":%d\r\n" % last)
    return array(array(bulk(b"slots"), slots, bulk(b"nodes"), array(node(host, port))))


def colliding(count: int) -> list[str]:
    return ['{"!i":"%x"}' % (P * n) for n in range(1, count)]


INFLATING = zstandard.ZstdCompressor(level=19).compress(b"[" + b"[]," * 87_000 + b"1]")
ZONES = [zone.encode() for zone in sorted(available_timezones())] * 40
GLOBS = (
    "*?" * 500 + "!",
    "*" + "?" * 120 + "!*",
    "*" + "a" * 120 + "b*",
    "*" + "[ab]" * 120 + "c*",
    "*a" * 900 + "!",
    "x:*[z-a]",
    "[" * 2000,
)


FLEET = f"{LEAD}!{{fleet:aikernel}}:"


class Case(NamedTuple):
    victim: Callable[[str], Victim]
    attack: Callable[[Any], int] = nothing
    malformed: tuple[str, str, bytes] | None = None
    """For who is no client: the URL of a server, and what it answers to which command."""


QUOTED = b"-ERR unknown command 'HELLO', with args beginning with: '2' 'AUTH' 'default' '%b' \x1b[2J\r\n"
ONE, CLUSTER = "redis://:{0}@127.0.0.1:{1}", "redis+cluster://:{0}@127.0.0.1:{1}"
SENTINEL = "redis+sentinel://:{0}@127.0.0.1:{1}/main?sentinel_password={0}"
CASES: dict[str, Case] = {
    "junk of 30 MiB at a key": Case(reader, lambda raw: put(raw, KEY, b"x" * BIG)),
    "a list at a key": Case(reader, of_another_type),
    "a lease without an end": Case(reader, leased),
    "a dict under -> bool": Case(lambda url: reader(url, bool), lambda raw: forge(raw, b'{"a":1}', 0)),
    "colliding ints in a set": Case(
        reader, lambda raw: forge(raw, b'{"!S":[%b]}' % ",".join(colliding(20_000)).encode())
    ),
    "colliding keys of a dict": Case(
        reader, lambda raw: forge(raw, b'{"!d":[%b]}' % ",".join(one + ",0" for one in colliding(20_000)).encode())
    ),
    "colliding UUIDs, typed": Case(
        lambda url: reader(url, set[UUID]),
        lambda raw: forge(raw, msgspec.msgpack.encode([str(UUID(int=P * n)) for n in range(1, 20_000)]), TYPED),
    ),
    "1.5 kB that inflate to 16 MiB": Case(
        reader, lambda raw: forge(raw, zstandard.ZstdCompressor().compress(b"[" + b"[]," * 2**22 + b"1]"), 0, zstd=True)
    ),
    "2 000 000 containers": Case(reader, lambda raw: forge(raw, b"[" + b"[]," * 2_000_000 + b"1]", 0)),
    "nesting": Case(reader, lambda raw: forge(raw, b"[" * 10**6 + b"]" * 10**6, 0)),
    "20 000 time zones": Case(
        lambda url: reader(url, int),
        lambda raw: forge(raw, b"[%b]" % b",".join(b'{"!Z":"%b"}' % zone for zone in ZONES)),
    ),
    "400 000 tags": Case(reader, lambda raw: forge(raw, b"1", 0, tags=400_000)),
    "globs that backtrack": Case(listener, lambda raw: push(raw, *(f"{LEAD}~glob:e:{glob}" for glob in GLOBS))),
    "a pushed name of 30 MiB": Case(listener, lambda raw: push(raw, f"{LEAD}~glob:e:{'*?' * (BIG // 2)}")),
    "20 000 pushed names": Case(
        listener, lambda raw: push(raw, *(f"{LEAD}~key:{{{LEAD}x:y:{n}}}:e" for n in range(10_000)),
                                   *(f"{LEAD}~stamp:#{n}" for n in range(10_000)))
    ),
    "20 000 pushed globs": Case(listener, lambda raw: push(raw, *(f"{LEAD}~glob:e:x:*b{n}" for n in range(20_000)))),
    "a published message of 30 MiB": Case(listener, lambda raw: publish(raw, b"[" * BIG)),
    "a published list of names": Case(
        listener, lambda raw: publish(raw, json.dumps(["e", [["globs", "x:*"]] * 200_000]).encode())
    ),
    "a replay of all, without an end": Case(sealed, keep_copy),
    "a replay of a value, without an end": Case(sealed, lambda raw: keep_copy(raw, KEY)),
    "the same, read in a batch": Case(lambda url: sealed(url, batch=True), lambda raw: keep_copy(raw, KEY)),
    "a foreign fleet record of 30 MiB": Case(
        publisher, lambda raw: put(raw, f"{FLEET}dead", b'{"h":[' + b"[]," * (BIG // 3) + b"1]}")
    ),
    "a foreign list of 300 000 processes": Case(
        publisher, lambda raw: put(raw, f"{FLEET}list", b" ".join(b"%016x" % n for n in range(300_000)))
    ),
    "the same, read strongly": Case(
        lambda url: sealed(url, consistency="strong"), lambda raw: keep_copy(raw, KEY)
    ),
    "the same, read strongly in a batch": Case(
        lambda url: sealed(url, batch=True, consistency="strong"), lambda raw: keep_copy(raw, KEY)
    ),
    "the same, where stale values may answer": Case(
        lambda url: sealed(url, stale_ttl=60), lambda raw: keep_copy(raw, KEY)
    ),
    "100 values of 37 bytes that inflate": Case(
        batches, lambda raw: forge_all(raw, INFLATING, zstd=True)
    ),
    "100 values that inflate, read strongly": Case(
        lambda url: batches(url, consistency="strong"), lambda raw: forge_all(raw, INFLATING, zstd=True)
    ),
    "100 values of 4000 tags each": Case(batches, lambda raw: forge_all(raw, b"1", tags=4000)),
    "100 values of 4000 tags each, read strongly": Case(
        lambda url: batches(url, consistency="strong"), lambda raw: forge_all(raw, b"1", tags=4000)
    ),
    "a journal of 300 000 globs": Case(lambda url: journalled(url, 300_000)),
    "a journal of 9000 globs": Case(lambda url: journalled(url, 9000)),
    "arguments in tags and globs": Case(invalidator),
    "ids of one hash, and a million characters": Case(chooser),
    "an error that quotes the password": Case(newcomer, malformed=(ONE, "HELLO", QUOTED % PASSWORD.encode())),
    "a reply of 100 GB": Case(newcomer, malformed=(ONE, "GET", b"$99999999999\r\nx")),
    "an array of 4 000 000": Case(newcomer, malformed=(ONE, "GET", b"*4000000\r\n:1\r\n")),
    "an array in arrays": Case(newcomer, malformed=(ONE, "GET", b"*1\r\n" * 100_000)),
    "slots to 40 000 000": Case(newcomer, malformed=(CLUSTER, "CLUSTER SHARDS", shards(0, 40_000_000))),
    "an endpoint that is none": Case(newcomer, malformed=(CLUSTER, "CLUSTER SHARDS", shards(0, 9, b"evil/x", 99999))),
    "a Sentinel that names nonsense": Case(
        newcomer, malformed=(SENTINEL, "SENTINEL GET-MASTER-ADDR-BY-NAME", array(bulk(b"evil/x"), bulk(b"99999")))
    ),
}  # fmt: skip


# Both


def victim(name: str, url: str) -> None:
    """This process's life: set up, be attacked, be measured."""
    life = CASES[name].victim(url)
    report, before, began, used = next(life), 0.0, 0.0, 0.0
    while report == "ready":
        Path("/proc/self/clear_refs").write_text("5")  # the highest that memory has been is now what it is
        before, began, used = peak(), time.perf_counter(), time.process_time()
        print("ready", flush=True)
        sys.stdin.readline()
        report = next(life)
    cost = report, time.process_time() - used, time.perf_counter() - began, peak() - before
    print(json.dumps(cost), flush=True)
    os._exit(0)  # what is left behind is no matter, and closing might wait


def peak() -> float:
    """MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("this system does not say how much memory a process has had")


def attack(name: str, url: str) -> Cost:
    """Attack a new process, and say what that did."""
    case, sent = CASES[name], 0
    with ExitStack() as stack:
        raw = stack.enter_context(redis.Redis.from_url(url))
        raw.flushall()
        if case.malformed is not None:
            place, command, malformed = case.malformed
            server = stack.enter_context(Hostile(command, malformed))
            url, sent = place.format(PASSWORD, server.port), len(malformed)
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "tests.with_redis._attacks", name, url],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
        stack.callback(process.kill)
        assert process.stdin is not None
        assert process.stdout is not None
        while (line := process.stdout.readline()) == "ready\n":
            sent += case.attack(raw)
            process.stdin.write("\n")
            process.stdin.flush()
        outcome, cpu, wall, mib = json.loads(line)
        return Cost(outcome, cpu, wall, mib, sent / 2**20)


def main() -> None:
    if len(sys.argv) == 3:
        victim(*sys.argv[1:])
    with Server() as server:
        for name in CASES:
            cost = attack(name, server.url)
            print(
                f"{name:45} {cost.cpu:6.2f} s of processor {cost.wall:6.2f} s {cost.mib:6.1f} MiB, "
                f"sent {cost.payload:5.1f} MiB: {cost.outcome}", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
