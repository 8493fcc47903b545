"""When most primaries of a cluster have answered, and whose answer counts. Nothing is sent."""

from __future__ import annotations

import time
from collections.abc import Sequence, Set
from math import inf

import pytest

from aikcache._redis.cluster.client import Cluster
from aikcache._redis.cluster.quorum import Quorum, confirm
from aikcache._redis.cluster.scouts import Scouts
from aikcache._redis.cluster.topology import Address, Topology
from aikcache._settings.config import CacheConfig
from aikcache.errors import RemoteUnavailableError

A, B, C, D = ("a", 1), ("b", 1), ("c", 1), ("d", 1)
LONG_AGO = 1000.0
"""Seconds, against which those that a test takes do not count."""


def view(*owners: Address, epoch: int = 1) -> Topology:
    return Topology(epoch, dict(enumerate(owners)), frozenset(owners), frozenset({A, B, C, D}))


def cluster_of(*owners: Address) -> Cluster:
    cluster = Cluster(CacheConfig(url="redis+cluster://a:1,b:1,c:1"))
    cluster._install(view(*owners))
    for address in owners:
        cluster.quorum.saw(address, view(*owners))
    return cluster


def answer(cluster: Cluster, *addresses: Address, ago: float = 0.0) -> None:
    for address in addresses:
        cluster.quorum.record(address, time.monotonic() - ago)


def views(monkeypatch: pytest.MonkeyPatch, answers: dict[Address, Topology]) -> list[Address]:
    """Who is asked for its view, while these answer and the others do not."""
    asked: list[Address] = []

    def stand_in(scouts: Scouts, addresses: Sequence[Address], deadline: float) -> dict[Address, Topology]:
        asked.extend(addresses)
        return {address: answers[address] for address in addresses if address in answers}

    monkeypatch.setattr(Scouts, "views", stand_in)
    return asked


def test_the_last_moment_at_which_most_had_answered_counts() -> None:
    cluster = cluster_of(A, B, C)
    assert cluster.age() == inf
    answer(cluster, A)
    assert cluster.age() == inf
    answer(cluster, B, ago=LONG_AGO)
    assert LONG_AGO <= cluster.age() < 2 * LONG_AGO
    answer(cluster, C, ago=LONG_AGO / 10)
    assert LONG_AGO / 10 <= cluster.age() < LONG_AGO
    answer(cluster, B, C)
    assert cluster.age() < LONG_AGO / 10


def test_who_finds_the_map_finds_its_owners_unconfirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call beside the thread that fetches the first map must not take no owners for a single one."""
    found: list[bool] = []
    real = Quorum.use

    def use(quorum: Quorum, owners: Set[Address]) -> None:
        found.append(cluster.topology is not None and cluster.age() < inf)
        real(quorum, owners)
        found.append(cluster.topology is not None and cluster.age() < inf)

    monkeypatch.setattr(Quorum, "use", use)
    cluster = Cluster(CacheConfig(url="redis+cluster://a:1,b:1,c:1"))
    cluster._install(view(A, B, C))
    assert (cluster.age(), found) == (inf, [False, False])


def test_of_two_primaries_both_must_answer() -> None:
    cluster = cluster_of(A, B)
    answer(cluster, A)
    assert cluster.age() == inf
    answer(cluster, B, ago=LONG_AGO)
    assert LONG_AGO <= cluster.age() < inf


def test_a_single_primary_has_no_others_to_ask() -> None:
    assert cluster_of(A).age() == -inf


def test_who_sees_another_owner_does_not_count() -> None:
    """B and C know already that D has replaced A; this process does not."""
    cluster = cluster_of(A, B, C)
    for address in (B, C):
        cluster.quorum.saw(address, view(D, B, C))
    answer(cluster, A, B, C)
    assert cluster.age() == inf
    cluster._install(view(D, B, C, epoch=2))
    answer(cluster, B, C)
    assert cluster.age() < LONG_AGO


def test_who_sees_one_owner_more_counts() -> None:
    """A node that has just taken its first slot: who is asked for it redirects."""
    cluster = cluster_of(A, B, C)
    cluster.quorum.saw(B, view(A, B, C, D))
    answer(cluster, A, B)
    assert cluster.age() < LONG_AGO


def test_answers_from_before_a_fork_do_not_count_in_the_child() -> None:
    cluster = cluster_of(A, B, C)
    answer(cluster, A, B, C)
    cluster.forget()
    assert cluster.age() == inf


def test_only_as_many_are_asked_as_a_majority_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = cluster_of(A, B, C)
    answer(cluster, B)
    asked = views(monkeypatch, dict.fromkeys((A, B, C), view(A, B, C)))
    confirm(cluster, time.monotonic() + LONG_AGO)
    assert len(asked) == 1
    assert asked != [B]
    assert cluster.age() < LONG_AGO


def test_another_is_asked_instead_of_one_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = cluster_of(A, B, C)
    asked = views(monkeypatch, dict.fromkeys((A, C), view(A, B, C)))
    confirm(cluster, time.monotonic() + LONG_AGO)
    assert {A, C} <= set(asked)
    assert cluster.age() < LONG_AGO


def test_a_newer_view_is_used_before_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = cluster_of(A, B, C)
    views(monkeypatch, {A: view(A, B, C)} | dict.fromkeys((B, C, D), view(D, B, C, epoch=2)))
    confirm(cluster, time.monotonic() + LONG_AGO)
    assert cluster.topology is not None
    assert set(cluster.topology.owners.values()) == {D, B, C}


def test_without_a_majority_redis_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is asked once; the message says what is missing and when that ends."""
    cluster = cluster_of(A, B, C)
    asked = views(monkeypatch, {A: view(A, B, C)})
    with pytest.raises(RemoteUnavailableError, match=r"most primaries of the cluster have not answered.*5 s.*cut off"):
        confirm(cluster, time.monotonic() + LONG_AGO)
    assert len(asked) == len(set(asked))


def test_where_too_few_can_answer_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The breakers of two of three are open: a call costs no round trip to the third."""
    cluster = cluster_of(A, B, C)
    for address in (B, C):
        for _ in range(cluster.config.breaker_failures):
            cluster.scouts.at(address).breaker.failure()
    asked = views(monkeypatch, {A: view(A, B, C)})
    with pytest.raises(RemoteUnavailableError):
        confirm(cluster, time.monotonic() + LONG_AGO)
    assert A not in asked
