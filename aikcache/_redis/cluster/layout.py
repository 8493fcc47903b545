"""What the primaries of a cluster say they own: two looks that differ show that slots have moved in between."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from aikcache._redis.cluster import exchange
from aikcache._redis.cluster.topology import SLOTS, Address, own_slots

if TYPE_CHECKING:
    from aikcache._redis.cluster.client import Cluster


class Layout(NamedTuple):
    """By primary what it says it owns, in which epoch, and what is on its way from it or to it."""

    said: dict[Address, str]
    owned: int
    """How many slots have an owner."""

    @property
    def is_moving(self) -> bool:
        """Whether a slot is on its way."""
        return any("[" in slots for slots in self.said.values())


def layout_of(cluster: Cluster) -> Layout:
    """As it is now, asked of the primaries that are known, all at once. Raises `RemoteError`.

    When they do not own all slots, or one is on its way, there may be primaries that are not known: the map is asked
    for, and they are asked again.
    """
    deadline = time.monotonic() + cluster.config.timeout
    found = _ask(cluster, deadline)
    if found.owned < SLOTS or found.is_moving:
        cluster.refresh(deadline, anew=True)
        found = _ask(cluster, deadline)
    return found


def _ask(cluster: Cluster, deadline: float) -> Layout:
    asked = [(address, cluster.scout(address)) for address in sorted(cluster.known(deadline).primaries)]
    replies = exchange.ask_all([node for _, node in asked], [("CLUSTER", "NODES")], deadline)
    said, owned = {}, 0
    for (address, _), (reply,) in zip(asked, replies, strict=True):
        said[address], slots = own_slots(reply)
        owned += slots
    return Layout(said, owned)
