"""Fixtures for tests with a server: shops and their database, other processes, and a proxy that counts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
import redis

from aikcache._coherence import channel
from aikcache.testing import Server
from aikcache.testing.proxy import Proxy

from ._workers import PATIENCE, PATIENT, Database, Shop, Spec, Worker, close_shops

_instances = itertools.count()


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel that receives nothing for three seconds is not given up, and with it all that is held."""
    monkeypatch.setattr(channel, "SILENCE", PATIENCE)


@pytest.fixture
def instance() -> str:
    """An instance name that no other test has, for workers outlive tests."""
    return f"test{next(_instances)}"


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis]:
    """A plain client of bytes."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def spec(redis_url: str, instance: str) -> Spec:
    """A cache on the session's server."""
    return Spec(redis_url, instance, realm=instance).but(**PATIENT)


@pytest.fixture
def bare(spec: Spec) -> Spec:
    """The same cache without a local tier: it sees what Redis holds."""
    return spec.but(local_ttl=0)


@pytest.fixture
def database(redis_url: str, instance: str) -> Iterator[Database]:
    with closing(Database(redis_url, instance)) as database:
        yield database


@pytest.fixture
def open_shop() -> Iterator[Callable[[Spec], Shop]]:
    """Opens shops in this process, each with a cache of its own, closed after the test."""
    with ExitStack() as stack:
        yield lambda spec: stack.enter_context(closing(Shop(spec)))


@pytest.fixture(scope="session")
def crowd() -> Iterator[list[Worker]]:
    """Eight other processes."""
    with ExitStack() as stack:
        workers = [Worker() for _ in range(8)]
        for worker in workers:
            stack.callback(worker.stop)
        for started in [worker.start(close_shops) for worker in workers]:
            started.result(9 * PATIENCE)  # starting eight interpreters takes time, and is no test's
        yield workers


@pytest.fixture
def workers(crowd: list[Worker]) -> Iterator[list[Worker]]:
    """The eight processes, without caches of earlier tests."""
    yield crowd
    for pending in [worker.start(close_shops) for worker in crowd]:
        pending.result()


@pytest.fixture
def worker(workers: list[Worker]) -> Worker:
    """One other process."""
    return workers[0]


@pytest.fixture
def victim() -> Iterator[Worker]:
    """A process to be killed."""
    worker = Worker()
    try:
        worker.start(close_shops).result(9 * PATIENCE)
        yield worker
    finally:
        worker.stop()


@pytest.fixture
def proxy(redis_server: Server, redis_url: str) -> Iterator[Proxy]:
    """A way to the session's server on which round trips are counted."""
    with Proxy(redis_server.socket) as proxy:
        yield proxy
