"""Connections that only fetch the map of a cluster, beside those that carry commands.

Their nodes are not announced as new servers, so a map can be fetched while a node is announced.

Threads: any; a lock is held only while a node's connections are added or removed. Failure: `RemoteError`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence, Set
from typing import Any

from aikcache._redis.cluster.exchange import ask_each
from aikcache._redis.cluster.topology import NODES, QUESTION, Address, Topology, topology
from aikcache._redis.pool import Pool
from aikcache.errors import RemoteError, RemoteUnavailableError


class Scouts:
    """The scouts of one cache, one for each node that was asked."""

    def __init__(self, connections: Callable[[Address], Pool], *, tls: bool) -> None:
        self._connections = connections
        self._tls = tls
        self._lock = threading.RLock()  # reentrant: a finalizer inside may call a cached function
        self._by_address: dict[Address, Pool] = {}

    def at(self, address: Address) -> Pool:
        """The connections to a node."""
        with self._lock:
            if address not in self._by_address:
                self._by_address[address] = self._connections(address)
            return self._by_address[address]

    def known(self) -> list[Pool]:
        """All that there are."""
        return list(self._by_address.values())

    def get(self, address: Address) -> Pool | None:
        """The connections to a node, if it was asked before."""
        return self._by_address.get(address)

    def keep(self, addresses: Set[Address]) -> list[Pool]:
        """Keep those to these nodes. Returns the others, for the caller to close."""
        with self._lock:
            return [self._by_address.pop(address) for address in list(self._by_address) if address not in addresses]

    def view(self, address: Address) -> Topology:
        """The cluster as one node sees it. Raises `RemoteError`."""
        view = self._parse(address, self.at(address).exchange(QUESTION))
        return self._parse(address, self.at(address).exchange((*QUESTION, NODES))) if view.is_disputed else view

    def views(self, addresses: Sequence[Address], deadline: float) -> dict[Address, Topology]:
        """The same of several nodes, asked at once; without those that fail."""
        found: dict[Address, Topology] = {}
        replies = ask_each([*map(self.at, addresses)], (*QUESTION, NODES), deadline)
        for address, reply in zip(addresses, replies, strict=True):
            try:
                if not isinstance(reply, RemoteError):
                    found[address] = self._parse(address, reply)
            except RemoteError:
                continue
        return found

    def _parse(self, address: Address, replies: Sequence[Any]) -> Topology:
        info, shards, *more = replies
        view = topology(info, shards, address, tls=self._tls, nodes=more[0] if more else None)
        if not view.owners:
            raise RemoteUnavailableError("the node knows no owner of any slot.")
        return view
