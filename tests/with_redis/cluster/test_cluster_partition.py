"""A cluster cut in two while somebody forces a takeover: the side that keeps the old primary, and what it may believe.

That primary answers until it notices, which here takes ten minutes. What is cut is a real network, of two namespaces.
When something is old is said by what happened, never by a clock.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from aikcache._coherence import pending
from aikcache._keys.keyspace import Keyspace
from aikcache._redis.cluster.topology import SLOTS, slot_of
from aikcache._redis.sides import Sides
from aikcache.testing import Server, wait_until
from aikcache.testing.cluster import ClusterTopology

from .._workers import Database, Shop, Spec, Worker, close_shops, connect

pytestmark = pytest.mark.skipif(not Sides.possible(), reason="needs Linux, iproute2 and CAP_NET_ADMIN")

PATIENCE = 120.0
SETTINGS: dict[str, Any] = {"max_staleness": 2.0, "timeout": 1.0, "connect_timeout": 2.0, "breaker_failures": 1}


def run(spec: Spec, function: Callable[..., Any], *args: Any) -> Any:
    from .. import _workers

    pending.JUST_STARTED = -1  # as with servers that have run for long
    return function(_workers.shop(spec), *args)


def read(shop: Shop, name: str) -> str:
    return shop.get(name)


def ready(shop: Shop, name: str) -> str:
    connect(shop.cache)
    return shop.get(name)


def read_until_new(shop: Shop, name: str) -> None:
    wait_until(lambda: shop.get(name) == "new", PATIENCE, "the new value")


def read_on(shop: Shop, name: str) -> set[str]:
    """What many reads give, in memory or not."""
    seen = set()
    for number in range(50):
        if number % 5 == 0:
            shop.cache.engine.local.drop_group("*")  # as if it had been evicted
        seen.add(shop.get(name))
    return seen


def update(shop: Shop, name: str) -> None:
    """Give something a new value; returns when it has reached the new primary."""
    wait_until(lambda: shop.cache.stats().coherent, PATIENCE, "the new primary")
    shop.update(name, "new")
    wait_until(lambda: not shop.cache.stats().pending_invalidations, PATIENCE, "what is pending")


def state(shop: Shop) -> tuple[bool, bool]:
    return shop.cache.stats().coherent, shop.cache.health().ok


def used(shop: Shop) -> None:
    wait_until(lambda: shop.cache.health().ok and shop.cache.stats().coherent, PATIENCE, "the cluster")


class Net(NamedTuple):
    """The cluster, and a process on each side. `here` keeps the first primary alone, `there` has all others."""

    sides: Sides
    topology: ClusterTopology
    here: Worker
    there: Worker
    spec: Spec
    name: str
    """Something whose entry and stamps are all on the first primary."""

    def tell(self, worker: Worker, function: Callable[..., Any], *args: Any, spec: Spec | None = None) -> Any:
        return worker.start(run, spec or self.spec, function, *args).result(PATIENCE + 10)

    def cut(self) -> None:
        """Cut the network, and force the takeover that no majority was asked for."""
        old, new = self.topology.servers[0], self.topology.servers[3]
        self.topology.until(lambda: self.topology.in_step(new), "the replica")
        offset = self.topology.ask(old, "ROLE")[1]
        self.topology.until(lambda: self.topology.ask(new, "ROLE")[4] >= offset, "the replica to have it all")
        self.sides.cut()
        self.topology.ask(new, "CLUSTER", "FAILOVER", "TAKEOVER")
        self.topology.until(lambda: all(self.owns(new, server) for server in self.topology.servers[1:3]), "the others")

    def owns(self, owner: Server, view: Server) -> bool:
        """Whether a node owns slots as another sees it."""
        name = self.topology.id(owner)
        return any(fields[0] == name and len(fields) > 7 for fields in self.topology.nodes(view))

    def alone(self) -> bool:
        """Whether the old primary still takes itself for one, and serves."""
        old = self.topology.servers[0]
        return self.topology.ask(old, "ROLE")[0] == b"master" and self.topology.serving(old)


def on_first(instance: str) -> tuple[str, str]:
    """An instance and a name of which all that a read needs is in the first third of the slots."""

    def first(name: str) -> bool:
        return slot_of(name) < SLOTS // 3

    def fits(keyspace: Keyspace) -> bool:
        return all(first(keyspace.stamp(group)) for group in ("*", "thing", "thing:get", "#", "#things"))

    def holds(name: str) -> bool:
        return first(f"{keyspace.namespace_prefix}thing:get:{name}") and first(keyspace.stamp(f"#thing:{name}"))

    keyspaces = (Keyspace(f"{instance}-{number}", "v1") for number in itertools.count())
    keyspace = next(filter(fits, keyspaces))
    return keyspace.namespace_prefix.split(":")[0], next(filter(holds, map("box{}".format, itertools.count())))


@pytest.fixture
def net(binary: Path, redis_url: str, instance: str) -> Iterator[Net]:
    with ExitStack() as stack:
        sides = stack.enter_context(Sides())
        spread = [sides.one, *[sides.other] * 5]
        topology = stack.enter_context(ClusterTopology(binary=binary, node_timeout_ms=600_000, sides=spread))
        crew: list[Worker] = []
        for side in (sides.one, sides.other):
            with side.inside():
                crew.append(Worker())
            stack.callback(crew[-1].stop)
        for worker in crew:
            worker.start(close_shops).result(PATIENCE)  # starting an interpreter takes time
        own, name = on_first(instance)
        database = Database(redis_url, instance)
        stack.callback(database.close)
        spec = Spec(topology.url, own, database=redis_url, realm=instance).but(**SETTINGS)
        database.put(name, "old")
        net = Net(sides, topology, crew[0], crew[1], spec, name)
        for worker in crew:
            assert net.tell(worker, ready, name) == "old"
        yield net


def test_a_process_beside_a_primary_that_was_cut_off_and_replaced_stops_trusting_it(net: Net) -> None:
    net.cut()
    net.tell(net.there, update, net.name)
    assert net.tell(net.there, read_on, net.name) == {"new"}
    net.tell(net.here, read_until_new, net.name)
    assert net.tell(net.here, read_on, net.name) == {"new"}
    assert net.tell(net.here, state) == (False, False)
    assert net.alone()  # so the test was about one that still takes itself for the primary
    net.sides.join()
    net.tell(net.here, used)
    assert net.tell(net.here, read_on, net.name) == {"new"}


def test_a_process_that_starts_beside_such_a_primary_does_not_trust_it(net: Net) -> None:
    """A process that was started after the cut has never reached another primary."""
    net.cut()
    net.tell(net.there, update, net.name)
    for settings in ({}, {"local_ttl": 0}, {"consistency": "strong"}):
        begun = net.spec.but(breaker_reset=PATIENCE, **settings)  # another cache than the open one
        assert net.tell(net.here, read_on, net.name, spec=begun) == {"new"}
    assert net.alone()
