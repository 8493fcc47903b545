"""On a Redis Cluster: every call, lease and invalidation goes to the right node, and all nodes are listened to."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from aikcache import Cache
from aikcache._keys.keyspace import Keyspace
from aikcache._redis.cluster.client import Cluster
from aikcache._redis.cluster.scouts import Scouts
from aikcache._redis.cluster.topology import Redirection, redirection, slot_of
from aikcache._redis.pool import Pool
from aikcache._redis.transport import TransportEvents
from aikcache.errors import ConfigError, RemoteError, RemoteUnavailableError
from aikcache.sessions import Keep, KeyRing, SessionStore, Set
from aikcache.testing import Server, wait_until
from aikcache.testing.cluster import ClusterTopology

from .. import _workers
from .._rings import make_rings_patient
from .._workers import PATIENCE, PATIENT, Database, Shop, Spec, Worker, connect

OpenShop = Callable[[Spec], Shop]


@pytest.fixture(scope="session")
def cluster(binary: Path) -> Iterator[ClusterTopology]:
    """Three primaries with a replica each, behind a password that has to be escaped in a URL."""
    with ClusterTopology(binary=binary, password="p@ss:w/rd?") as topology:
        yield topology


@pytest.fixture
def spec(cluster: ClusterTopology, redis_url: str, instance: str) -> Spec:
    """A cache on the cluster; its database is on the session's single server."""
    return Spec(cluster.url, instance, database=redis_url, realm=instance).but(**PATIENT)


@pytest.fixture
def open_synced(open_shop: OpenShop) -> OpenShop:
    """Opens shops that listen to all nodes. The first contact with a new node invalidates everything."""

    def opened(spec: Spec) -> Shop:
        shop = open_shop(spec)
        connect(shop.cache)
        return shop

    return opened


def inside(cache: Cache) -> Cluster:
    """What a cache on a cluster has for its connections."""
    assert cache.engine.remote is not None
    connections = cache.engine.remote.connections
    assert isinstance(connections, Cluster)
    return connections


def stamp(spec: Spec, group: str) -> str:
    return f"{spec.instance}:v1:~stamp:{group}"


def ask(cluster: ClusterTopology, key: str, *command: str | int) -> Any:
    """A command, of the node that owns `key`."""
    return cluster.ask(cluster.owner(slot_of(key)), *command)


def owners(cluster: ClusterTopology) -> dict[int, Server]:
    """Who owns each slot, as a cache believes that has just asked."""
    servers = {server.port: server for server in cluster.servers}
    with closing(Cache(cluster.url)) as cache:
        topology = inside(cache).current(time.monotonic() + PATIENCE)
        return {slot: servers[address[1]] for slot, address in topology.owners.items()}


def on_each_node(cluster: ClusterTopology, key_of: Callable[[str], str], each: int) -> dict[Server, list[str]]:
    """`each` names for each primary, whose keys are there."""
    slots = owners(cluster)
    found: dict[Server, list[str]] = {server: [] for server in slots.values()}
    for n in itertools.count():
        names = found[slots[slot_of(key_of(f"n{n}"))]]
        if len(names) < each:
            names.append(f"n{n}")
        if all(len(names) == each for names in found.values()):
            return found
    raise AssertionError("unreachable")


def sends(monkeypatch: pytest.MonkeyPatch) -> Counter[Pool]:
    """Counts, from now on, how often each node is sent something."""
    counts: Counter[Pool] = Counter()
    for name in ("begin", "exchange"):
        original = getattr(Pool, name)

        def counted(self: Pool, *args: Any, original: Any = original, **options: Any) -> Any:
            if self.events.new_server is not TransportEvents().new_server:  # not those that ask for the map
                counts[self] += 1
            return original(self, *args, **options)

        monkeypatch.setattr(Pool, name, counted)
    return counts


# On paper


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://h1:7000",
        "redis+cluster://h1:7000,h2:7000",
        "redis+cluster://h1,h2:7001",
        "redis+cluster://:secret@h1:7000,h2:7000",
        "redis+cluster://user:p%40ss@h1:7000,[::1]:7001",
        "rediss+cluster://user:secret@h1:7000,h2:7000?ssl_cert_reqs=none",
    ],
)
def test_urls_of_a_cluster(url: str) -> None:
    """Several hosts with one login are a cluster; a cache on it constructs without contacting anyone."""
    with closing(Cache(url)) as cache:
        assert inside(cache).topology is None


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://h1:7000/1",
        "redis+cluster://h1:0",
        "redis+cluster://h1:seven,h2:7000",
        "redis+cluster://h1:7000?ssl_ca_certs=x",
        "redis+cluster://h1:7000?db=2",
    ],
)
def test_urls_that_cannot_be(url: str) -> None:
    """A database number, a bad port or options of TLS without TLS are refused when the cache is made."""
    with pytest.raises(ConfigError):
        Cache(url)


def test_the_node_that_failed_last_is_asked_for_the_topology_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the others are drawn: a node that hangs would hold everybody up."""
    asked: list[tuple[str, int]] = []

    def view(scouts: Scouts, address: tuple[str, int]) -> None:
        asked.append(address)
        raise RemoteUnavailableError("staged")

    monkeypatch.setattr(Scouts, "view", view)
    with closing(Cache("redis+cluster://h1,h2,h3")) as cache:
        inside(cache).node(("h2", 6379)).breaker.failure()
        for _ in range(20):
            with pytest.raises(RemoteUnavailableError, match="staged"):
                inside(cache).refresh(time.monotonic() + PATIENCE, anew=True)
    assert len(asked) == 60
    assert set(asked[2::3]) == {("h2", 6379)}


@given(st.text(max_size=40))
def test_slots_are_those_of_redis(key: str) -> None:
    """Any key's slot is the one redis-py computes, hash tags included."""
    data = key.encode("utf-8", "surrogatepass")
    assert slot_of(data) == key_slot(data)


@given(st.from_regex(r"[a-z]{1,8}:[a-z]{1,8}:[A-Za-z0-9'|%:@._-]{0,40}", fullmatch=True))
def test_what_belongs_to_a_key_is_in_its_slot(key: str) -> None:
    """A key's lease and its mark share its slot, so that scripts and invalidations keep to one node."""
    space = Keyspace("aik", "v1")
    full = space.full(key)
    assert slot_of(full) == slot_of(space.lease(full)) == slot_of(space.key_marker(full, "w"))


def test_redirections() -> None:
    """MOVED and ASK say where; a node that does not know its name means its own."""
    asked = ("h1", 7000)
    assert redirection("MOVED 12 h2:7001", asked) == Redirection(True, 12, ("h2", 7001))
    assert redirection("ASK 12 ::1:7001", asked) == Redirection(False, 12, ("::1", 7001))
    assert redirection("MOVED 12 :7001", asked) == Redirection(True, 12, ("h1", 7001))
    assert redirection("MOVED 12 ?:7001", asked) == Redirection(True, 12, ("h1", 7001))
    assert redirection("TRYAGAIN Multiple keys request", asked) is None


# Calls


def test_a_server_that_is_no_cluster_is_said_to_be_none(tcp_server: Server, instance: str) -> None:
    """A single server behind redis+cluster:// is not used; calls are answered, and ping says why."""
    url = f"redis+cluster://127.0.0.1:{tcp_server.port}"
    with closing(Cache(url, instance=instance)) as one:
        assert one.get_or_load("a:b:c", lambda: 1) == 1
        with pytest.raises(RemoteUnavailableError, match="cluster support disabled"):
            one.ping()


def test_no_node_answers(instance: str, caplog: pytest.LogCaptureFixture) -> None:
    """Without any node calls are answered by the function, and soon at no cost."""
    with closing(Cache("redis+cluster://127.0.0.1:1,127.0.0.1:2", instance=instance)) as cache:
        assert [cache.get_or_load(f"a:b:{n}", lambda: "x") for n in range(20)] == ["x"] * 20
        assert not cache.health().ok
        assert cache.health().breaker_open


def test_the_read_path(
    cluster: ClusterTopology, spec: Spec, worker: Worker, database: Database, open_synced: OpenShop
) -> None:
    """A value loaded here is another process's hit, whichever node it is on."""
    shop = open_synced(spec)
    names = on_each_node(cluster, shop.get.key, 2)
    assert len(names) == 3
    for name in itertools.chain(*names.values()):
        assert shop.get(name) == f"{name} as it is"
        assert worker.run(_workers.get, spec, name) == f"{name} as it is"
        assert database.loads(name) == 1
    assert shop.cache.stats().errors == 0
    for server, some in names.items():
        assert all(cluster.ask(server, "EXISTS", shop.get.key(name)) == 1 for name in some)


def test_one_load_among_processes(spec: Spec, workers: list[Worker], database: Database, open_synced: OpenShop) -> None:
    """However many ask at once, in however many processes, the function runs once."""
    open_synced(spec)
    pending = [worker.start(_workers.rush, spec, "tea", 8, 4) for worker in workers[:4]]
    values = [value for rush in pending for value in rush.result()]
    assert values == ["tea as it is"] * 32
    assert database.loads("tea") == 1


def test_the_lease_of_a_killed_owner_expires(
    spec: Spec, victim: Worker, database: Database, open_synced: OpenShop
) -> None:
    """Who waits for a process that was killed loads within `lease_wait`."""
    quick = spec.but(lease_ttl=2)
    shop = open_synced(quick)
    database.hold("tea")
    victim.start(_workers.get, quick, "tea")
    database.wait_held("tea")
    victim.kill()
    assert shop.get("tea") == "tea as it is"
    assert database.loads("tea") == 2


# Invalidations


@pytest.mark.parametrize("what", ["key", "operation", "prefix", "tag", "tag of many", "everything", "glob", "set"])
def test_an_invalidation_reaches_other_processes(
    what: str, spec: Spec, worker: Worker, database: Database, open_synced: OpenShop
) -> None:
    """Every kind of invalidation is pushed to the other process, whichever nodes it touches."""
    shop = open_synced(spec)
    worker.run(_workers.run, spec, _connect)
    for name in ("tea", "mate", "cocoa", "milk"):
        database.put(name, "old")
        worker.run(_workers.get, spec, name)
        database.put(name, "new")
        end: dict[str, Callable[[], object]] = {
            "key": lambda name=name: shop.get.invalidate(name),  # type: ignore[misc]
            "operation": lambda: shop.cache.invalidate("thing:get"),
            "prefix": lambda: shop.cache.invalidate("thing"),
            "tag": lambda name=name: shop.cache.invalidate_tags(f"thing:{name}"),  # type: ignore[misc]
            "tag of many": lambda: shop.cache.invalidate_tags("things", "others"),
            "everything": shop.cache.clear,
            "glob": lambda name=name: shop.cache.invalidate(f"thing:*:{name[:2]}*"),  # type: ignore[misc]
            "set": lambda name=name: shop.get.store("new", name),  # type: ignore[misc]
        }
        end[what]()
        assert shop.get(name) == "new"
        wait_until(lambda name=name: worker.run(_workers.get, spec, name) == "new", PATIENCE, "the push")  # type: ignore[misc]


def _connect(shop: Shop) -> None:
    connect(shop.cache)


@pytest.mark.parametrize("how", ["key", "tag", "glob"])
def test_a_load_that_an_invalidation_overtook_is_not_stored(
    how: str, cluster: ClusterTopology, spec: Spec, worker: Worker, database: Database, open_synced: OpenShop
) -> None:
    """What was read before an invalidation is not there after it, for keys on every node."""
    shop = open_synced(spec.but(local_ttl=0))
    for (name,) in on_each_node(cluster, shop.get.key, 1).values():
        database.hold(name)
        loading = worker.start(_workers.get, spec, name)
        database.wait_held(name)
        if how == "key":
            shop.get.invalidate(name)
        elif how == "tag":
            shop.cache.invalidate_tags(f"thing:{name}")
        else:
            shop.cache.invalidate(f"thing:*:{name}")
        database.let_go(name)
        assert loading.result() == f"{name} as it is"
        assert shop.get.peek(name) is None


def test_any_tags_stamp_is_written_before_the_tags_own(
    cluster: ClusterTopology, spec: Spec, open_synced: OpenShop
) -> None:
    """While the node of the stamp `#` carries out no write, no tag's own stamp is renewed, wherever it is."""
    shop, hasty = open_synced(spec), open_synced(spec.but(timeout=0.4))
    first = cluster.owner(slot_of(stamp(spec, "#")))
    tag = next(f"t{n}" for n in range(100) if cluster.owner(slot_of(stamp(spec, f"#t{n}"))) is not first)
    shop.cache.invalidate_tags(tag)
    before = ask(cluster, stamp(spec, f"#{tag}"), "GET", stamp(spec, f"#{tag}"))
    assert before is not None
    cluster.ask(first, "CLIENT", "PAUSE", 600_000, "WRITE")  # a node that were stopped would be replaced before long
    try:
        hasty.cache.invalidate_tags(tag)
        assert hasty.cache.stats().pending_invalidations > 0
        assert ask_in_step(cluster, tag, spec) == before
    finally:
        cluster.ask(first, "CLIENT", "UNPAUSE")
    wait_until(lambda: hasty.cache.stats().pending_invalidations == 0, PATIENCE, "the replay")
    assert ask_in_step(cluster, tag, spec) != before


def ask_in_step(cluster: ClusterTopology, tag: str, spec: Spec) -> Any:
    name = stamp(spec, f"#{tag}")
    return cluster.ask(owners(cluster)[slot_of(name)], "GET", name)


@pytest.mark.parametrize("seen", [True, False])
def test_a_tag_that_only_the_result_names_invalidates_a_running_load(
    seen: bool, spec: Spec, worker: Worker, database: Database, open_synced: OpenShop
) -> None:
    """A load during which a tag of its result was invalidated is not stored, whichever nodes the stamps are on."""
    shop = open_synced(spec.but(local_ttl=0))
    for name in ("tea", "mate", "cocoa", "milk"):
        if seen:
            shop.described(name)
            shop.described.invalidate(name)
        database.hold(name)
        loading = worker.start(_workers.described, spec, name)
        database.wait_held(name)
        shop.cache.invalidate_tags(f"made-of:{name}")
        database.let_go(name)
        loading.result()
        assert shop.described.peek(name) is None
        shop.described(name)
        assert shop.described.peek(name) == f"{name} as it is"


def test_a_sweep_takes_all_primaries(
    cluster: ClusterTopology, spec: Spec, database: Database, open_synced: OpenShop
) -> None:
    """A glob invalidates its matches on every node, and only those."""
    shop = open_synced(spec)
    names = [f"n{n}" for n in range(300)]
    shop.get_all([*names, "tea"])
    slots = owners(cluster)
    assert len({slots[slot_of(shop.get.key(name))] for name in names}) == 3
    progress = shop.cache.invalidate("thing:get:n*", background=True)
    assert progress is not None
    assert progress.wait(PATIENCE)
    assert (progress.removed, progress.error) == (300, None)
    bare = open_synced(spec.but(local_ttl=0))
    assert not any(map(bare.get.peek, names))
    assert bare.get.peek("tea") == "tea as it is"


def test_a_sweep_asks_each_primary_for_its_slots_twice(
    cluster: ClusterTopology, spec: Spec, open_synced: OpenShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after; while nothing moves the map is not asked for, and no part is looked through a second time."""
    shop = open_synced(spec)
    asked: list[object] = []
    begin, ask_for_map = Pool.begin, Cluster._ask_for_map

    def noted(self: Pool, commands: Any, **options: Any) -> Any:
        asked.extend(command for command in commands if command[:2] == ("CLUSTER", "NODES"))
        return begin(self, commands, **options)

    def noted_map(self: Cluster, *args: Any) -> Any:
        asked.append("map")
        return ask_for_map(self, *args)

    monkeypatch.setattr(Pool, "begin", noted)
    monkeypatch.setattr(Cluster, "_ask_for_map", noted_map)
    progress = shop.cache.invalidate("thing:get:n*", background=True)
    assert progress is not None
    assert progress.wait(PATIENCE)
    assert asked == [("CLUSTER", "NODES")] * 6
    assert progress.scanned == 6  # leases and values on each


def test_a_lease_is_removed_before_its_key(spec: Spec, open_synced: OpenShop) -> None:
    """In an invalidation's commands, for where they are not carried out at once: else a load could store between."""
    remote = open_synced(spec).cache.engine.remote
    assert remote is not None
    (unlink, *_) = remote.commands.invalidations((), ("aik:v1:a:b:c",))
    assert unlink == ("UNLINK", remote.keyspace.lease("aik:v1:a:b:c"), "aik:v1:a:b:c")


def test_replicas_of_every_primary_are_waited_for(cluster: ClusterTopology, spec: Spec, open_synced: OpenShop) -> None:
    """With `invalidate_wait` an invalidation is unheard as long as any primary's replica has not got it."""
    shop = open_synced(spec.but(invalidate_wait=1, timeout=1))
    shop.cache.invalidate("thing")
    wait_until(lambda: shop.cache.stats().pending_invalidations == 0, PATIENCE, "the replicas")
    for replica in cluster.servers[3:]:
        replica.pause()
        try:
            shop.cache.invalidate("thing")
            assert shop.cache.stats().pending_invalidations == 1
        finally:
            replica.resume()
        wait_until(lambda: shop.cache.stats().pending_invalidations == 0, PATIENCE, "the replica")


# Many at once


def test_many_hits_are_one_round_trip_for_each_node(
    cluster: ClusterTopology, spec: Spec, open_synced: OpenShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred hits on three nodes, and the stamps that are not known, take one round trip to each."""
    shop, other = open_synced(spec), open_synced(spec.but(local_ttl=0))
    names = [f"n{n}" for n in range(100)]
    values = shop.get_all(names)
    counts = sends(monkeypatch)
    assert other.get_all(names) == values
    assert sorted(counts.values()) == [1, 1, 1]
    counts.clear()
    assert other.get.many([(name,) for name in names]) == list(values.values())
    assert sorted(counts.values()) == [1, 1, 1]


def test_many_misses_are_a_few_round_trips_for_each_node(
    spec: Spec, database: Database, open_synced: OpenShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values, stamps, leases and stores: each is one round trip to each node, however many the keys."""
    shop = open_synced(spec)
    shop.get_all([f"warm{n}" for n in range(30)])
    counts = sends(monkeypatch)
    names = [f"n{n}" for n in range(100)]
    assert shop.get_all(names) == {name: f"{name} as it is" for name in names}
    assert max(counts.values()) <= 4
    assert sum(database.loads(name) for name in names) == 100


@pytest.mark.parametrize("group", ["*", "thing", "thing:get", "#thing:tea"])
def test_a_foreign_value_is_removed_when_it_is_first_read(
    group: str, cluster: ClusterTopology, spec: Spec, database: Database, open_synced: OpenShop
) -> None:
    """A huge value, and a stamp of another type, are replaced by the call that meets them."""
    shop = open_synced(spec.but(local_ttl=0, max_value_bytes=1 << 20))
    key = shop.get.key("tea")
    ask(cluster, key, "SET", key, "x" * (20 << 20))
    name = stamp(spec, group)
    ask(cluster, name, "UNLINK", name)
    ask(cluster, name, "LPUSH", name, "x")
    assert shop.get("tea") == "tea as it is"
    assert ask(cluster, name, "STRLEN", name) == 8
    assert 0 < ask(cluster, key, "STRLEN", key) < 1000
    assert shop.get("tea") == "tea as it is"
    assert database.loads("tea") == 1


def test_a_batch_with_something_else_under_one_key(cluster: ClusterTopology, spec: Spec, open_synced: OpenShop) -> None:
    """A list under a key is a miss of that key alone, as with MGET on one server."""
    shop = open_synced(spec.but(local_ttl=0))
    shop.get_all(["a", "b", "c"])
    key = shop.get.key("b")
    ask(cluster, key, "DEL", key)
    ask(cluster, key, "LPUSH", key, "x")
    cluster_connections = inside(shop.cache)
    keys = [shop.get.key(name) for name in ("a", "b", "c")]
    found = cluster_connections.exchange([("MGET", *keys)])[0]
    assert [value is None for value in found] == [False, True, False]


# Nodes in trouble


def test_flushall_on_one_node_drops_all_local_values(
    cluster: ClusterTopology, spec: Spec, database: Database, open_synced: OpenShop
) -> None:
    """FLUSHALL on any one node empties the local tier, for a stamp may have been there."""
    shop = open_synced(spec)
    for server in cluster.primaries():
        wait_until(lambda: shop.get("tea") and shop.cache.stats().local_entries, PATIENCE, "what is held")
        cluster.ask(server, "FLUSHALL")
        wait_until(lambda: shop.cache.stats().local_entries == 0, PATIENCE, "the push")
        assert shop.get("tea") == "tea as it is"
    assert shop.cache.stats().errors == 0
    wait_until(lambda: shop.cache.stats().coherent, PATIENCE, "coherence")


def test_with_one_channel_cut_a_process_is_not_coherent(
    cluster: ClusterTopology, spec: Spec, database: Database, open_synced: OpenShop
) -> None:
    """When any one node's channel is cut, what is held is forgotten, and coherence returns with a new channel."""
    shop = open_synced(spec)
    for server in cluster.primaries():
        connects = shop.cache.stats().channel_connects
        shop.get("tea")
        for line in cluster.ask(server, "CLIENT", "LIST").decode().splitlines():
            if "name=aikcache-channel" in line:
                cluster.ask(server, "CLIENT", "KILL", "ID", line.split()[0].removeprefix("id="))
        wait_until(lambda least=connects: shop.cache.stats().channel_connects > least, PATIENCE, "a channel")  # type: ignore[misc]
        wait_until(lambda: shop.cache.stats().coherent, PATIENCE, "coherence")
        assert shop.cache.stats().local_entries == 0


def test_trusted_until_is_the_least_of_all_channels(
    cluster: ClusterTopology, spec: Spec, worker: Worker, database: Database, open_synced: OpenShop
) -> None:
    """While one node is silent, what others hold is trusted for `max_staleness` at most, although other nodes push."""
    shop = open_synced(spec.but(max_staleness=1.0, timeout=0.2, connect_timeout=1.0))
    names = on_each_node(cluster, shop.get.key, 1)
    silent = next(iter(cluster.primaries()))
    for (name,) in names.values():
        shop.get(name)
    silent.pause()
    try:
        wait_until(lambda: not shop.cache.stats().coherent, PATIENCE, "the end of coherence")
    finally:
        silent.resume()
    wait_until(lambda: shop.cache.stats().coherent, PATIENCE, "coherence")
    cluster.until(cluster.serving, "the cluster")


def test_scripts_are_sent_to_each_node_that_forgot_them(
    cluster: ClusterTopology, spec: Spec, database: Database, open_synced: OpenShop
) -> None:
    """SCRIPT FLUSH on any node costs a round trip, no error."""
    shop = open_synced(spec)
    for server in cluster.primaries():
        cluster.ask(server, "SCRIPT", "FLUSH")
    names = [f"n{n}" for n in range(30)]
    assert shop.get_all(names) == {name: f"{name} as it is" for name in names}
    assert [shop.get(name) for name in ("x", "y", "z")] == ["x as it is", "y as it is", "z as it is"]
    assert shop.cache.stats().errors == 0
    assert shop.cache.stats().writes == 33


def test_a_cache_leaves_nothing_behind(cluster: ClusterTopology, spec: Spec, open_synced: OpenShop) -> None:
    """After `close` no node has a connection of ours."""

    def ours() -> int:
        lists = [cluster.ask(server, "CLIENT", "LIST").decode() for server in cluster.servers]
        return sum(text.count("name=aikcache") for text in lists)

    wait_until(lambda: ours() == 0, PATIENCE, "connections of other tests")
    shop = open_synced(spec)
    shop.get_all([f"n{n}" for n in range(10)])
    assert ours() >= 6
    shop.cache.close()
    wait_until(lambda: ours() == 0, PATIENCE, "the end of the connections")


# Sessions


def test_sessions_and_their_ring_work_on_a_cluster(
    cluster: ClusterTopology, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records, indexes and the ring are each on a node of their own, and what matters is confirmed by replicas."""
    make_rings_patient(monkeypatch)
    with ExitStack() as stack:
        ring = stack.enter_context(closing(KeyRing(cluster.url, instance=instance, master_key=token_urlsafe(32))))
        arguments: dict[str, Any] = {"ring": ring, "instance": instance, "timeout": 10.0, "connect_timeout": 10.0}
        store = stack.enter_context(closing(SessionStore(cluster.url, **arguments)))
        wait_until(lambda: _loads(ring), PATIENCE, "the ring")
        cookies = []
        for number in range(12):
            session = store.open(None)
            session["n"] = number
            session.bind("user", "laptop")
            cookie = store.commit(session)
            assert isinstance(cookie, Set)
            cookies.append(cookie.value)
        assert [store.open(cookie)["n"] for cookie in cookies] == list(range(12))
        late = store.open(cookies[0])
        assert late["n"] == 0
        login = store.open(cookies[0])
        login.regenerate()
        cookie = store.commit(login)
        assert isinstance(cookie, Set)
        late["late"] = True
        assert store.commit(late) == Keep()
        assert dict(store.open(cookie.value)) == {"n": 0, "late": True}
        assert (len(store.sessions("user")), store.end_all("user"), store.sessions("user")) == (12, 12, [])
        assert [dict(store.open(cookie)) for cookie in cookies] == [{}] * 12


def _loads(ring: KeyRing) -> bool:
    try:
        ring.refresh()
    except RemoteError:
        return False
    return True
