"""Many keys at once: what is asked of Redis is asked in one round trip, whatever their number."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import redis

from aikcache import Cache
from aikcache._decorators.protocols import CachedFunction
from aikcache.errors import InvalidKeyError
from aikcache.testing import wait_until
from aikcache.testing.proxy import Proxy

from ._staging import wait_for_push
from ._workers import PATIENCE, PATIENT, Background, Database, Shop, Spec, connect

pytestmark = pytest.mark.usefixtures("unhurried")

OpenShop = Callable[[Spec], Shop]
NAMES = [f"n{i}" for i in range(200)]
ALL = {name: f"{name} as it is" for name in NAMES}


class Counted:
    """A cache without a local tier behind the proxy, connected already."""

    def __init__(self, proxy: Proxy, instance: str) -> None:
        self.cache = Cache(proxy.url, instance=instance, local_ttl=0, **PATIENT)
        self.proxy = proxy
        self.loads: list[list[int]] = []

        @self.cache.cached("thing", tags=("thing:{n}",))
        def one(n: int) -> list[int]:
            self.loads.append([n])
            return [n, n * n]

        @self.cache.cached_many("thing", operation="one", tags=("thing:{ids}",))
        def many(ids: list[int]) -> dict[int, list[int]]:
            self.loads.append(list(ids))
            return {n: [n, n * n] for n in ids if n >= 0}

        self.one = one
        self.many = many
        connect(self.cache)

    def round_trips(self, action: Callable[[], object]) -> int:
        before = self.proxy.round_trips
        action()
        return self.proxy.round_trips - before

    def close(self) -> None:
        self.cache.close()


@pytest.fixture
def counted(proxy: Proxy, instance: str) -> Iterator[Counted]:
    with closing(Counted(proxy, instance)) as counted:
        yield counted


def test_the_proxy_counts(counted: Counted) -> None:
    """Three questions are three round trips: the tests below rest on it."""
    assert counted.round_trips(lambda: [counted.cache.get("thing:x:1") for _ in range(3)]) == 3


def test_a_remote_hit_is_one_round_trip(counted: Counted) -> None:
    """A hit in Redis, of a call with three groups and a tag, takes one round trip."""
    counted.one(1)
    assert counted.round_trips(lambda: counted.one(1)) == 1
    assert counted.loads == [[1]]


def test_a_local_hit_makes_no_round_trip(proxy: Proxy, instance: str) -> None:
    """A hit in the local tier takes no round trip."""
    with Cache(proxy.url, instance=instance, **PATIENT) as cache:
        connect(cache)
        cache.get_or_load("thing:x:1", lambda: "a value")
        before = proxy.round_trips
        for _ in range(50):
            assert cache.get_or_load("thing:x:1", lambda: "another") == "a value"
        assert proxy.round_trips == before


def test_hits_of_cached_many_come_in_one_round_trip(counted: Counted) -> None:
    """200 hits of a `cached_many` function take one round trip and no call of the function."""
    ids = list(range(200))
    counted.many(ids)
    assert counted.round_trips(lambda: counted.many(ids)) == 1
    assert counted.many(ids) == {n: [n, n * n] for n in ids}
    assert counted.loads == [ids]


def test_hits_of_many_come_in_one_round_trip(counted: Counted) -> None:
    """200 hits of `.many` take one round trip and no call of the function."""
    ids = list(range(200))
    counted.many(ids)
    found: list[list[list[int]]] = []
    assert counted.round_trips(lambda: found.append(counted.one.many(ids))) == 1
    assert found == [[[n, n * n] for n in ids]]
    assert len(counted.loads) == 1


def test_get_many_is_one_round_trip(counted: Counted) -> None:
    """`Cache.get_many` of 200 keys takes one round trip, and leaves out what is not there."""
    values = {f"thing:put:{n}": n for n in range(100)}
    counted.cache.set_many(values)
    found: list[dict[str, object]] = []
    keys = [f"thing:put:{n}" for n in range(200)]
    assert counted.round_trips(lambda: found.append(counted.cache.get_many(keys))) == 1
    assert found == [values]


def test_get_many_of_tagged_values_takes_one_round_trip_more_at_most(
    counted: Counted, proxy: Proxy, instance: str
) -> None:
    """Tags that only the values name cost `get_many` one more round trip, not one for each value."""
    counted.many(list(range(100)))
    keys = [f"thing:one:{n}" for n in range(200)]
    found: list[dict[str, object]] = []
    with closing(Counted(proxy, instance)) as reader:
        assert reader.round_trips(lambda: found.append(reader.cache.get_many(keys))) <= 2
    assert found == [{f"thing:one:{n}": [n, n * n] for n in range(100)}]


def test_many_of_a_function_with_tags_of_its_results_takes_one_round_trip_more_at_most(
    counted: Counted, proxy: Proxy, instance: str
) -> None:
    """Hits of `.many` whose tags were made from the results take two round trips at most."""
    calls = list(range(50))
    tag_by_result(counted.cache).many(calls)
    with closing(Counted(proxy, instance)) as reader:
        tagged = tag_by_result(reader.cache)
        assert reader.round_trips(lambda: tagged.many(calls)) <= 2


def tag_by_result(cache: Cache) -> CachedFunction[[int], int]:
    @cache.cached("thing", tags=lambda result, n: (f"size:{result}",))
    def tagged(n: int) -> int:
        return n * n

    return tagged


def test_a_cold_batch_takes_as_many_round_trips_as_a_cold_call(counted: Counted) -> None:
    """Reading, leasing and storing 200 new keys takes as few round trips as one new key does."""
    single = counted.round_trips(lambda: counted.one(-5))
    batch = counted.round_trips(lambda: counted.many(list(range(200))))
    assert batch <= single <= 4


def test_the_function_is_called_once_with_what_is_missing(counted: Counted) -> None:
    """A batch that is partly cached calls the function once, with the missing ids alone, in their order."""
    counted.many([1, 3])
    counted.one(5)
    found = counted.many([6, 5, 4, 3, 2, 1])
    assert found == {n: [n, n * n] for n in (6, 5, 4, 3, 2, 1)}
    assert list(found) == [6, 5, 4, 3, 2, 1]
    assert counted.loads == [[1, 3], [5], [6, 4, 2]]


def test_cached_many_and_cached_share_their_entries(counted: Counted) -> None:
    """What one of the two loaded is a hit of the other, with the same value and type."""
    counted.many([1, 2])
    assert counted.one(1) == [1, 1]
    counted.one(7)
    assert counted.many([7, 2]) == {7: [7, 49], 2: [2, 4]}
    assert counted.loads == [[1, 2], [7]]


def test_ids_that_the_function_leaves_out_are_left_out_and_not_cached(counted: Counted) -> None:
    """An id without a result is missing in the answer, and asked for again the next time."""
    assert counted.many([1, -1]) == {1: [1, 1]}
    assert counted.many([1, -1]) == {1: [1, 1]}
    assert counted.loads == [[1, -1], [-1]]


def test_ids_left_out_are_not_asked_for_again_while_others_load_the_rest(
    counted: Counted, spec: Spec, open_shop: OpenShop
) -> None:
    """A batch that waits for another's load of one id calls the function once, whatever that leaves out."""
    inside, go_on = threading.Event(), threading.Event()

    def slow() -> list[int]:
        inside.set()
        assert go_on.wait(PATIENCE)
        return [2, 4]

    with Cache(spec.url, instance=spec.instance, local_ttl=0, **PATIENT) as other:
        first = Background(lambda: other.get_or_load("thing:one:2", slow, tags=("thing:2",)))
        assert inside.wait(PATIENCE)
        second = Background(counted.many, [1, 2, -1])
        before = counted.proxy.round_trips
        wait_until(lambda: counted.proxy.round_trips > before + 20, PATIENCE, "the wait")
        go_on.set()
        first.result()
        assert second.result() == {1: [1, 1], 2: [2, 4]}
    assert counted.loads == [[1, -1]]


def test_duplicates_are_asked_for_once_and_not_shared(counted: Counted) -> None:
    """The same call twice in `.many` is one load, and each place has an object of its own."""
    first, second, other = counted.one.many([1, 1, 2])
    assert (first, second, other) == ([1, 1], [1, 1], [2, 4])
    assert first is not second
    assert counted.loads == [[1], [2]]


@pytest.mark.parametrize("how", ["a tag", "a key", "the operation"])
def test_an_invalidation_is_one_round_trip_and_covers_entries_of_batches(how: str, counted: Counted) -> None:
    """An invalidation by key or group takes one round trip and covers what a batch stored, and nothing else."""
    ids = list(range(100))
    counted.many(ids)
    end = {
        "a tag": lambda: counted.cache.invalidate_tags("thing:7", "thing:8"),
        "a key": lambda: counted.cache.invalidate_key("thing:one:7", "thing:one:8"),
        "the operation": lambda: counted.cache.invalidate("thing:one"),
    }[how]
    assert counted.round_trips(end) == 1
    counted.many(ids)
    assert counted.loads[1:] == [ids if how == "the operation" else [7, 8]]


def test_a_mixed_batch_gives_what_single_calls_give(proxy: Proxy, redis_url: str, instance: str) -> None:
    """Codecs, sizes and tags that differ within one batch, a frame that is damaged and one under a wrong key."""
    sorts: list[Any] = [
        (1, 2),
        {"a": 1},
        (3,),
        (4,),
        {"a": "x" * 3000},
        {1: b"x"},
        {"b": 2},
        None,
        ["y" * 3000],
        {2},
        {3},
    ]
    with (
        closing(Cache(proxy.url, instance=instance, local_ttl=0, **PATIENT)) as cache,
        closing(redis.Redis.from_url(redis_url)) as raw,
    ):
        runs: list[int] = []

        @cache.cached("batch", operation="sorts", tags=lambda result, n: ("some",) if n % 4 == 3 else ())
        def sort(n: int) -> Any:
            runs.append(n)
            return sorts[n % len(sorts)]

        connect(cache)
        calls = range(4 * len(sorts))
        expected = sort.many(calls)
        assert [repr(value) for value in expected] == [repr(sorts[n % len(sorts)]) for n in calls]
        sort.many(calls)  # by now the tag's stamp is cached
        before = proxy.round_trips
        assert list(map(repr, sort.many(calls))) == list(map(repr, expected))
        assert proxy.round_trips == before + 1
        runs.clear()
        damaged = bytearray(raw.get(sort.key(9)) or b"")  # type: ignore[arg-type]
        damaged[-6] ^= 1
        raw.set(sort.key(9), bytes(damaged), keepttl=True)
        raw.set(sort.key(18), raw.get(sort.key(0)) or b"", keepttl=True)
        found = sort.many(calls)
        assert runs == [9, 18]
        assert [(type(value), value) for value in found] == [(type(value), value) for value in expected]


def test_an_empty_batch_makes_no_round_trip(counted: Counted) -> None:
    """No ids give no results, without a round trip for `.many`."""
    counted.one.many([1])
    counted.one.many([1])  # by now all stamps are cached
    assert counted.round_trips(lambda: counted.one.many([])) == 0
    assert counted.many([]) == {}


def test_a_batch_fills_the_local_tier(spec: Spec, database: Database, open_shop: OpenShop) -> None:
    """What a batch loaded or found in Redis is a local hit afterwards, for single calls and batches."""
    loader, reader = open_shop(spec), open_shop(spec)
    connect(loader.cache)
    connect(reader.cache)
    assert loader.get_all(NAMES) == ALL
    wait_for_push(reader.cache, loader.cache)  # of the stamps that this has made
    assert reader.get_all(NAMES) == ALL
    assert database.client.delete(*map(reader.get.key, NAMES)) == len(NAMES)
    for shop in (loader, reader):
        assert shop.get_all(NAMES) == ALL
        assert shop.get("n3") == ALL["n3"]
    assert database.loads("n3") == 1
    stats = reader.cache.stats()
    assert (stats.remote_hits, stats.loads) == (len(NAMES), 0)


@pytest.mark.parametrize("shared", [True, False])
def test_a_tag_that_cannot_be_made_costs_the_caching_and_no_answer(shared: bool, redis_url: str, instance: str) -> None:
    """Where a tag would be empty a batch gives what the function gives, in its order; only `strict` raises."""
    url, none = redis_url if shared else None, ""
    with Cache(url, instance=instance, **PATIENT) as cache, Cache(url, instance=instance, strict=True) as strict:
        one, many = bind_names(cache)
        for _ in range(2):
            assert one.many(["a", none, "b"]) == ["a!", none + "!", "b!"]
            assert many(["c", none, "d"]) == {"c": "c!", none: none + "!", "d": "d!"}
        assert (one.peek("a"), one.peek("b")) == ("a!", "b!")
        assert cache.stats().errors > 0
        one, many = bind_names(strict)
        for call in (one.many, many):
            with pytest.raises(InvalidKeyError, match="a tag must be"):
                call(["a", none])


def bind_names(cache: Cache) -> tuple[Any, Any]:
    @cache.cached("name", tags=("{name}",))
    def one(name: str) -> str:
        return name + "!"

    @cache.cached_many("name", tags=("{names}",))
    def many(names: list[str]) -> dict[str, str]:
        return {name: name + "!" for name in names}

    return one, many


def test_cached_many_and_cached_find_locally_what_either_holds(redis_url: str, instance: str) -> None:
    """Of one operation, a batch hits locally what single calls filed, and takes none of their local hits away."""
    with Cache(redis_url, instance=instance, **PATIENT) as cache:

        @cache.cached("thing", operation="get")
        def one(n: int) -> int:
            return n * n

        @cache.cached_many("thing", operation="get")
        def many(ids: list[int]) -> dict[int, int]:
            return {n: n * n for n in ids}

        def hits(action: Callable[[], object]) -> tuple[int, int]:
            before = cache.stats()
            action()
            after = cache.stats()
            return after.local_hits - before.local_hits, after.remote_hits - before.remote_hits

        ids = list(range(10))
        connect(cache)
        for n in ids:
            one(n)
        for _ in range(3):
            assert hits(lambda: many(ids)) == (10, 0)
            assert hits(lambda: [one(n) for n in ids]) == (10, 0)


def test_set_many_and_get_many_agree(bare: Spec, open_shop: OpenShop) -> None:
    """What one cache puts as many values another gets as many values."""
    first, second = open_shop(bare), open_shop(bare)
    values = {f"thing:put:{i}": {"n": i, "none": None} for i in range(20)}
    first.cache.set_many(values, ttl=60)
    assert second.cache.get_many([*values, "thing:put:x"]) == values


def test_a_cold_many_with_tags_of_its_results_takes_as_many_round_trips_as_one_call(counted: Counted) -> None:
    """Stamps of tags that only the results name are asked for once for all of them, whatever their number."""
    tagged = tag_by_result(counted.cache)
    one = counted.round_trips(lambda: tagged.many([1000]))
    assert counted.round_trips(lambda: tagged.many(range(50))) <= one
    found: list[list[int]] = []
    assert counted.round_trips(lambda: found.append(tagged.many(range(50)))) <= 2
    assert found == [[n * n for n in range(50)]]


def test_of_many_only_what_is_not_of_the_annotation_is_loaded_again(redis_url: str, instance: str) -> None:
    """They are checked all at once; a forged one among them is a miss of its own, and the others are hits."""
    with Cache(redis_url, instance=instance, local_ttl=0, **PATIENT) as cache, redis.Redis.from_url(redis_url) as raw:
        loads: list[int] = []

        @cache.cached("thing")
        def get(n: int) -> dict[str, int]:
            loads.append(n)
            return {"n": n}

        connect(cache)
        good = [{"n": n} for n in range(4)]
        assert get.many(range(4)) == good
        frame = raw.get(get.key(2))
        body = frame[:-4].replace(b'{"n":2}', b'{"n":"x"}')
        raw.set(get.key(2), body + struct.pack("<I", zlib.crc32(body)), px=10**6)
        loads.clear()
        assert get.many(range(4)) == good
        assert loads == [2]
