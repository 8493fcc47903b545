"""Keys by hand whose second part users choose: what they cost is bounded, here and in Redis, and invalidation holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from aikcache import Cache
from aikcache._local.regions import MAX_BY_HAND, OTHER
from aikcache.testing import wait_until
from aikcache.testing.proxy import Proxy

from ._staging import wait_for_push
from ._workers import PATIENCE, Shop, Spec, connect

pytestmark = pytest.mark.usefixtures("unhurried")

OpenShop = Callable[[Spec], Shop]
DAY = 86_400


@pytest.fixture
def cache(spec: Spec, open_shop: OpenShop) -> Cache:
    """A cache by hand in which users have taken all the regions that there are."""
    cache = open_shop(spec).cache
    crowd(cache)
    connect(cache)
    return cache


def crowd(cache: Cache) -> None:
    cache.get_many([f"user:early-{n}" for n in range(MAX_BY_HAND)])


def stamps(raw: redis.Redis, spec: Spec) -> dict[str, int]:
    """The stamps that Redis holds, and the milliseconds that each will live."""
    lead = f"{spec.instance}:v1:~stamp:"
    return {name.decode().removeprefix(lead): raw.pttl(name) for name in raw.scan_iter(lead + "*")}


@pytest.mark.parametrize("shared", [False, True])
def test_what_users_choose_makes_no_region_and_no_counters(shared: bool, spec: Spec, raw: redis.Redis) -> None:
    """Thousands of keys by hand, missed and loaded, leave a bounded number of regions, operations and stamps."""
    with Cache(spec.url if shared else None, instance=spec.instance, **dict(spec.settings)) as cache:
        for n in range(0, 3000, 100):
            cache.get_many([f"user:{i}" for i in range(n, n + 100)])
        for n in range(300):
            assert cache.get_or_load(f"user:{n}:name", lambda n=n: n) == n  # type: ignore[misc]
        assert len(cache.engine.local.regions) <= MAX_BY_HAND + 1
        stats = cache.stats()
        assert len(stats.operations) <= MAX_BY_HAND + 1
        assert (stats.misses, stats.loads) == (3300, 300)
        assert stats.operations[OTHER].loads == 300 - MAX_BY_HAND
        assert len(cache.engine.stamps) <= 2 + 300


def end_key(cache: Cache) -> None:
    cache.invalidate_key("user:7:name")


ENDS: dict[str, Callable[[Cache], object]] = {
    "its key": end_key,
    "its operation": lambda cache: cache.invalidate("user:7"),
    "its prefix": lambda cache: cache.invalidate("user"),
    "its tag": lambda cache: cache.invalidate_tags("t"),
    "a glob": lambda cache: cache.invalidate("user:7:n*"),
    "everything": lambda cache: cache.clear(),
}


@pytest.mark.parametrize("what", ENDS)
def test_keys_that_share_a_region_are_invalidated_as_others(
    what: str, cache: Cache, spec: Spec, open_shop: OpenShop
) -> None:
    """Each way to name a key invalidates it, here and elsewhere, and no other key."""
    other = open_shop(spec).cache
    crowd(other)
    connect(other)
    for name in ("user:7:name", "user:8:name", "host:7:name"):
        cache.set(name, 1, tags=("t",) if name == "user:7:name" else ())
    wait_for_push(other, cache)
    for each in (cache, other):
        assert [each.get(name) for name in ("user:7:name", "user:8:name", "host:7:name")] == [1, 1, 1]
        assert each.engine.local.peek(f"{spec.instance}:v1:user:7:name") is not None
    ENDS[what](cache)
    wait_for_push(other, cache)
    left = [None, None, None] if what == "everything" else [None, None, 1] if what == "its prefix" else [None, 1, 1]
    for each in (cache, other):
        assert [each.get(name) for name in ("user:7:name", "user:8:name", "host:7:name")] == left
    if what != "everything":  # whose entries leave the store bit by bit
        assert ("user:7",) not in cache.engine.local._tags


@pytest.mark.parametrize("what", ENDS)
def test_a_load_that_an_invalidation_overtook_is_not_kept_by_a_shared_region(what: str, cache: Cache) -> None:
    """A value whose load began before the invalidation of its key is kept in neither tier."""

    def overtaken() -> str:
        ENDS[what](cache)
        return "old"

    assert cache.get_or_load("user:7:name", overtaken, tags=("t",)) == "old"
    assert cache.get("user:7:name") is None


def test_a_function_made_later_takes_its_keys_over(cache: Cache) -> None:
    """What was put by hand under a function's key, before there was the function, is its hit, and is invalidated with
    it.
    """
    cache.set("user:name:7", "by hand")

    @cache.cached("user")
    def name(n: int) -> str:
        return "loaded"

    cache.get("user:name:7")
    assert name(7) == "by hand"
    name.cache_clear()
    assert cache.get("user:name:7") is None
    assert name(7) == "loaded"


# Stamps in Redis


def test_every_stamp_has_a_life_and_outlives_what_is_under_it(
    spec: Spec, raw: redis.Redis, open_shop: OpenShop
) -> None:
    """No stamp stays for ever; what users choose stays for little more than twice its values' time."""
    shop = open_shop(spec.but(lease_ttl=10, lease_wait=5))
    cache = shop.cache
    shop.get("tea")
    shop.described("tea")
    cache.set("user:1:name", 1, 100, tags=("t",))
    cache.get_or_load("user:2", lambda: 2, 100)
    cache.invalidate("unknown:3", "gone")
    cache.invalidate_tags("unknown")
    lives = stamps(raw, spec)
    assert {"*", "#", "#t", "#unknown", "thing", "thing:get", "user", "user:1", "user:2", "gone"} <= set(lives)
    assert all(0 < left <= DAY * 1000 for left in lives.values())
    for group in ("user", "user:1", "user:2", "#t"):
        assert 100_000 <= lives[group] <= 2 * 110_000, group


def test_stamps_are_gone_when_the_values_have_expired(spec: Spec, raw: redis.Redis, open_shop: OpenShop) -> None:
    """Of keys by hand nothing is left in Redis but the stamp of everything."""
    cache = open_shop(spec.but(lease_wait=0.1)).cache
    for n in range(50):
        cache.set(f"user:{n}", n, 0.05)
        cache.get_or_load(f"host:{n}:name", lambda: 1, 0.05)
    wait_until(lambda: set(stamps(raw, spec)) <= {"*"}, PATIENCE, "the end of the stamps")
    names = {name.decode().split(":", 2)[2] for name in raw.scan_iter(f"{spec.instance}:v1:*")}
    assert {name for name in names if not name.startswith("!run:")} <= {"~stamp:*"}


@pytest.mark.parametrize("how", ["a function", "by hand", "a ttl made from the result"])
def test_a_stamp_is_made_to_live_longer_when_a_value_needs_it(
    how: str, spec: Spec, raw: redis.Redis, open_shop: OpenShop
) -> None:
    """A value that is kept longer than what was stored before it in its groups has stamps that outlive it."""
    cache = open_shop(spec).cache
    cache.set("thing:long:0", 0, 5)

    @cache.cached("thing", 5)
    def short(n: int) -> int:
        return n

    @cache.cached("thing", 5 * DAY if how == "a function" else lambda result: 5 * DAY)
    def long(n: int) -> int:
        return n

    connect(cache)
    short(1)
    short(2)
    if how == "by hand":
        cache.set("thing:long:3", 3, 5 * DAY)
    else:
        long(3)
    lives = stamps(raw, spec)
    assert min(lives[group] for group in ("*", "thing", "thing:long")) >= 5 * DAY * 1000 - 1000


def test_that_stamps_live_long_enough_is_asked_once(proxy: Proxy, spec: Spec, open_shop: OpenShop) -> None:
    """Once it is known how long the stamps live, a load takes three round trips, tags or not."""
    cache = open_shop(spec._replace(url=proxy.url, database=spec.url)).cache

    @cache.cached("thing", tags=("t",))
    def one(n: int) -> int:
        return n

    connect(cache)
    one(1)
    wait_until(lambda: None not in cache.engine.stamps.cached(["*", "thing", "thing:one", "#t"]), PATIENCE, "the push")
    one(2)
    before = proxy.round_trips
    one(3)
    assert proxy.round_trips - before == 3


@pytest.mark.parametrize("length", [100, 512, 513, 900])
@pytest.mark.parametrize("shared", [False, True])
def test_a_long_key_has_one_name(length: int, shared: bool, spec: Spec) -> None:
    """However it is named, it is the key that was set: in a pattern, in full, and as a call's."""
    text = ("abcdefghi:" * length)[:length]
    with Cache(spec.url if shared else None, instance=spec.instance, **dict(spec.settings)) as cache:
        for key in (f"thing:{text[:20]}:{text}", cache.key("thing", "get", *["x" * 60] * (length // 60))):
            short = key.removeprefix(cache.space.namespace_prefix)
            for end in (cache.invalidate, cache.invalidate_key):
                cache.set(key, 1)
                assert cache.get(key) == cache.get(short) == 1
                end(short)
                assert cache.get(key) is None
