"""The local tier: against a plain dict under any sequence of steps, and with any cachetools cache as its store."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from math import inf
from types import FrameType
from typing import Any, Literal, cast

import cachetools
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aikcache import Cache
from aikcache._concurrency.guard import Guard
from aikcache._local.entry import Entry
from aikcache._local.region import Region
from aikcache._local.regions import MAX_BY_HAND
from aikcache._local.tier import OVERHEAD, LocalTier
from aikcache._settings.config import CacheConfig
from aikcache.testing import FakeClock

KEYS = [f"{name}:{n}" for name in ("p:f", "p:g", "pq:f") for n in range(4)]
TAGS = ["red", "blue"]
GROUPS = ["*", "p", "pq", "p:f", "p:g", "pq:f", "none", "#red", "#blue"]
keys = st.sampled_from(KEYS)
MAX_ENTRIES = 6
MANY_STEPS = 500
MAX_BYTES = 4 * (OVERHEAD + 40)


def region_name(key: str) -> str:
    return key.rpartition(":")[0]


def touched(key: str, tags: tuple[str, ...], group: str) -> bool:
    """Whether an entry is in a group, by an independent reading of the name."""
    if group.startswith("#"):
        return group[1:] in tags
    return group == "*" or key.startswith(group + ":")


class LocalTierMachine(RuleBasedStateMachine):
    """The tier beside a dict of what it may hold; only eviction takes anything out that the dict did not lose."""

    policy: Any = "s3fifo"
    max_bytes: int | None = None

    def __init__(self) -> None:
        super().__init__()
        config = CacheConfig(local_max_entries=MAX_ENTRIES, local_max_bytes=self.max_bytes, policy=self.policy)
        self.tier = LocalTier(config, Guard())
        self.model: dict[str, tuple[object, tuple[str, ...], object]] = {}  # value, tags, local key
        self.epochs: dict[str, int] = {}  # as somebody saw them some time ago
        self.hits = 0
        self.serial = 0

    def region(self, key: str) -> Region:
        return self.tier.region(region_name(key))

    @initialize()
    def look(self) -> None:
        self.epochs = {key: self.region(key).epoch for key in KEYS}

    @rule()
    def look_again(self) -> None:
        self.look()

    @rule(key=keys, tags=st.lists(st.sampled_from(TAGS), unique=True).map(tuple), size=st.integers(0, 50))
    def fill(self, key: str, tags: tuple[str, ...], size: int) -> None:
        self.serial += 1
        self.put(key, self.region(key).epoch, self.serial, tags, size)

    @rule(key=keys)
    def fill_with_what_was_asked_before(self, key: str) -> None:
        """A fill that began at `look`: refused exactly when something of its region was invalidated since."""
        self.put(key, self.epochs[key], "late", (), 0)

    def put(self, key: str, epoch: int, value: object, tags: tuple[str, ...], size: int) -> None:
        region = self.region(key)
        current = region.epoch == epoch
        before = self.tier.evictions
        kept = self.tier.fill(
            key,
            region,
            key,
            epoch,
            value,
            created_at=1.0,
            expires_at=2.0,
            fresh_until=2.0,
            refresh_at=inf,
            shareable=True,
            size=size,
            tags=tags,
        )
        assert kept == current
        if kept:
            self.model[key] = (value, tags, key)
            assert self.tier.peek(key) is not None
        gone = [key for key in self.model if self.tier.peek(key) is None]
        assert len(gone) == self.tier.evictions - before
        for lost in gone:
            del self.model[lost]

    @rule(key=keys, relinked=st.booleans())
    def find(self, key: str, relinked: bool) -> None:
        entry = self.tier.peek(key)
        assert (entry is not None) == (key in self.model)
        if entry is not None:
            entry.served()
            if relinked:
                self.tier.relink(entry, self.region(key), ("other", key))
            value, tags, local_key = self.model[key]
            assert (entry.value, entry.tags, entry.key) == (value, tags, key)
            self.model[key] = (value, tags, ("other", key) if relinked else local_key)
            self.hits += 1

    @rule(key=keys)
    def hit(self, key: str) -> None:
        """What the generated wrapper does."""
        for local_key in (key, ("other", key)):
            entry = self.region(key).table.get(local_key)
            if entry is not None:
                entry.hits += 1
                self.hits += 1
                assert self.model[key] == (entry.value, entry.tags, local_key)

    @rule(key=keys)
    def drop_key(self, key: str) -> None:
        epoch = self.region(key).epoch
        self.tier.drop_key(key, region_name(key))
        self.model.pop(key, None)
        assert self.region(key).epoch > epoch

    @rule(group=st.sampled_from(GROUPS))
    def drop_group(self, group: str) -> None:
        before = {key: self.region(key).epoch for key in KEYS}
        self.tier.drop_group(group)
        for key, (_, tags, _) in list(self.model.items()):
            if touched(key, tags, group):
                del self.model[key]
                assert self.region(key).epoch > before[key]

    @rule(glob=st.sampled_from(["p:.*:1", ".*:f:[01]", "nothing", ".*"]))
    def drop_matching(self, glob: str) -> None:
        matches = re.compile(glob).fullmatch
        self.tier.drop_matching(matches)
        self.model = {key: held for key, held in self.model.items() if not matches(key)}

    @invariant()
    def the_model_is_what_can_be_found(self) -> None:
        assert {key for key in KEYS if self.tier.peek(key) is not None} == set(self.model)

    @invariant()
    def tables_and_store_hold_the_same_entries(self) -> None:
        linked = [(local_key, entry) for region in self.tier.all_regions() for local_key, entry in region.table.items()]
        assert {entry.key: local_key for local_key, entry in linked} == {
            key: local_key for key, (_, _, local_key) in self.model.items()
        }
        assert all(self.tier._store.get(entry.key) is entry for _, entry in linked)

    @invariant()
    def bounds_hold_and_bytes_add_up(self) -> None:
        held = list(stored(self.tier).values())
        assert len(held) <= MAX_ENTRIES
        assert self.tier.bytes == sum(entry.size for entry in held)
        if self.max_bytes is not None:
            assert self.tier.bytes <= self.max_bytes
            assert all(entry.size >= OVERHEAD for entry in held)

    @invariant()
    def no_tag_remembers_what_is_gone(self) -> None:
        held = stored(self.tier)
        for tag in self.tier._tags:
            entries = self.tier._tags[tag]
            assert entries
            assert all(tag in entry.tags and held.get(entry.key) is entry for entry in entries)

    @invariant()
    def no_hit_is_lost(self) -> None:
        assert sum(region.local_hits() for region in self.tier.all_regions()) == self.hits


def stored(tier: LocalTier) -> dict[str, Entry]:
    """All that the store holds, also entries of invalidated groups, without counting uses."""
    store = tier._store
    if hasattr(store, "peek"):
        return {key: cast(Entry, store.peek(key)) for key in store}
    return {key: cachetools.Cache.__getitem__(store, key) for key in store}


class BoundedInBytes(LocalTierMachine):
    max_bytes = MAX_BYTES


class WithLru(LocalTierMachine):
    policy = "lru"


class WithLfu(LocalTierMachine):
    policy = cachetools.LFUCache
    max_bytes = MAX_BYTES


class WithTtl(LocalTierMachine):
    """A store that drops entries by itself, whenever it likes."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.policy = lambda size: cachetools.TTLCache(size, ttl=10, timer=self.clock)
        super().__init__()

    @precondition(lambda self: self.model)
    @rule(seconds=st.sampled_from([4.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.model = {key: held for key, held in self.model.items() if self.tier.peek(key) is not None}

    @rule(key=keys)
    def hit(self, key: str) -> None:
        """The wrapper's way with any policy but its own: it asks whether the store still has the entry."""
        entry = self.region(key).table.get(key)
        if entry is not None:
            assert self.tier.touch(entry) == (key in self.model)

    @rule(key=keys)
    def find(self, key: str) -> None:
        entry = self.tier.peek(key)
        assert (entry is not None) == (key in self.model)
        if entry is not None:
            entry.served()
            self.hits += 1

    @invariant()
    def tables_and_store_hold_the_same_entries(self) -> None:
        """What the store dropped by itself may stand in a table until the next fill; nothing else may differ."""
        linked = {entry.key for region in self.tier.all_regions() for entry in region.table.values()}
        assert set(self.model) <= linked

    @invariant()
    def bounds_hold_and_bytes_add_up(self) -> None:
        assert len(self.tier) <= MAX_ENTRIES

    @invariant()
    def no_tag_remembers_what_is_gone(self) -> None:
        """What a tag remembers of the dropped is still in a table, or on its way out, so that it will be forgotten."""
        linked = {id(entry) for region in self.tier.all_regions() for entry in region.table.values()}
        leaving = {id(e) for region in self.tier._purging for table in region.invalidated for e in table.values()}
        for entries in map(self.tier._tags.__getitem__, self.tier._tags):
            assert all(id(entry) in linked | leaving for entry in entries)


TestLocalTier = LocalTierMachine.TestCase
TestBoundedInBytes = BoundedInBytes.TestCase
TestWithLru = WithLru.TestCase
TestWithLfu = WithLfu.TestCase
TestWithTtl = WithTtl.TestCase
TestLocalTier.settings = TestBoundedInBytes.settings = settings(deadline=None, stateful_step_count=30)
TestWithLru.settings = TestWithLfu.settings = TestWithTtl.settings = TestLocalTier.settings


Policy = Literal["s3fifo", "lru"] | Callable[[int], "cachetools.Cache[Any, Any]"]


@pytest.fixture(
    params=["s3fifo", "lru", cachetools.LFUCache, cachetools.FIFOCache, lambda size: cachetools.TTLCache(size, 3600)],
    ids=["s3fifo", "lru", "LFUCache", "FIFOCache", "TTLCache"],
)
def policy(request: pytest.FixtureRequest) -> Policy:
    """Every policy keeps the same contract; they differ in whom they evict."""
    chosen: Policy = request.param
    return chosen


class TestPolicies:
    def test_hits_are_hits(self, policy: Policy) -> None:
        """A cached value is found again, mutable or not, without running the function."""
        calls = []

        @Cache(policy=policy).cached("p")
        def f(x: int) -> tuple[int, list[int]]:
            calls.append(x)
            return x, [x]

        assert [f(1), f(2), f(1), f(2)] == [(1, [1]), (2, [2]), (1, [1]), (2, [2])]
        assert calls == [1, 2]

    def test_never_more_than_its_entries(self, policy: Policy) -> None:
        """The local tier holds `local_max_entries` at most, over all functions, and counts whom it evicts."""
        cache = Cache(policy=policy, local_max_entries=10)

        @cache.cached("p")
        def f(x: int) -> int:
            return x

        @cache.cached("q")
        def g(x: int) -> int:
            return x

        for x in range(30):
            assert (f(x), g(x)) == (x, x)
            assert cache.stats().local_entries <= 10
        stats = cache.stats()
        assert (stats.local_entries, stats.evictions) == (10, 50)
        assert f.cache_info().currsize + g.cache_info().currsize == 10

    def test_never_more_than_its_bytes(self, policy: Policy) -> None:
        """With `local_max_bytes` the sizes of keys and values are bounded, and what is larger is not held."""
        cache = Cache(policy=policy, local_max_bytes=20_000)

        @cache.cached("p")
        def f(x: int, size: int) -> list[str]:
            return ["x" * size]

        for x in range(30):
            f(x, 2_000)
        assert 1 <= f.cache_info().currsize <= 10
        f(0, 30_000)
        assert f.peek(0, 30_000) is None

    def test_long_strings_count_their_bytes(self, policy: Policy) -> None:
        """A value that is handed out as it is counts against `local_max_bytes` like any other."""
        cache = Cache(policy=policy, local_max_bytes=20_000)

        @cache.cached("p")
        def f(x: int) -> str:
            return "x" * 5_000

        for x in range(30):
            f(x)
        assert 1 <= f.cache_info().currsize <= 4

    def test_invalidations_drop_what_they_name(self, policy: Policy) -> None:
        """Keys, groups, tags and globs invalidate their entries, and no others."""
        cache = Cache(policy=policy)

        @cache.cached("p", tags=("odd:{x}",))
        def f(x: int) -> int:
            return x

        @cache.cached("q")
        def g(x: int) -> int:
            return x

        invalidations: list[Callable[[], object]] = [
            lambda: f.invalidate(1),
            lambda: cache.invalidate_tags("odd:2"),
            lambda: cache.invalidate("*:f:3"),
            lambda: cache.invalidate("p:f"),
        ]
        left = [[0, 2, 3, 4], [0, 3, 4], [0, 4], []]
        for x in range(5):
            f(x)
            g(x)
        for end, expected in zip(invalidations, left, strict=True):
            end()
            assert [x for x in range(5) if f.peek(x) is not None] == expected
        assert [g.peek(x) for x in range(5)] == list(range(5))

    def test_counts_are_exact(self, policy: Policy) -> None:
        """Hits and misses are counted through evictions, replacements and invalidations."""
        cache = Cache(policy=policy, local_max_entries=5)
        runs = []

        @cache.cached("p")
        def f(x: int) -> int:
            runs.append(x)
            return x

        for step in range(300):
            f((step * step) % 11)
            if step % 20 == 0:
                f.invalidate(step % 11)
            if step % 50 == 0:
                cache.invalidate("p")
        stats = cache.stats().operations["p:f"]
        assert (stats.misses, stats.hits) == (len(runs), 300 - len(runs))


def test_a_store_that_drops_by_itself_leaks_nothing() -> None:
    """Entries that a TTLCache drops on its own are forgotten by tags, tables and the count of bytes."""
    clock = FakeClock()
    cache = Cache(policy=lambda size: cachetools.TTLCache(size, 10, timer=clock), local_max_bytes=10**6)

    @cache.cached("p", tags=("tag:{x}",))
    def f(x: int) -> int:
        return x

    for x in range(20):
        f(x)
    cache.invalidate("p")  # ended, and still in the store
    clock.advance(11)  # now the store holds nothing
    f(100)
    f(101)
    local = cache.engine.local
    assert f.cache_info().currsize == 2
    assert set(local._tags) == {"tag:100", "tag:101"}
    assert local.bytes == sum(entry.size for entry in stored(local).values())


def test_entries_of_an_invalidated_group_are_not_counted() -> None:
    """After `clear()` the local tier says that it holds nothing."""
    cache = Cache()

    @cache.cached("p")
    def f(x: int) -> int:
        return x

    for x in range(5):
        f(x)
    assert cache.stats().local_entries == 5
    cache.clear()
    assert (cache.stats().local_entries, f.cache_info().currsize) == (0, 0)


def test_invalidated_entries_are_removed_from_the_store_by_later_fills() -> None:
    """The memory of an invalidated group is freed as the cache is used, without evicting live entries."""
    cache = Cache(local_max_entries=200)

    @cache.cached("p")
    def f(x: int) -> int:
        return x

    for x in range(100):
        f(x)
    cache.invalidate("p")
    for x in range(1000, 1010):
        f(x)
    assert len(cache.engine.local._store) == 10
    assert cache.stats().evictions == 0


def test_a_closed_cache_holds_nothing() -> None:
    """After `close` nothing is held, and the function runs each time."""
    cache = Cache()
    runs = []

    @cache.cached("p")
    def f(x: int) -> int:
        runs.append(x)
        return x

    f(1)
    cache.close()
    cache.close()
    assert [f(1), f(1)] == [1, 1]
    assert runs == [1, 1, 1]
    assert f.peek(1) is None


@contextmanager
def at_step(step: int, region: Region, methods: Container[str], act: Callable[[], object]) -> Iterator[list[int]]:
    """Run `act` before the bytecode of that number in `methods` of `region`. What is given is 0 when it has run."""
    left, tracing = [step], sys.gettrace()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_name not in methods or frame.f_locals.get("self") is not region:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and left[0]:
            left[0] -= 1
            if not left[0]:
                act()
        return trace

    sys.settrace(trace)
    try:
        yield left
    finally:
        sys.settrace(tracing)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("by", ["group", "key"])
def test_an_interrupted_group_invalidation_leaves_nothing_that_a_later_one_misses(by: str) -> None:
    """Wherever a signal handler raises, a later invalidation covers all that the wrapper serves; fills go on."""
    for step in range(1, MANY_STEPS):
        cache, current, runs = Cache(), 0, []

        @cache.cached("p")
        def f(x: int) -> int:
            runs.append(x)  # noqa: B023
            return current  # noqa: B023

        assert (f(0), f(1)) == (0, 0)
        region = cache.engine.local.region("p:f")
        with suppress(KeyboardInterrupt), at_step(step, region, ["empty", "_tell"], interrupt) as left:
            cache.invalidate("p:f")
        if left[0]:
            break
        for _ in range(3):
            current += 1
            if by == "group":
                cache.invalidate("p:f")
            else:
                f.invalidate(0)
                f.invalidate(1)
            runs.clear()
            assert [f(0), f(1), f(0), f(1)] == [current] * 4, step
            assert runs == [0, 1], step
            assert [f(x) for x in range(2, 40)] == [f(x) for x in range(2, 40)]
    assert 20 < step < MANY_STEPS - 1


def test_a_wrapper_first_called_during_its_groups_invalidation_finds_nothing() -> None:
    """Wherever an invalidation comes between the steps that show a wrapper the table, it reads the one that stands."""
    for step in range(1, MANY_STEPS):
        cache, current = Cache(), "old"

        def define() -> Any:
            @cache.cached("p")  # noqa: B023
            def f(x: int) -> str:
                return current  # noqa: B023

            return f

        first = define()
        assert first(0) == "old"
        second, region = define(), cache.engine.local.region("p:f")
        current = "new"
        with at_step(step, region, ["read_by"], lambda: cache.invalidate("p:f")) as left:  # noqa: B023
            found = second(0)
        if left[0]:
            break
        assert (found, second(0), first(0)) == ("new", "new", "new"), step
    assert 20 < step < MANY_STEPS - 1


def test_collected_wrappers_are_not_kept() -> None:
    """A function decorated anew in each call of its factory leaves nothing in its region."""
    cache = Cache()

    def define() -> Any:
        @cache.cached("p")
        def f(x: int) -> int:
            return x

        return f

    for _ in range(1000):
        define()
    gc.collect()
    last = define()
    assert last(1) == 1
    assert len(cache.engine.local.region("p:f")._readers) <= 2


@pytest.mark.parametrize("tags", [(), ("a",), ("a", "b"), (("group",),), ("a", ("group",))])
def test_an_entry_gives_back_its_tags_and_holds_no_tuple_for_one(tags: tuple[Any, ...]) -> None:
    """One alone is kept as it is: each of many entries has a tag of its own."""
    entry = Entry("k", "v")
    entry.tags = tags
    assert entry.tags == tags
    held = [part for part in gc.get_referents(entry) if type(part) is tuple]
    assert held == ([] if tags == ("a",) else [tags])


@pytest.mark.parametrize("end", ["*", "x100:y:?"])
def test_a_key_by_hand_named_other_takes_no_place_of_the_shared_region(end: str) -> None:
    """Keys beyond those with a region of their own are invalidated as others, whatever names there were before."""
    with Cache() as cache:
        cache.set("other", 0)
        for n in range(MAX_BY_HAND + 1):
            cache.set(f"x{n}:y:1", "old")
        cache.invalidate(end)
        assert cache.get(f"x{MAX_BY_HAND}:y:1") is None


def test_what_is_noted_of_tags_does_not_grow_with_functions_of_one_factory() -> None:
    """Each has the same tags."""
    with Cache() as cache:
        for _ in range(3):
            cache.cached("p", operation="f", tags=("a:{x}", "b"))(lambda x: x)
        assert cache._registry._tagged == {"p:f": ("a:", "b")}


class Fleeting(cachetools.Cache[Any, Any]):
    """Drops each entry right after it has been looked at: the worst case of one that drops entries by time."""

    def get(self, key: Any, default: Any = None) -> Any:
        found = super().get(key, default)
        if key in self:
            del self[key]
        return found

    def popitem(self) -> tuple[Any, Any]:
        self.clear()
        raise KeyError("it is empty")


def test_a_store_may_drop_an_entry_between_two_steps() -> None:
    """Nothing is raised where an entry expires between a look at it and its removal."""
    cache = Cache(policy=Fleeting, local_max_entries=2)
    get = cache.cached("p", operation="f", ttl=60)(lambda number: number)
    for number in range(10):
        assert get(number) == number
        get.invalidate(number)
    for number in range(10):
        assert get(number) == number
    cache.close()


def test_local_hits_never_fall_while_entries_leave() -> None:
    """An entry that is dropped between two steps of the count is missed by that count alone: no total goes down."""
    for step in range(1, 200):
        with Cache() as cache:
            f = cache.cached("p", operation="f")(lambda x: x)
            region = cache.engine.local.regions["p:f"][0]
            for _ in range(4):
                f(1)
            assert region.local_hits() == 3
            with at_step(step, region, {"local_hits"}, lambda: f.invalidate(1)) as left:  # noqa: B023
                during = region.local_hits()
            assert during == region.local_hits() == 3
            if left[0]:
                return
    pytest.fail("it does not end")
