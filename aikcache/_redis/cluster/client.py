"""A Redis Cluster, with the interface that `RedisStore` uses of one server's `Pool`.

It knows who owns which slot, and has one `Pool`, with a breaker of its own, for each primary. The map is asked
of the first node that answers, over connections that serve nothing else; anew when a node redirects or fails, and when
a channel's node sees other primaries than before. A primary without slots counts too: a slot on its way to it is
already answered there.

Restarts: a primary that restarted may have brought back values, and stamps under which values anywhere are fresh. So
the first of us to meet it ends everything, by the one stamp that every value is under, wherever that is; the claim
that this was done is beside it. A primary that was none when this cache began has taken over from one that died: it is
told the last minute's invalidations, as far as they are its own.

Threads: any. Maps are replaced as a whole; a lock is held to replace them, and while one thread asks for a new one.
Failure: `RemoteError`; a node that fails alone fails the exchanges that need it.

Source: Redis, "Redis cluster specification".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any

from aikcache._concurrency.chance import chance
from aikcache._concurrency.circuit_breaker import Breaker, unobserved
from aikcache._concurrency.shared import items
from aikcache._redis.cluster import topology as _slots
from aikcache._redis.cluster.exchange import Exchange
from aikcache._redis.cluster.layout import layout_of
from aikcache._redis.cluster.topology import Address, Topology
from aikcache._redis.origin import origin
from aikcache._redis.pool import Pool
from aikcache._redis.reply import Command, ErrorReply
from aikcache._redis.transport import NewServer, TransportEvents
from aikcache._settings.config import CacheConfig
from aikcache._settings.url import Where
from aikcache.errors import RemoteError, RemoteUnavailableError

REST = 0.1
"""Seconds between two questions for the map: a failing node must not make a storm of them."""
QUESTION: tuple[Command, Command] = (("CLUSTER", "INFO"), ("CLUSTER", "SHARDS"))


class Cluster:
    """The primaries of one cluster, as one cache sees them."""

    ordered = False
    generation = 0

    def __init__(self, config: CacheConfig, where: Where | None = None, events: TransportEvents | None = None) -> None:
        self.config = config
        self._events = events or TransportEvents()
        self.topology: Topology | None = None
        self._told: Topology | None = None  # the same, without what channels see beside it
        self._where = where or origin(config)
        self._closed = False
        self._met_first: frozenset[Address] = frozenset()
        self._losers: frozenset[Address] = frozenset()
        """Primaries that some slot was taken from since they last took one."""
        self._views: dict[Address, Topology] = {}
        self.forget()

    def forget(self) -> None:
        """After a fork, in the child: sockets and locks are the parent's."""
        self._lock = threading.RLock()  # a collection inside it may run a finalizer that calls a cached function
        self._asking = threading.RLock()
        self._asked_at = -REST
        self._nodes: dict[Address, Pool] = {}
        self._scouts: dict[Address, Pool] = {}
        self._none = Breaker(self.config.breaker_failures, self.config.breaker_reset, time.monotonic, unobserved)
        self._views.clear()

    def exchange(self, commands: Sequence[Command], within: float | None = None, *, once: bool = False) -> list[Any]:
        """Replies to all commands, in their order; what spans nodes is done on all at once, in no common order.

        Blocks for `within` seconds (`timeout` by default), and `connect_timeout` more for each node not connected yet.
        """
        if self._closed:
            raise RemoteUnavailableError("this cache is closed.")
        return Exchange(self, commands, time.monotonic() + (within or self.config.timeout), once=once).run()

    def send(self, data: bytes, count: int, within: float | None = None, *, once: bool = False) -> None:
        """What is packed already cannot be told apart by slots."""

    @property
    def breaker(self) -> Breaker:
        """A breaker that is open, if there is one."""
        some = [*list(self._nodes.values()), *list(self._scouts.values())]
        return next((node.breaker for node in some if node.breaker.is_open), self._none)

    def age(self) -> float:
        """What `Pool.age` is to one server: each primary is asked itself what its majority thinks."""
        return -inf

    # Nodes

    def drop_kept(self) -> None:
        """Connections that are kept may be out of step: they are not used again."""
        for node in list(self._nodes.values()):
            node.drop_kept()

    def node(self, address: Address) -> Pool:
        """The connections to a primary."""
        found = self._nodes.get(address)
        if found is not None:
            return found
        with self._lock:
            if address not in self._nodes:
                self._nodes[address] = self._new_node(address)
            return self._nodes[address]

    def _new_node(self, address: Address) -> Pool:
        def moved(*, at_once: bool, **_: object) -> None:
            if self._nodes.get(address) is node:  # else another has taken its place
                self._events.moved(at_once=at_once, address=address)

        greet = partial(self._identify, address)
        node = self._connections(address, replace(self._events, new_server=greet, moved=moved))
        return node

    def _connections(self, address: Address, events: TransportEvents) -> Pool:
        return Pool(self.config, self._where._replace(hosts=(address,)), events)

    def _identify(self, address: Address, new: NewServer) -> None:
        """A primary not met before is greeted. What it says is elsewhere: a claim is made there, the rest was kept."""

        def ask_here(commands: list[Command]) -> list[Any]:
            replies = new.ask(commands)
            pairs = zip(commands, replies, strict=True)
            claims = [command for command, reply in pairs if type(reply) is ErrorReply and command[0] == "EVAL"]
            if claims:
                for reply in self.exchange(claims):
                    if type(reply) is ErrorReply:
                        raise RemoteUnavailableError(f"the server refuses: {reply}")
            return replies

        replaces = new.replaces or address not in self._met_first
        self._events.new_server(NewServer(new.identity, replaces, ask_here))

    def servers(self) -> Sequence[Pool]:
        """The primaries that are known, without a question."""
        return list(self._nodes.values())

    def parts(self) -> Iterator[Pool]:
        """The primaries, for a sweep. Keys may move meanwhile: if so, a second time, so that none is always elsewhere.

        (A key moves from one primary to another; in two rounds, every first primary comes before every second one.)
        """
        before = layout_of(self)
        for address in sorted(before.said):
            yield self.node(address)
        after = layout_of(self)
        if before.said != after.said or after.is_moving:
            for address in sorted(before.said.keys() | after.said.keys()):
                yield self.node(address)

    def tags(self) -> Sequence[str]:
        """What a name begins with to be on each primary: a hash tag in one of its slots."""
        return _slots.tag_of_each(self._owners())

    def tags_beside(self, names: Sequence[str]) -> Sequence[str]:
        """What a name begins with to be on each primary that has one of `names`."""
        owners = self._owners()
        return list({owners.get(_slots.slot_of(name)): f"{{{name}}}" for name in names}.values())

    def tag_on(self, address: Address, number: int) -> str | None:
        """The hash tag of this number, from 0 on, of those in slots of a primary; None: it is known to own none."""
        topology = self.topology
        return None if topology is None else _slots.tag_on(topology.owners, address, number % 16)

    def _owners(self) -> Mapping[int, Address]:
        return self.known(time.monotonic() + self.config.timeout).owners

    # The map

    def known(self, deadline: float) -> Topology:
        """The map as it is known. Raises `RemoteError` when there is none yet and no node gives it."""
        if self.topology is None:
            self.refresh(deadline)
        if self.topology is None:
            raise RemoteUnavailableError("no node of the cluster tells who owns what.")
        return self.topology

    def moved(self, slot: int, address: Address, asked: Address, deadline: float) -> None:
        """`asked` says that a slot is at `address` now."""
        told = self._told
        if told is not None and told.owners.get(slot) != address:
            self._install(told.moved(slot, address))
            self.refresh(deadline, first=asked)

    def asking(self, address: Address) -> None:
        """A slot is on its way to this node."""
        told, topology = self._told, self.topology
        if told is not None and topology is not None and address not in topology.primaries:
            self._install(replace(told, primaries=told.primaries | {address}))

    def look(self, address: Address) -> bool:
        """Fetch and keep what a channel's node sees. Whether it saw something else before. Raises `RemoteError`."""
        view = self.view(address)
        with self._lock:
            before, self._views[address] = self._views.get(address), view
            topology = self.topology
        self._install(view if topology is None or view.epoch >= topology.epoch else None)
        return before is None or before.primaries != view.primaries

    def overlook(self, address: Address) -> None:
        """The node's channel lives no more, and what it saw is out of date."""
        with self._lock:
            known = self._views.pop(address, None)
        if known is not None:
            self._install(None)

    def refresh(
        self, deadline: float, *, first: Address | None = None, but: Address | None = None, anew: bool = False
    ) -> None:
        """Ask for the map, `first` of all others, not of `but`. Raises `RemoteError` when there has never been one."""
        if self._asking._is_owned():  # type: ignore[attr-defined]
            return
        try:
            if not self._asking.acquire(timeout=max(deadline - time.monotonic(), 0)):
                return
            if not anew and self.topology is not None and time.monotonic() - self._asked_at < REST:
                return
            found = self._ask_for_map(deadline, first, but)
            self._asked_at = time.monotonic()
        finally:
            try:  # noqa: SIM105  # one call into C, and nothing before it: else the lock might stay taken
                self._asking.release()
            except RuntimeError:  # it was not taken
                pass
        if found is not None:
            self._install(found)

    def _ask_for_map(self, deadline: float, first: Address | None, but: Address | None) -> Topology | None:
        current, best = self.topology, None
        failure: RemoteError | None = None
        for address in self._candidates(first, but):
            try:
                view = self.view(address)
            except RemoteError as error:
                failure = error
            else:
                if current is None or view.epoch >= current.epoch:
                    return view
                if best is None or view.epoch > best.epoch:
                    best = view  # all are behind what we know: the cluster was made anew
            if time.monotonic() >= deadline:
                break
        if best is None and current is None and failure is not None:
            raise failure
        return best

    def _candidates(self, first: Address | None, but: Address | None) -> list[Address]:
        """Primaries before others, among whom is who hangs and was replaced; whoever has failed last comes last."""
        topology = self.topology
        some = [] if first is None else [first]
        if topology is not None:
            some += chance.sample(list(topology.primaries), len(topology.primaries))
            some += chance.sample(list(topology.nodes), len(topology.nodes))
        some += chance.sample(self._where.hosts, len(self._where.hosts))
        return sorted((address for address in dict.fromkeys(some) if address != but), key=self._failing)

    def _failing(self, address: Address) -> bool:
        """Whether the last that a node was asked has failed."""
        known = (nodes.get(address) for nodes in (self._nodes, self._scouts))
        return any(node is not None and node.breaker.failures > 0 for node in known)

    def view(self, address: Address) -> Topology:
        """The cluster as one node sees it. Raises `RemoteError`."""
        info, shards = self.scout(address).exchange(QUESTION)
        view = _slots.topology(info, shards, address, tls=self._where.tls)
        if not view.owners:
            raise RemoteUnavailableError("the node knows no owner of any slot.")
        return view

    def scout(self, address: Address) -> Pool:
        """Connections that ask for the map alone, of a node that need not be greeted for it."""
        with self._lock:
            if address not in self._scouts:
                self._scouts[address] = self._connections(address, TransportEvents(breaker=self._events.breaker))
            return self._scouts[address]

    def _install(self, told: Topology | None) -> None:
        """Believe a new map; None: the same, with other views beside it."""
        with self._lock:
            before = self.topology
            self._told = told = told or self._told
            if told is None:
                return
            primaries = told.primaries.union(*(self._besides(told, view) for view in self._views.values()))
            self._promote(before, told)
            self.topology = replace(told, primaries=primaries)
            self._met_first = primaries if before is None else self._met_first & primaries
            kept = primaries.union(told.nodes, self._where.hosts)
            if before is not None:  # nobody waits for who was replaced
                kept -= before.primaries - primaries
            gone = [self._nodes.pop(address) for address in list(self._nodes) if address not in primaries]
            gone += [self._scouts.pop(address) for address in list(self._scouts) if address not in kept]
        for node in gone:
            node.close()
        if before is None or before.primaries != primaries:
            self._events.primaries_changed()

    @staticmethod
    def _besides(told: Topology, view: Topology) -> frozenset[Address]:
        """The primaries that a node sees besides; if it was asked in an earlier epoch, those that `told` has not met.

        A primary that hangs, and was replaced, has itself for a primary in what it has said last.
        """
        return view.primaries if view.epoch >= told.epoch else view.primaries - told.nodes

    def _promote(self, before: Topology | None, told: Topology) -> None:
        """Under the lock, and before anybody is sent there: who owns what it did not may have taken over.

        It may be known from when it was a primary before, and listed since. Met anew, it is told what it has missed. If
        it owned nothing, it is greeted even if its run is the one that was met: views that are behind may have given
        its slots back for a moment to the one that it replaced, and who has not noticed yet accepts what it is told.
        Then all nodes are worth a try again, too: while a slot had no owner, each refused everything.

        If it still owned some, by a map that is behind, then it has lost some before: that may have been all of them,
        and what was connected to it since knows a replica.
        """
        if before is None or told.owners is before.owners or told.owners == before.owners:
            return
        takers = {owner for slot, owner in told.owners.items() if before.owners.get(slot) != owner}
        new = takers.difference(before.owners.values())
        losers = self._losers.union(was for slot, was in before.owners.items() if told.owners.get(slot) != was)
        for address, node in items(self._nodes):
            if address in new:
                node.moved(switched=True, greet=True)
            elif address in takers and address in losers:
                node.begin_generation()
            if new and address not in new:
                node.breaker.reconsider()
        self._met_first -= new
        self._losers = (losers - takers) & told.primaries

    def close(self) -> None:
        self._closed = True
        with self._lock:
            nodes = [*self._nodes.values(), *self._scouts.values()]
        for node in nodes:
            node.close()
