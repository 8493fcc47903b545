"""A Redis Cluster behind the same interface as one server's `Pool`.

It knows the owner of each slot, and has one `Pool`, with its own circuit breaker, for each primary. The map comes from
the first node that answers (`scouts`), and again when a node redirects or fails, or when a channel's node sees other
primaries than before. A primary without slots counts too: it already answers for a slot that is moving to it. Nothing
is sent unless most primaries have answered within `max_staleness` (`quorum`).

Restarts: a primary that restarted may have restored old values, and old stamps that make values on any node fresh. So
the first process to find it invalidates everything, by the one stamp that every value is under.

Threads: any. Maps are replaced as a whole, under a lock; another lock lets one thread at a time fetch one.
Failure: `RemoteError`; a node that fails alone fails the exchanges that need it.

Source: Redis, "Redis cluster specification".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from random import SystemRandom
from typing import Any

from aikcache._concurrency.circuit_breaker import Breaker, unobserved
from aikcache._concurrency.shared import items
from aikcache._redis.cluster import topology as _slots
from aikcache._redis.cluster.exchange import Exchange
from aikcache._redis.cluster.layout import layout_of
from aikcache._redis.cluster.quorum import Quorum, confirm
from aikcache._redis.cluster.scouts import Scouts
from aikcache._redis.cluster.topology import Address, Topology
from aikcache._redis.failures import unsent
from aikcache._redis.origin import origin
from aikcache._redis.pool import Pool
from aikcache._redis.reply import Command, ErrorReply
from aikcache._redis.transport import NewServer, TransportEvents
from aikcache._settings.config import CacheConfig
from aikcache._settings.url import Where
from aikcache.errors import RemoteError, RemoteUnavailableError

REST = 0.1
"""Seconds between two fetches of the map: a failing node must not cause a storm of them."""


class Cluster:
    """The primaries of one cluster, as seen by one cache."""

    ordered = False  # what must be in order is then sent in two exchanges: `RedisStore._ask_in_order`
    generation = 0

    def __init__(self, config: CacheConfig, where: Where | None = None, events: TransportEvents | None = None) -> None:
        self.config = config
        self._events = events or TransportEvents()
        self.topology: Topology | None = None
        self._reported: Topology | None = None  # the same, without the primaries that only a channel's node sees
        self._where = where or origin(config)
        self._closed = False
        self._initial_primaries: frozenset[Address] = frozenset()  # and in every map since: one that returns took over
        self._losers: frozenset[Address] = frozenset()
        """Primaries that lost a slot since they last took one."""
        self._views: dict[Address, Topology] = {}
        self.quorum = Quorum()
        self.forget()

    def forget(self) -> None:
        """Reset after a fork, in the child: sockets and locks are the parent's."""
        self._lock = threading.RLock()  # reentrant: a finalizer inside may call a cached function
        self._asking = threading.RLock()
        self._asked_at = -REST
        self._nodes: dict[Address, Pool] = {}
        events = TransportEvents(breaker=self._events.breaker)
        self.scouts = Scouts(lambda address: self._pool(address, events), tls=self._where.tls)
        self._none = Breaker(self.config.breaker_failures, self.config.breaker_reset, time.monotonic, unobserved)
        self._views.clear()
        self.quorum.forget()

    def exchange(self, commands: Sequence[Command], within: float | None = None, *, once: bool = False) -> list[Any]:
        """Replies to all commands, in their order. Nodes work at the same time; there is no order between them.

        Blocks for at most `within` seconds (`timeout` by default), plus `connect_timeout` for each new node.
        """
        if self._closed:
            raise unsent("this cache is closed.")
        deadline = time.monotonic() + (within or self.config.timeout)
        self.current(deadline)  # first: a quorum that knows no owners yet asks for no majority
        if self.quorum.age() >= self.config.max_staleness:
            confirm(self, deadline)
        return Exchange(self, commands, deadline, once=once).run()

    def send(self, data: bytes, count: int, within: float | None = None, *, once: bool = False) -> None:
        """Packed commands cannot be split by slot."""

    @property
    def breaker(self) -> Breaker:
        """An open circuit breaker, if there is one."""
        some = [*list(self._nodes.values()), *self.scouts.known()]
        return next((node.breaker for node in some if node.breaker.is_open), self._none)

    def refusal(self) -> None:
        """Nothing: each primary has a breaker of its own."""

    def age(self) -> float:
        """Seconds since most primaries had sent this process their view (`quorum`)."""
        return self.quorum.age()

    def drop_idle(self) -> None:
        for node in [*list(self._nodes.values()), *self.scouts.known()]:
            node.drop_idle()

    def node(self, address: Address) -> Pool:
        """The pool of a primary."""
        found = self._nodes.get(address)  # without the lock, which `_install` holds while it builds a map
        if found is not None:
            return found
        with self._lock:
            if address not in self._nodes:
                self._nodes[address] = self._new_node(address)
            return self._nodes[address]

    def _new_node(self, address: Address) -> Pool:
        def on_failover(*, at_once: bool, **_: object) -> None:
            if self._nodes.get(address) is node:  # else another pool has replaced it
                self._events.on_failover(at_once=at_once, address=address)

        announce = partial(self._on_new_server, address)
        return (node := self._pool(address, replace(self._events, new_server=announce, on_failover=on_failover)))

    def _pool(self, address: Address, events: TransportEvents) -> Pool:
        return Pool(self.config, self._where._replace(hosts=(address,)), events)

    def _on_new_server(self, address: Address, new: NewServer) -> None:
        """Announce a new primary. An EVAL that it redirects is sent to the owner; the other commands need no repeat."""

        def ask_here(commands: list[Command]) -> list[Any]:
            replies = new.ask(commands)
            pairs = zip(commands, replies, strict=True)
            evals = [command for command, reply in pairs if type(reply) is ErrorReply and command[0] == "EVAL"]
            if evals:  # they renew the stamp of everything, which may be on another primary
                for reply in self.exchange(evals):
                    if type(reply) is ErrorReply:
                        raise RemoteUnavailableError(f"the server refuses: {reply}")
            return replies

        # A primary that was none when this cache began took over from one that died: it is sent recent invalidations.
        replaces = new.replaces or address not in self._initial_primaries
        self._events.new_server(NewServer(new.identity, replaces, ask_here))

    def servers(self) -> Sequence[Pool]:
        return list(self._nodes.values())

    def parts(self) -> Iterator[Pool]:
        """The primaries, for a sweep. If keys moved meanwhile, all of them a second time, so that no key is missed.

        (A key moves from one primary to another; in two rounds, every first primary comes before every second one.)
        """
        before = layout_of(self)
        for address in sorted(before.slots):
            yield self.node(address)
        after = layout_of(self)
        if before.slots != after.slots or after.is_moving:
            for address in sorted(before.slots.keys() | after.slots.keys()):
                yield self.node(address)

    def hash_tags(self) -> Sequence[str]:
        """For each primary a hash tag in one of its slots, which puts a name on it."""
        return _slots.hash_tag_of_each(self._owners())

    def hash_tags_of(self, names: Sequence[str]) -> Sequence[str]:
        """For each primary that has one of `names` a hash tag that puts a name on it."""
        owners = self._owners()
        return list({owners.get(_slots.slot_of(name)): f"{{{name}}}" for name in names}.values())

    def hash_tag_on(self, address: Address, number: int) -> str | None:
        """The hash tag of this number, from 0 on, among those in slots of a primary; None: it owns no slot."""
        topology = self.topology
        # Bounded, because each number is searched for from the first tag on, and a channel counts without end.
        return None if topology is None else _slots.hash_tag_on(topology.owners, address, number % 16)

    def _owners(self) -> Mapping[int, Address]:
        return self.current(time.monotonic() + self.config.timeout).owners

    # The map

    def current(self, deadline: float) -> Topology:
        """The map as it is known. Raises `RemoteError` if there is none and no node gives one."""
        if self.topology is None:
            self.refresh(deadline)
        if self.topology is None:
            raise RemoteUnavailableError("no node of the cluster tells who owns what.")
        return self.topology

    def moved(self, slot: int, address: Address, asked: Address, deadline: float) -> None:
        """Handle MOVED: `asked` says that a slot is at `address` now."""
        reported, used = self._reported, self.topology  # an interruption may leave the map in use behind
        if reported and used and used.owners.get(slot) != address:  # else another thread has handled it
            self._install(reported.moved(slot, address))  # at once: `refresh` rests if it has just run
            self.refresh(deadline, first=asked)

    def asking(self, address: Address) -> None:
        """Handle ASK: a slot is moving to this node."""
        reported, topology = self._reported, self.topology
        if reported is not None and topology is not None and address not in topology.primaries:
            self._install(reported.joined(address))

    def refresh_view(self, address: Address) -> bool:
        """Fetch and keep what a channel's node sees. Whether its primaries have changed. Raises `RemoteError`."""
        view = self.scouts.view(address)
        with self._lock:
            before, self._views[address] = self._views.get(address), view
        self.quorum.saw(address, view)
        self.consider(view)
        return before is None or before.primaries != view.primaries

    def consider(self, view: Topology) -> None:
        """Use a node's view if none is newer."""
        topology = self.topology
        self._install(view if topology is None or view.epoch >= topology.epoch else None)  # else its extras may count

    def drop_view(self, address: Address) -> None:
        """The node's channel is closed, and its view is out of date."""
        with self._lock:
            known = self._views.pop(address, None)
        self.quorum.saw(address, None)
        if known is not None:
            self._install(None)

    def refresh(
        self, deadline: float, *, first: Address | None = None, excluding: Address | None = None, anew: bool = False
    ) -> None:
        """Fetch the map, from `first` if given, not from `excluding`. Raises `RemoteError` if there was never a map."""
        if self._asking._is_owned():  # type: ignore[attr-defined]
            return  # a finalizer's call, which a garbage collection has started inside the fetch
        try:
            if not self._asking.acquire(timeout=max(deadline - time.monotonic(), 0)):
                return
            if not anew and self.topology is not None and time.monotonic() - self._asked_at < REST:
                return  # another thread has fetched it, perhaps while this one waited for the lock
            found = self._ask_for_map(deadline, first, excluding)
            self._asked_at = time.monotonic()
        finally:
            try:  # noqa: SIM105  # one call into C, and nothing before it: else the lock might stay taken
                self._asking.release()
            except RuntimeError:  # it was not taken
                pass
        if found is not None:
            self._install(found)

    def _ask_for_map(self, deadline: float, first: Address | None, excluding: Address | None) -> Topology | None:
        current, best = self.topology, None
        failure: RemoteError | None = None
        for address in self._candidates(first, excluding):
            try:
                view = self.scouts.view(address)
            except RemoteError as error:
                failure = error
            else:
                if current is None or view.epoch >= current.epoch:
                    return view
                if best is None or view.epoch > best.epoch:
                    best = view  # all epochs are behind ours: the cluster was created again
            if time.monotonic() >= deadline:
                break
        if best is None and current is None and failure is not None:
            raise failure
        return best

    def _candidates(self, first: Address | None, excluding: Address | None) -> list[Address]:
        """Primaries first: a replaced node that hangs is not among them. Nodes whose last exchange failed come last."""
        topology, chance = self.topology, SystemRandom()
        some = [] if first is None else [first]
        if topology is not None:
            some += chance.sample(list(topology.primaries), len(topology.primaries))
            some += chance.sample(list(topology.nodes), len(topology.nodes))
        some += chance.sample(self._where.hosts, len(self._where.hosts))
        return sorted((address for address in dict.fromkeys(some) if address != excluding), key=self._failing)

    def _failing(self, address: Address) -> bool:
        """Whether the last exchange with a node failed."""
        return any(node and node.breaker.failures for node in (self._nodes.get(address), self.scouts.get(address)))

    def hesitation(self, address: Address) -> int:
        """Where to ask first: 0 where nothing is sent because the breaker is open, 2 where an answer may not come."""
        scout = self.scouts.get(address)
        return 0 if scout and scout.breaker.rests else 1 + self._failing(address)

    def _install(self, reported: Topology | None) -> None:
        """Use a new map; None: the same one with other views."""
        with self._lock:
            before = self.topology
            self._reported = reported = reported or self._reported
            if reported is None:
                return
            primaries = reported.primaries.union(*(self._extra(reported, view) for view in self._views.values()))
            self._promote(before, reported)
            self.quorum.use(frozenset(reported.owners.values()))  # first: whoever finds the map asks it
            self.topology = replace(reported, primaries=primaries)
            self._initial_primaries = primaries if before is None else self._initial_primaries & primaries
            kept = primaries.union(reported.nodes, self._where.hosts)
            if before is not None:  # do not wait for a node that was replaced
                kept -= before.primaries - primaries
            gone = [self._nodes.pop(address) for address in list(self._nodes) if address not in primaries]
            gone += self.scouts.keep(kept)
        for node in gone:
            node.close()
        if before is None or before.primaries != primaries:
            self._events.primaries_changed()

    @staticmethod
    def _extra(reported: Topology, view: Topology) -> frozenset[Address]:
        """The additional primaries of a view; of a view of an earlier epoch only those that `reported` does not list.

        A primary that hangs and was replaced still lists itself as a primary in its last view.
        """
        return view.primaries if view.epoch >= reported.epoch else view.primaries - reported.nodes

    def _promote(self, before: Topology | None, reported: Topology) -> None:
        """Under the lock, before any command is sent there: a node that owns new slots may have taken over.

        Its pool may be from when it was a primary before. It gets a new generation, and the invalidations that it
        missed. If it owned nothing, it is announced even if its run is unchanged: outdated views may have given its
        slots for a moment to the node that it had replaced, which accepts invalidations until it notices. All other
        nodes are tried again, because each refused everything while a slot had no owner.

        If it still owned some slots in an outdated map but lost others before, it may have lost all of them.
        Connections made since then may know it as a replica, so they get a new generation.
        """
        if before is None or reported.owners is before.owners or reported.owners == before.owners:
            return
        takers = {owner for slot, owner in reported.owners.items() if before.owners.get(slot) != owner}
        new = takers.difference(before.owners.values())
        losers = self._losers.union(was for slot, was in before.owners.items() if reported.owners.get(slot) != was)
        for address, node in items(self._nodes):
            if address in new:
                node.on_failover(switched=True, announce=True)
            elif address in takers and address in losers:
                node.begin_generation()
            if new and address not in new:
                node.breaker.reconsider()
        self._initial_primaries -= new
        self._losers = (losers - takers) & reported.primaries  # bounded: one that returns is `new`

    def close(self) -> None:
        self._closed = True
        with self._lock:
            nodes = [*self._nodes.values(), *self.scouts.known()]
        for node in nodes:
            node.close()
