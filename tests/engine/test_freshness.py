"""The costs and counts of a look-up: a key is looked up a fixed number of times, and only a served value is a hit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cachetools
import pytest

from aikcache import Cache


class CountingCache(cachetools.LRUCache[str, Any]):
    """The local tier's store, which counts the keys that it is asked for."""

    looks = 0

    def __contains__(self, key: object) -> bool:
        self.looks += 1
        return super().__contains__(key)


@pytest.fixture(params=["local", "shared"])
def counted(request: pytest.FixtureRequest, redis_url: str) -> Iterator[tuple[Cache, list[CountingCache]]]:
    """A cache in this process alone, and one with a server, with its store."""
    stores: list[CountingCache] = []

    def store(size: int) -> CountingCache:
        stores.append(CountingCache(size))
        return stores[0]

    url = None if request.param == "local" else redis_url
    with Cache(url, instance="looks", policy=store, timeout=10, connect_timeout=10) as cache:
        assert cache.wait_coherent(20)
        yield cache, stores


def ask_one(cache: Cache, run: Callable[[], None]) -> None:
    @cache.cached("p")
    def f(x: int) -> int:
        run()
        return x

    f(1)


def ask_many(cache: Cache, run: Callable[[], None]) -> None:
    @cache.cached("p")
    def f(x: int) -> int:
        run()
        return x

    f.many([1])


def ask_batch(cache: Cache, run: Callable[[], None]) -> None:
    @cache.cached_many("p")
    def f(ids: list[int]) -> dict[int, int]:
        run()
        return {x: x for x in ids}

    f([1])


def ask_by_key(cache: Cache, run: Callable[[], None]) -> None:
    cache.get_or_load("p:f:1", run)


@pytest.mark.parametrize("ask", [ask_one, ask_many, ask_batch, ask_by_key])
def test_a_miss_looks_into_the_store_once(
    counted: tuple[Cache, list[CountingCache]], ask: Callable[[Cache, Callable[[], None]], None]
) -> None:
    """Before its function runs, a miss has looked by its arguments (in the wrapper) and once by its key."""
    cache, (store,) = counted
    looks: list[int] = []
    before = store.looks
    ask(cache, lambda: looks.append(store.looks - before))
    assert looks == [1]


def test_only_what_is_served_is_a_hit(counted: tuple[Cache, list[CountingCache]]) -> None:
    """Misses, peeks at nothing and values of another type count no hit, and no count is taken back."""
    cache, _ = counted
    seen: list[int] = []

    @cache.cached("p")
    def f(x: int) -> list[int]:
        seen.append(cache.stats().hits)
        return [x]

    assert f.peek(1) is None
    assert f(1) == f(1) == [1]
    assert cache.get(f.key(1), type=str) is None
    assert f.many([1, 2]) == [[1], [2]]
    assert seen == [0, 2]
    stats = cache.stats()
    assert (stats.hits, stats.misses) == (2, 4)
