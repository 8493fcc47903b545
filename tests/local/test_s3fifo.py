"""S3-FIFO: a mapping like any of cachetools', whose choice of what to evict is the paper's."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import cachetools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache._local import s3fifo
from aikcache._local.s3fifo import LEAST, MAX_ROUNDS, MOST, WINDOW, Ghosts, S3FIFOCache

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


class Plain:
    """The same algorithm as plain lists, without the deferred work of the real one; entries are [key, hits, spent]."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.window: list[tuple[list[list[Any]], list[Any]]] = []
        self.small: list[list[Any]] = []
        self.main: list[list[Any]] = []
        self.left_small: list[Any] = []  # every one there ever was, and None where it is forgotten
        self.left_main: list[Any] = []
        self.share = self.credit = 0.0

    def len(self, queue: list[list[Any]]) -> int:
        return len(queue) + sum(to is queue for to, _ in self.window)

    def entries(self) -> list[list[Any]]:
        return [*self.small, *self.main, *(entry for _, entry in self.window)]

    def keys(self) -> set[Any]:
        return {entry[0] for entry in self.entries()}

    def get(self, key: Any) -> None:
        for entry in self.entries():
            entry[1] += entry[0] == key

    def drop(self, key: Any) -> list[list[Any]] | None:
        found = None
        for queue in (self.small, self.main):
            if any(entry[0] == key for entry in queue):
                found = queue
            queue[:] = [entry for entry in queue if entry[0] != key]
        found = next((to for to, entry in self.window if entry[0] == key), found)
        self.window = [(to, entry) for to, entry in self.window if entry[0] != key]
        return found

    def put(self, key: Any) -> None:
        queue = self.drop(key)
        while len(self.keys()) >= self.size:
            self.evict()
        count = len(self.keys()) + 1
        if passed := self.passed(self.left_small, key):
            if passed <= count:
                queue = self.main
                self.share = min(max(self.share, LEAST * count) + s3fifo.GROW, MOST * count)
            elif self.challenge(passed, count):
                queue = self.main
        elif 0 < self.passed(self.left_main, key) <= count // 2:
            self.share -= s3fifo.SHRINK
        self.window.append((self.small if queue is None else queue, [key, 0, 0]))
        while len(self.window) > 1 + len(self.keys()) / WINDOW:
            self.settle()
        while not self.left_small and not self.left_main and self.small and self.len(self.small) > LEAST * count + 1:
            self.main.append(self.small.pop(0))

    def passed(self, left: list[Any], key: Any) -> int:
        """How many have left since a key did, which is forgotten now."""
        if key not in left:
            return 0
        passed = len(left) - left.index(key)
        left[left.index(key)] = None
        return passed

    def leave(self, left: list[Any], key: Any, places: int) -> None:
        """Of those that fall together in a table of so many places the latest is remembered."""
        left[:] = [None if old is not None and (old - key) % places == 0 else old for old in left]
        left.append(key)

    def challenge(self, passed: int, count: int) -> bool:
        self.credit += s3fifo.CHALLENGES * count / passed
        if self.credit < 1:
            return False
        self.credit -= 1
        if not self.main:
            return True
        key, hits, spent = self.main[0]
        if hits == spent:
            return True
        self.main = [*self.main[1:], [key, hits, hits - min(hits - spent, MAX_ROUNDS) + 1]]
        return False

    def settle(self) -> None:
        queue, (key, hits, _) = self.window.pop(0)
        queue.append([key, hits, hits])

    def evict(self) -> None:
        count = len(self.keys())
        while True:
            from_small = self.len(self.small) > max(self.share, LEAST * count) or not self.len(self.main)
            queue = self.small if from_small else self.main
            while not queue:
                self.settle()
            key, hits, spent = queue.pop(0)
            if from_small and hits > spent:
                self.main.append([key, hits, hits])
            elif from_small:
                self.leave(self.left_small, key, (s3fifo.REMEMBERED * count) | 1)
                return
            elif hits > spent:
                self.main.append([key, hits, hits - min(hits - spent, MAX_ROUNDS) + 1])
            else:
                self.leave(self.left_main, key, count | 1)
                return


def same_as_plain(size: int, steps: Iterable[tuple[str, int]]) -> list[float]:
    cache, plain, shares = S3FIFOCache(size), Plain(size), []
    for what, key in steps:
        if what == "s":
            cache[key] = key
            plain.put(key)
        elif what == "g":
            cache.get(key)
            plain.get(key)
        else:
            cache.pop(key, None)
            plain.drop(key)
        assert set(cache) == plain.keys()
        shares.append(plain.share)
    return shares


@given(st.integers(1, 12), st.lists(st.tuples(st.sampled_from("sssggd"), st.integers(0, 15)), max_size=200))
def test_evicts_what_plain_lists_evict(size: int, steps: list[tuple[str, int]]) -> None:
    """After every step the keys are those of a plain rendering of the algorithm."""
    same_as_plain(size, steps)


@pytest.mark.parametrize("size", [20, 120])
def test_evicts_what_plain_lists_evict_when_large(size: int) -> None:
    """The same where window and ghosts are longer than one, over steps that move the share to both its ends."""
    rng = random.Random(size)
    steps = []
    for step in range(4000):
        # By turns as many new keys as there is room for, all twice, and few popular ones.
        twice = step // 1000 % 2
        key = 10_000 + step // (2 * size) * size + step % size if twice else int(rng.paretovariate(0.5))
        steps += [("g", key), ("s" if twice or rng.random() < 0.9 else "d", key)]
    shares = same_as_plain(size, steps)
    assert min(shares) < LEAST * size
    assert max(shares) == MOST * size


def test_an_example_by_hand() -> None:
    """A cache of four, whose window holds the latest key alone, step by step."""
    cache = S3FIFOCache(4)
    for key in (1, 2, 3, 4):
        cache[key] = key
    assert cache[1] == 1
    assert (cache._small_len, cache._main_len) == (1, 3)  # 1, 2 and 3 have passed on to the main queue
    cache[5] = 5  # 4 goes, the only one in the small queue, and is remembered
    assert set(cache) == {1, 2, 3, 5}
    cache[4] = 4  # 5 goes; 4 comes back soon: into the main queue
    assert set(cache) == {1, 2, 3, 4}
    cache[6] = 6  # the small queue is empty: 1 was hit and has another round, 2 goes
    assert set(cache) == {1, 3, 4, 6}
    cache[7] = 7  # the small queue has more room since 4 came back so soon: 3 goes
    assert set(cache) == {1, 4, 6, 7}
    cache[8] = cache[9] = 0  # 6 and 7 go: now only the small queue pays for newcomers
    assert set(cache) == {1, 4, 8, 9}


def test_one_scan_disturbs_nothing() -> None:
    """A thousand keys that are asked for once do not push out those that were asked for again."""
    cache, lru = S3FIFOCache(100), cachetools.LRUCache[int, int](100)
    for one in (cache, lru):
        one.update({key: key for key in range(60)})
        assert sum(one[key] for key in range(50)) == sum(range(50))
        one.update({key: key for key in range(1000, 2000)})
    assert sum(key in cache for key in range(50)) == 50
    assert sum(key in lru for key in range(50)) == 0


def test_hits_of_the_newest_do_not_count() -> None:
    """A key that is hit only while it is among the newest fiftieth leaves like one that never was."""
    cache = S3FIFOCache(100)
    cache.update({key: key for key in range(100)})
    for key in range(1000, 2000):
        cache[key] = key
        assert cache[key] == key  # in the window
        assert cache[key - 1 if key > 1000 else 99] >= 0  # and still there
    assert set(range(1000, 1900)).isdisjoint(cache)
    assert set(range(79)) <= set(cache)  # the main queue, where none came
    assert cache._main_len == 79


def test_the_small_queue_gets_the_room_that_it_lacks() -> None:
    """Groups of keys asked for twice, a little apart, are hit as soon as the small queue has grown to hold a group."""

    def hits(rounds: range) -> int:
        found = 0
        for start in rounds:
            for key in [*range(start * 60, start * 60 + 60)] * 2:
                if cache.get(key) is None:
                    cache[key] = key
                else:
                    found += 1
        return found

    cache = S3FIFOCache(100)
    cache.update({-key: key for key in range(1, 101)})
    for _ in range(9):
        assert sum(cache[-key] for key in range(1, 101)) == 5050  # so that the main queue is long at first
    early, late = hits(range(20)), hits(range(20, 40))
    assert early < 0.9 * 20 * 60
    assert late > 0.95 * 20 * 60


def test_a_hit_earns_one_more_round_in_the_main_queue() -> None:
    """In the main queue a key stays one more round per hit, five at most."""

    def lifetime(hits: int) -> int:
        cache = S3FIFOCache(20)
        cache.update({key: key for key in range(20)})
        assert sum(cache[key] for key in range(1, 10)) == 45
        cache[100] = 100  # 0 is at the head of the main queue
        for _ in range(hits):
            assert cache[0] == 0
        newcomers = 200
        while 0 in cache:
            newcomers += 1
            assert newcomers < 1000
            cache[newcomers] = newcomers
            cache.get(newcomers - 2)  # so that the main queue goes on turning
        return newcomers

    times = [lifetime(hits) for hits in range(8)]
    assert times[:6] == sorted(set(times[:6]))
    assert times[5] == times[6] == times[7]


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
    assert "b" in cache
    assert list(cache) == ["a", "b"]
    assert cache.peek("b").value == 2
    cache["c"] = 3
    assert "b" not in cache


def test_queues_do_not_grow_with_deletions() -> None:
    """Deleted keys do not pile up in the queues."""
    cache = S3FIFOCache(10)
    for key in range(20_000):
        cache[key] = key
        cache.pop(key - 5, None)
    assert len(cache._window) + len(cache._small) + len(cache._main) <= 2 * 10 + 1025


def test_a_loop_longer_than_the_cache_is_hit() -> None:
    """Of 250 keys asked for in turn a cache of 100 soon serves a quarter, and LRU, whose oldest is the next, none."""
    hits = dict.fromkeys(("s3", "lru"), 0)
    caches: dict[str, cachetools.Cache[int, int]] = {"s3": S3FIFOCache(100), "lru": cachetools.LRUCache(100)}
    for turn in range(20):
        for key in range(250):
            for name, cache in caches.items():
                if cache.get(key) is None:
                    cache[key] = key
                else:
                    hits[name] += turn >= 10
    assert hits["s3"] > 10 * 250 / 4
    assert hits["lru"] == 0


def test_who_comes_back_late_does_not_push_out_what_is_hit() -> None:
    """Keys asked for three times in each turn of a loop outlast the challenges of those asked for once."""
    cache = S3FIFOCache(100)
    missed = []
    for turn in range(20):
        for key in range(300):
            for asked in (key, *range(-60, 0)) if key % 100 == 0 else (key,):
                if cache.get(asked) is None:
                    cache[asked] = asked
                    missed += [turn] * (asked < 0)
    assert missed == [0] * 60


def test_until_one_leaves_the_main_queue_fills_without_hits() -> None:
    """When the cache is full for the first time, four fifths of its keys stand in the main queue."""
    cache = S3FIFOCache(100)
    cache.update({key: key for key in range(100)})
    assert (cache._small_len, cache._main_len) == (21, 79)


class TestGhosts:
    def test_says_how_many_have_left_since_and_forgets(self) -> None:
        """The last to leave was the first before now; asked again, it is not remembered."""
        ghosts = Ghosts()
        assert ghosts.recall(1) == 0
        for ghost in (1, -2, 3):
            ghosts.remember(ghost, 10)
        assert [ghosts.recall(ghost) for ghost in (3, -2, 1, 4)] == [1, 2, 3, 0]
        assert [ghosts.recall(ghost) for ghost in (3, -2, 1)] == [0, 0, 0]

    def test_a_later_one_takes_the_place_of_an_earlier_one(self) -> None:
        """11 and 22 fall together in 11 places: the earlier is forgotten, not mistaken for the later."""
        ghosts = Ghosts()
        ghosts.remember(11, 10)
        ghosts.remember(22, 10)
        assert (ghosts.recall(11), ghosts.recall(22)) == (0, 1)

    def test_memory_is_bounded_and_grows_with_the_cache(self) -> None:
        """However many leave, there are as many places as were asked for, and twice as many when that is too few."""
        ghosts = Ghosts()
        for ghost in range(1000):
            ghosts.remember(ghost, 40)
        assert len(ghosts._dates) == len(ghosts._hashes) == 41
        assert sum(ghosts.recall(ghost) > 0 for ghost in range(1000)) == 41
        ghosts.remember(1, 44)
        assert len(ghosts._dates) == len(ghosts._hashes) == 83
        assert ghosts.recall(1) == 1
