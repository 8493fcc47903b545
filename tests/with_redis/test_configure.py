"""`configure` while calls and invalidations are under way: what was invalidated reaches the server all the same."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import redis

import aikcache
from aikcache import Cache, _default
from aikcache._coherence import pending
from aikcache._default import Default
from aikcache.errors import RemoteError, RemoteUnavailableError
from aikcache.testing import Server, wait_until

from ._workers import PATIENCE, PATIENT


@pytest.fixture
def default(monkeypatch: pytest.MonkeyPatch) -> Iterator[Default]:
    """A default cache of this test's own, without an environment."""
    for name in [name for name in os.environ if name.startswith("AIKCACHE_")]:
        monkeypatch.delenv(name)
    made = Default()
    monkeypatch.setattr(_default, "default", made)
    yield made
    made.configure().close()


def test_an_invalidation_overtaken_by_configure_reaches_redis(
    default: Default, redis_url: str, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old cache is closed before its invalidation is sent: the new one sends it."""
    value = ["old"]

    @default.cached("p")
    def f(x: int) -> str:
        return value[0]

    old = aikcache.configure(redis_url, instance=instance)
    assert f(1) == "old"
    value[0] = "new"
    ready = old.engine.ready

    def overtaken() -> None:
        monkeypatch.setattr(old.engine, "ready", ready)
        aikcache.configure(redis_url, instance=instance)
        ready()

    monkeypatch.setattr(old.engine, "ready", overtaken)
    f.invalidate(1)
    with Cache(redis_url, instance=instance, consistency="strong") as other:
        assert other.get("p:f:1", type=str) is None
    assert f(1) == "new"


def test_what_is_pending_at_configure_is_sent_by_the_new_cache(
    default: Default, redis_url: str, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is away while a value is invalidated, and `configure` is called then: the old value is not read later."""
    value = ["old"]

    @default.cached("p")
    def f(x: int) -> str:
        return value[0]

    def away() -> None:
        raise RemoteUnavailableError("away")

    old = aikcache.configure(redis_url, instance=instance)
    assert f(1) == "old"
    value[0] = "new"
    monkeypatch.setattr(old.engine, "ready", away)
    f.invalidate(1)
    aikcache.configure(redis_url, instance=instance)
    assert f(1) == "new"


def test_what_was_invalidated_before_configure_is_sent_to_a_server_that_lost_it(
    default: Default, own_server: Server, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new cache sends the former's last minute again when another run of the server answers."""
    monkeypatch.setattr(pending, "JUST_STARTED", -1)
    old = aikcache.configure(own_server.url, instance=instance, **PATIENT)
    old.set("p:f:1", "old", ttl=600)
    with redis.Redis.from_url(own_server.url) as client:
        client.save()
    old.invalidate_key("p:f:1")
    new = aikcache.configure(own_server.url, instance=instance, **PATIENT)
    new.ping()
    own_server.kill()
    own_server.restart()  # with what it had saved
    wait_until(lambda: reached(new), PATIENCE, "the server")
    with Cache(own_server.url, instance=instance, **PATIENT) as other:
        assert other.get("p:f:1", type=str) is None


def reached(cache: Cache) -> bool:
    try:
        cache.ping()
    except RemoteError:
        return False
    return True


def test_an_invalidation_through_a_closed_cache_is_not_said_to_be_pending(
    redis_url: str, instance: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing sends it later, so the log says why it is not sent to Redis."""
    cache = Cache(redis_url, instance=instance)
    cache.close()
    with caplog.at_level(logging.WARNING, "aikcache"):
        cache.invalidate_tags("t")
    (record,) = caplog.records
    assert "through a cache that is closed" in record.getMessage()
    assert "pending" not in record.getMessage()
