"""Fixtures for every test: real servers, both kinds, and the hypothesis profiles.

A test that takes `redis_url` or `own_server` runs once on Valkey and once on Redis. A kind that is not installed skips,
unless AIKCACHE_REQUIRE_SERVERS=1, as CI sets: then it fails. `redis_server` is shared by the session, so a test that
kills, pauses or reconfigures its server takes `own_server` or `tcp_server`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings

from aikcache.testing import Server, available_servers

pytest_plugins = ["pytest_aikcache"]  # as installed, also where this checkout was installed before it had one
REQUIRED = os.environ.get("AIKCACHE_REQUIRE_SERVERS") == "1"

# No deadlines: a machine that is busy with servers misses them, and the test says nothing about speed.
settings.register_profile("local", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.register_profile("quick", settings.get_profile("ci"), max_examples=30)
settings.register_profile("long", settings.get_profile("local"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if REQUIRED else "local"))


@pytest.fixture(scope="session")
def servers() -> dict[str, Path]:
    """The server binaries of this machine by kind."""
    return available_servers()


@pytest.fixture(scope="session", params=["valkey", "redis"])
def binary(request: pytest.FixtureRequest, servers: dict[str, Path]) -> Path:
    """A server binary: everything that depends on it runs once per kind."""
    kind: str = request.param
    if kind not in servers:
        message = f"no {kind} server is installed"
        if REQUIRED:
            pytest.fail(f"{message}, and AIKCACHE_REQUIRE_SERVERS=1")
        pytest.skip(message)
    return servers[kind]


@pytest.fixture(scope="session")
def redis_server(binary: Path) -> Iterator[Server]:
    """One server for the whole session, on a unix socket; its data goes with `redis_url`."""
    with Server(binary=binary, config=["enable-debug-command local"]) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: Server) -> str:
    """The URL of the session's server, emptied."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def own_server(binary: Path) -> Iterator[Server]:
    """A fresh server on a unix socket, for a test that kills, pauses, restarts or reconfigures it."""
    with Server(binary=binary, config=["enable-debug-command local"]) as server:
        yield server


@pytest.fixture
def tcp_server(binary: Path) -> Iterator[Server]:
    """A fresh server on a free TCP port, otherwise as `own_server`."""
    with Server(binary=binary, port=0, config=["enable-debug-command local"]) as server:
        yield server
