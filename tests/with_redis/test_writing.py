"""Values put by hand, many at once, and values whose TTL was removed in Redis."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
import redis

from aikcache import Cache, EncodeError
from aikcache.testing import Server
from aikcache.testing.proxy import Proxy

from ._staging import Ahead
from ._workers import PATIENCE, PATIENT, connect

pytestmark = pytest.mark.usefixtures("unhurried")

VALUES: dict[str, Any] = {f"p:f:n{i}": [i, "x" * i] for i in range(50)}


@pytest.mark.parametrize("local_ttl", [0, 60])
def test_many_values_are_put_in_a_constant_few_round_trips(proxy: Proxy, instance: str, local_ttl: float) -> None:
    """Fifty keys take as many round trips as one, four at most and two where all stamps are known, and replace the old
    values in every process.
    """
    with (
        closing(Cache(proxy.url, instance=instance, local_ttl=local_ttl, **PATIENT)) as cache,
        closing(Cache(proxy.url, instance=instance, **PATIENT)) as other,
    ):
        connect(cache)
        connect(other)
        cache.set_many({"p:f:first": 0}, tags=("t",))  # a new server learns the scripts
        taken = []
        for values in ({"p:f:one": 1}, dict.fromkeys(VALUES, "old"), VALUES):
            before = proxy.round_trips
            cache.set_many(values, ttl=60, tags=("t",))
            taken.append(proxy.round_trips - before)
        assert (max(taken) <= 4, taken[-1]) == (True, 2)
        assert cache.get_many(VALUES) == other.get_many(VALUES) == VALUES
        cache.invalidate_tags("t")
        assert cache.get_many(VALUES) == {}


def test_values_beyond_one_batch_are_all_put(redis_url: str, instance: str) -> None:
    """Thousands of keys, large values among them, go in several batches; one named twice is what was said last."""
    values: dict[str, Any] = {f"p:f:n{i}": i for i in range(1201)} | {f"p:f:big{i}": "x" * 400_000 for i in range(5)}
    with closing(Cache(redis_url, instance=instance, **PATIENT)) as cache:
        cache.set_many({f"{instance}:v1:p:f:n0": "first", **values})
        assert cache.get_many(values) == values


def test_none_is_put_when_one_cannot_be(redis_url: str, instance: str) -> None:
    """A value that cannot come back equal is an `EncodeError` before anything is written."""
    with closing(Cache(redis_url, instance=instance, **PATIENT)) as cache:
        with pytest.raises(EncodeError):
            cache.set_many({"p:f:a": 1, "p:f:b": object()})
        assert cache.get("p:f:a") is None


def test_explain_agrees_with_the_call_on_a_value_without_expiry(redis_url: str, instance: str) -> None:
    """A value whose TTL was removed in Redis is a hit, and `.explain` says so, with how long it will be one."""
    with (
        closing(Cache(redis_url, instance=instance, local_ttl=0, **PATIENT)) as cache,
        redis.Redis.from_url(redis_url) as client,
    ):
        runs = []

        @cache.cached("p", ttl=60, stale_ttl=30)
        def f(x: int) -> int:
            runs.append(x)
            return x

        f(1)
        assert client.persist(f.key(1))
        explained = f.explain(1)
        assert (explained["answer"], explained["remote"]["fresh"], explained["remote"]["seconds_left"]) == (
            "remote",
            True,
            60.0,
        )
        assert f(1) == 1
        assert runs == [1]


@pytest.mark.parametrize("server", ["answers", "is down"])
def test_explain_agrees_with_the_call_on_a_value_that_is_not_trusted(
    server: str, own_server: Server, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When `max_staleness` has passed without a word of the channel, `.explain` names no local value either."""
    clock = Ahead(monkeypatch)
    with Cache(
        own_server.url, instance=instance, max_staleness=20, local_ttl=1000, timeout=10, connect_timeout=10
    ) as cache:
        runs = []

        @cache.cached("p", ttl=1000)
        def f(x: int) -> int:
            runs.append(x)
            return x

        assert cache.wait_coherent(PATIENCE)
        f(1)
        assert f.explain(1)["answer"] == "local"
        if server == "is down":
            own_server.kill()
        clock.advance(500)
        expected = {"answers": "remote", "is down": "load"}[server]
        assert f.explain(1)["answer"] == expected
        f(1)
        assert f.cache_info().hits == (server == "answers")
        assert len(runs) == 1 + (server == "is down")
