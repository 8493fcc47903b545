"""Behind Sentinel: the primary is found, followed through every kind of failover, and left when it is one no more."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, NamedTuple

import pytest
import redis

from aikcache import Cache
from aikcache._coherence import pending, recent
from aikcache._coherence.channel import Channel
from aikcache._redis import pool
from aikcache._redis.pool import Pool
from aikcache.errors import AikcacheError, RemoteError, SessionUnavailableError
from aikcache.sessions import KeyRing, SessionStore, Set
from aikcache.testing import Server, wait_until
from aikcache.testing.proxy import Impostor
from aikcache.testing.sentinel import OPS, SERVICE, Topology, ask

from .._rings import make_rings_patient
from .._workers import PATIENT, Background, Worker, in_threads

PROCESSES, THREADS, NAMES = 4, 8, 24
PATIENCE = 120.0  # a Sentinel that was starved does nothing for 30 s (TILT)
SOON: dict[str, Any] = {"breaker_reset": 0.2, "connect_timeout": 5.0, "timeout": 5.0}


@pytest.fixture(scope="module")
def one_topology(binary: Path) -> Iterator[Topology]:
    """One primary, two replicas and three Sentinels for this module, from the shipped files."""
    with Topology(binary=binary, down_after_ms=CALM, failover_timeout_ms=2000) as topology:
        yield topology


CALM = 30_000
"""Milliseconds of silence until a server counts as down; `shorten_timeout` makes it 600 where one is to be replaced."""


def shorten_timeout(topology: Topology) -> None:
    topology.set_down_after(600)


@pytest.fixture
def topology(one_topology: Topology) -> Topology:
    """The same, whole again after what the last test did to it."""
    heal(one_topology)
    return one_topology


def named(topology: Topology) -> int | None:
    """The primary's port, as the Sentinel says that knows of the latest failover."""
    answers = []
    for sentinel in topology.sentinels:
        with contextlib.suppress(AikcacheError):
            reply = topology.ask(sentinel, "SENTINEL", "MASTER", SERVICE)
            facts = dict(zip(reply[::2], reply[1::2], strict=True))
            answers.append((int(facts[b"config-epoch"]), int(facts[b"port"])))
    return max(answers)[1] if answers else None


def heal(topology: Topology) -> None:
    """Restart servers that were killed or paused, as replicas of the primary that the Sentinels name."""
    for server in (*topology.servers, *topology.sentinels):
        server.resume()
        with contextlib.suppress(AikcacheError):
            topology.ask(server, "PING")
            continue
        server.restart()
    topology.set_down_after(CALM)

    def whole() -> bool:
        with contextlib.suppress(AikcacheError):
            port = named(topology) or 0
            primary = next(server for server in topology.servers if server.port == port)
            for server in topology.primaries():
                if server is not primary:
                    topology.ask(server, "REPLICAOF", "127.0.0.1", port)
            online = topology.ask(primary, "INFO", "replication").count(b"state=online")
            masters = [topology.ask(sentinel, "SENTINEL", "MASTER", SERVICE) for sentinel in topology.sentinels]
            facts = [dict(zip(reply[::2], reply[1::2], strict=True)) for reply in masters]
            others = [topology.ask(sentinel, "SENTINEL", "REPLICAS", SERVICE) for sentinel in topology.sentinels]
            usable = all(
                dict(zip(reply[::2], reply[1::2], strict=True))[b"flags"] == b"slave" for two in others for reply in two
            )
            agreed = {(fact[b"port"], fact[b"config-epoch"]) for fact in facts}  # who was away names another
            return (
                online == 2
                and usable
                and len(agreed) == 1
                and all(fact[b"flags"] == b"master" and int(fact[b"num-other-sentinels"]) == 2 for fact in facts)
            )
        return False

    wait_until(whole, PATIENCE, "the topology to be whole again")


# Under load


class Load(NamedTuple):
    """What became of a storm in one process."""

    calls: int
    updates: int
    failed: list[str]
    stale: list[str]
    worst: float


def storm(url: str, instance: str, database: str) -> Load:
    """Read and update from `THREADS` threads until told to stop; never may a thread read older than its own update."""
    client = redis.Redis.from_url(database, decode_responses=True)
    failed: list[str] = []
    stale: list[str] = []
    took: list[float] = []
    updates: list[int] = []
    stop = threading.Event()
    with Cache(url, instance=instance) as cache:

        @cache.cached("thing")
        def get(name: str) -> int:
            return int(client.get(f"{instance}:{name}") or 0)

        @cache.invalidates("thing:get:{name}")
        def update(name: str) -> int:
            return int(client.incr(f"{instance}:{name}"))

        def work() -> None:
            dice = random.Random()
            while not stop.is_set():
                name = f"n{dice.randrange(NAMES)}"
                began = time.monotonic()
                try:
                    if dice.random() < 0.05:
                        version = update(name)
                        updates.append(version)
                        if get(name) < version:
                            stale.append(name)
                    else:
                        get(name)
                except Exception as error:
                    failed.append(repr(error))
                took.append(time.monotonic() - began)
                stop.wait(0.002)

        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        wait_until(lambda: updates, PATIENCE, "the first update")
        client.incr(f"{instance}:running")
        wait_until(lambda: client.get(f"{instance}:stop"), 3 * PATIENCE, "the end of the storm")
        # Still running, and now others' updates are to be seen as well: the last ones have all been made.
        stop.set()
        for thread in threads:
            thread.join()
        client.incr(f"{instance}:stopped")
        wait_until(lambda: int(client.get(f"{instance}:stopped") or 0) == PROCESSES, PATIENCE, "the other processes")
        wait_until(lambda: cache.health().ok and not cache.stats().pending_invalidations, PATIENCE, "what is pending")
        deadline = time.monotonic() + cache.config.max_staleness
        for name in (f"n{i}" for i in range(NAMES)):
            while (asked := time.monotonic()) and get(name) != int(client.get(f"{instance}:{name}") or 0):
                if asked > deadline:
                    stale.append(f"{name} at the end")
                    break
                time.sleep(0.01)
    client.close()
    return Load(len(took), len(updates), failed, stale, max(took))


@pytest.fixture(scope="module")
def crew() -> Iterator[list[Worker]]:
    """Four other processes."""
    with ExitStack() as stack:
        crew = [Worker() for _ in range(PROCESSES)]
        for worker in crew:
            stack.callback(worker.stop)
        yield crew


def kill(topology: Topology, primary: Server) -> None:
    shorten_timeout(topology)
    primary.kill()


def pause(topology: Topology, primary: Server) -> None:
    shorten_timeout(topology)
    primary.pause()


def fail_over(topology: Topology, primary: Server) -> None:
    topology.fail_over()


@pytest.mark.parametrize("how", [kill, pause, fail_over])
def test_a_failover_under_load_fails_no_call_and_loses_no_invalidation(
    how: Callable[[Topology, Server], None],
    topology: Topology,
    crew: list[Worker],
    instance: str,
    redis_url: str,
    record_property: Callable[[str, object], None],
) -> None:
    """4 processes × 8 threads read and update through a failover: no call fails, nothing updated is read old again."""
    database = redis.Redis.from_url(redis_url, decode_responses=True)
    primary = topology.primary()
    with closing(database), Cache(topology.url, instance=f"{instance}-probe", local_ttl=0) as probe:
        probe.set("thing:x:1", "before")
        loads = [worker.start(storm, topology.url, instance, redis_url) for worker in crew]
        wait_until(lambda: int(database.get(f"{instance}:running") or 0) == PROCESSES, PATIENCE, "the storms")
        how(topology, primary)
        began = time.monotonic()
        wait_until(lambda: named(topology) not in (None, primary.port), PATIENCE, "the failover")
        announced = time.monotonic()
        numbers = iter(range(100_000))

        def used() -> bool:
            key = f"thing:x:after{next(numbers)}"
            probe.set(key, 1)
            return bool(probe.get(key) == 1)

        wait_until(used, PATIENCE, "the remote tier")
        again = time.monotonic()
        database.set(f"{instance}:stop", 1)
        results: list[Load] = [load.result(3 * PATIENCE) for load in loads]
    record_property("announced_after", round(announced - began, 3))
    record_property("used_after_announcement", round(again - announced, 3))
    record_property("worst_call", round(max(load.worst for load in results), 3))
    record_property("calls", sum(load.calls for load in results))
    print(
        f"\n{how.__name__}: announced after {announced - began:.2f} s, used {1000 * (again - announced):.0f} ms later; "
        f"{sum(load.calls for load in results)} calls, {sum(load.updates for load in results)} updates, "
        f"slowest call {max(load.worst for load in results):.2f} s"
    )
    assert [load.failed for load in results] == [[]] * PROCESSES
    assert [load.stale for load in results] == [[]] * PROCESSES
    assert min(load.updates for load in results) > 0
    # What the new primary holds is nobody's old value either: a process without a local tier sees it.
    truth = redis.Redis.from_url(redis_url, decode_responses=True)
    with closing(truth), Cache(topology.url, instance=instance, local_ttl=0) as fresh:
        for name in (f"n{i}" for i in range(NAMES)):
            held = fresh.get(fresh.key("thing", "get", name).split(":", 2)[2])
            assert held in (None, int(truth.get(f"{instance}:{name}") or 0))


def test_a_primary_that_comes_back_is_not_used_until_it_is_one_again(topology: Topology, instance: str) -> None:
    """A primary that was paused and replaced still reports that role when it resumes; no call goes to it."""
    old = topology.primary()
    with Cache(topology.url, instance=instance, local_ttl=0, **SOON) as cache:
        cache.set("thing:x:1", "one")
        shorten_timeout(topology)
        old.pause()
        wait_until(lambda: named(topology) not in (None, old.port), PATIENCE, "the failover")
        wait_until(lambda: cache.health().ok, PATIENCE, "the new primary")
        topology.set_down_after(CALM)
        old.resume()
        assert topology.ask(old, "ROLE")[0] == b"master"  # so the test is about what it says
        cache.set("thing:x:1", "two")
        with closing(redis.Redis(unix_socket_path=str(old.socket))) as client:
            seen_here = client.client_list()
            assert not [one for one in seen_here if one["name"] == "aikcache"]
        assert cache.get("thing:x:1") == "two"
        topology.ask(
            old, "REPLICAOF", "127.0.0.1", named(topology) or 0
        )  # Sentinel does so too, some ten seconds later
        wait_until(lambda: old not in topology.primaries(), PATIENCE, "the old primary as a replica")
        assert cache.get("thing:x:1") == "two"
        assert cache.health().ok


# Sentinels


def test_stopped_and_hung_sentinels_cost_little(topology: Topology, instance: str) -> None:
    """With one Sentinel stopped, one hung and one alive, the first call finds the primary within `connect_timeout`."""
    with Impostor(silent) as impostor, socket.create_server(("127.0.0.1", 0)) as taken:
        dead = taken.getsockname()[1]
        taken.close()
        mute = impostor.url.split(":")[2].split("/")[0]
        url = f"redis+sentinel://127.0.0.1:{dead},127.0.0.1:{mute},127.0.0.1:{topology.sentinels[2].port}/{SERVICE}"
        with Cache(url, instance=instance, local_ttl=0, connect_timeout=5) as cache:
            cache.ping()  # it would raise after `connect_timeout`
            sentinels = cache.engine.remote.connections.sentinels  # type: ignore[union-attr]
            assert sentinels is not None
            assert sentinels._order[0][1] == topology.sentinels[2].port  # who answered is asked first from now on
            in_threads(cache.ping, 8)


def silent(link: socket.socket) -> None:
    while link.recv(4096):
        pass


def test_a_stopped_sentinel_is_not_needed(topology: Topology, instance: str) -> None:
    """When a Sentinel stops, the others announce the next switch."""
    with Cache(topology.url, instance=instance, local_ttl=0, **SOON) as cache:
        cache.ping()
        sentinels = cache.engine.remote.connections.sentinels  # type: ignore[union-attr]
        assert sentinels is not None
        wait_until(lambda: sentinels.listening, PATIENCE, "a Sentinel")
        topology.sentinels[0].kill()
        port = topology.sentinels[0].port
        generation = cache.engine.remote.connections.generation  # type: ignore[union-attr]
        old = named(topology)
        alive = next(sentinel for sentinel in topology.sentinels if sentinel.port != port)
        topology.ask(alive, "SENTINEL", "FAILOVER", SERVICE)
        wait_until(lambda: named(topology) != old, PATIENCE, "the failover")
        wait_until(
            lambda: cache.engine.remote.connections.generation > generation,  # type: ignore[union-attr]
            PATIENCE,
            "the news of it",
        )
        wait_until(lambda: cache.health().ok, PATIENCE, "the new primary")


def vouched_after(cache: Cache, moment: float) -> Callable[[], bool]:
    """Whether a majority is known to stand behind the primary as of later than that."""
    connections = cache.engine.remote.connections  # type: ignore[union-attr]
    return lambda: time.monotonic() - connections.age() > moment


def test_sentinels_that_are_all_away_cost_a_healthy_primary_nothing(topology: Topology, instance: str) -> None:
    """While its replicas follow it a primary is used, and coherent, without any Sentinel, for longer than the bound.

    Over new connections, too: a pool that grows, and a channel that was cut, find it where it was.
    """
    with Cache(topology.url, instance=instance, local_ttl=0, max_staleness=4, **SOON) as cache:
        cache.set("thing:x:1", 1)
        connects = cache.stats().channel_connects
        for sentinel in topology.sentinels:
            sentinel.kill()
        away = time.monotonic()
        cache.engine.remote.connections.drop_idle()  # type: ignore[union-attr]
        wait_until(vouched_after(cache, away + cache.config.max_staleness), PATIENCE, "evidence without Sentinels")
        cache.engine.channel.reconnect(at_once=True)  # type: ignore[union-attr]
        wait_until(lambda: cache.stats().channel_connects > connects, PATIENCE, "the channel")
        wait_until(lambda: cache.stats().coherent and cache.get("thing:x:1") == 1, PATIENCE, "the primary")


def test_a_primary_that_has_lost_its_replicas_is_used_while_sentinels_name_it(
    topology: Topology, instance: str
) -> None:
    """Without any replica the Sentinels are evidence for a primary, for longer than the bound."""
    with Cache(topology.url, instance=instance, local_ttl=0, max_staleness=2, **SOON) as cache:
        cache.ping()
        for server in topology.servers:
            if server is not topology.primary():
                server.kill()
        away = time.monotonic()
        wait_until(vouched_after(cache, away + cache.config.max_staleness), PATIENCE, "evidence without replicas")


@pytest.mark.parametrize("replicas", [0, 1])
def test_one_sentinel_is_enough_where_there_is_one(replicas: int, binary: Path, instance: str) -> None:
    """A primary with a single Sentinel, and no replica or a stopped one, is used for longer than the bound."""
    config = ("min-replicas-to-write 0",)
    with (
        Topology(binary=binary, replicas=replicas, sentinels=1, down_after_ms=9999, config=config) as topology,
        Cache(topology.url, instance=instance, local_ttl=0, max_staleness=2, **SOON) as cache,
    ):
        for server in topology.servers[1:]:
            server.kill()
        cache.set("thing:x:1", 1)
        began = time.monotonic()
        wait_until(vouched_after(cache, began + cache.config.max_staleness), PATIENCE, "evidence")
        wait_until(lambda: cache.stats().coherent and cache.get("thing:x:1") == 1, PATIENCE, "the primary")


def test_without_any_sentinel_calls_are_answered(instance: str, caplog: pytest.LogCaptureFixture) -> None:
    """With all Sentinels down Redis counts as down: few log lines, and no error for callers."""
    with Cache("redis+sentinel://127.0.0.1:1,127.0.0.1:2/mine", instance=instance, local_ttl=0) as cache:
        assert [cache.get_or_load(f"thing:x:{n}", lambda: 1) for n in range(20)] == [1] * 20
        with pytest.raises(RemoteError, match=r"no Sentinel tells where 'mine' is: .*127\.0\.0\.1:1: Connection"):
            cache.engine.remote.connections.connect()  # type: ignore[union-attr]
    assert 1 <= len(caplog.records) <= 4


def test_an_unknown_service_is_reported(topology: Topology, instance: str) -> None:
    """A service that the Sentinels do not watch is named in the error."""
    url = topology.url.replace(f"/{SERVICE}/", "/other/")
    with (
        Cache(url, instance=instance, **PATIENT) as cache,
        pytest.raises(RemoteError, match="knows no service 'other'"),
    ):
        cache.ping()


def test_passwords_of_servers_and_sentinels(binary: Path, instance: str, caplog: pytest.LogCaptureFixture) -> None:
    """Servers and Sentinels each have their password, with any characters; a wrong one is reported and not shown."""
    with Topology(
        binary=binary,
        replicas=1,
        sentinels=1,
        password="p@ss/w:rd?,#1",
        sentinel_password="s@nt,nel%",
        down_after_ms=9999,
    ) as topology:
        with Cache(topology.url, instance=instance, local_ttl=0, **PATIENT) as cache:
            cache.set("thing:x:1", [1])
            assert cache.get("thing:x:1") == [1]
            assert cache.wait_coherent(PATIENCE)
        for part, other, hint in (
            ("s%40nt", "s%40mt", "Look at sentinel_username and sentinel_password"),
            ("p%40ss", "q%40ss", "The user or the password is wrong"),
        ):
            wrong = topology.url.replace(part, other)
            with Cache(wrong, instance=instance, local_ttl=0, **PATIENT) as cache:
                with pytest.raises(RemoteError, match=r"WRONGPASS|invalid") as caught:
                    cache.ping()
                assert cache.get_or_load("thing:x:1", lambda: 2) == 2
            assert "@" not in str(caught.value)
            assert hint in str(caught.value)
            assert any(hint in message for message in caplog.messages)
    assert not any("w:rd" in message or "nel%" in message for message in caplog.messages)


# Two servers, and a Sentinel that says what the test wants: what a failover loses is then no matter of luck


class Chooser:
    """Speaks as a Sentinel does: names `port` as the primary, and tells subscribers when that changes."""

    def __init__(self) -> None:
        self.port, self.epoch = 0, 1
        self._listeners: list[socket.socket] = []

    def serve(self, link: socket.socket) -> None:
        while data := link.recv(4096):
            for word in data.split(b"\r\n"):
                if word == b"HELLO":
                    link.sendall(b"%1\r\n+role\r\n+sentinel\r\n")
                elif word in (b"CKQUORUM", b"MYID"):
                    link.sendall(b"-ERR of no interest\r\n")
                elif word == b"INFO":
                    link.sendall(b"$0\r\n\r\n")
                elif word == b"SUBSCRIBE":
                    self._listeners.append(link)
                elif word in (b"GET-MASTER-ADDR-BY-NAME", b"MASTER"):
                    port, epoch = str(self.port).encode(), str(self.epoch).encode()
                    place = b"$9\r\n127.0.0.1\r\n", b"$%d\r\n%s\r\n" % (len(port), port)
                    if word == b"MASTER":
                        link.sendall(b"%%3\r\n+ip\r\n%s+port\r\n%s+config-epoch\r\n+%s\r\n" % (*place, epoch))
                    else:
                        link.sendall(b"*2\r\n%s%s" % place)

    def switch(self, port: int) -> None:
        self.port, self.epoch = port, self.epoch + 1
        text = b"mine 127.0.0.1 1 127.0.0.1 %d" % port
        for link in self._listeners:
            with contextlib.suppress(OSError):
                link.sendall(b">3\r\n+message\r\n+switch-master\r\n$%d\r\n%s\r\n" % (len(text), text))


class Two(NamedTuple):
    """Two servers, the second a replica of the first, and the chooser between them."""

    first: Server
    second: Server
    chooser: Chooser
    url: str

    def promote(self) -> None:
        """The second stops following the first; no client knows yet."""
        wait_until(lambda: b"master_link_status:up" in ask(self.second, "INFO", "replication"), PATIENCE, "the replica")
        ask(self.first, "SET", "last", "of all")  # WAIT would be about this connection's own writes
        wait_until(lambda: ask(self.second, "GET", "last") == b"of all", PATIENCE, "the replica to have it all")
        ask(self.second, "REPLICAOF", "NO", "ONE")


@pytest.fixture
def two(binary: Path) -> Iterator[Two]:
    chooser = Chooser()
    with ExitStack() as stack:
        sentinel = stack.enter_context(Impostor(chooser.serve))
        first = stack.enter_context(Server(binary=binary, port=0, config=["repl-diskless-sync-delay 0"]))
        second = stack.enter_context(Server(binary=binary, port=0, config=[f"replicaof 127.0.0.1 {first.port}"]))
        assert first.port is not None
        chooser.port = first.port
        wait_until(lambda: b"state=online" in ask(first, "INFO", "replication"), PATIENCE, "the replica")
        yield Two(first, second, chooser, sentinel.url.replace("redis", "redis+sentinel").replace("/0", "/mine"))


def test_a_replica_is_refused(two: Two, instance: str) -> None:
    """A server that says it is a replica is not used, whatever the Sentinel says."""
    two.chooser.port = two.second.port or 0
    with Cache(two.url, instance=instance, **PATIENT) as cache:
        with pytest.raises(RemoteError, match="not the primary, but says it is 'replica'"):
            cache.ping()
        assert cache.get_or_load("thing:x:1", lambda: 1) == 1


def test_a_lagging_sentinel_does_not_restore_the_old_primary(two: Two, instance: str) -> None:
    """Of two Sentinels that disagree, the one that has seen the later failover counts, whichever is asked first."""
    late = Chooser()
    late.port = two.chooser.port
    with Impostor(late.serve) as other:
        url = two.url.replace("/mine", f",{other.url.split('/')[2]}/mine")
        with Cache(url, instance=instance, local_ttl=0, **SOON) as cache:
            cache.get("thing:x:1")
            assert cache.wait_coherent(PATIENCE)
            two.promote()
            two.chooser.switch(two.second.port or 0)
            connections = cache.engine.remote.connections  # type: ignore[union-attr]
            assert isinstance(connections, Pool)
            assert connections.sentinels is not None
            wait_until(lambda: moved(two, cache), PATIENCE, "the new primary")
            for _ in range(4):
                connections.sentinels.reset_route()
                link = connections.connect()
                assert link.sock.getpeername()[1] == two.second.port
                link.close()


@pytest.mark.parametrize("old", ["answers on", "is killed", "is a replica now"])
def test_the_new_primary_is_sent_recent_invalidations_before_it_is_read(
    old: str, two: Two, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invalidations that the old primary acknowledged, and the new one never got, are effective on the new one."""
    monkeypatch.setattr(pending, "JUST_STARTED", 0)  # or all would end anyway
    with Cache(two.url, instance=instance, **SOON) as writer, Cache(two.url, instance=instance, **SOON) as reader:
        with Cache(
            two.url, instance=instance, **SOON
        ) as other:  # what the writer itself had set would be ended with it
            other.set("thing:kept", "old")
        for name in ("key", "group:a", "tagged", "glob"):
            writer.set(f"thing:{name}", "old", tags=("t",) if name == "tagged" else ())
            assert reader.get(f"thing:{name}") == "old"
        assert reader.wait_coherent(PATIENCE)
        two.promote()
        writer.invalidate_key("thing:key")
        writer.invalidate("thing:group")
        writer.invalidate_tags("t")
        writer.invalidate("thing:gl*b")
        assert writer.stats().pending_invalidations == 0
        if old == "is killed":
            two.first.kill()
        elif old == "is a replica now":
            ask(two.first, "REPLICAOF", "127.0.0.1", two.second.port or 0)
        two.chooser.switch(two.second.port or 0)
        wait_until(lambda: writer.health().ok and moved(two, writer), PATIENCE, "the writer at the new primary")
        wait_until(lambda: not writer.stats().pending_invalidations, PATIENCE, "the glob's sweep")
        wait_until(lambda: reader.health().ok and moved(two, reader), PATIENCE, "the reader at the new primary")
        for cache in (writer, reader):
            for name in ("key", "group:a", "tagged", "glob"):
                assert cache.get(f"thing:{name}") is None, name
            # Nothing that has ended comes back, so this may be asked again: a machine too busy answers with a miss.
            wait_until(lambda cache=cache: cache.get("thing:kept") == "old", PATIENCE, "what was not ended")  # type: ignore[misc]


def test_many_invalidations_are_all_sent_to_the_new_primary(
    two: Two, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More invalidations than are kept by name become those of groups for a server that may lack them."""
    monkeypatch.setattr(pending, "JUST_STARTED", 0)
    monkeypatch.setattr(recent, "MAX_RECENT", 10)
    with Cache(two.url, instance=instance, local_ttl=0, **SOON) as cache:
        cache.set("thing:first", "old")
        assert cache.wait_coherent(PATIENCE)
        two.promote()
        cache.invalidate_key("thing:first")
        for number in range(20):
            cache.invalidate_key(f"thing:x:{number}")
        two.chooser.switch(two.second.port or 0)
        wait_until(lambda: cache.health().ok and moved(two, cache), PATIENCE, "the new primary")
        assert cache.get("thing:first") is None


def moved(two: Two, cache: Cache) -> bool:
    """Whether the cache's connections, the channel's too, are to the second server alone."""
    run = ask(two.second, "INFO", "server").decode().partition("run_id:")[2][:40]
    remote, channel = cache.engine.remote, cache.engine.channel
    assert remote is not None
    assert isinstance(remote.connections, Pool)
    assert isinstance(channel, Channel)
    link = channel._connection
    with contextlib.suppress(OSError):  # it has just been cut
        here = link is not None and link.sock.getpeername()[1] == two.second.port
        return here and cache.stats().coherent and str(remote.connections.run_id).startswith(run)
    return False


def test_under_distrust_nothing_older_than_the_failover_is_trusted(
    two: Two, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`failover="distrust"` invalidates all that the new primary holds, once: what is stored after it stays."""
    monkeypatch.setattr(pending, "JUST_STARTED", 0)
    settings: dict[str, Any] = {**SOON, "failover": "distrust"}
    with (
        Cache(two.url, instance=instance, **settings) as first,
        Cache(two.url, instance=instance, **settings) as second,
    ):
        first.set("thing:x:1", "old")
        assert second.get("thing:x:1") == "old"
        two.promote()
        two.chooser.switch(two.second.port or 0)
        wait_until(lambda: first.health().ok and moved(two, first), PATIENCE, "the new primary")
        assert first.get("thing:x:1") is None
        first.set("thing:x:1", "new")
        wait_until(lambda: second.health().ok and moved(two, second), PATIENCE, "the new primary")
        assert second.get("thing:x:1") == "new"
        with Cache(two.url, instance=instance, **settings) as third:
            assert third.get("thing:x:1") == "new"


def test_an_invalidation_that_the_old_primary_acknowledges_after_the_move_is_sent_again(
    two: Two, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invalidation that runs while another thread finds the new primary is sent to it again."""
    monkeypatch.setattr(pending, "JUST_STARTED", 0)
    with Cache(two.url, instance=instance, local_ttl=0, timeout=5) as cache:
        cache.set("thing:x:1", "old")
        assert cache.wait_coherent(PATIENCE)
        two.promote()
        two.first.pause()
        under_way = Background(cache.invalidate_key, "thing:x:1")
        try:
            two.chooser.switch(two.second.port or 0)
            wait_until(lambda: moved(two, cache), PATIENCE, "the new primary")
        finally:
            two.first.resume()
        under_way.result()
        assert cache.get("thing:x:1") is None


def test_invalidations_wait_for_replicas(two: Two, instance: str) -> None:
    """With `invalidate_wait` one that no replica acknowledges is pending until one does; calls go on meanwhile."""
    with Cache(two.url, instance=instance, invalidate_wait=1, timeout=5, connect_timeout=5) as cache:
        cache.set("thing:x:1", 1)
        cache.invalidate_key("thing:x:1")
        wait_until(lambda: not cache.stats().pending_invalidations, PATIENCE, "a replica that has just come")
        cache.invalidate_key("thing:x:1")
        wait_until(lambda: not cache.stats().pending_invalidations, PATIENCE, "a replica that is there")
        two.second.pause()
        try:
            began = time.monotonic()
            for n in range(20):
                cache.invalidate_key(f"thing:x:{n}")
            assert time.monotonic() - began < 30  # one wait of 2.5 s, not twenty
            assert cache.stats().pending_invalidations == 20
            cache.set("thing:x:1", 2)
            assert cache.get("thing:x:1") == 2
        finally:
            two.second.resume()
        wait_until(lambda: not cache.stats().pending_invalidations, PATIENCE, "the replica's acknowledgement")
        assert cache.get("thing:x:1") == 2


# Threads and processes


def test_close_stops_the_watcher(topology: Topology, instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `close` the threads that listen to Sentinels are gone; they do not wait for their next heartbeat."""
    monkeypatch.setattr(pool, "BEAT", 600)
    wait_until(lambda: watchers() == 0, PATIENCE, "the end of those of earlier tests")
    cache = Cache(topology.url, instance=instance, **{**PATIENT, "max_staleness": 9999})
    assert watchers() == 0
    cache.ping()
    wait_until(lambda: watchers() == 3, PATIENCE, "the watcher")
    cache.close()
    wait_until(lambda: watchers() == 0, PATIENCE, "the watcher's end")


def watchers() -> int:
    return sum(thread.name == "aikcache-sentinel" for thread in threading.enumerate())


def test_a_forked_child_follows_by_itself(topology: Topology, instance: str) -> None:
    """After a fork the child asks the Sentinels itself, listens itself, and shares no connection with its parent."""
    with Cache(topology.url, instance=instance, local_ttl=0, **PATIENT) as cache:
        cache.set("thing:x:1", "one")
        wait_until(lambda: watchers() >= 1, PATIENCE, "the watcher")
        child = os.fork()
        if not child:
            status = 1
            with contextlib.suppress(BaseException):
                assert watchers() == 0
                assert cache.get("thing:x:1") == "one"
                sentinels = cache.engine.remote.connections.sentinels  # type: ignore[union-attr]
                assert sentinels is not None
                wait_until(lambda: sentinels.listening, PATIENCE, "a Sentinel")
                cache.close()
                status = 0
            os._exit(status)
        assert cache.get("thing:x:1") == "one"
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        cache.ping()


def outward_address() -> str:
    """An address of this machine that others could use."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but its own")
        address: str = probe.getsockname()[0]
    return address


@pytest.mark.parametrize(("password", "answer"), [(None, b"-DENIED"), ("own", b"-NOAUTH")])
def test_a_sentinel_as_shipped_answers_no_stranger(binary: Path, password: str | None, answer: bytes) -> None:
    """From another address a Sentinel without a password refuses all commands, and one with it needs it."""
    lines = [line.strip() for line in (OPS / "sentinel.conf").read_text().splitlines()]
    lines = [line for line in lines if line.startswith(("bind", "protected-mode", "sentinel resolve"))]
    with (
        Server(binary=binary, port=0, password=password, config=lines, args=("--sentinel",)) as sentinel,
        socket.create_connection((outward_address(), sentinel.port or 0), timeout=PATIENCE) as link,
    ):
        link.sendall(b"SENTINEL MASTERS\r\n")
        assert link.recv(100).startswith(answer)


# Sessions


def test_no_acknowledged_session_is_lost_in_a_failover(
    topology: Topology, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What began, and what ended, before the primary died is so on the next one; meanwhile it is an error or true."""
    make_rings_patient(monkeypatch, 5.0)
    with ExitStack() as stack:
        ring = stack.enter_context(closing(KeyRing(topology.url, instance=instance, master_key=token_urlsafe(32))))
        arguments: dict[str, Any] = {"ring": ring, "instance": instance, "connect_timeout": 5.0, "timeout": 5.0}
        store = stack.enter_context(closing(SessionStore(topology.url, **arguments)))
        begun: dict[str, int] = {}

        def begin(number: int) -> bool:
            session = store.open(None)
            session["n"] = number
            try:
                cookie = store.commit(session)
            except SessionUnavailableError:
                return False
            assert isinstance(cookie, Set)
            begun[cookie.value] = number
            return True

        def found(cookie: str) -> dict[str, Any] | None:
            try:
                return dict(store.open(cookie))
            except SessionUnavailableError:
                return None

        def ended(handle: str) -> bool:
            try:
                store.end(handle)
            except RemoteError:
                return False
            return True

        wait_until(lambda: begin(0), PATIENCE, "the first session")
        for number in range(1, 40):
            begin(number)
        gone = next(iter(begun))
        handle = store.open(gone).handle or ""
        wait_until(lambda: ended(handle), PATIENCE, "the logout")
        old = topology.primary()
        shorten_timeout(topology)
        old.kill()
        for number in range(40, 50):
            begin(number)
        wait_until(lambda: begin(50), PATIENCE, "the next primary")
        wait_until(lambda: all(found(cookie) is not None for cookie in begun), PATIENCE, "all to be read")
        del begun[gone]
        assert {cookie: found(cookie) for cookie in begun} == {cookie: {"n": n} for cookie, n in begun.items()}
        assert found(gone) == {}
        assert len(ring.keys()) == 1
