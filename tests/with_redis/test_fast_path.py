"""The read path with Redis behind: what one process has computed, another is given, the same in value and type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

import pytest
import redis

from aikcache import Cache
from aikcache.errors import EncodeError
from aikcache.testing import wait_until

from . import _workers
from ._staging import Ahead, wait_for_push
from ._workers import PATIENCE, Database, Shop, Spec, Worker, connect

pytestmark = pytest.mark.usefixtures("unhurried")

OpenShop = Callable[[Spec], Shop]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: float


class Row(TypedDict):
    id: int
    tags: set[str]


@dataclass(frozen=True)
class Money:
    amount: Decimal
    currency: str = "EUR"


@dataclass
class Order:
    id: UUID
    at: datetime
    lines: list[tuple[str, Money]] = field(default_factory=list)
    colour: Colour | None = None
    extra: dict[int, bytes] = field(default_factory=dict)


ORDER = Order(
    UUID(int=5),
    datetime(2024, 5, 1, 12, tzinfo=UTC),
    [("tea", Money(Decimal("1.50")))],
    Colour.BLUE,
    {1: b"\x00\xff"},
)


class Zoo:
    """One function for every kind of result, annotated or not."""

    def __init__(self, cache: Cache) -> None:
        self.runs: list[str] = []
        runs = self.runs

        @cache.cached("zoo")
        def orders(n: int) -> list[Order]:
            runs.append("orders")
            return [ORDER] * n

        @cache.cached("zoo")
        def points(n: int) -> dict[str, Point]:
            runs.append("points")
            return {"a": Point(n, 0.5)}

        @cache.cached("zoo")
        def rows(n: int) -> tuple[Row, ...]:
            runs.append("rows")
            return ({"id": n, "tags": {"x", "y"}},)

        @cache.cached("zoo")
        def maybe(n: int) -> Money | None:
            runs.append("maybe")
            return Money(Decimal(n)) if n > 1 else None

        @cache.cached("zoo")
        def levels(n: int) -> dict[Level, Colour]:
            runs.append("levels")
            return {Level.LOW: Colour.RED}

        @cache.cached("zoo")
        def bare(n):  # type: ignore[no-untyped-def]
            runs.append("bare")
            return BARE[n]

        @cache.cached("zoo")
        def anything(n: int) -> Any:
            runs.append("anything")
            return BARE[n]

        self.functions: dict[str, Callable[[int], Any]] = {
            "orders": orders, "points": points, "rows": rows, "maybe": maybe, "levels": levels,
            "bare": bare, "anything": anything,
        }  # fmt: skip


BARE: list[Any] = [
    None,
    False,
    0,
    0.0,
    -0.0,
    "",
    b"",
    [],
    {},
    (),
    set(),
    frozenset({1}),
    float("inf"),
    2**80,
    "ü\x00\ud83d",
    {1: "int", "1": "str", (1, 2): "tuple"},
    [1, 1.0, True, "1", None],
    {"deep": [{"er": ({"x"}, b"y")}]},
    datetime(2024, 2, 29, 1, 2, 3, 4),
    datetime(2024, 2, 29, tzinfo=UTC),
    date(2024, 2, 29),
    time(1, 2, 3),
    timedelta(days=-1, microseconds=5),
    Decimal("1.10"),
    UUID(int=7),
    "x" * 100_000,
]
CASES = [(name, n) for name in ("orders", "points", "rows", "maybe", "levels") for n in (1, 2)]
CASES += [(name, n) for name in ("bare", "anything") for n in range(len(BARE))]


def visit(shop: Shop, cases: list[tuple[str, int]]) -> tuple[list[Any], list[str]]:
    """The results of these calls, and which of them ran their function."""
    if "zoo" not in shop.more:
        shop.more["zoo"] = Zoo(shop.cache)
    zoo: Zoo = shop.more["zoo"]
    del zoo.runs[:]
    return [zoo.functions[name](n) for name, n in cases], list(zoo.runs)


@pytest.mark.parametrize("secret", [None, "a secret of this test, of 32 bytes"])
def test_a_hit_in_another_process_equals_the_miss_in_value_and_type(
    secret: str | None, worker: Worker, spec: Spec, open_shop: OpenShop
) -> None:
    """What a function returned here, another process gets from Redis and again locally, equal to the last type."""
    spec = spec.but(secret=secret)
    here = open_shop(spec)
    connect(here.cache)
    missed, ran = visit(here, CASES)
    assert len(ran) == len(CASES)
    hit_here, ran = visit(here, CASES)
    assert ran == []
    remote, ran = worker.run(_workers.run, spec, visit, CASES)
    assert ran == []
    local, ran = worker.run(_workers.run, spec, visit, CASES)
    assert ran == []
    expected = [ORDER_OF[name](n) for name, n in CASES]
    for case, *values in zip(CASES, expected, missed, hit_here, remote, local, strict=True):
        assert len(set(map(exactly, values))) == 1, case


def exactly(value: Any) -> str:
    """A text that two values share only when they are of the same value and types, all the way down."""
    kind = type(value)
    inner: Any
    if kind in (list, tuple):
        inner = [exactly(item) for item in value]
    elif kind in (set, frozenset):
        inner = sorted(exactly(item) for item in value)
    elif kind is dict:
        inner = [(exactly(k), exactly(v)) for k, v in value.items()]
    elif is_dataclass(value):
        inner = [exactly(getattr(value, f.name)) for f in fields(value)]
    elif isinstance(value, tuple):
        inner = [exactly(item) for item in value]
    else:
        inner = repr(value)
    return f"{kind.__module__}.{kind.__qualname__}({inner})"


ORDER_OF: dict[str, Callable[[int], Any]] = {
    "orders": lambda n: [ORDER] * n,
    "points": lambda n: {"a": Point(n, 0.5)},
    "rows": lambda n: ({"id": n, "tags": {"x", "y"}},),
    "maybe": lambda n: Money(Decimal(n)) if n > 1 else None,
    "levels": lambda n: {Level.LOW: Colour.RED},
    "bare": lambda n: BARE[n],
    "anything": lambda n: BARE[n],
}


def test_a_second_cache_gets_what_the_first_has_loaded(bare: Spec, database: Database, open_shop: OpenShop) -> None:
    """Two caches of one instance share values, and count whose hit it was."""
    first, second = open_shop(bare), open_shop(bare)
    assert first.get("tea") == second.get("tea") == second.get("tea") == "tea as it is"
    assert database.loads("tea") == 1
    one, two = (shop.cache.stats().operations["thing:get"] for shop in (first, second))
    assert (one.loads, one.misses, one.writes, one.remote_hits) == (1, 1, 1, 0)
    assert (two.loads, two.misses, two.writes, two.remote_hits, two.hit_rate) == (0, 0, 0, 2, 1.0)
    assert one.bytes_written > len("tea as it is")


def test_a_second_process_gets_what_the_first_has_loaded(
    worker: Worker, bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """Two processes share values both ways."""
    shop = open_shop(bare)
    assert shop.get("tea") == worker.run(_workers.get, bare, "tea")
    assert worker.run(_workers.get, bare, "mate") == shop.get("mate")
    assert worker.run(_workers.get_all, bare, ["tea", "mate"]) == shop.get_all(["tea", "mate"])
    assert (database.loads("tea"), database.loads("mate")) == (1, 1)


def test_what_one_cache_does_by_hand_the_other_sees(bare: Spec, database: Database, open_shop: OpenShop) -> None:
    """`store`, `set`, `invalidate`, `refresh` and `clear` of one cache are what the other answers from."""
    first, second = open_shop(bare), open_shop(bare)
    first.get.store("by hand", "tea")
    assert second.get("tea") == "by hand"
    assert second.cache.get("thing:get:tea") == "by hand"
    second.get.invalidate("tea")
    assert first.get.peek("tea", default="gone") == "gone"
    database.put("tea", "1")
    assert first.get.refresh("tea") == second.get("tea") == "1"
    first.cache.set("thing:put:1", [1], ttl=60)
    assert second.cache.get("thing:put:1") == [1]
    first.cache.set("thing:put:1", [2], ttl=0)
    assert second.cache.get("thing:put:1", "gone") == "gone"
    first.cache.clear()
    assert first.get.peek("tea") is None
    wait_until(lambda: second.get.peek("tea") is None, PATIENCE, "the push")
    assert database.loads("tea") == 1


def test_none_is_a_value(bare: Spec, open_shop: OpenShop) -> None:
    """`None` is cached like any value, in Redis too, and differs from a missing one."""
    first, second = open_shop(bare), open_shop(bare)
    runs = []

    def load() -> None:
        runs.append(1)

    assert [shop.cache.get_or_load("thing:none:1", load) for shop in (first, second, first)] == [None] * 3
    assert len(runs) == 1
    assert second.cache.get("thing:none:1", "missing") is None
    assert second.cache.get("thing:none:2", "missing") == "missing"


def test_exceptions_are_not_cached(bare: Spec, open_shop: OpenShop) -> None:
    """A function that raised is called again the next time, by whomever."""
    first, second = open_shop(bare), open_shop(bare)
    numbers = iter(range(9))

    def load() -> int:
        if (number := next(numbers)) < 2:
            raise LookupError(number)
        return number

    for number, shop in enumerate((first, second)):
        with pytest.raises(LookupError, match=str(number)):
            shop.cache.get_or_load("thing:x:1", load)
    assert first.cache.get_or_load("thing:x:1", load) == second.cache.get_or_load("thing:x:1", load) == 2


def test_a_mutable_value_is_each_callers_own(spec: Spec, open_shop: OpenShop) -> None:
    """A caller who changes what he was given, on a miss or a hit of either tier, changes it for himself alone."""
    first, second = open_shop(spec), open_shop(spec)
    for shop in (first, first, second, second):
        value = shop.cache.get_or_load("thing:list:1", lambda: {"a": [1]})
        assert value == {"a": [1]}
        value["a"].append(2)


def test_a_value_lives_in_redis_for_its_ttl(bare: Spec, database: Database, open_shop: OpenShop) -> None:
    """Redis gets the ttl: the function's, the prefix's, one made from the result, or the default."""
    cache = open_shop(bare.but(default_ttl=77, ttls={"search": 55})).cache

    @cache.cached("search")
    def by_prefix() -> int:
        return 1

    @cache.cached("other")
    def by_default() -> int:
        return 1

    @cache.cached("search", timedelta(seconds=33))
    def by_itself() -> int:
        return 1

    @cache.cached("search", ttl=lambda result: result * 11)
    def by_result() -> int:
        return 2

    for function, ttl in ((by_prefix, 55), (by_default, 77), (by_itself, 33), (by_result, 22)):
        function()
        assert (ttl - 5) * 1000 < database.client.pttl(function.key()) <= ttl * 1000


def test_a_ttl_of_zero_stores_nothing(bare: Spec, database: Database, open_shop: OpenShop) -> None:
    """With ttl=0 the function runs every time and Redis holds no value."""
    cache = open_shop(bare).cache
    runs = []

    @cache.cached("thing", 0)
    def unkept() -> int:
        runs.append(1)
        return len(runs)

    assert [unkept(), unkept()] == [1, 2]
    assert not database.client.exists(unkept.key())


def test_a_local_copy_expires_with_the_entry_in_redis(
    spec: Spec, database: Database, open_shop: OpenShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found in Redis with little time left is not kept locally for longer than that."""
    clock = Ahead(monkeypatch)
    spec = spec.but(max_staleness=3600, local_ttl=3600)  # the clock is moved on, and nothing else must end it
    first, second = open_shop(spec), open_shop(spec)
    connect(second.cache)
    first.get("tea")
    left = 120  # the test is done long before that, and what is new lives longer
    database.client.pexpire(first.get.key("tea"), left * 1000)
    wait_for_push(second.cache, first.cache)  # what is pushed about the stamps of that load
    assert second.get("tea") == "tea as it is"
    assert second.get.explain("tea")["local"]["seconds_left"] <= left
    clock.advance(30)
    assert second.get.explain("tea")["answer"] == "local"
    database.client.delete(first.get.key("tea"))
    clock.advance(left)
    assert second.get("tea") == "tea as it is"
    assert database.loads("tea") == 2


def test_a_result_that_cannot_be_kept_is_returned_all_the_same(
    bare: Spec, open_shop: OpenShop, caplog: pytest.LogCaptureFixture
) -> None:
    """A result without a stored form, or beyond max_value_bytes, is returned, counted, said once, and not stored."""
    shop = open_shop(bare.but(max_value_bytes=1000))
    odd = object()
    for key, result in (("thing:odd:1", odd), ("thing:odd:2", "x" * 2000), ("thing:odd:3", [odd])):
        for _ in range(3):
            assert shop.cache.get_or_load(key, lambda result=result: result) is result  # type: ignore[misc]
    stats = shop.cache.stats()
    assert (stats.writes, stats.errors) == (0, 9)
    assert len(caplog.records) == 1
    strict = open_shop(bare.but(strict=True))
    with pytest.raises(EncodeError):
        strict.cache.get_or_load("thing:odd:1", lambda: odd)


def test_instances_and_versions_share_nothing(spec: Spec, open_shop: OpenShop) -> None:
    """Caches that differ in instance or version neither see nor invalidate each other's values."""
    caches = [
        open_shop(one).cache for one in (spec, spec._replace(instance=spec.instance + ".b"), spec.but(version="v2"))
    ]
    for n, cache in enumerate(caches):
        assert cache.get_or_load("thing:x:1", lambda n=n: n) == n  # type: ignore[misc]
    caches[0].clear()
    caches[0].invalidate("thing:*x*:1", "*")
    assert [cache.get("thing:x:1") for cache in caches] == [None, 1, 2]


def test_keys_in_redis_are_as_documented(spec: Spec, raw_names: Callable[[], set[str]], open_shop: OpenShop) -> None:
    """A value stands at {instance}:{version}:{prefix}:{operation}:{parameters}, with its stamps beside it."""
    shop = open_shop(spec)
    shop.get("tea")
    prefix = f"{spec.instance}:v1:"
    names = {name for name in raw_names() if not name.startswith("db:")}
    assert f"{prefix}thing:get:tea" in names
    rest = names - {f"{prefix}thing:get:tea"}
    assert {f"{prefix}~stamp:{group}" for group in ("*", "thing", "thing:get", "#thing:tea", "#things")} <= rest
    assert all(name.startswith((f"{prefix}~", f"{prefix}!")) for name in rest)


@pytest.fixture
def raw_names(redis_url: str) -> Iterator[Callable[[], set[str]]]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield lambda: set(client.scan_iter("*"))


def test_arguments_of_different_types_are_different_calls_in_redis(bare: Spec, open_shop: OpenShop) -> None:
    """`1`, `"1"`, `1.0` and `True` do not share an entry in Redis either."""
    first, second = open_shop(bare), open_shop(bare)
    for shop in (first, second):

        @shop.cache.cached("thing")
        def kind(value: object) -> str:
            return type(value).__name__

        for value in (1, "1", 1.0, True, None, "None", (1,), [1]):
            assert kind(value) == type(value).__name__
    assert second.cache.stats().loads == 0
