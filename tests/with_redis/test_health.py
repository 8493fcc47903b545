"""`Cache.health()` on a real server that is well, hangs, is gone, or refuses."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from aikcache import Cache, Health
from aikcache._engine import health as _health
from aikcache._engine.invalidation import InvalidationListener
from aikcache.testing import Server, wait_until

from ._workers import PATIENCE, PATIENT

QUICK: Any = {"timeout": 0.3, "connect_timeout": 0.3, "breaker_failures": 2, "breaker_reset": 0.1}


def kinds(health: Health) -> set[str]:
    assert all(problem.cure for problem in health.problems)
    return {problem.kind for problem in health.problems}


def test_a_healthy_server_has_no_more_than_warnings(own_server: Server, instance: str) -> None:
    """A round trip is timed, and what could be better is a warning."""
    with Cache(own_server.url, instance=instance, **PATIENT) as cache:
        assert cache.wait_coherent(PATIENCE)
        health = cache.health()
        assert (health.status, health.ok, health.server) == ("ok", True, "reachable")
        assert health.latency is not None
        assert kinds(health) <= {"memory", "version"}


def test_with_redis_hung_or_down_a_process_is_degraded_and_live(own_server: Server, instance: str) -> None:
    """`health` answers all the same, names the breaker with its last cause, and is well again afterwards."""
    with Cache(own_server.url, instance=instance, **QUICK) as cache:
        wait_until(lambda: cache.health().ok, PATIENCE, "the first answer")
        own_server.pause()
        try:
            wait_until(lambda: "breaker" in kinds(cache.health()), PATIENCE, "the breaker")
            cache.invalidate_key("thing:by:1")
            health = cache.health()
            assert (health.status, health.live, health.ready, health.ok) == ("degraded", True, True, False)
            assert "pending" in kinds(health)
        finally:
            own_server.resume()
        wait_until(lambda: cache.health().status == "ok", PATIENCE, "the recovery")
        own_server.kill()
        wait_until(lambda: kinds(cache.health()) & {"server", "breaker"}, PATIENCE, "the loss")
        assert cache.health().ready


def test_a_full_server_that_evicts_nothing_is_named_with_its_cure(own_server: Server, instance: str) -> None:
    """`noeviction` near maxmemory is degraded before anything is refused."""
    with Cache(own_server.url, instance=instance, **PATIENT) as cache:
        assert cache.wait_coherent(PATIENCE)
        with redis.Redis.from_url(own_server.url) as client:
            used = int(client.info("memory")["used_memory"])
            client.config_set("maxmemory", used + used // 50)
        (problem,) = [problem for problem in cache.health().problems if problem.kind == "eviction"]
        assert problem.severity == "degraded"
        assert "allkeys-lru" in problem.cure


def test_a_channel_that_has_just_opened_is_no_problem(
    own_server: Server, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is connected, and the cache is not told yet: that is not silence."""
    monkeypatch.setattr(_health, "MISSED", PATIENCE)
    monkeypatch.setattr(InvalidationListener, "channel_live", lambda self, **details: None)
    with Cache(own_server.url, instance=instance, **PATIENT) as cache:
        channel = cache.engine.channel
        assert channel is not None
        channel.start()
        wait_until(lambda: channel.live.is_set(), PATIENCE, "the channel")
        assert not cache.stats().coherent
        assert "channel" not in kinds(cache.health())


@pytest.mark.parametrize("denied", ["-client|tracking", "-client"])
def test_a_channel_that_never_opens_is_named_with_the_reason(own_server: Server, instance: str, denied: str) -> None:
    """The server answers everything else, so that nothing but this says why others' invalidations do not arrive."""
    admin = redis.Redis.from_url(own_server.url)
    everything: Any = {"categories": ["+@all"], "keys": ["*"], "channels": ["*"], "nopass": True, "enabled": True}
    admin.acl_setuser("deaf", commands=[denied], **everything)
    url = own_server.url.replace("://", "://deaf:any@")
    with Cache(url, instance=instance, **PATIENT) as cache:
        cache.get("some:key")
        wait_until(lambda: "channel" in kinds(cache.health()), PATIENCE, "the channel's problem")
        health = cache.health()
        (problem,) = (problem for problem in health.problems if problem.kind == "channel")
        assert (health.status, health.coherent) == ("degraded", False)
        assert "the server refuses tracking: NOPERM" in problem.what
        assert "CLIENT TRACKING" in problem.cure
    admin.close()


def test_a_user_that_may_not_subscribe_is_a_warning(own_server: Server, instance: str) -> None:
    """Only what the server refuses to write comes late, so the cache is no worse than ok."""
    with redis.Redis.from_url(own_server.url) as admin:
        admin.acl_setuser("deaf", commands=["-subscribe"], categories=["+@all"], keys=["*"], channels=["*"],
                          nopass=True, enabled=True)  # fmt: skip
    with Cache(own_server.url.replace("://", "://deaf:any@"), instance=instance, **PATIENT) as cache:
        assert cache.wait_coherent(PATIENCE)
        wait_until(lambda: "subscribe" in kinds(cache.health()), PATIENCE, "the refusal")
        (problem,) = (problem for problem in cache.health().problems if problem.kind == "subscribe")
        assert (cache.health().status, problem.severity) == ("ok", "warning")
        assert "refuses SUBSCRIBE: NOPERM" in problem.what
