"""A network cut in two behind Sentinel: the side that keeps the old primary and its Sentinel, and what it may believe.

What is cut is a real network, of two namespaces; only the servers are asked across it, by their unix sockets. When
something is old is said by what happened, never by a clock: a process on the wrong side is waited for until it gives
what is new while the network is still cut, and may not go back from there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from aikcache._coherence import pending, recent
from aikcache._redis.sides import Side, Sides
from aikcache.errors import AikcacheError
from aikcache.testing import wait_until
from aikcache.testing.sentinel import SERVICE, Topology

from .._workers import Database, Shop, Spec, Worker, close_shops, connect

pytestmark = pytest.mark.skipif(not Sides.possible(), reason="needs Linux, iproute2 and CAP_NET_ADMIN")

PATIENCE = 120.0
BOX, OTHER, LATER = "box", "other", "later"
SETTINGS: dict[str, Any] = {
    "max_staleness": 2.0,
    "timeout": 1.0,
    "connect_timeout": 2.0,
    "breaker_reset": 0.2,
    "lease_wait": 60.0,
}


class Net(NamedTuple):
    """A topology cut in two, and a process on each side. `here` keeps the old primary, `there` gets the new one."""

    sides: Sides
    topology: Topology
    here: Worker
    there: Worker
    spec: Spec
    database: Database

    def cut(self) -> None:
        """Cut the network, and wait until the other side has a primary of its own."""
        self.topology.set_down_after(600)
        self.sides.cut()
        wait_until(lambda: self.named_there() != self.port, PATIENCE, "the other side's failover")

    def named_there(self) -> int:
        """The primary's port as the other side's Sentinels say."""
        answers = []
        for sentinel in self.topology.sentinels[1:]:
            with contextlib.suppress(AikcacheError):
                reply = self.topology.ask(sentinel, "SENTINEL", "MASTER", SERVICE)
                facts = dict(zip(reply[::2], reply[1::2], strict=True))
                answers.append((int(facts[b"config-epoch"]), int(facts[b"port"])))
        return max(answers)[1] if answers else self.port

    @property
    def port(self) -> int:
        return self.topology.servers[0].port or 0

    def replicated(self) -> None:
        """Until the replicas have all that the primary has now."""
        offset = self.topology.ask(self.topology.servers[0], "ROLE")[1]

        def there() -> bool:
            return all(self.topology.ask(server, "ROLE")[4] >= offset for server in self.topology.servers[1:])

        wait_until(there, PATIENCE, "the replicas to have it all")

    def warm(self, *names: str) -> None:
        """Both processes hold the values, coherent, and so do the replicas."""
        for worker in (self.here, self.there):
            worker.start(run, self.spec, ready).result(PATIENCE)
            for name in names:
                assert worker.start(run, self.spec, read, name).result(PATIENCE) == "old"
        self.replicated()

    def update_there(self, name: str) -> None:
        """Give something a new value on the other side; returns when all there is of it there is new."""
        self.there.start(run, self.spec, used).result(PATIENCE + 10)
        self.there.start(run, self.spec, update, name, "new").result(PATIENCE)
        self.there.start(run, self.spec, settled).result(PATIENCE + 10)
        assert self.there.start(run, self.spec, read, name).result(PATIENCE) == "new"

    def replica_here(self) -> bool:
        """Whether the old primary has become a replica; Sentinel cuts all its connections, this one too, as it does."""
        with contextlib.suppress(AikcacheError):
            return not self.primary_here()
        return False

    def primary_here(self) -> bool:
        return bool(self.topology.ask(self.topology.servers[0], "ROLE")[0] == b"master")


# What the processes are told to run


def run(spec: Spec, function: Callable[..., Any], *args: Any) -> Any:
    return function(_shop(spec), *args)


def _shop(spec: Spec) -> Shop:
    from .. import _workers

    pending.JUST_STARTED = -1  # as with servers that have run for long
    return _workers.shop(spec)


def shorten_memory(shop: Shop) -> None:
    """A partition of a second outlasts what is sent again because it is recent."""
    recent.REPLAY = 0.2


def ready(shop: Shop) -> None:
    connect(shop.cache)


def read(shop: Shop, name: str) -> str:
    return shop.get(name)


def update(shop: Shop, name: str, value: str) -> int:
    """Gives how many invalidations are pending after it."""
    shop.update(name, value)
    return shop.cache.stats().pending_invalidations


def used(shop: Shop) -> None:
    """Until Redis is used, and coherent."""
    wait_until(lambda: shop.cache.health().ok and shop.cache.stats().coherent, PATIENCE, "the primary")


def settled(shop: Shop) -> None:
    wait_until(lambda: not shop.cache.stats().pending_invalidations, PATIENCE, "what is pending")


def read_until(shop: Shop, name: str, value: str) -> None:
    wait_until(lambda: shop.get(name) == value, PATIENCE, f"{name} to be {value!r}")


def read_on(shop: Shop, name: str, times: int) -> set[str]:
    """What many reads give, in memory or not."""
    seen = set()
    for number in range(times):
        if number % 5 == 0:
            shop.cache.engine.local.drop_group("*")  # as if it had been evicted
        seen.add(shop.get(name))
        time.sleep(0.01)
    return seen


def state(shop: Shop) -> tuple[bool, bool]:
    """Whether it says that it is coherent, and well."""
    return shop.cache.stats().coherent, shop.cache.health().ok


def spread(sides: Sides, alone: bool) -> list[Side]:
    """On whose side the primary, the two replicas, and the three Sentinels are."""
    one, other = sides.one, sides.other
    return [one, other if alone else one, other, one, other, other]


class Kind(NamedTuple):
    """How many replicas a primary must have to take writes, and whether the old one keeps one of two."""

    least: int
    alone: bool


@pytest.fixture(params=[Kind(1, alone=True), Kind(0, alone=True), Kind(0, alone=False)], ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def net(binary: Path, redis_url: str, instance: str, kind: Kind) -> Iterator[Net]:
    with ExitStack() as stack:
        sides = stack.enter_context(Sides())
        topology = stack.enter_context(
            Topology(
                binary=binary,
                down_after_ms=30_000,  # until it is cut
                failover_timeout_ms=2000,
                config=(f"min-replicas-to-write {kind.least}",),
                sides=spread(sides, kind.alone),
            )
        )
        crew = []
        for side in (sides.one, sides.other):
            with side.inside():
                crew.append(Worker())
            stack.callback(crew[-1].stop)
        for worker in crew:
            worker.start(close_shops).result(PATIENCE)  # starting an interpreter takes time
        database = Database(redis_url, instance)
        stack.callback(database.close)
        spec = Spec(topology.url, instance, database=redis_url, realm=instance).but(**SETTINGS)
        for name in (BOX, OTHER, LATER):
            database.put(name, "old")
        here, there = crew
        yield Net(sides, topology, here, there, spec, database)


def test_a_reader_beside_a_cut_off_primary_stops_trusting_it(net: Net) -> None:
    """What the other side has invalidated is not served for ever beside a cut-off primary and its Sentinel."""
    net.warm(BOX)
    net.cut()
    net.update_there(BOX)
    net.here.start(run, net.spec, read_until, BOX, "new").result(PATIENCE + 10)
    assert net.here.start(run, net.spec, read_on, BOX, 50).result(PATIENCE) == {"new"}
    assert net.here.start(run, net.spec, state).result(PATIENCE) == (False, False)
    assert net.primary_here()  # so the test was about one that still takes itself for the primary
    net.sides.join()
    net.here.start(run, net.spec, used).result(PATIENCE + 10)
    assert net.here.start(run, net.spec, read_on, BOX, 50).result(PATIENCE) == {"new"}


def test_invalidations_beside_a_cut_off_primary_are_sent_to_the_surviving_one(net: Net) -> None:
    """An invalidation that only the lost side has acknowledged is sent again, however long the network was cut."""
    net.warm(BOX, OTHER, LATER)
    net.here.start(run, net.spec, shorten_memory).result(PATIENCE)
    net.sides.cut()
    net.here.start(run, net.spec, update, BOX, "new").result(PATIENCE)
    net.cut()
    net.update_there(OTHER)
    net.here.start(run, net.spec, read_until, OTHER, "new").result(PATIENCE + 10)  # by now more than REPLAY has passed
    net.here.start(run, net.spec, update, LATER, "new").result(PATIENCE)
    for name in (BOX, LATER):
        assert net.here.start(run, net.spec, read_on, name, 50).result(PATIENCE) == {"new"}
    net.sides.join()
    wait_until(net.replica_here, PATIENCE, "the old primary as a replica")
    net.here.start(run, net.spec, used).result(PATIENCE + 10)
    net.here.start(run, net.spec, settled).result(PATIENCE + 10)
    for name in (BOX, OTHER, LATER):
        assert net.here.start(run, net.spec, read_on, name, 50).result(PATIENCE) == {"new"}
        net.there.start(run, net.spec, read_until, name, "new").result(PATIENCE + 10)
        assert net.there.start(run, net.spec, read_on, name, 50).result(PATIENCE) == {"new"}
