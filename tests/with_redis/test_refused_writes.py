"""A server that answers reads and refuses what would write: what is invalidated then is not served, by anybody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from aikcache import Cache
from aikcache._coherence import pending
from aikcache._engine.invalidation import InvalidationListener
from aikcache.testing import Server, wait_until
from aikcache.testing.cluster import ClusterTopology
from aikcache.testing.sentinel import Topology, ask

from ._staging import Listener, Refusal, wait_for_push
from ._workers import PATIENCE, connect

OLD, NEW = "old", "new"
BOUND = 1.5
"""`max_staleness`: longer than a heartbeat, and not much."""
SETTINGS: dict[str, Any] = {"timeout": 5, "connect_timeout": 5, "breaker_reset": 0.05, "max_staleness": BOUND}
OpenCache = Callable[..., Cache]


@pytest.fixture(params=Refusal.KINDS)
def refusal(request: pytest.FixtureRequest, own_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusal]:
    monkeypatch.setattr(pending, "JUST_STARTED", -1)  # else the server's youth would hide what is lost
    refusal = Refusal(request.param, own_server)
    yield refusal
    refusal.close()


@pytest.fixture(params=[None, 0], ids=["local", "bare"])
def open_cache(request: pytest.FixtureRequest, own_server: Server, instance: str) -> Iterator[OpenCache]:
    """Opens caches on the server that refuses, with a local tier and without one."""
    settings = {**SETTINGS, **({} if request.param is None else {"local_ttl": request.param})}
    with ExitStack() as stack:
        yield lambda **more: stack.enter_context(Cache(own_server.url, instance=instance, **{**settings, **more}))


class Shelf:
    """Values that are invalidated in every way."""

    def __init__(self) -> None:
        self.value = OLD

    def bind(self, cache: Cache) -> Callable[[], set[str]]:
        """A function that reads them all, through `cache`."""

        def load() -> str:
            return self.value

        get = [
            cache.cached("a", operation="key")(load),
            cache.cached("b", operation="group")(load),
            cache.cached("c", operation="tag", tags=("t",))(load),
            cache.cached("d", operation="late", tags=lambda result: ("late",))(load),
            cache.cached("e", operation="glob")(load),
        ]
        return lambda: {one() for one in get}


def end_all(cache: Cache) -> None:
    cache.invalidate_key("a:key:")
    cache.invalidate("b")
    cache.invalidate_tags("t", "late")
    cache.invalidate("e:gl?b*")


ENDS = {"each": end_all, "everything": Cache.clear}


def no_old_value_after(bound: float, read: Callable[[], set[str]]) -> None:
    """Read until the bound has passed, and then some: no read that begins later gives an old value."""
    later = 0
    while later < 20:
        began = time.monotonic()
        values = read()
        if began > bound:
            later += 1
            assert OLD not in values, f"{began - bound:.3f} s after the bound"


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_no_other_process_serves_an_invalidated_value_beyond_the_bound(
    refusal: Refusal, open_cache: OpenCache, end: Callable[[Cache], None]
) -> None:
    """What is invalidated while the server refuses is not served by another beyond `max_staleness`, nor afterwards."""
    shelf = Shelf()
    writer, reader = open_cache(), open_cache()
    read_here, read_there = shelf.bind(writer), shelf.bind(reader)
    connect(writer)
    connect(reader)
    assert read_here() == read_there() == {OLD}
    refusal.begin()
    shelf.value = NEW
    end(writer)
    bound = time.monotonic() + BOUND
    assert read_here() == {NEW}
    no_old_value_after(bound, read_there)
    assert not reader.stats().coherent
    assert not reader.health().ok
    assert shelf.bind(open_cache())() == {NEW}  # a process that starts now
    assert read_there() == {NEW}
    refusal.end()
    wait_until(lambda: writer.stats().pending_invalidations == 0, PATIENCE, "the replay")
    wait_until(lambda: reader.stats().coherent and writer.stats().coherent, PATIENCE, "a heartbeat")
    wait_until(lambda: reader.health().ok, PATIENCE, "its health")
    wait_for_push(reader, writer)
    assert read_here() == read_there() == shelf.bind(open_cache())() == {NEW}


@pytest.mark.usefixtures("unhurried")  # with another channel it would have to be found out again
@pytest.mark.parametrize("kind", ["NOREPLICAS"])
def test_calls_cost_nothing_while_writes_are_refused(
    kind: str, own_server: Server, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is known that the server refuses, calls run their function and ask it for nothing."""
    monkeypatch.setattr(pending, "JUST_STARTED", -1)
    refusal = Refusal(kind, own_server)
    with Cache(own_server.url, instance=instance, local_ttl=0, **SETTINGS) as cache:
        shelf = Shelf()
        read = shelf.bind(cache)
        connect(cache)
        assert read() == {OLD}
        refusal.begin()
        shelf.value = NEW
        wait_until(lambda: read() == {NEW}, PATIENCE, "the bound to pass")
        before = refusal.client.info("commandstats")["cmdstat_get"]["calls"]
        for _ in range(100):
            assert read() == {NEW}
        assert refusal.client.info("commandstats")["cmdstat_get"]["calls"] == before
        refusal.end()
        wait_until(lambda: cache.stats().coherent, PATIENCE, "a heartbeat")
        assert read() == {OLD}  # nobody has invalidated it
    refusal.close()


def test_refused_invalidations_reach_other_processes_before_the_bound_and_are_kept(
    refusal: Refusal, open_cache: OpenCache
) -> None:
    """What was refused is published: others apply it soon, and send it to the server when its writer is long gone."""
    shelf = Shelf()
    writer, reader = open_cache(max_staleness=600), open_cache(max_staleness=600)
    read_there = shelf.bind(reader)
    connect(writer)
    connect(reader)
    shelf.bind(writer)
    assert read_there() == {OLD}
    refusal.begin()
    shelf.value = NEW
    end_all(writer)
    wait_until(lambda: read_there() == {NEW}, PATIENCE, "the news")
    wait_until(lambda: reader.stats().pending_invalidations >= 6, PATIENCE, "all of the news")
    writer.close()
    refusal.end()
    wait_until(lambda: reader.stats().pending_invalidations == 0, PATIENCE, "the replay")
    assert shelf.bind(open_cache())() == {NEW}


def test_a_process_that_only_reads_finds_the_successor_of_a_server_that_became_a_replica(
    own_server: Server, instance: str, tmp_path: Path
) -> None:
    """The name leads elsewhere, as after a failover by DNS, and the old server still answers, as a replica."""
    name = tmp_path / "name"
    name.symlink_to(own_server.socket)
    refusal = Refusal("READONLY", own_server)
    with Server() as successor, Cache(f"unix://{name}", instance=instance, **SETTINGS) as cache:
        connect(cache)
        name.unlink()
        name.symlink_to(successor.socket)
        refusal.begin()
        wait_until(lambda: not cache.stats().coherent, PATIENCE, "the refusal")
        wait_until(lambda: cache.stats().coherent, PATIENCE, "the successor")
    refusal.close()


def test_news_lost_with_a_channel_arrive_when_it_is_back(
    own_server: Server, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process whose channel was down when something was published asks for it."""
    monkeypatch.setattr(pending, "JUST_STARTED", -1)
    refusal, shelf = Refusal("NOREPLICAS", own_server), Shelf()
    settings = {**SETTINGS, "instance": instance, "max_staleness": 600}
    with Cache(own_server.url, **settings) as writer, Cache(own_server.url, **settings) as reader:
        shelf.bind(writer)
        read_there = shelf.bind(reader)
        connect(writer)
        connect(reader)
        assert read_there() == {OLD}
        lost: list[object] = []
        with monkeypatch.context() as patch:
            patch.setattr(InvalidationListener, "news_received", lambda self, message: lost.append(message))
            refusal.begin()
            shelf.value = NEW
            end_all(writer)
            wait_until(lambda: len(writer.engine.recovery._published) == 6, PATIENCE, "all to be published")  # type: ignore[union-attr]
            wait_until(lambda: lost, PATIENCE, "what is lost")
        reader.engine.channel.reconnect(at_once=True)  # type: ignore[union-attr]
        wait_until(lambda: reader.stats().pending_invalidations == 6, PATIENCE, "the news")
        assert read_there() == {NEW}
    refusal.close()


def served(url: str, instance: str, refuse: Callable[[int], object]) -> None:
    """The same as on one server: nothing that was invalidated is served beyond the bound, and then all is well."""
    shelf = Shelf()
    with Cache(url, instance=instance, **SETTINGS) as writer, Cache(url, instance=instance, **SETTINGS) as reader:
        read_here, read_there = shelf.bind(writer), shelf.bind(reader)
        connect(writer)
        connect(reader)
        assert read_here() == read_there() == {OLD}
        refuse(9)
        shelf.value = NEW
        end_all(writer)
        bound = time.monotonic() + BOUND
        assert read_here() == {NEW}
        no_old_value_after(bound, read_there)
        with Cache(url, instance=instance, **SETTINGS) as late:
            assert shelf.bind(late)() == {NEW}
        refuse(0)
        wait_until(lambda: writer.stats().pending_invalidations == 0, PATIENCE, "the replay")
        wait_until(lambda: reader.stats().coherent and writer.stats().coherent, PATIENCE, "a heartbeat")
        wait_until(lambda: read_there() == {NEW}, PATIENCE, "the push")
        assert read_here() == {NEW}


@pytest.mark.parametrize("refusing", [1, 3], ids=["one", "all"])
def test_on_a_cluster(refusing: int, binary: Path, instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One primary that refuses, or all of them."""
    monkeypatch.setattr(pending, "JUST_STARTED", -1)
    with ClusterTopology(binary=binary, replicas=0) as cluster:

        def refuse(replicas: int) -> None:
            for server in cluster.servers[:refusing]:
                cluster.ask(server, "CONFIG", "SET", "min-replicas-to-write", replicas)

        served(cluster.url, instance, refuse)


def test_a_primary_that_has_no_slots_any_more_refuses_nothing(binary: Path, instance: str) -> None:
    """What it refused while it had some does not keep the process from Redis for ever."""
    with (
        ClusterTopology(binary=binary, replicas=0) as cluster,
        Cache(cluster.url, instance=instance, **SETTINGS) as cache,
    ):
        added, source = cluster.add(), cluster.owner(0)
        cluster.move(0, added)
        connect(cache)
        cluster.ask(added, "CONFIG", "SET", "min-replicas-to-write", 9)
        wait_until(lambda: cache.engine.trust.refused is not None, PATIENCE, "a heartbeat that is refused")
        cluster.move(0, source)
        wait_until(lambda: cache.stats().coherent, PATIENCE, "one that is not")


def test_behind_sentinel(binary: Path, instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A primary that has lost replicas, while its Sentinels are content with it."""
    monkeypatch.setattr(pending, "JUST_STARTED", -1)
    with Topology(binary=binary, replicas=1, sentinels=1) as topology:
        primary = topology.primary()
        served(
            topology.url, instance, lambda replicas: ask(primary, "CONFIG", "SET", "min-replicas-to-write", replicas)
        )


FORGED = [
    b"", b"\xff\x00", b"[" * 100_000, b"null", b"{}", b'["x"]', b'["x", 7]', b'["x", [["keys"]]]', b'["x", [[1, 2]]]',
    b'["x", [["keys", "of-another:v1:thing:get:box"]]]', b'["x", [["globs", "[z-a]*"]]]', b'["x", [["groups", ""]]]',
    b'["x", [["groups", "\\ud800"]]]', b'["x", [["sets", "thing"]]]', b'["x", [["keys", {}]]]', b"9" * 10_000,
]  # fmt: skip


@pytest.mark.usefixtures("unhurried")
def test_forged_news_invalidates_nothing(redis_url: str, instance: str) -> None:
    """Whatever is published there that is no invalidation of this key space is ignored, and the channel stays."""
    shelf = Shelf()
    with (
        Cache(redis_url, instance=instance, **SETTINGS) as cache,
        Cache(redis_url, instance=instance, **SETTINGS) as other,
        redis.Redis.from_url(redis_url) as client,
    ):
        read = shelf.bind(cache)
        connect(cache)
        assert read() == {OLD}
        connects = cache.stats().channel_connects
        for message in FORGED:
            assert client.publish(cache.space.news, message) == 1
        wait_for_push(cache, other)
        assert cache.stats().pending_invalidations == 0
        assert cache.stats().channel_connects == connects
        shelf.value = NEW
        assert read() == {OLD}


def test_the_write_of_a_heartbeat_changes_nothing(own_server: Server, instance: str) -> None:
    """Heartbeats leave no key, no change to save, nothing to replicate, and are pushed to nobody."""
    with (
        Cache(own_server.url, instance=instance, **SETTINGS) as cache,
        redis.Redis.from_url(own_server.url) as client,
        Listener(own_server, instance) as listener,
    ):
        connect(cache)
        probe = cache.engine.remote.commands.probe()  # type: ignore[union-attr]
        listener.pushes()
        before = client.dbsize(), client.info()["rdb_changes_since_last_save"], client.info()["master_repl_offset"]
        for _ in range(100):
            assert client.execute_command(*probe) is None
        after = client.dbsize(), client.info()["rdb_changes_since_last_save"], client.info()["master_repl_offset"]
        assert listener.pushes() == []
        assert after == before
