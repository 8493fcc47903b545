"""S3-FIFO: a mapping like any of cachetools', whose choice of what to evict is the paper's."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import cachetools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache._s3fifo import MAX_ROUNDS, S3FIFOCache

Factory = Callable[..., "cachetools.Cache[Any, Any]"]


@pytest.fixture(params=[S3FIFOCache, cachetools.LRUCache, cachetools.FIFOCache], ids=lambda cls: cls.__name__)
def factory(request: pytest.FixtureRequest) -> Factory:
    """The contract holds for cachetools' own, so it is theirs and not an invention of this test."""
    cls: Factory = request.param
    return cls


class TestMapping:
    def test_is_a_mutable_mapping(self, factory: Factory) -> None:
        """Set, get, replace, iterate, delete, pop and update do what they do to a dict."""
        cache = factory(10)
        cache.update({"a": 1, "b": 2})
        cache["a"] = 3
        assert dict(cache.items()) == {"a": 3, "b": 2}
        assert (len(cache), cache.currsize, cache.maxsize) == (2, 2, 10)
        assert "a" in cache
        assert "z" not in cache
        assert cache.get("z", 7) == 7
        assert cache.pop("a") == 3
        assert cache.pop("a", 9) == 9
        assert cache.setdefault("b", 5) == 2
        assert cache.setdefault("c", 6) == 6
        del cache["b"]
        assert list(cache) == ["c"]
        cache.clear()
        assert (len(cache), cache.currsize) == (0, 0)

    def test_missing_keys_are_key_errors(self, factory: Factory) -> None:
        """Getting, deleting and popping what is not there, or anything from an empty cache, is a `KeyError`."""
        cache = factory(2)
        for act in (
            lambda: cache["a"],
            lambda: cache.__delitem__("a"),
            lambda: cache.pop("a"),
            lambda: cache.popitem(),
        ):
            with pytest.raises(KeyError):
                act()

    def test_popitem_gives_what_it_evicts(self, factory: Factory) -> None:
        """The pair that `popitem` returns was in the cache and is not any more."""
        cache = factory(3)
        cache.update({"a": 1, "b": 2, "c": 3})
        popped = dict(cache.popitem() for _ in range(3))
        assert popped == {"a": 1, "b": 2, "c": 3}
        assert len(cache) == 0

    def test_counts_sizes_by_getsizeof(self, factory: Factory) -> None:
        """With `getsizeof` the bound is in its unit, and as many go as the newcomer needs."""
        cache = factory(10, getsizeof=len)
        cache["a"], cache["b"], cache["c"] = "xxx", "xxx", "xxx"
        assert cache.currsize == 9
        cache["d"] = "xxxxx"
        assert cache.currsize <= 10
        assert cache["d"] == "xxxxx"
        cache["d"] = "x"
        assert cache.currsize == sum(map(len, cache.values()))

    def test_what_is_larger_than_the_cache_is_refused(self, factory: Factory) -> None:
        """A value above `maxsize` is a `ValueError`, and nothing else is evicted for it."""
        cache = factory(10, getsizeof=len)
        cache["a"] = "xxx"
        with pytest.raises(ValueError, match="too large"):
            cache["b"] = "x" * 11
        assert dict(cache.items()) == {"a": "xxx"}

    def test_a_size_of_nothing_holds_nothing(self, factory: Factory) -> None:
        """`maxsize` 0 refuses everything."""
        cache = factory(0)
        with pytest.raises(ValueError, match="too large"):
            cache["a"] = 1
        assert len(cache) == 0

    def test_a_replacement_that_is_too_large_leaves_the_old_value(self, factory: Factory) -> None:
        """A refused replacement changes nothing."""
        cache = factory(10, getsizeof=len)
        cache["a"] = "xxx"
        with pytest.raises(ValueError, match="too large"):
            cache["a"] = "x" * 11
        assert dict(cache.items()) == {"a": "xxx"}


operations = st.lists(st.tuples(st.sampled_from("sgdp"), st.integers(0, 12), st.integers(1, 4)), max_size=80)


@given(st.integers(1, 9), operations)
def test_never_holds_more_than_its_size(maxsize: int, steps: list[tuple[str, int, int]]) -> None:
    """Whatever is done, sizes never exceed `maxsize`, and `currsize` is their sum."""
    cache = S3FIFOCache(maxsize, getsizeof=lambda value: value)
    for what, key, size in steps:
        if what == "s" and size <= maxsize:
            cache[key] = size
            assert cache[key] == size
        elif what == "g":
            cache.get(key)
        elif what == "d":
            cache.pop(key, None)
        elif cache:
            cache.popitem()
        assert cache.currsize == sum(cache.values()) <= maxsize


class Paper:
    """S3-FIFO as plain lists, without the deferred work of the real one; entries are [key, hits, spent]."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.small: list[list[Any]] = []
        self.main: list[list[Any]] = []
        self.ghosts: list[Any] = []
        self.remembered: set[Any] = set()

    def keys(self) -> set[Any]:
        return {entry[0] for entry in self.small + self.main}

    def get(self, key: Any) -> None:
        for entry in self.small + self.main:
            if entry[0] == key:
                entry[1] += 1

    def drop(self, key: Any) -> list[list[Any]] | None:
        for queue in (self.small, self.main):
            for entry in queue:
                if entry[0] == key:
                    queue.remove(entry)
                    return queue
        return None

    def put(self, key: Any) -> None:
        queue = self.drop(key)
        while len(self.small) + len(self.main) >= self.size:
            self.evict()
        if key in self.remembered:
            self.remembered.discard(key)
            queue = self.main
        (self.small if queue is None else queue).append([key, 0, 0])

    def evict(self) -> None:
        while True:
            count = len(self.small) + len(self.main)
            if self.small and (len(self.small) * 10 > count or not self.main):
                entry = self.small.pop(0)
                if entry[1] > entry[2] and len(self.main) + 1 < max(count, 2):
                    self.main.append([entry[0], entry[1], entry[1]])
                    continue
                self.ghosts.append(entry[0])
                self.remembered.add(entry[0])
                while len(self.ghosts) > count:
                    self.remembered.discard(self.ghosts.pop(0))
                return
            entry = self.main.pop(0)
            rounds = min(entry[1] - entry[2], MAX_ROUNDS)
            if rounds <= 0:
                return
            self.main.append([entry[0], entry[1], entry[1] - rounds + 1])


@given(st.integers(1, 12), st.lists(st.tuples(st.sampled_from("sssggd"), st.integers(0, 15)), max_size=200))
def test_evicts_what_the_paper_evicts(size: int, steps: list[tuple[str, int]]) -> None:
    """After every step the keys are those of a plain rendering of the algorithm."""
    cache, paper = S3FIFOCache(size), Paper(size)
    for what, key in steps:
        if what == "s":
            cache[key] = key
            paper.put(key)
        elif what == "g":
            cache.get(key)
            paper.get(key)
        else:
            cache.pop(key, None)
            paper.drop(key)
        assert set(cache) == paper.keys()


def test_an_example_by_hand() -> None:
    """A cache of four, step by step."""
    cache = S3FIFOCache(4)
    for key in "abcd":
        cache[key] = key
    assert cache["a"] == "a"
    cache["e"] = "e"  # a was hit: to the main queue; b, the next oldest, goes and is remembered
    assert set(cache) == set("acde")
    cache["b"] = "b"  # c goes; b comes back within its memory: into the main queue
    assert set(cache) == set("abde")
    cache["f"] = cache["g"] = "x"  # d and e go: only the small queue pays for newcomers
    assert set(cache) == set("abfg")


def test_one_scan_disturbs_nothing() -> None:
    """A thousand keys that are asked for once do not push out those that were asked for twice."""
    cache, lru = S3FIFOCache(100), cachetools.LRUCache[int, int](100)
    for one in (cache, lru):
        for key in range(50):
            one[key] = key
            assert one[key] == key
        for key in range(1000, 2000):
            one[key] = key
    assert sum(key in cache for key in range(50)) == 50
    assert sum(key in lru for key in range(50)) == 0


def test_a_hit_earns_one_more_round_in_the_main_queue() -> None:
    """In the main queue a key stays one more round per hit, three at most."""

    def lifetime(hits: int) -> int:
        cache = S3FIFOCache(20)
        for key in range(20):
            cache[key] = key
            assert cache[key] == key
        cache[100] = 100  # 1 is now at the head of the main queue, its first hit spent on getting there
        for _ in range(hits):
            assert cache[1] == 1
        newcomers = 200
        while 1 in cache:
            newcomers += 1
            cache[newcomers] = newcomers
            assert cache[newcomers] == newcomers  # so that the main queue goes on turning
        return newcomers

    times = [lifetime(hits) for hits in range(6)]
    assert times[0] < times[1] < times[2] < times[3] == times[4] == times[5]


def test_beats_lru_where_few_keys_are_popular() -> None:
    """On a Zipf-like load with scans it hits more often than LRU."""
    rng = random.Random(7)
    hits = dict.fromkeys(("s3", "lru"), 0)
    caches: dict[str, cachetools.Cache[int, int]] = {"s3": S3FIFOCache(100), "lru": cachetools.LRUCache(100)}
    scan = 10_000
    for step in range(20_000):
        key = int(rng.paretovariate(0.8))
        if step % 4 == 0:
            scan += 1
            key = scan
        for name, cache in caches.items():
            if cache.get(key) is None:
                cache[key] = key
            else:
                hits[name] += 1
    assert hits["s3"] > hits["lru"]


def test_membership_and_iteration_are_no_hits() -> None:
    """Only `cache[key]` counts as a use."""
    cache = S3FIFOCache(2)
    cache["a"], cache["b"] = 1, 2
    assert "a" in cache
    assert list(cache) == ["a", "b"]
    assert cache.peek("a").value == 1
    cache["c"] = 3
    assert "a" not in cache


def test_queues_do_not_grow_with_deletions() -> None:
    """Deleted keys do not pile up in the queues."""
    cache = S3FIFOCache(10)
    for key in range(20_000):
        cache[key] = key
        del cache[key]
    assert len(cache._small) + len(cache._main) <= 2 * 10 + 1025
    assert len(cache._ghosts) <= 10


def test_memory_of_the_gone_is_bounded() -> None:
    """No more keys are remembered than the cache holds."""
    cache = S3FIFOCache(10)
    for key in range(1000):
        cache[key] = key
    assert len(cache._ghosts) <= 10
    assert len(cache._ghost) <= 10
