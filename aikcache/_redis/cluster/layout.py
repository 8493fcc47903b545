"""The slots that the primaries of a cluster report. Two layouts that differ show that slots have moved in between."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from aikcache._redis.cluster.exchange import ask_each
from aikcache._redis.cluster.topology import NODES, SLOTS, Address, own_slots
from aikcache.errors import RemoteError

if TYPE_CHECKING:
    from aikcache._redis.cluster.client import Cluster


class Layout(NamedTuple):
    """For each primary its epoch, its slots, and the slots that are moving from or to it."""

    slots: dict[Address, str]
    owned: int
    """The number of slots that have an owner."""

    @property
    def is_moving(self) -> bool:
        """Whether a slot is moving."""
        return any("[" in some for some in self.slots.values())


def layout_of(cluster: Cluster) -> Layout:
    """Fetch the current layout from all known primaries at once. Raises `RemoteError`.

    If they do not own all slots, or one is moving, there may be unknown primaries: then the map is fetched first.
    """
    deadline = time.monotonic() + cluster.config.timeout
    found = _ask(cluster, deadline)
    if found.owned < SLOTS or found.is_moving:
        cluster.refresh(deadline, anew=True)
        found = _ask(cluster, deadline)
    return found


def _ask(cluster: Cluster, deadline: float) -> Layout:
    asked = [(address, cluster.scouts.at(address)) for address in sorted(cluster.current(deadline).primaries)]
    slots, owned = {}, 0
    for (address, _), replies in zip(asked, ask_each([node for _, node in asked], [NODES], deadline), strict=True):
        if isinstance(replies, RemoteError):
            raise replies
        slots[address], count = own_slots(replies[0])
        owned += count
    return Layout(slots, owned)
