"""Whether most primaries of a cluster answer this process, and since when.

A primary that is cut off from the others answers until it notices, which takes the nodes' timeout. A takeover that is
forced on the other side does not wait for that. So what a process reads, and what it holds, counts only up to the last
moment at which most of the primaries that own slots had answered it. An answer counts while the primary that gave it
sees no other owners of slots than this process does.

Two cases are not detected. A cluster of one primary has no others to ask. And a takeover that is forced where only the
smaller part of the primaries is reached gives both sides a majority, one with the old primary and one with the new.

Threads: any. A date is replaced in one step, without a lock.
"""

from __future__ import annotations

import time
from collections.abc import Set
from math import inf
from typing import TYPE_CHECKING

from aikcache._redis.cluster.topology import Address, Topology
from aikcache._redis.failures import unsent

if TYPE_CHECKING:
    from aikcache._redis.cluster.client import Cluster


class Quorum:
    """When each primary that owns slots last answered."""

    def __init__(self) -> None:
        self._owners: Set[Address] = frozenset()
        self.forget()

    def forget(self) -> None:
        """Reset after a fork, in the child: the channels, which ask, are the parent's."""
        self._answered: dict[Address, float] = {}
        self._seen: dict[Address, Set[Address]] = {}  # the owners of slots in each one's view

    def use(self, owners: Set[Address]) -> None:
        """These primaries own the slots now."""
        if owners != self._owners:
            self._owners = owners
            self._answered = {address: self._answered[address] for address in owners if address in self._answered}

    def saw(self, address: Address, view: Topology | None) -> None:
        """A primary's view was fetched; None: it is not asked any more."""
        if view is None:
            self._seen.pop(address, None)
        else:
            self._seen[address] = frozenset(view.owners.values())

    def record(self, address: Address, at: float, view: Topology | None = None) -> None:
        """A primary answered that was asked at a time (monotonic seconds). `view`: None if it has not changed since."""
        seen = self._seen.get(address, frozenset()) if view is None else frozenset(view.owners.values())
        answered = self._answered
        if self._owners <= seen and at > answered.get(address, -inf):
            answered[address] = at

    def age(self) -> float:
        """Seconds since most of them had answered; -inf for a single one."""
        owners, answered = self._owners, self._answered
        if len(owners) < 2:
            return -inf
        return time.monotonic() - sorted(answered.get(address, -inf) for address in owners)[(len(owners) - 1) // 2]

    def missing(self, since: float) -> tuple[int, list[Address]]:
        """How many more must answer if an answer from before `since` does not count, and who may."""
        owners, answered = self._owners, self._answered
        silent = [address for address in owners if answered.get(address, -inf) < since]
        return len(owners) // 2 + 1 - (len(owners) - len(silent)), silent


def confirm(cluster: Cluster, deadline: float) -> None:
    """Ask primaries for their view, as many as a majority lacks, and others instead of those that do not answer.

    For a process whose channels are not live yet, or not enough of them. Raises `RemoteError`.
    """
    since = time.monotonic() - cluster.config.max_staleness
    tried = set[Address]()
    while cluster.quorum.age() >= cluster.config.max_staleness:
        missing, silent = cluster.quorum.missing(since)
        # Those with an open breaker are first: they refuse at once. Those that may hang are last.
        left = sorted((address for address in silent if address not in tried), key=cluster.hesitation)
        if len(left) < missing:
            raise unsent(
                f"most primaries of the cluster have not answered for max_staleness ({cluster.config.max_staleness:g} "
                "s), so this process may be cut off from them. Redis is used again when they answer."
            )
        asked, asked_at = left[: max(missing, 1)], time.monotonic()
        tried.update(asked)
        for address, view in cluster.scouts.views(asked, deadline).items():
            cluster.consider(view)
            cluster.quorum.record(address, asked_at, view)
