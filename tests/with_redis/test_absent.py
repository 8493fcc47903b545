"""An operation whose values are mostly not in Redis asks for the lease without a read before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import redis

from aikcache import Cache
from aikcache._engine.fast_path import USUALLY_ABSENT
from aikcache.testing.proxy import Proxy

from ._staging import wait_for_push
from ._workers import PATIENT, connect

pytestmark = pytest.mark.usefixtures("unhurried")


class Asked:
    """A cache whose calls of `one` have found nothing in Redis so far, and another that shares its values."""

    def __init__(self, proxy: Proxy, redis_url: str, instance: str) -> None:
        self.proxy = proxy
        self.cache = Cache(proxy.url, instance=instance, local_ttl=0, **PATIENT)
        self.other = Cache(redis_url, instance=instance, local_ttl=0, **PATIENT)
        self.loads: list[int] = []
        self.one, self.others = (self._bind(cache) for cache in (self.cache, self.other))
        connect(self.cache)
        connect(self.other)
        region = self.cache.engine.local.region("thing:one")
        for n in range(-50, 0):
            if region.absent < USUALLY_ABSENT:  # a call that does not know the stamps yet does not count
                self.one(n)
        self.loads.clear()

    def _bind(self, cache: Cache) -> Callable[[int], list[int]]:
        @cache.cached("thing", ttl=60, operation="one")
        def one(n: int) -> list[int]:
            self.loads.append(n)
            return [n]

        return one

    def round_trips(self, n: int) -> int:
        before = self.proxy.round_trips
        assert self.one(n) == [n]
        return self.proxy.round_trips - before

    def close(self) -> None:
        self.cache.close()
        self.other.close()


@pytest.fixture
def asked(proxy: Proxy, redis_url: str, instance: str) -> Iterator[Asked]:
    with closing(Asked(proxy, redis_url, instance)) as asked:
        yield asked


def test_a_load_takes_two_round_trips(asked: Asked) -> None:
    """The lease, and the store."""
    before = asked.cache.stats().misses
    assert [asked.round_trips(n) for n in range(5)] == [2] * 5
    assert asked.loads == list(range(5))
    assert asked.cache.stats().misses - before == 5


def test_a_value_that_is_there_after_all_is_a_hit_in_one(asked: Asked) -> None:
    """It comes instead of the lease, counts as a hit, and the next call reads first again."""
    asked.others(1)
    asked.loads.clear()
    assert [asked.round_trips(1), asked.round_trips(1), asked.round_trips(2)] == [1, 1, 3]
    assert asked.loads == [2]
    assert asked.cache.stats().remote_hits == 2


def test_a_stale_value_is_replaced_without_a_wait(asked: Asked) -> None:
    """What an invalidation has left there is seen and overwritten, and the call waits for nobody."""
    asked.others(1)
    asked.other.invalidate("thing")
    wait_for_push(asked.cache, asked.other)
    asked.one(-100)  # which learns the new stamp
    wait_for_push(asked.cache, asked.other)  # and receives its stamp's new life
    asked.loads.clear()
    waits = asked.cache.stats().waits
    assert asked.round_trips(1) <= 4  # the value, the lease, the store; a stamp, if it is not known yet
    assert (asked.loads, asked.cache.stats().waits) == ([1], waits)
    assert asked.others(1) == [1]
    assert asked.loads == [1]


def test_what_is_no_value_is_replaced(asked: Asked, redis_url: str) -> None:
    """Bytes of another program at the key, and a list."""
    with redis.Redis.from_url(redis_url) as client:
        client.set(asked.one.key(1), b"junk")  # type: ignore[attr-defined]
        client.rpush(asked.one.key(2), b"junk")  # type: ignore[attr-defined]
    for n in (1, 2):
        assert asked.one(n) == [n]
        assert asked.others(n) == [n]
    assert asked.loads == [1, 2]
