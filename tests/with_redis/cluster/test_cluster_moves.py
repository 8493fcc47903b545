"""A Redis Cluster that changes under load: slots move, nodes come, primaries die and restart."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from aikcache import Cache
from aikcache._coherence import channel as _channel
from aikcache._coherence import cluster_channel, pending
from aikcache._coherence.cluster_channel import ClusterChannel, _PrimaryChannel
from aikcache._engine.fleet import Fleet
from aikcache._engine.tally import Tally
from aikcache._keys.patterns import Invalidation
from aikcache._redis.cluster.client import Cluster
from aikcache._redis.cluster.scouts import Scouts
from aikcache._redis.cluster.topology import Address, slot_of
from aikcache.errors import RemoteError, RemoteUnavailableError
from aikcache.testing import Server, wait_until
from aikcache.testing.cluster import ClusterTopology

from .._load import Load
from .._staging import lose_a_reply
from .._workers import PATIENCE, PATIENT, Background, connect

ROWS = 60
TAKEOVER = 90.0
"""Seconds until a replica has taken over: an election that comes to nothing is held again eight seconds later."""
OpenCache = Callable[..., Cache]


@pytest.fixture(scope="module", autouse=True)
def both_in_ci(binary: Path) -> None:
    """These take their time, and both servers passed them: elsewhere than in CI one is enough."""
    if "valkey" not in binary.name and os.environ.get("AIKCACHE_REQUIRE_SERVERS") != "1":
        pytest.skip("moves of a Redis cluster are tested in CI (AIKCACHE_REQUIRE_SERVERS=1)")


@pytest.fixture(scope="module")
def plain(binary: Path) -> Iterator[ClusterTopology]:
    """Three primaries without replicas, for moving slots about, and for restarts that nobody takes over from."""
    with ClusterTopology(binary=binary, replicas=0, node_timeout_ms=600_000) as topology:  # however slow the machine is
        yield topology


@pytest.fixture
def doubled(binary: Path) -> Iterator[ClusterTopology]:
    """Three primaries with a replica each, for failovers: `shorten_timeout` makes a stopped one count as down soon."""
    with ClusterTopology(binary=binary) as topology:
        yield topology


def shorten_timeout(topology: ClusterTopology) -> None:
    """From now on a node counts as down after two seconds of silence."""
    topology.set_node_timeout(2000)


@pytest.fixture
def open_cache(instance: str) -> Iterator[OpenCache]:
    """Opens caches that are connected to all nodes and receive all pushes."""
    with ExitStack() as stack:

        def opened(topology: ClusterTopology, **settings: Any) -> Cache:
            cache = stack.enter_context(closing(Cache(topology.url, instance=instance, **settings)))
            connect(cache)
            return cache

        yield opened


def function(cache: Cache, load: Callable[[str], str]) -> Callable[[str], str]:
    @cache.cached("row", operation="get", tags=("row:{n}",))
    def get(n: str) -> str:
        return load(n)

    return get


def row_slot(cache: Cache, n: int) -> int:
    return slot_of(cache.key("row", "get", n))


def another(topology: ClusterTopology, slot: int) -> Server:
    """A primary that does not own the slot."""
    owner = topology.owner(slot)
    return next(server for server in topology.primaries() if server is not owner)


# Slots that move


@pytest.mark.parametrize("to", ["a primary", "a new node"])
def test_everything_works_in_a_moving_slot(to: str, plain: ClusterTopology, open_cache: OpenCache) -> None:
    """Between the first step of moving a slot and the last, calls are answered and invalidations arrive at once."""
    mine, other = open_cache(plain, **PATIENT), open_cache(plain, **PATIENT)
    database = {"tea": "1", "mate": "1"}
    get, get_other = function(mine, database.__getitem__), function(other, database.__getitem__)
    slot = slot_of(mine.key("row", "get", "tea"))
    target = plain.add() if to == "a new node" else another(plain, slot)
    for cache in (mine, other):
        channels = cache.engine.channel
        assert isinstance(channels, ClusterChannel)
        wait_until(lambda found=channels._by_address: len(found) == len(plain.servers), PATIENCE, "all channels")  # type: ignore[misc]
        wait_until(lambda cache=cache: cache.stats().coherent, PATIENCE, "coherence")  # type: ignore[misc]
    assert get("tea") == get_other("tea") == "1"
    source = plain.begin_move(slot, target)
    for version in ("2", "3", "4"):  # the first is still where it was; from the second on the way is half gone
        database["tea"] = version
        assert get_other("tea") != version
        mine.invalidate("row:get:tea")
        assert get("tea") == version
        wait_until(lambda version=version: get_other("tea") == version, PATIENCE, "the push")  # type: ignore[misc]
        plain.move_keys(slot, source, target, 1)
    mine.set("row:get:tea", "set by hand")  # a lease cannot be had there: what stood has ended, nothing is stored
    assert mine.get("row:get:tea") is None
    plain.end_move(slot, target)
    mine.set("row:get:tea", "set by hand")
    assert mine.get("row:get:tea") == "set by hand"
    assert plain.ask(target, "CLUSTER", "COUNTKEYSINSLOT", slot) == 1
    mine.invalidate("row:get:tea")
    assert get("tea") == "4"
    loads_before = mine.stats().loads
    assert get_other("tea") == "4"
    assert mine.stats().loads == loads_before
    assert plain.ask(target, "CLUSTER", "COUNTKEYSINSLOT", slot) >= 1
    assert mine.stats().pending_invalidations == other.stats().pending_invalidations == 0


def test_the_figures_of_all_processes_while_their_slot_moves(plain: ClusterTopology, open_cache: OpenCache) -> None:
    """Each reading is whole or an error, wherever the snapshots are by then; after the move all are there."""
    remote = open_cache(plain, publish_interval=None).engine.remote
    assert remote is not None
    members = [Fleet(remote, "moved", Tally(), 3600.0) for _ in range(3)]

    def total() -> float:
        reading, alive = members[0].read(PATIENCE)
        assert len(alive) == 3
        return reading.samples["breaker_changes"]["open",]

    for member in members:
        member._tally.breaker_changes["open"] = 5
        member.publish(PATIENCE)
    assert total() == 15
    slot = slot_of(f"{remote.keyspace.namespace_prefix}!{{fleet:moved}}:list")
    target = another(plain, slot)
    source = plain.begin_move(slot, target)
    while plain.move_keys(slot, source, target, 1):
        with suppress(RemoteError):
            assert total() == 15
    plain.end_move(slot, target)
    assert wait_until(lambda: _unless_moving(total), PATIENCE) == 15


def _unless_moving(total: Callable[[], float]) -> float | None:
    try:
        return total()
    except RemoteError:
        return None


def test_slots_move_under_load(plain: ClusterTopology, open_cache: OpenCache) -> None:
    """While slots go to other primaries and to a new one, no call fails and none is answered too old a value."""
    caches = [open_cache(plain, **{**PATIENT, "max_staleness": 2}) for _ in range(3)]
    load = Load(caches, ROWS, bound=2)
    stamps = [caches[0].space.stamp(group) for group in ("*", "row", "row:get", "#", "#row:1", "#row:2")]
    slots = {*(row_slot(caches[0], n) for n in range(0, ROWS, 3)), *map(slot_of, stamps)}
    with load.running():
        wait_until(lambda: load.writes > 100, PATIENCE, "the load")
        new = plain.add()
        for i, slot in enumerate(sorted(slots)):
            target = new if i % 3 == 0 else another(plain, slot)
            source = plain.begin_move(slot, target)
            plain.move_keys(slot, source, target)
            plain.end_move(slot, target)
        done = load.writes
        wait_until(lambda: load.writes > done + 100, PATIENCE, "the load")
    wait_until(load.settled, PATIENCE, "the last versions")
    assert all(cache.stats().pending_invalidations == 0 for cache in caches)
    wait_until(lambda: all(cache.stats().coherent for cache in caches), PATIENCE, "coherence")


def test_a_sweep_while_slots_move(plain: ClusterTopology, open_cache: OpenCache) -> None:
    """Keys that change nodes while a glob is swept do not escape it."""
    cache = open_cache(plain, local_ttl=0, **PATIENT)
    names = [f"n{n}" for n in range(400)]
    slots = sorted({slot_of(cache.key("row", "get", name)) for name in names})[:40]
    stop = threading.Event()

    def move() -> None:
        for slot in itertools.cycle(slots):
            if stop.is_set():
                return
            plain.move(slot, another(plain, slot))

    mover = threading.Thread(target=move, daemon=True)
    get = function(cache, lambda n: n)
    mover.start()
    try:
        for _ in range(5):
            cache.set_many({f"row:get:{name}": name for name in names})
            cache.invalidate("row:get:n*")
            assert cache.get_many([f"row:get:{name}" for name in names]) == {}
    finally:
        stop.set()
        mover.join(PATIENCE)
    assert get("n1") == "n1"


def test_a_new_primary_is_listened_to(plain: ClusterTopology, open_cache: OpenCache) -> None:
    """A node that joins without slots gets a channel within the bound, and is one more to be live."""
    cache = open_cache(plain)
    before = cache.stats().channel_connects
    plain.add()
    wait_until(lambda: cache.stats().channel_connects > before, PATIENCE, "another channel")
    wait_until(lambda: cache.stats().coherent, PATIENCE, "coherence")


# Primaries that die


@pytest.mark.parametrize("how", ["killed", "paused", "asked to"])
def test_a_primary_gives_way_under_load(how: str, doubled: ClusterTopology, open_cache: OpenCache) -> None:
    """While a replica takes over, no call fails or returns too old a value, and no invalidation is lost."""
    caches = [open_cache(doubled, breaker_reset=0.2) for _ in range(3)]
    load = Load(caches, ROWS, bound=5.0)
    first, replica = doubled.servers[0], doubled.servers[3]
    with load.running():
        wait_until(lambda: load.writes > 100, PATIENCE, "the load")
        shorten_timeout(doubled)
        if how == "killed":
            first.kill()
        elif how == "paused":
            first.pause()
        else:
            doubled.promote(replica)
        wait_until(lambda: doubled.ask(replica, "ROLE")[0] == b"master", TAKEOVER, "the promotion")
        wait_until(lambda: all(cache.stats().coherent for cache in caches), PATIENCE, "coherence")
        done = load.writes
        wait_until(lambda: load.writes > done + 200, PATIENCE, "the load")
        first.resume() if how == "paused" else None
    wait_until(lambda: sum(cache.stats().pending_invalidations for cache in caches) == 0, PATIENCE, "what is pending")
    wait_until(load.settled, PATIENCE, "the last versions")


def test_invalidations_that_were_not_replicated_are_sent_to_the_new_primary(
    doubled: ClusterTopology, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invalidation that only the killed primary had is effective again when its replica has taken over."""
    monkeypatch.setattr(pending, "JUST_STARTED", 0)  # else all would be ended, for the replica has just started
    cache = open_cache(doubled, local_ttl=0, breaker_reset=0.2)
    other = open_cache(doubled, local_ttl=0, breaker_reset=0.2)
    database: dict[str, str] = {}
    get, get_other = function(cache, database.__getitem__), function(other, database.__getitem__)
    first, replica = doubled.servers[0], doubled.servers[3]
    names = [f"n{n}" for n in range(1000) if doubled_owner(doubled, cache, f"n{n}") is first][:10]
    for name in names:
        database[name] = "old"
        assert get(name) == "old"
    wait_until(lambda: doubled.ask(replica, "DBSIZE") == doubled.ask(first, "DBSIZE"), PATIENCE, "the replica")
    replica.pause()
    assert doubled.ask(first, "CLIENT", "KILL", "TYPE", "replica") == 1  # nor does it find anything in its socket later
    for name in names:
        database[name] = "new"
        cache.invalidate(f"row:get:{name}")
    assert cache.stats().pending_invalidations == 0
    first.kill()
    replica.resume()
    shorten_timeout(doubled)
    wait_until(lambda: doubled.ask(replica, "ROLE")[0] == b"master", TAKEOVER, "the promotion")
    wait_until(lambda: cache.stats().coherent and other.stats().coherent, PATIENCE, "coherence")
    assert [get(name) for name in names] == ["new"] * 10
    assert [get_other(name) for name in names] == ["new"] * 10


def test_connection_attempts_to_a_replaced_primary_are_interrupted(
    doubled: ClusterTopology, open_cache: OpenCache
) -> None:
    """A call that connects to a primary that hangs ends when its replica takes over, long before the time for it."""
    cache = open_cache(doubled, local_ttl=0, connect_timeout=600)
    get = function(cache, lambda n: n)
    first, replica = doubled.servers[0], doubled.servers[3]
    name = next(f"n{n}" for n in range(1000) if doubled_owner(doubled, cache, f"n{n}") is first)
    assert get(name) == name
    cluster, address = cache.engine.remote.connections, ("127.0.0.1", first.port or 0)  # type: ignore[union-attr]
    assert isinstance(cluster, Cluster)
    node, scout = cluster.node(address), cluster.scouts.at(address)
    first.pause()
    for connections in (node, scout):
        connections.drop_idle()
    call, view = Background(get, name), Background(cluster.scouts.view, address)
    wait_until(lambda: node._connecting and scout._connecting, PATIENCE, "the connections")
    shorten_timeout(doubled)
    wait_until(lambda: doubled.ask(replica, "ROLE")[0] == b"master", TAKEOVER, "the promotion")
    assert call.result() == name
    with pytest.raises(RemoteUnavailableError):
        view.result()
    wait_until(lambda: not node._connecting, PATIENCE, "the channel's connection")


def test_a_takeover_is_noticed_by_fast_heartbeats(
    doubled: ClusterTopology, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a primary hangs the others are asked before their next heartbeat is due, whether anybody calls or not."""
    cache = open_cache(doubled)
    for module in (_channel, cluster_channel):
        monkeypatch.setattr(module, "HEARTBEAT", 600)
    wait_until(cache.engine.channel.missed, PATIENCE, "the last heartbeat")  # type: ignore[union-attr]
    first, replica = doubled.servers[0], doubled.servers[3]
    shorten_timeout(doubled)
    first.pause()
    cluster = cache.engine.remote.connections  # type: ignore[union-attr]
    primaries = {("127.0.0.1", server.port or 0) for server in (*doubled.servers[1:3], replica)}
    wait_until(lambda: cluster.topology.primaries == primaries, TAKEOVER, "the promotion")  # type: ignore[union-attr]


def test_a_hung_primary_can_be_replaced_before_it_counts_as_down(
    doubled: ClusterTopology, open_cache: OpenCache
) -> None:
    """Both ways round: meanwhile the nodes list both, in an order that stays. Nobody's timeout is waited for."""
    doubled.set_node_timeout(3_600_000)
    cache = open_cache(doubled, local_ttl=0, breaker_reset=0.2)
    cluster = cache.engine.remote.connections  # type: ignore[union-attr]
    assert isinstance(cluster, Cluster)
    first, replica = doubled.servers[0], doubled.servers[3]
    name = next(f"n{n}" for n in range(1000) if doubled_owner(doubled, cache, f"n{n}") is first)
    key = f"row:get:{name}"
    slot = slot_of(cache.space.full(key))
    for number, (old, new) in enumerate([(first, replica), (replica, first)]):
        wait_until(lambda new=new: doubled.in_step(new), TAKEOVER, "the replica")  # type: ignore[misc]
        old.pause()
        doubled.ask(new, "CLUSTER", "FAILOVER", "TAKEOVER")
        address = ("127.0.0.1", new.port)

        def owned(address: object = address) -> bool:
            return cluster.topology is not None and cluster.topology.owners.get(slot) == address

        def used(number: int = number) -> bool:
            cache.set(key, number)
            return bool(cache.get(key) == number)

        wait_until(owned, TAKEOVER, "the new owner to be known")
        wait_until(used, TAKEOVER, "the new owner to be used")
        assert all("fail" not in flags.split(",") for _, flags, *_ in doubled.nodes(new))
        old.resume()


def test_other_channels_do_not_wait_for_a_missing_primary(plain: ClusterTopology, open_cache: OpenCache) -> None:
    """While one hangs, and an invalidation waits for it, the others' heartbeats go on: they show who takes over."""
    cache = open_cache(plain, connect_timeout=600)
    silent = plain.servers[0]
    name = next(f"n{n}" for n in range(1000) if doubled_owner(plain, cache, f"n{n}") is silent)
    channels = cache.engine.channel
    assert isinstance(channels, ClusterChannel)
    silent.pause()
    try:
        wait_until(channels.missed, PATIENCE, "its absence")
        cache.engine.recovery.add(Invalidation(keys=(cache.key("row", "get", name),)))  # type: ignore[union-attr]
        later = time.monotonic() + 2 * _channel.HEARTBEAT
        others = [one for one in channels._by_address.values() if one.address[1] != silent.port]
        wait_until(lambda: all((one.alive_at or 0) > later for one in others), PATIENCE, "two more heartbeats")
    finally:
        silent.resume()
    wait_until(lambda: cache.stats().pending_invalidations == 0, PATIENCE, "the replay")


def test_a_process_that_starts_while_one_of_three_primaries_hangs_uses_the_others(
    plain: ClusterTopology, open_cache: OpenCache, instance: str
) -> None:
    """Two of three are a majority."""
    cache = open_cache(plain)
    of_all = plain.owner(slot_of(cache.space.stamp("*")))
    silent = next(server for server in plain.primaries() if server is not of_all)

    def apart(prefix: str) -> bool:
        names = cache.space.full(f"{prefix}:get:it"), *map(cache.space.stamp, (prefix, f"{prefix}:get"))
        return all(plain.owner(slot_of(name)) is not silent for name in names)

    key = next(f"row{n}:get:it" for n in range(1000) if apart(f"row{n}"))
    cache.set(key, "kept")
    silent.pause()
    try:
        with closing(Cache(plain.url, instance=instance, local_ttl=0)) as begun:
            wait_until(lambda: begun.get(key) == "kept", PATIENCE, "the value")
            assert not begun.stats().coherent
    finally:
        silent.resume()


def test_pending_invalidations_are_sent_although_a_primary_stays_missing(
    plain: ClusterTopology, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a process that calls nothing: others may be waiting for it, at the primaries that are there."""
    cache = open_cache(plain)
    monkeypatch.setattr(ClusterChannel, "missed", lambda channels: True)
    monkeypatch.setattr(cluster_channel, "SELDOM", 0)
    cache.engine.recovery.add(Invalidation(keys=("some:key",)))  # type: ignore[union-attr]
    wait_until(lambda: cache.stats().pending_invalidations == 0, PATIENCE, "the replay")


def test_a_channel_survives_a_needless_look_at_the_topology(
    plain: ClusterTopology, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing has changed by the numbers, a view that cannot be had is no reason to give a channel up."""
    cache = open_cache(plain)
    looks: Counter[Address] = Counter()

    def view(scouts: Scouts, address: Address) -> None:
        looks[address] += 1
        raise RemoteUnavailableError("staged")

    channels = cache.engine.channel
    assert isinstance(channels, ClusterChannel)
    wait_until(
        lambda: not any(one._changing for one in channels._by_address.values()), PATIENCE, "all to be looked at again"
    )
    monkeypatch.setattr(ClusterChannel, "missed", lambda channels: True)
    monkeypatch.setattr(Scouts, "view", view)
    monkeypatch.setattr(_channel, "SILENCE", 10 * PATIENCE)  # nor is a busy machine one
    connects = cache.stats().channel_connects
    wait_until(lambda: all(looks[address] > 1 for address in channels._by_address), PATIENCE, "two looks at each")
    assert cache.stats().channel_connects == connects


def test_after_a_change_the_topology_is_read_twice(
    plain: ClusterTopology, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much time has passed: who lost its slots may still have been a primary the first time."""
    monkeypatch.setattr(cluster_channel, "AFTER_CHANGE", 0)
    looks: Counter[Address] = Counter()
    look = Cluster.refresh_view

    def counted(cluster: Cluster, address: Address) -> bool:
        looks[address] += 1
        return look(cluster, address)

    monkeypatch.setattr(Cluster, "refresh_view", counted)
    channels = open_cache(plain).engine.channel
    assert isinstance(channels, ClusterChannel)
    wait_until(lambda: all(looks[address] > 1 for address in channels._by_address), PATIENCE, "second looks")


def test_a_primary_that_takes_over_again_is_sent_invalidations_again(
    doubled: ClusterTopology, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was replaced, and gives nothing away but that by one slot: over its old connections it would not be met."""
    cache = open_cache(doubled, max_staleness=600)  # or a call would ask most primaries, and so learn what they see
    cluster = cache.engine.remote.connections  # type: ignore[union-attr]
    assert isinstance(cluster, Cluster)
    first, replica = doubled.servers[0], doubled.servers[3]
    node = cluster.node(("127.0.0.1", first.port or 0))
    name = next(f"n{n}" for n in range(1000) if doubled_owner(doubled, cache, f"n{n}") is first)
    # As if no node gave a view in time: all that is known is what was moved.
    monkeypatch.setattr(Cluster, "refresh", lambda *args, **options: None)
    monkeypatch.setattr(Cluster, "refresh_view", lambda *args: False)
    monkeypatch.setattr(_PrimaryChannel, "_check_takeover", lambda primary: None)
    for successor in (replica, first):
        doubled.promote(successor)
        run, there = run_of(doubled, successor), ("127.0.0.1", successor.port or 0)

        def announced(run: str = run, there: Address = there) -> bool:
            cache.invalidate(f"row:get:{name}")
            return cluster.node(there).run_id == run

        wait_until(announced, PATIENCE, "the announcement")
    assert cluster.node(("127.0.0.1", first.port or 0)) is node


def test_a_primary_that_was_replaced_between_two_heartbeats_is_sent_invalidations_again(
    doubled: ClusterTopology, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was no call meanwhile, and the topology is unchanged: the epoch shows it."""
    cache = open_cache(doubled)
    channels = cache.engine.channel
    assert isinstance(channels, ClusterChannel)
    first, replica = doubled.servers[0], doubled.servers[3]
    with monkeypatch.context() as quiet:
        quiet.setattr(_channel, "HEARTBEAT", 600)
        quiet.setattr(ClusterChannel, "missed", lambda channels: False)
        primaries = list(channels._by_address.values())
        wait_until(lambda: not any(p.fast_heartbeat() or p.channel._pinged for p in primaries), PATIENCE, "silence")
        for successor in (replica, first):
            doubled.promote(successor)
    run, there = run_of(doubled, first), ("127.0.0.1", first.port or 0)
    # The view of a node that lags drops the pool, and the next view makes another.
    wait_until(lambda: channels.cluster.node(there).run_id == run, PATIENCE, "the greeting")
    wait_until(lambda: cache.stats().coherent, PATIENCE, "coherence")


def test_a_primary_that_gets_its_slots_back_is_sent_invalidations_again(
    plain: ClusterTopology, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Views that are behind gave its slots to another for a moment, which may have received what it has not."""
    monkeypatch.setattr(pending, "JUST_STARTED", 0)
    cache = open_cache(plain, local_ttl=0)
    cluster = cache.engine.remote.connections  # type: ignore[union-attr]
    assert isinstance(cluster, Cluster)
    database = {"tea": "old"}
    get = function(cache, database.__getitem__)
    assert get("tea") == "old"
    stamp = cache.space.stamp("row:get")
    server = plain.owner(slot_of(stamp))
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        before = client.get(stamp)
        database["tea"] = "new"
        cache.invalidate("row:get")
        client.set(stamp, before)  # as if it had gone to another
    monkeypatch.setattr(Cluster, "refresh_view", lambda *args: False)
    monkeypatch.setattr(Cluster, "refresh", lambda *args, **options: None)
    view, owner = cluster.topology, ("127.0.0.1", server.port or 0)
    assert view is not None
    other = next(address for address in view.owners.values() if address != owner)
    run = cluster.node(owner).run_id
    behind = {slot: other if address == owner else address for slot, address in view.owners.items()}
    cluster._install(replace(view, owners=behind))
    cluster._install(view)
    assert get("tea") == "new"
    assert cluster.node(owner).run_id == run


def test_a_takeover_that_lost_the_stamp_of_any_tag_revives_nothing_on_other_nodes(
    plain: ClusterTopology, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load from before an invalidation, stored meanwhile under the tag's new stamp, is invalidated with it."""
    monkeypatch.setattr(pending, "JUST_STARTED", 0)
    mine, other = open_cache(plain, local_ttl=0), open_cache(plain, local_ttl=0)
    database, loading, go = {"tea": "old"}, threading.Event(), threading.Event()
    of_any = mine.space.stamp("#")
    server = plain.owner(slot_of(of_any))
    tags = (f"tag {n}" for n in itertools.count())
    tag = next(tag for tag in tags if plain.owner(slot_of(mine.space.stamp(f"#{tag}"))) is not server)

    def load(n: str) -> str:
        found = database[n]
        loading.set()
        assert go.wait(PATIENCE)
        return found

    get, get_other = (cache.cached("row", operation="get", tags=lambda row, n: (tag,))(load) for cache in (mine, other))
    early = Background(get_other, "tea")
    assert loading.wait(PATIENCE)
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        before = client.get(of_any)
        database["tea"] = "new"
        mine.invalidate_tags(tag)
        client.set(of_any, before)  # as who takes over has it, who has not received the last
    go.set()
    assert early.result() == "old"
    node = mine.engine.remote.connections.node(("127.0.0.1", server.port or 0))  # type: ignore[union-attr]
    node._identity.run_id = "the one before"
    node.begin_generation()
    node.exchange([("PING",)])  # it is greeted
    assert get("tea") == "new"


def run_of(topology: ClusterTopology, server: Server) -> str:
    """As `Pool` calls it: a process from its start, or its promotion, on."""
    lines = b"".join(topology.ask(server, "INFO", section) for section in ("server", "replication")).decode()
    facts = dict(line.split(":", 1) for line in lines.splitlines() if ":" in line)
    return f"{facts['run_id']}-{facts['master_replid']}"


def doubled_owner(topology: ClusterTopology, cache: Cache, name: str) -> Server:
    """Which of the first three primaries has a row."""
    return topology.servers[slot_of(cache.key("row", "get", name)) * 3 // 16384]


def test_an_invalidation_whose_reply_was_lost_revives_nothing_when_it_is_sent_again(
    plain: ClusterTopology, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was stored and invalidated between an invalidation and its second sending stays invalidated."""
    here, there = open_cache(plain, **PATIENT), open_cache(plain, **PATIENT)
    database = {"tea": "old"}
    get = function(there, database.__getitem__)

    def meanwhile() -> None:
        assert get("tea") == "old"
        database["tea"] = "new"
        there.invalidate("row")

    lose_a_reply(monkeypatch, here, meanwhile)
    here.invalidate("row")
    assert get("tea") == "new"


# Primaries that restart


@pytest.mark.parametrize("what", ["its keys", "stamps of others' keys"])
def test_data_that_a_primary_restored_is_invalidated(what: str, plain: ClusterTopology, open_cache: OpenCache) -> None:
    """A primary that comes back with an old state brings back neither its values nor others' under its old stamps."""
    cache = open_cache(plain, **PATIENT)
    everything = plain.owner(slot_of(cache.space.stamp("*")))
    database = {"tea": "old"}
    get = function(cache, database.__getitem__)
    tag = cache.space.stamp("#row:tea")
    name = cache.key("row", "get", "tea") if what == "its keys" else tag
    slot = slot_of(name)
    if plain.owner(slot) is everything:  # the harder case: the stamp of everything is elsewhere, and stays
        plain.move(slot, another(plain, slot))
    server = plain.owner(slot)
    assert get("tea") == "old"
    plain.ask(server, "SAVE")
    database["tea"] = "new"
    if what == "its keys":
        cache.invalidate("row:get:tea")
    else:
        cache.invalidate_tags("row:tea")
    late = open_cache(plain, breaker_reset=0.2)  # has nothing to replay
    cache.close()
    server.kill()
    server.restart()
    plain.until(lambda: plain.serving(server), "the restarted node")
    assert plain.ask(server, "EXISTS", name) == 1
    get_late = function(late, database.__getitem__)
    wait_until(lambda: late.stats().coherent, PATIENCE, "coherence")
    assert get_late("tea") == "new"


def test_after_a_fork_the_child_has_its_own(plain: ClusterTopology, open_cache: OpenCache) -> None:
    """A forked child connects anew, receives all pushes, and leaves the parent's connections alone."""
    cache = open_cache(plain, **PATIENT)
    get = function(cache, lambda n: n)
    assert get("a") == "a"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            ok = get("b") == "b" and cache.wait_coherent(PATIENCE) and cache.stats().errors == 0
            cache.invalidate("row:get:a")
            code = 0 if ok and cache.stats().pending_invalidations == 0 else 2
        finally:
            os._exit(code)
    deadline = time.monotonic() + 2 * PATIENCE
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    assert os.waitstatus_to_exitcode(done[1]) == 0
    wait_until(lambda: cache.stats().coherent, PATIENCE, "coherence")
    assert get("b") == "b"
    assert cache.stats().errors == 0
