"""A client of redis-py's `Sentinel`, brought by the application."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis

from aikcache import Cache
from aikcache._settings import url
from aikcache.errors import ConfigError
from aikcache.testing import wait_until
from aikcache.testing.sentinel import Topology
from tests.with_redis._workers import PATIENCE, PATIENT

TAKEOVER = 120.0  # a Sentinel that was starved does nothing for 30 s (TILT)


def test_a_client_behind_sentinel_finds_the_primary_by_our_own_watch(binary: Path, instance: str) -> None:
    """A client of `master_for` gives service, Sentinels and both logins; a failover is followed."""
    with Topology(binary=binary, down_after_ms=30_000, failover_timeout_ms=2000) as topology:
        said = url.parse(topology.url)
        options: dict[str, Any] = {}
        if "sentinel_password" in said.secrets:
            options = {
                "username": said.options.get("sentinel_username"),
                "password": said.secrets["sentinel_password"].reveal(),
            }
        sentinel = redis.Sentinel(list(said.hosts), sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        client = sentinel.master_for(  # type: ignore[no-untyped-call]
            said.service, username=said.username, password=said.password and said.password.reveal()
        )
        with Cache(client=client, instance=instance, local_ttl=0, **PATIENT) as cache:
            cache.set("thing:x:1", 1)
            assert cache.get("thing:x:1") == 1
            assert cache.engine.remote is not None
            pool: Any = cache.engine.remote.connections
            wait_until(lambda: pool.sentinels.listening, PATIENCE, "a Sentinel that is listened to")
            generation, killed = pool.generation, topology.primary()
            topology.set_down_after(600)
            killed.kill()
            wait_until(lambda: topology.primaries() not in ([], [killed]), TAKEOVER, "another primary")
            wait_until(lambda: cache.health().ok and pool.generation > generation, TAKEOVER, "the cache to follow")
            cache.set("thing:x:2", 2)
            assert cache.get("thing:x:2") == 2


def test_sentinels_without_tls_for_a_server_with_tls_are_refused() -> None:
    """The Sentinels and the server have one TLS or none; what the client had would otherwise be left out."""
    client = redis.Sentinel([("h", 1)]).master_for("mine", ssl=True)  # type: ignore[no-untyped-call]
    with pytest.raises(ConfigError, match="must both have TLS"):
        Cache(client=client, instance="i")
