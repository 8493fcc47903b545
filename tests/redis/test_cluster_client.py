"""Which servers are announced again when a cluster's map changes: those that may have taken over. Nothing is sent."""

from __future__ import annotations

import contextlib
from math import inf

import pytest

from aikcache._redis.cluster.client import Cluster
from aikcache._redis.cluster.topology import MAX_NODES, Address, Topology
from aikcache._settings.config import CacheConfig
from aikcache.errors import RemoteUnavailableError

from .._interrupts import Stop, interrupt

A, B, C = ("a", 1), ("b", 1), ("c", 1)


def view(*owners: Address) -> Topology:
    return Topology(1, dict(enumerate(owners)), frozenset(owners), frozenset({A, B, C}))


def generations(cluster: Cluster) -> dict[str, int]:
    return {address[0]: cluster.node(address).generation for address in (A, B, C)}


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(CacheConfig(url="redis+cluster://a:1,b:1,c:1"))
    cluster._install(view(A, A, B, B, C))
    return cluster


@pytest.mark.parametrize("back", [view(A, A, B, B, C), view(C, A, B, B, C).moved(0, A)], ids=["whole", "one slot"])
def test_a_primary_that_was_replaced_and_shows_in_one_slot_only_is_reset(cluster: Cluster, back: Topology) -> None:
    """In an outdated map it still owned the rest: its connections may be those to a replica."""
    cluster._install(view(A, A, B, B, C).moved(0, C))
    before = generations(cluster)
    cluster._install(back)
    assert generations(cluster) == before | {"a": before["a"] + 1}


def test_a_primary_that_takes_slots_for_the_first_time_keeps_its_connections(cluster: Cluster) -> None:
    """Slots that move between primaries, even thousands, cause no new connections."""
    before = generations(cluster)
    cluster._install(view(A, B, B, B, C))
    cluster._install(view(A, B, C, B, C))
    assert generations(cluster) == before


def test_a_primary_that_takes_all_slots_of_another_is_reset(cluster: Cluster) -> None:
    """It owned nothing, so it may have been a replica until now."""
    cluster._install(view(A, A, B, B, B))
    before = generations(cluster)
    cluster._install(view(A, A, C, C, C))
    assert generations(cluster) == before | {"c": 1}


def test_a_slot_that_goes_to_and_fro_is_no_reason_to_connect_for_each(cluster: Cluster) -> None:
    """A primary that lost a slot and took one is announced once, until it loses another."""
    cluster._install(view(B, A, B, B, C))
    cluster._install(view(A, A, B, B, C))
    before = generations(cluster)
    cluster._install(view(A, A, A, B, C))
    assert generations(cluster) == before


def test_redirections_to_ever_new_nodes_are_bounded(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each node that they name would be listened to by a thread."""
    monkeypatch.setattr(cluster, "refresh", lambda *given, **options: None)
    for number in range(2 * MAX_NODES):
        new = ("d", 1 + number)
        with contextlib.suppress(RemoteUnavailableError):
            cluster.asking(new) if number % 2 else cluster.moved(number % 5, new, A, inf)
    assert cluster.topology is not None
    assert len(cluster.topology.primaries) == MAX_NODES


def test_a_redirection_whose_handling_was_interrupted_is_handled_the_next_time(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever an exception met the first attempt, the slot is not asked of its former owner for ever."""
    monkeypatch.setattr(cluster, "refresh", lambda *given, **options: None)
    for point in range(1, 1000):
        slot, owner = point % 5, (A, B, C)[point % 3]
        reached, _ = interrupt(point, lambda slot=slot, owner=owner: cluster.moved(slot, owner, A, inf), Stop)  # type: ignore[misc]
        cluster.moved(slot, owner, A, inf)
        assert cluster.topology is not None
        assert cluster.topology.owners[slot] == owner
        if not reached and point > 100:
            return
    pytest.fail("it does not end")
