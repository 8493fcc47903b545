"""A redis-py `RedisCluster`, brought by the application."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from redis.credentials import UsernamePasswordCredentialProvider

from aikcache import Cache
from aikcache._coherence import pending
from aikcache._redis.cluster.client import Cluster
from aikcache.errors import ConfigError
from aikcache.testing.cluster import ClusterTopology
from tests.with_redis._workers import PATIENT


def test_a_cluster_client_gives_nodes_and_login(binary: Path, instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache with a `RedisCluster` reads and writes on all its nodes, by a password or by a provider."""
    monkeypatch.setattr(pending, "JUST_STARTED", -1)  # else meeting a young node ends what was stored before
    with ClusterTopology(binary=binary, password="p@ss") as topology:
        port = topology.primaries()[0].port
        assert port is not None
        provider = UsernamePasswordCredentialProvider("default", "p@ss")
        for login in ({"password": "p@ss"}, {"credential_provider": provider}):
            with (
                redis.RedisCluster(host="127.0.0.1", port=port, **login) as client,
                Cache(client=client, instance=instance, local_ttl=0, **PATIENT) as cache,
            ):
                assert cache.engine.remote is not None
                assert isinstance(cache.engine.remote.connections, Cluster)
                values = {f"thing:x:{n}": n for n in range(30)}
                cache.set_many(values)
                assert cache.get_many(values) == values
        with (
            redis.RedisCluster(host="127.0.0.1", port=port, password="p@ss", address_remap=lambda a: a) as client,
            pytest.raises(ConfigError, match="address_remap"),
        ):
            Cache(client=client, instance=instance)
