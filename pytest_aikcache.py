"""A pytest plugin for tests of code that is cached: fixtures of `aikcache.testing`.

It is loaded in every run where aikcache is installed. So it imports nothing of aikcache before a fixture is asked for,
which also keeps the measurement of coverage whole. `-p no:pytest_aikcache` leaves it out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aikcache import Cache, Settings
    from aikcache.testing import FakeClock, Server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """A real Valkey or Redis on a unix socket, shared by all tests: one that stops it starts a `Server` of its own."""
    from aikcache.testing import Server

    with Server() as server:
        yield server


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock that stands still until `advance(seconds)`. In the same test `cache` uses it."""
    from aikcache.testing import FakeClock

    return FakeClock()


@pytest.fixture
def cache_settings() -> Settings:
    """What the caches of these fixtures are made with. Override it in your `conftest.py`."""
    return {}


@pytest.fixture
def cache(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The default cache for this test, empty: in this process alone, or on the `redis_server` that it takes as well.

    pytest itself has a fixture of this name (`request.config.cache`). A run in which nothing has imported aikcache gets
    that one.
    """
    if "aikcache" not in sys.modules:
        yield getattr(request.config, "cache", None)
        return
    yield from _default_cache(request)


@pytest.fixture
def strict_cache(request: pytest.FixtureRequest) -> Iterator[Cache]:
    """As `cache`, with `strict=True`: a result that cannot be kept, or an argument without a key, fails the test."""
    yield from _default_cache(request, strict=True)


@pytest.fixture
def two_caches(redis_server: Server, cache_settings: Settings) -> Iterator[tuple[Cache, Cache]]:
    """Two caches on the `redis_server`, as two processes have them, which receive each other's invalidations."""
    from aikcache import testing

    with testing.two_caches(redis_server.url, **cache_settings) as caches:
        yield caches


@pytest.fixture
def no_cache() -> Iterator[None]:
    """Every call of every cached function runs the function."""
    from aikcache import testing

    with testing.no_cache():
        yield


def _default_cache(request: pytest.FixtureRequest, **settings: Any) -> Iterator[Cache]:
    from aikcache import testing

    given = {**request.getfixturevalue("cache_settings"), **settings}
    if "fake_clock" in request.fixturenames:
        given["clock"] = request.getfixturevalue("fake_clock")
    url = request.getfixturevalue("redis_server").url if "redis_server" in request.fixturenames else None
    with testing.default_cache(url, **given) as cache:
        yield cache
