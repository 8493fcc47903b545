"""What all processes did, from their snapshots in Redis: each is counted once, whatever becomes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import IO, Any

import pytest
import redis

from aikcache import Cache
from aikcache._engine import fleet as _fleet
from aikcache._engine import reading
from aikcache._engine.fleet import Fleet
from aikcache._engine.tally import Tally
from aikcache._keys.keyspace import Keyspace
from aikcache._redis.pool import Pool
from aikcache._remote.fleet_store import FleetStore
from aikcache._remote.scripts import MAX_SNAPSHOT
from aikcache._remote.stamps import Stamps
from aikcache._remote.store import RedisStore
from aikcache._settings.config import CacheConfig
from aikcache.errors import RemoteError
from aikcache.prometheus import CacheCollector
from aikcache.testing import Server

from ._workers import PATIENCE, PATIENT

WORKER = """
import json, sys
from prometheus_client import CollectorRegistry
from aikcache import Cache, prometheus
from aikcache.prometheus import CacheCollector

prometheus.WITHIN = 20.0  # a machine that stalls is no server that hangs
url, instance = sys.argv[1:]
cache = Cache(url, instance=instance, timeout=20, connect_timeout=20, publish_interval=3600)
price = cache.cached("shop", operation="price")(lambda name: len(name))
registry = CollectorRegistry()
registry.register(CacheCollector(scope="host"))
for line in sys.stdin:
    for i in range(int(line)):
        price("tea")
    calls = sum(s.value for f in registry.collect() for s in f.samples if s.name in
                ("aikernel_cache_hits_total", "aikernel_cache_misses_total"))
    processes = registry.get_sample_value("aikernel_cache_processes")
    print(json.dumps([calls, processes, cache.fleet().hits + cache.fleet().misses]), flush=True)
"""


class Process:
    """A worker that makes calls, and answers a scrape, on request."""

    def __init__(self, url: str, instance: str) -> None:
        command = [sys.executable, "-c", WORKER, url, instance]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, times: int) -> list[float]:
        """Make calls; gives all processes' calls and their number by a scrape, and the calls by `fleet`."""
        stdin, stdout = self._streams()
        stdin.write(f"{times}\n")
        stdin.flush()
        answer: list[float] = json.loads(stdout.readline())
        return answer

    def _streams(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def end(self) -> None:
        """As a worker that gets SIGTERM."""
        self._streams()[0].close()
        assert self._process.wait(PATIENCE) == 0

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)
        for stream in self._streams():
            stream.close()


def test_three_workers_answer_the_same_totals_and_one_is_killed(redis_url: str, instance: str) -> None:
    """Whichever is scraped, no total falls; what the killed one had published, and the ended one counted, stays."""
    with ExitStack() as stack:
        workers = [Process(redis_url, instance) for _ in range(3)]
        for worker in workers:
            stack.callback(worker.kill)
        done = 0
        for times, worker in zip((7, 20, 300), workers, strict=True):
            done += times
            assert worker.call(times)[::2] == [done, done]
        assert workers[0].call(0) == [done, 3, done]
        workers[1].kill()
        assert workers[2].call(1)[::2] == [done + 1, done + 1]
        workers[2].end()
        again = Process(redis_url, instance)
        stack.callback(again.kill)
        assert again.call(5)[::2] == [done + 6, done + 6]
        assert workers[0].call(0) == [done + 6, 3, done + 6]  # the killed one counts as alive for a while


def test_a_process_that_closes_one_of_its_caches_is_alive(redis_url: str, instance: str) -> None:
    """As long as it uses another with the same counts; when that is closed too, it has exited."""
    with Cache(redis_url, instance=instance, **PATIENT) as unused:
        fleet = unused.engine.fleet
        assert fleet is not None
        first, second = (Cache(redis_url, instance=instance, **PATIENT) for _ in range(2))
        for cache in (first, second):
            cache.invalidate("shop:*")
            assert cache.get_or_load("shop:price:tea", lambda: 3) == 3  # a load
        first.close()
        assert len(fleet.read(PATIENCE)[1]) == 1
        second.close()
        assert len(fleet.read(PATIENCE)[1]) == 0


@pytest.fixture
def remote(redis_url: str, instance: str) -> Iterator[RedisStore]:
    """Redis as a cache sees it."""
    with closing(Pool(CacheConfig(url=redis_url, instance=instance, timeout=10.0, connect_timeout=10.0))) as pool:
        yield RedisStore(pool, Keyspace(instance, "v1"), Stamps(_guard(), lambda: 0.0))


def _guard() -> Any:
    from aikcache._concurrency.guard import Guard

    return Guard()


class Member:
    """One process, as far as its snapshots go: it counts how often a breaker opened."""

    def __init__(self, remote: RedisStore) -> None:
        self.tally = Tally()
        self.fleet = Fleet(remote, "aikernel", self.tally, 3600.0)

    def count(self, times: int, *, last: bool = False) -> None:
        self.tally.breaker_changes["open"] += times
        self.fleet.publish(PATIENCE, last=last)

    @property
    def total(self) -> float:
        return self.fleet.read(PATIENCE)[0].samples["breaker_changes"]["open",]


def test_totals_of_exited_processes_are_kept_once(
    remote: RedisStore, monkeypatch: pytest.MonkeyPatch, redis_url: str, instance: str
) -> None:
    """Their snapshots become a part of the totals, and go; a process that comes back begins at zero."""
    monkeypatch.setattr(_fleet, "FOLD_AFTER", -1.0)
    members = [Member(remote) for _ in range(3)]
    for times, member in zip((1, 10, 100), members, strict=True):
        member.count(times, last=member is not members[0])
    assert members[0].total == 111
    before = members[0].fleet._store.read(PATIENCE)
    members[0].fleet.tidy(PATIENCE)
    members[1].fleet.tidy(PATIENCE)
    assert members[0].total == 111
    with redis.Redis.from_url(redis_url) as client:
        assert len(list(client.scan_iter(f"{instance}:v1:!{{fleet:*:p:*"))) == 1
    assert not members[2].fleet._store.fold(before, [members[1].tally.id], b"{}", PATIENCE)  # by an old reading
    members[1].count(5)
    assert members[0].total == 116
    members[1].count(5)
    assert members[0].total == 121
    assert len(members[0].fleet.read(PATIENCE)[1]) == 2


def test_what_redis_has_lost_is_put_back(remote: RedisStore, redis_url: str) -> None:
    """After a flush the first that publishes restores all that it read last, totals included; none counts twice."""
    alive, other, dead = (Member(remote) for _ in range(3))
    for times, member in ((1, alive), (10, other), (100, dead)):
        member.count(times, last=member is dead)
    assert alive.total == other.total == 111
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    alive.count(1)
    assert alive.total == 112
    other.count(1)
    assert alive.total == other.total == 113


def test_an_older_snapshot_replaces_no_newer_one(remote: RedisStore) -> None:
    """Of two threads that publish for one process the slower one changes nothing."""
    store = FleetStore(remote, "aikernel")
    store.publish("a" * 16, b"%016xnew" % 2, PATIENCE)
    store.publish("a" * 16, b"%016xold" % 1, PATIENCE)
    assert store.read(PATIENCE).processes["a" * 16].data.endswith(b"new")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"[" * 5000, b'{"samples": {"misses": [["a", -1], 7, ["b", 1e999]]}}']
)
def test_foreign_snapshots_count_nothing(remote: RedisStore, data: bytes) -> None:
    """Whatever stands there, the others are counted."""
    member = Member(remote)
    member.count(3)
    FleetStore(remote, "aikernel").publish("f" * 16, b"%016x%b" % (1, data), PATIENCE)
    assert member.total == 3
    member.fleet.tidy(PATIENCE)
    assert member.total == 3


def _ids(count: int) -> bytes:
    return b" ".join([b"0" * 16, *(b"%016x" % n for n in range(count))])


@pytest.mark.parametrize("place", ["list", "dead", "p:{id}"])
@pytest.mark.parametrize("junk", [None, b"x" * 17001, b"x" * (3 << 20), _ids(300_000), _ids(5) + b" feed"])
def test_foreign_values_do_not_stop_publishing(
    remote: RedisStore, redis_url: str, instance: str, place: str, junk: bytes | None
) -> None:
    """Whatever lies there, also what is no string, is overwritten; those that have published are counted again."""
    one, two = Member(remote), Member(remote)
    one.count(1)
    two.count(10)
    assert one.total == 11
    key = f"{instance}:v1:!{{fleet:aikernel}}:{place.format(id=one.tally.id)}"
    with redis.Redis.from_url(redis_url) as client:
        client.delete(key)
        client.rpush(key, "x") if junk is None else client.set(key, junk)
        one.count(100)
        one.fleet.tidy(PATIENCE)
        assert two.total == 111
        Member(remote).count(1000, last=True)
        assert two.total == 1111
        if place != "dead":  # which is overwritten when there is somebody to add
            assert client.type(key) == b"string"
            assert client.strlen(key) < 17000


def test_a_full_list_of_exited_processes_is_emptied(remote: RedisStore, redis_url: str, instance: str) -> None:
    """Ids without a snapshot count as exited and are removed, so others find room again."""
    one = Member(remote)
    with redis.Redis.from_url(redis_url) as client:
        client.set(f"{instance}:v1:!{{fleet:aikernel}}:list", _ids(1000))
    with pytest.raises(RemoteError):
        one.count(1)
    one.fleet.tidy(PATIENCE)
    one.count(1)
    assert one.total == 2


def test_totals_of_exited_processes_stay_readable_with_many_hosts() -> None:
    """Hosts that do not fit are counted together; no total falls, and none of the names is too long."""
    samples: Any = {"misses": {(f"{'shop' * 20}:{n}",): 1 for n in range(400)}}
    dead = {f"host{n}": reading.Reading(samples) for n in range(_fleet.MAX_HOSTS)}
    data = _fleet._packed(dead)
    assert len(data) <= MAX_SNAPSHOT
    found = _fleet._by_host(data)
    assert 10 < len(found) < len(dead)
    assert sum(totals.counted() for totals in found.values()) == 400 * len(dead)
    many = json.dumps({f"{n} {'a' * 1000}": {} for n in range(200)}).encode()
    found = _fleet._by_host(many)
    assert len(found) <= _fleet.MAX_HOSTS + 1
    assert max(map(len, found)) <= _fleet.MAX_LABEL


def test_two_caches_of_a_process_are_one_process(redis_url: str, instance: str) -> None:
    """Both publish for it, and it is counted once, also when one has been closed."""
    settings: Any = {**PATIENT, "metrics": instance, "publish_interval": 3600}
    with Cache(redis_url, instance=instance, **settings) as one:
        with Cache(redis_url, instance=instance, **settings) as two:
            for cache in (one, two):
                cache.cached("shop", operation="price")(lambda name: len(name))(str(id(cache)))
            assert two.fleet().misses == one.fleet().misses == 2
        assert one.fleet().misses == 2
        assert len(one.fleet().processes) == 1


def test_a_forked_child_counts_from_zero(redis_url: str, instance: str) -> None:
    """What its parent had counted is the parent's alone."""
    code = f"""
import os, sys
from aikcache import Cache
cache = Cache({redis_url!r}, instance={instance!r}, timeout=20, connect_timeout=20, publish_interval=3600)
price = cache.cached("shop", operation="price")(lambda name: len(name))
for _ in range(10): price("tea")
assert cache.fleet().hits == 9
child = os.fork()
if child == 0:
    for _ in range(5): price("tea")
    cache.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
seen = cache.fleet()
assert (seen.hits, seen.misses) == (14, 1), seen
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_a_scrape_of_the_fleet_while_redis_hangs_has_this_process(own_server: Server, instance: str) -> None:
    """Gauges are this process's; counters, which would seem to have fallen, are missing until Redis answers."""
    settings: Any = {"timeout": 0.2, "connect_timeout": 0.2, "breaker_failures": 1, "breaker_reset": 0.01}
    with Cache(own_server.url, instance=instance, metrics=instance, **settings) as cache:
        cache.cached("shop", operation="price")(lambda name: len(name))("tea")

        def scrape() -> dict[str, float]:
            found = CacheCollector(instance, scope="fleet").collect()
            return {sample.name: sample.value for metric in found for sample in metric.samples}

        own_server.pause()
        try:
            answer = scrape()
            assert answer[f"{instance}_cache_processes"] == 1
            assert f"{instance}_cache_misses_total" not in answer
        finally:
            own_server.resume()


def test_merged_gauges_are_what_their_meaning_says(remote: RedisStore) -> None:
    """The least coherence, the longest uptime, and the number of processes; an exited one's do not count."""
    one, two, gone = (reading.take(Tally()) for _ in range(3))
    two.samples["coherent"], two.samples["uptime_seconds"] = {(): 0}, {(): 1e6}
    gone.samples["uptime_seconds"] = {(): 1e9}
    total = reading.merged([one, two], [gone]).samples
    assert total["coherent"] == {(): 0}
    assert total["uptime_seconds"] == {(): 1e6}
    assert total["processes"] == {(): 2}
