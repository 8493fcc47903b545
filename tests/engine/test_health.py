"""The problems found in a server's `INFO`, and in a cache without a server."""

from __future__ import annotations

import pytest

from aikcache import Cache
from aikcache._engine.health import judge


def kinds(**facts: str) -> dict[str, str]:
    """The problems of a server, each with its severity; all have a cure."""
    problems = list(judge(facts))
    assert all(problem.what and problem.cure for problem in problems)
    return {problem.kind: problem.severity for problem in problems}


FIT = {
    "redis_version": "7.4.11", "role": "master", "maxmemory": "1000", "used_memory": "990",
    "maxmemory_policy": "allkeys-lru", "rdb_last_bgsave_status": "ok", "aof_last_write_status": "ok", "loading": "0",
}  # fmt: skip


def test_a_full_cache_that_evicts_is_healthy() -> None:
    """Full memory is what a cache is for."""
    assert kinds(**FIT) == {}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"role": "slave"}, {"role": "degraded"}),
        ({"redis_version": "7.4.10"}, {"version": "warning"}),
        ({"redis_version": "7.0.15"}, {"version": "warning"}),
        ({"redis_version": "8.0.3"}, {"version": "warning"}),
        ({"redis_version": "8.4.0"}, {}),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, {}),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.1"}, {"version": "warning"}),
        ({"redis_version": "7.2.4", "server_name": "valkey"}, {}),
        ({"redis_version": "new"}, {}),
        ({"maxmemory_policy": "noeviction"}, {"eviction": "degraded"}),
        ({"maxmemory_policy": "noeviction", "used_memory": "10"}, {"eviction": "warning"}),
        ({"maxmemory": "0"}, {"memory": "warning"}),
        ({"aof_enabled": "1"}, {"eviction": "warning"}),
        ({"rdb_last_bgsave_status": "err"}, {"persistence": "degraded"}),
        ({"aof_last_write_status": "err"}, {"persistence": "degraded"}),
        ({"loading": "1"}, {"loading": "degraded"}),
        ({"used_memory": "9" * 5000, "maxmemory": "-1"}, {"memory": "warning"}),
    ],
)
def test_each_fact_that_is_wrong_is_a_problem(facts: dict[str, str], expected: dict[str, str]) -> None:
    """One field is changed, and one problem is named."""
    assert kinds(**{**FIT, **facts}) == expected


def test_a_local_cache_is_healthy_and_a_closed_one_is_not_live() -> None:
    """No server is needed, and nothing is asked."""
    with Cache() as cache:
        health = cache.health()
        assert (health.status, health.ready, health.degraded, health.problems) == ("ok", True, False, ())
    health = cache.health()
    assert (health.status, health.live, health.ready, health.ok) == ("closed", False, False, False)
