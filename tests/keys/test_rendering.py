"""Keys: what stands in them, that no two calls share one, and that no argument can act as a separator or a wildcard."""

from __future__ import annotations

import copy
import io
import logging
import re
import struct
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import TZPATH, ZoneInfo

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache import Cache, ConfigError, InvalidKeyError
from aikcache._keys import rendering

CACHE = Cache(instance="catalog")
ID = UUID("550e8400-e29b-41d4-a716-446655440000")
SAFE = re.compile(r"(?:[A-Za-z0-9_.~/@+=,'\-]|%[0-9A-F]{2})+")


class Color(Enum):
    RED = 1
    BLUE = "RED"


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    ONE = "one"


class Access(Flag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class Point:
    x: Any
    y: Any = None


@dataclass(frozen=True)
class Place:
    x: Any
    y: Any = None


class Pair(NamedTuple):
    x: Any
    y: Any = None


@attrs.frozen
class Attrs:
    x: Any
    y: Any = None


class Struct(msgspec.Struct, frozen=True):
    x: Any
    y: Any = None


class Open(pydantic.BaseModel, extra="allow"):
    x: Any = None


class Masked(Enum):
    ONE = 1
    TWO = 2

    @property
    def name(self) -> str:
        return "x"


@attrs.frozen(cache_hash=True)
class HashedAttrs:
    x: Any


class Noted(Point):
    """A frozen dataclass by inheritance, and with attributes of its own."""


@dataclass
class Price:
    amount: int
    currency: InitVar[str] = "EUR"

    def __post_init__(self, currency: str) -> None:
        self.__dict__["currency"] = currency

    @cached_property
    def text(self) -> str:
        return f"{self.amount}"


@dataclass(slots=True)
class Tight:
    x: Any


class Wide(Tight):
    __slots__ = ("y",)


@dataclass
class Listed(list[int]):
    x: int


class NotedPair(Pair):
    """A NamedTuple by inheritance, and with a `__dict__`."""


class NotedAttrs(Attrs):
    """An attrs class by inheritance."""


@attrs.define
class SlottedAttrs:
    x: Any

    @cached_property
    def twice(self) -> Any:
        return (self.x, self.x)


@attrs.define(slots=False, these={"x": attrs.field()})
class HandSlotted:
    __slots__ = ("x", "y")


class NotedStruct(msgspec.Struct, dict=True, frozen=True, cache_hash=True):
    x: Any


class Private(pydantic.BaseModel):
    x: Any = None
    _y: Any = pydantic.PrivateAttr(None)


class Text(str):
    """A string by inheritance."""


def form(value: Any) -> object:
    """What a value is, by an independent way: hashable, and equal for what may share a parameter."""
    cls = type(value)
    if cls is float:
        return cls, "nan" if value != value else struct.pack(">d", value)
    if cls in (list, tuple):
        return cls, tuple(map(form, value))
    if cls in (set, frozenset):
        return cls, frozenset(Counter(map(form, value)).items())
    if cls is dict:
        return cls, frozenset(Counter((form(k), form(v)) for k, v in value.items()).items())
    if cls in (Point, Place, Pair):
        return cls, form(value.x), form(value.y)
    if cls is Decimal:
        return cls, value.as_tuple()
    if cls in (datetime, time):
        zone = value.tzinfo
        name = (
            type(zone),
            zone.key if isinstance(zone, ZoneInfo) else zone and (zone.utcoffset(None), zone.tzname(None)),
        )
        return cls, value.replace(tzinfo=None, fold=0), value.fold, name
    return cls, value


texts = (
    st.text("1aN:|*?[]{}%2'A\\. -", max_size=4)
    | st.text(st.characters(exclude_categories=()), max_size=4)
    | st.sampled_from(
        ["", "None", "True", "False", "nan", "inf", "-inf", "1", "1.0", "%2A", "'", "_", "A" * 63, "f" * 64]
    )
    | st.sampled_from([str(ID), ID.hex, "date'2024-05-01'", "Decimal'1'", "\ud800", "é", "e\u0301"])
)
zones = st.sampled_from(
    [
        None,
        UTC,
        timezone(timedelta(hours=1)),
        timezone(timedelta(hours=1), "X"),
        ZoneInfo("UTC"),
        ZoneInfo("Europe/Rome"),
    ]
)
folds = st.sampled_from([0, 1])
moments = st.sampled_from([datetime(2024, 5, 1), datetime(2024, 5, 1, 12), datetime(2024, 5, 1, 12, 0, 0, 1)])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.integers(10**59, 10**61)
    | st.sampled_from([0.0, -0.0, 1.0, float("nan"), float("inf"), float("-inf"), 1e16])
    | st.floats()
    | texts
    | st.binary(max_size=2)
    | st.sampled_from([ID, UUID(int=1)])
    | st.builds(lambda at, fold, zone: at.replace(fold=fold, tzinfo=zone), moments, folds, zones)
    | st.builds(lambda at, fold, zone: at.time().replace(fold=fold, tzinfo=zone), moments, folds, zones)
    | st.sampled_from([date(2024, 5, 1), timedelta(1), timedelta(seconds=1), timedelta(microseconds=-1)])
    | st.sampled_from([Decimal(1), Decimal("1.0"), Decimal("1E+1"), Decimal("-0"), Decimal("NaN"), Decimal("sNaN1")])
    | st.sampled_from([Color.RED, Color.BLUE, Level.LOW, Word.ONE, Access.READ, Access.READ | Access.WRITE, Access(0)])
)


@st.composite
def scalar(draw: st.DrawFn) -> Any:
    """The union under a short name: hypothesis warns of the length of its repr."""
    return draw(scalars)


def hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:  # a signalling NaN
        return False
    return True


members = scalar().filter(hashable)
values = st.recursive(
    scalar(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(members, max_size=3)
        | st.frozensets(members, max_size=3)
        | st.dictionaries(members, inner, max_size=3)
        | st.builds(Point, inner, inner)
        | st.builds(Place, inner, inner)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=6,
)


def parameter(value: object) -> str:
    return CACHE.key("p", "op", value).removeprefix("catalog:v1:p:op:")


@given(st.lists(values, min_size=2, max_size=8))
def test_two_values_share_a_parameter_only_when_they_are_the_same(found: list[Any]) -> None:
    """Parameters are equal exactly where type and value are, however deep; the order of a dict or a set is no value."""
    for a, b in combinations(found, 2):
        assert (parameter(a) == parameter(b)) == (form(a) == form(b)), (a, b)


@given(values)
def test_no_value_can_forge_a_separator_or_a_wildcard(value: Any) -> None:
    """A parameter holds safe characters and whole percent sequences only: no `:` `|` `*` `?` `[` `{`, no space."""
    assert SAFE.fullmatch(parameter(value)), value


many_of_a_kind = (
    st.lists(
        st.text("aZ_9-./:|%\n é", max_size=4) | st.sampled_from(["None", "nan", "a" * 36, "a" * 63, "a" * 64, str(ID)])
    )
    | st.lists(st.integers() | st.sampled_from([10**60, 1 - 10**60, -(10**60)]))
    | st.lists(st.uuids() | st.sampled_from([ID]))
    | st.lists(scalar(), max_size=3)
)


@given(many_of_a_kind)
def test_many_at_once_have_the_parameters_that_each_has(found: list[Any]) -> None:
    """What is rendered all at once is rendered as one by one; the usual ids are."""
    for values in (found, *([one, "a"] for one in ("None", "a" * 63, "a" * 64, "b" + str(ID)[1:], "a\nb", ""))):
        assert rendering.parameter_of_each(values) in (None, [*map(rendering.parameter, values)])
    for usual in (["a-1", "_B.2"], [1, -2], [ID, ID]):
        assert rendering.parameter_of_each(usual) == [*map(rendering.parameter, usual)]


def every(*args: Any, **kwargs: Any) -> None: ...


every_key: Callable[..., str] = CACHE.cached("any")(every).key
calls = st.tuples(
    st.lists(scalar() | st.lists(scalar(), max_size=2), max_size=3),
    st.dictionaries(st.text("a|:%1", max_size=2), scalar(), max_size=2),
)


@given(st.lists(calls, min_size=2, max_size=6))
def test_two_calls_share_a_key_only_when_they_are_the_same(found: list[tuple[list[Any], dict[str, Any]]]) -> None:
    """However arguments are split, nested or named, keys are equal exactly where calls are."""
    for (args, kwargs), (others, named) in combinations(found, 2):
        same = form(args) == form(others) and form(list(kwargs.items())) == form(list(named.items()))
        assert (every_key(*args, **kwargs) == every_key(*others, **named)) == same


@given(st.text(st.characters(exclude_categories=()), max_size=80), st.text(max_size=80))
def test_one_string_never_renders_as_two_parameters(a: str, b: str) -> None:
    """Joining or splitting strings gives another key."""
    assert every_key(a, b) not in (every_key(a + b), every_key(f"{a}:{b}"), every_key((a, b)), every_key([a, b]))


ALL_DIFFERENT: list[Any] = [
    1, "1", 1.0, True, None, "None", "True", "", 0, 0.0, -0.0, False, b"", b"1", "b'1'", Decimal(1), Decimal("1.0"),
    float("nan"), "nan", float("inf"), "inf", [], (), {}, set(), frozenset(), [1], (1,), {1}, frozenset({1}), {1:
    1}, {True: 1}, [True], [1.0], [[1]], [None], ["None"], ID, str(ID), ID.int, ID.bytes, date(2024, 5, 1),
    datetime(2024, 5, 1), "2024-05-01", datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 1,
    tzinfo=ZoneInfo("UTC")), datetime(2024, 5, 1, 2, tzinfo=timezone(timedelta(hours=2))), datetime(2024, 5, 1,
    fold=1), time(1), time(1, fold=1), timedelta(1), 86400, Color.RED, Color.BLUE, "RED", Level.LOW, Word.ONE,
    "one", Point(1), Place(1), Pair(1), (1, None), Attrs(1), Struct(1), Open(x=1), {"x": 1, "y": None}, 2**200,
    str(2**200), "%2A", "*", "\ud800", "a b", "ab", "a%20b",
]  # fmt: skip


def test_similar_values_have_different_parameters() -> None:
    """`1`, `"1"`, `1.0`, `True`, `None`, `"None"`, and all that other caches confuse, are parameters of their own."""
    assert len({parameter(value) for value in ALL_DIFFERENT}) == len(ALL_DIFFERENT)
    assert len({parameter([{"deep": (value,)}]) for value in ALL_DIFFERENT}) == len(ALL_DIFFERENT)


def test_strings_split_otherwise_are_other_calls() -> None:
    """`("a b", "c")` and `("a", "b c")` are two keys."""
    assert every_key("a b", "c") != every_key("a", "b c")
    assert every_key("a:b", "c") != every_key("a", "b:c")


def test_the_order_of_dicts_and_sets_does_not_matter() -> None:
    """Equal dicts and equal sets are one parameter, in whatever order they were made."""
    assert parameter({"a": 1, "b": 2}) == parameter({"b": 2, "a": 1})
    assert parameter({8, 0}) == parameter({0, 8})


class TestReadable:
    """Keys that people read."""

    def test_a_uuid_stands_as_it_is_written(self) -> None:
        """The key of a call by id ends in the id."""

        @Cache(instance="catalog").cached("resource")
        def get_by_id(resource_id: UUID) -> None: ...

        assert get_by_id.key(ID) == "catalog:v1:resource:get_by_id:550e8400-e29b-41d4-a716-446655440000"

    def test_a_long_query_is_hashed_and_its_page_is_not(self) -> None:
        """A long parameter becomes its SHA-256; those with a default are named."""

        @Cache(instance="catalog").cached("search")
        def search(query: str, page: int = 1, size: int = 20) -> None: ...

        assert re.fullmatch(r"catalog:v1:search:search:[0-9a-f]{64}:page\|1:size\|20", search.key("how to " * 20))
        assert search.key("redis", size=5) == "catalog:v1:search:search:redis:page|1:size|5"

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (1, "1"), (-1, "-1"), (1.0, "1.0"), (None, "None"), (True, "True"), ("redis", "redis"), ("1", "'1'"),
            ("None", "'None'"), ("", "''"), ("a b", "a%20b"), ("a:b*", "a%3Ab%2A"), ("é", "%C3%A9"), ("-x", "'-x'"),
            (str(ID), f"'{ID}'"), (date(2024, 5, 1), "date'2024-05-01'"), (timedelta(hours=1), "timedelta'0,3600,0'"),
            (Decimal("1.50"), "Decimal'1.50'"), (time(12, 30), "time'12%3A30%3A00'"),
            (datetime(2024, 5, 1, tzinfo=UTC), "datetime'2024-05-01T00%3A00%3A00%3Bdatetime.timezone.utc'"),
        ],
    )  # fmt: skip
    def test_short_scalars_stand_as_text(self, value: object, text: str) -> None:
        """A scalar is written out, with what separates or matches percent-encoded, quoted where it would mislead."""
        assert parameter(value) == text

    def test_a_string_of_63_characters_stands_and_one_of_64_is_hashed(self) -> None:
        """The limit is exact, so that no string can be taken for a hash."""
        assert parameter("f" * 63) == "f" * 63
        assert re.fullmatch("[0-9a-f]{64}", parameter("f" * 64))
        assert parameter("f" * 64) != "f" * 64

    def test_many_parameters_are_hashed_together(self) -> None:
        """A key stays below Redis's comfortable size however many parameters there are, and stays injective."""
        long, other = every_key(*range(1000)), every_key(*range(1, 1001))
        assert re.fullmatch(r"catalog:v1:any:every:[0-9a-f]{64}", long)
        assert long != other

    def test_without_parameters_the_last_part_is_empty(self) -> None:
        """A call without arguments has a key of its own."""
        assert every_key() == "catalog:v1:any:every:" != every_key("")

    def test_instance_and_version_come_first(self) -> None:
        """Two versions, or two instances, share nothing."""
        assert Cache(instance="shop", version="v2").key("p", "f", 1, a=2) == "shop:v2:p:f:1:a|2"


class TestParameters:
    """Which parameters of a function stand in its key."""

    def test_a_default_is_named_and_always_there(self) -> None:
        """A parameter left to its default and the same passed are one key; a changed default is another."""
        cache = Cache()

        @cache.cached("p", operation="a")
        def one(x: int, lang: str = "en") -> None: ...

        @cache.cached("p", operation="b")
        def two(x: int, lang: str = "de") -> None: ...

        assert one.key(1) == one.key(1, "en") == one.key(x=1, lang="en") == "aikernel:v1:p:a:1:lang|en"
        assert two.key(1) == "aikernel:v1:p:b:1:lang|de"

    def test_args_and_kwargs_follow(self) -> None:
        """`*args` stand after the required ones, `**kwargs` by name, in the order that the function sees."""

        @CACHE.cached("p", operation="star")
        def star(a: int, *rest: int, b: int, c: int = 3, **more: int) -> None: ...

        assert star.key(1, 2, 3, y=5, b=4, z=6) == star.key(1, 2, 3, y=5, z=6, b=4)
        assert star.key(1, 2, 3, b=4, y=5, z=6) == "catalog:v1:p:star:1:4:2:3:c|3:y|5:z|6"
        assert star.key(1, 2, 3, b=4, z=6, y=5) == "catalog:v1:p:star:1:4:2:3:c|3:z|6:y|5"
        assert star.key(1, b=2) != star.key(1, 2, b=2)

    def test_the_order_of_keyword_arguments_makes_another_key(self) -> None:
        """A function that sees the order of `**kwargs` answers for its own; `normalize` makes all orders one."""

        def order(**more: int) -> list[str]:
            return list(more)

        cache = Cache()
        cached = cache.cached("p", operation="one")(order)
        assert [cached(a=1, b=2), cached(b=2, a=1)] == [["a", "b"], ["b", "a"]]
        either = cache.cached("p", operation="any", normalize={"more": lambda more: dict(sorted(more.items()))})(order)
        assert either.key(a=1, b=2) == either.key(b=2, a=1)

    def test_a_keyword_named_like_a_positional_only_parameter_is_another(self) -> None:
        """`f(1, a=2)` and `f(2, a=1)` differ where `a` is positional-only and a keyword besides."""

        @CACHE.cached("p", operation="only")
        def only(a: int = 0, /, **more: int) -> None: ...

        assert len({only.key(1, a=2), only.key(2, a=1), only.key(1)}) == 3

    def test_ignored_parameters_stay_out(self) -> None:
        """What `ignore` names is not in the key, and need not be keyable."""

        @CACHE.cached("p", operation="ign", ignore=("session",))
        def ign(session: object, x: int) -> None: ...

        assert ign.key(object(), 1) == ign.key(object(), 1) == "catalog:v1:p:ign:1"

    def test_normalized_parameters_are_one_key_and_the_function_sees_the_original(self) -> None:
        """`normalize` changes a value in the key alone."""
        seen = []

        @CACHE.cached("p", operation="norm", normalize={"q": lambda q: q.strip().lower()})
        def norm(q: str) -> str:
            seen.append(q)
            return q

        assert norm(" Redis ") == norm("redis") == " Redis "
        assert seen == [" Redis "]
        assert norm.key(" Redis ") == "catalog:v1:p:norm:redis"

    def test_a_key_function_decides_alone(self) -> None:
        """`key` gives the parameter, or a tuple of parameters, from the call's own arguments."""

        @CACHE.cached("p", operation="k1", key=lambda user, *, deep: user["id"])
        def one(user: dict[str, int], *, deep: bool) -> None: ...

        @CACHE.cached("p", operation="k2", key=lambda user, deep=False: (user["id"], deep))
        def two(user: dict[str, int], deep: bool = False) -> None: ...

        assert one.key({"id": 7, "age": 1}, deep=True) == "catalog:v1:p:k1:7"
        assert two.key({"id": 7}) == "catalog:v1:p:k2:7:False"

    @pytest.mark.parametrize("error", [ValueError, TypeError, KeyError, AttributeError])
    @pytest.mark.parametrize("option", ["key", "normalize"])
    def test_a_failing_key_function_costs_the_cache_and_not_the_call(
        self, option: str, error: type[Exception], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Whatever `key` or `normalize` raises, the call answers uncached and says so once."""

        def fail(x: int) -> int:
            raise error("no")

        cache = Cache()
        options: dict[str, Any] = {"key": fail} if option == "key" else {"normalize": {"x": fail}}

        @cache.cached("p", **options)
        def f(x: int) -> int:
            return x

        assert [f(1), f(1)] == [1, 1]
        assert [record.getMessage().count("was not cached") for record in caplog.records] == [1]
        assert cache.stats().operations["p:f"].errors == 2


class Shop:
    """Nothing in it says what it stands for."""


class Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def __cache_key__(self) -> str:
        return self.name


class TestMethods:
    """`self` and `cls`."""

    def test_the_error_for_a_bare_self_names_both_remedies(self) -> None:
        """Where no class was told of a method, its first call raises what its class would have been refused with."""

        def price(self: object, what: str) -> int:
            return 1

        class Bare:
            @classmethod
            @Cache().cached("p")
            def made(cls, what: str) -> int:
                return 1

        cached = Cache().cached("p")(price)
        for call, name in ((partial(cached, Bare()), "self"), (Bare.made, "cls")):
            for _ in range(2):
                message = rf"is a method.*ignore=\('{name}',\).*give \S*Bare a method __cache_key__\(\)"
                with pytest.raises(ConfigError, match=message) as caught:
                    call("tea")
                assert isinstance(caught.value, TypeError)

    def test_an_ignored_self_is_shared_by_all_instances(self) -> None:
        """With `ignore=("self",)` instances share entries."""
        calls = []

        class Lax:
            @Cache().cached("p", ignore=("self",))
            def price(self, what: str) -> int:
                calls.append(what)
                return 1

        assert [Lax().price("tea"), Lax().price("tea"), Lax().price("milk")] == [1, 1, 1]
        assert calls == ["tea", "milk"]
        assert Lax.price.key(Lax(), "tea") == "aikernel:v1:p:price:tea"

    def test_a_self_with_a_cache_key_stands_in_the_key(self) -> None:
        """Instances whose `__cache_key__()` differs do not share entries, those that agree do."""

        class Store(Named):
            @Cache().cached("p")
            def price(self, what: str) -> tuple[str, str]:
                return self.name, what

        assert [Store("a").price("tea"), Store("b").price("tea")] == [("a", "tea"), ("b", "tea")]
        key = Store.price.key(Store("a"), "tea")
        assert key == Store.price.key(Store("a"), "tea") != Store.price.key(Store("b"), "tea")
        assert key.endswith(":tea")

    def test_a_classmethod_needs_the_same(self) -> None:
        """`cls` stays out by `ignore`, or stands for itself through a `__cache_key__` classmethod; else `TypeError`."""
        cache = Cache()

        class Base:
            @classmethod
            def __cache_key__(cls) -> str:
                return cls.__name__

            @classmethod
            @cache.cached("p", operation="named")
            def named(cls, x: int) -> str:
                return cls.__name__

            @classmethod
            @cache.cached("p", operation="same", ignore=("cls",))
            def same(cls, x: int) -> str:
                return cls.__name__

        class Other(Base):
            pass

        class Plain:
            @classmethod
            @cache.cached("p", operation="bare")
            def bare(cls, x: int) -> int:
                return x

        base: Any = Base  # no checker binds a decorated function below @classmethod
        other: Any = Other
        plain: Any = Plain
        assert [base.named(1), other.named(1), base.named(1)] == ["Base", "Other", "Base"]
        assert [base.same(1), other.same(1)] == ["Base", "Base"]
        with pytest.raises(TypeError, match=r"ignore=\('cls',\).*give \S*Plain a method __cache_key__"):
            plain.bare(1)

    def test_a_staticmethod_has_no_receiver(self) -> None:
        """Below `@staticmethod` a function is cached like any other."""

        class Tools:
            @staticmethod
            @Cache().cached("p")
            def twice(x: int) -> int:
                return 2 * x

        tools: Any = Tools  # no checker binds a decorated function below @staticmethod
        assert [tools.twice(2), tools().twice(2)] == [4, 4]

    def test_a_class_and_its_instance_are_two_arguments(self) -> None:
        """A class that stands for itself is not taken for an instance that says the same."""

        class Both:
            @classmethod
            def __cache_key__(cls) -> str:
                return "both"

        assert parameter(Both) != parameter(Both())
        assert parameter([Both]) != parameter([Both()])


class TestUnkeyable:
    """Arguments that no key can tell apart."""

    @pytest.mark.parametrize(
        "argument",
        [
            object(),
            Shop(),
            lambda: 1,
            Text("x"),
            [object()],
            {"a": {Shop}},
            Point(Shop()),
            bytearray(b"x"),
            1j,
            range(3),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_is_answered_uncached_and_warned_of_once(self, argument: Any, caplog: pytest.LogCaptureFixture) -> None:
        """The function runs each time, and one warning says which type, and the ways out."""
        cache = Cache()
        runs = []

        @cache.cached("p")
        def f(x: object) -> int:
            runs.append(x)
            return len(runs)

        assert [f(argument), f(argument), f(argument)] == [1, 2, 3]
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert record.name == "aikcache"
        assert re.search(r"a call of .*f was not cached: an argument of type \S+ cannot be part", record.getMessage())
        assert "ignore=" in record.getMessage()
        assert "__cache_key__" in record.getMessage()
        stats = cache.stats().operations["p:f"]
        assert (stats.misses, stats.errors, stats.hits) == (3, 3, 0)

    def test_raises_under_strict(self) -> None:
        """With `strict=True` the call raises `InvalidKeyError` and the function does not run."""
        runs = []

        @Cache(strict=True).cached("p")
        def f(x: object) -> None:
            runs.append(x)

        with pytest.raises(InvalidKeyError, match=r"argument of type \S*Shop"):
            f(Shop())
        assert runs == []

    def test_itself_nested_is_said_to_be_too_deep(self) -> None:
        """A list that holds itself is an `InvalidKeyError`, not a `RecursionError`."""
        loop: list[Any] = []
        loop.append(loop)
        with pytest.raises(InvalidKeyError, match="nested too deeply, or in itself"):
            parameter(loop)

    def test_an_unfinished_record_does_not_fail_the_call(self, caplog: pytest.LogCaptureFixture) -> None:
        """A dataclass without one of its attributes is answered uncached."""

        @dataclass
        class Half:
            x: int

        @Cache().cached("p")
        def f(x: object) -> int:
            return 1

        half = object.__new__(Half)
        assert [f(half), f(half)] == [1, 1]
        assert "was not cached" in caplog.text

    def test_a_zone_of_an_unknown_class_is_refused(self) -> None:
        """Only zones that name themselves can stand in a key."""
        from datetime import tzinfo

        class Zone(tzinfo):
            def utcoffset(self, _: datetime | None) -> timedelta:
                return timedelta(0)

            dst = utcoffset

            def tzname(self, _: datetime | None) -> str:
                return "zone"

        with pytest.raises(
            InvalidKeyError, match=r"time zone class .*Zone cannot be part of a key.*Convert it, or pass key="
        ):
            parameter(datetime(2024, 1, 1, tzinfo=Zone()))

    def test_extra_fields_of_a_model_make_another_key(self) -> None:
        """A pydantic model that allows extra fields is told apart by them, as its own equality does."""
        assert Open.model_validate({"x": 1, "b": 2}) != Open.model_validate({"x": 1, "b": 3})
        assert parameter(Open.model_validate({"x": 1, "b": 2})) != parameter(Open.model_validate({"x": 1, "b": 3}))


def held(record: Any, **state: Any) -> Any:
    """The record with more attributes, also where it is frozen."""
    for name, value in state.items():
        if hasattr(record, "__dict__"):
            record.__dict__[name] = value
        else:
            object.__setattr__(record, name, value)
    return record


def private(x: Any, y: Any) -> Private:
    model = Private(x=x)
    model._y = y
    return model


RECORDS: dict[str, Callable[[Any, Any], Any]] = {
    "dataclass": lambda x, y: held(Noted(x), note=y),
    "InitVar": lambda x, y: Price(x, y),
    "slots": lambda x, y: held(Wide(x), y=y),
    "NamedTuple": lambda x, y: held(NotedPair(x), note=y),
    "attrs": lambda x, y: held(NotedAttrs(x), note=y),
    "attrs and slots": lambda x, y: held(object.__new__(HandSlotted), x=x, y=y),
    "Struct": lambda x, y: held(NotedStruct(x), note=y),
    "private": private,
    "extra": lambda x, y: Open.model_validate({"x": x, "y": y}),
}
stateful = st.tuples(st.sampled_from(sorted(RECORDS)), scalar(), scalar())


class TestState:
    """Records are told apart by all they hold, and classes by what they are; what cannot be told apart is refused."""

    @pytest.mark.parametrize("kind", RECORDS)
    def test_attributes_besides_the_fields_make_another_key(self, kind: str) -> None:
        """A function that reads an attribute which is no field answers for that attribute."""
        make = RECORDS[kind]

        @Cache().cached("p")
        def seen(record: Any) -> str:
            return next(str(v) for name in ("note", "currency", "y", "_y") if (v := getattr(record, name, None)))

        assert [seen(make(1, "a")), seen(make(1, "b")), seen(make(1, "a"))] == ["a", "b", "a"]
        assert parameter(make(1, "a")) == parameter(make(1, "a")) != parameter(make(1, "b"))

    @given(st.lists(stateful, min_size=2, max_size=6))
    def test_records_share_a_parameter_only_when_all_they_hold_is_the_same(
        self, found: list[tuple[str, Any, Any]]
    ) -> None:
        """Whatever kind of record holds whatever besides its fields: equal state, equal key; other state, another."""
        for (kind, x, y), (other, u, v) in combinations(found, 2):
            same = kind == other and form([x, y]) == form([u, v])
            assert (parameter(RECORDS[kind](x, y)) == parameter(RECORDS[other](u, v))) == same
            assert (parameter([RECORDS[kind](x, y)]) == parameter([RECORDS[other](u, v)])) == same

    def test_a_record_without_more_has_the_key_of_its_fields(self) -> None:
        """An attribute that is not there, one that is `None` and a field of that value are three."""
        assert len({parameter(Noted(1)), parameter(held(Noted(1), note=None)), parameter(Noted(1, None)), ""}) == 3
        assert parameter(NotedPair(1)) != parameter(tuple.__new__(NotedPair, (1, None, {"note": 1})))
        assert parameter(held(NotedPair(1), note=1)) != parameter(tuple.__new__(NotedPair, (1, None, {"note": 1})))

    def test_the_set_of_fields_that_were_set_makes_another_key(self) -> None:
        """`Private()` and `Private(x=None)` are equal to pydantic, and dump differently with `exclude_unset`."""

        @Cache().cached("p")
        def given(model: Private) -> dict[str, Any]:
            return model.model_dump(exclude_unset=True)

        assert [given(Private()), given(Private(x=None)), given(Private())] == [{}, {"x": None}, {}]

    def test_cached_properties_are_not_part_of_a_key(self) -> None:
        """A cached property and a cached hash leave the key as it was."""
        for record, use in (
            (Price(1), lambda it: it.text),
            (SlottedAttrs(1), lambda it: it.twice),
            (NotedStruct("a"), hash),
            (HashedAttrs("a"), hash),
        ):
            before = parameter(record)
            use(record)
            assert parameter(record) == before

    def test_state_that_cannot_be_rendered_is_refused_by_name(self) -> None:
        """A record that holds what no key can tell apart is refused, and the message says what, and the ways out."""
        with pytest.raises(InvalidKeyError, match=r"Noted holds more than its fields \(lock\).*__cache_key__"):
            parameter(held(Noted(1), lock=object()))

    def test_a_record_with_a_built_in_base_is_refused(self) -> None:
        """What a list holds is not in the fields of a dataclass that is one."""
        listed = Listed(1)
        listed.append(2)
        with pytest.raises(InvalidKeyError, match=r"Listed cannot be part of a key"):
            parameter(listed)

    @pytest.mark.parametrize("make", [
        lambda: dataclass(type("Made", (), {"__annotations__": {"x": int}})),
        lambda: NamedTuple("Made", [("x", int)]),
        lambda: attrs.make_class("Made", ["x"]),
        lambda: msgspec.defstruct("Made", [("x", int)]),
        lambda: pydantic.create_model("Made", x=(int, 1)),
        lambda: Enum("Made", ["ONE"]),
        lambda: Flag("Made", ["ONE"]),
    ], ids=["dataclass", "NamedTuple", "attrs", "Struct", "model", "Enum", "Flag"])  # fmt: skip
    def test_a_class_is_known_by_a_name_that_leads_to_it(
        self, make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of two classes with one module and qualified name only the one that is found there stands in a key."""
        first, second = make(), make()
        for cls in (first, second):
            cls.__module__, cls.__qualname__ = __name__, "Made"
        one, two = (cls.ONE if issubclass(cls, Enum) else cls(x=1) for cls in (first, second))
        with pytest.raises(InvalidKeyError, match=r"Made cannot be part of a key: this name leads to no class"):
            parameter(one)
        monkeypatch.setattr(sys.modules[__name__], "Made", first, raising=False)
        assert parameter(one) == parameter(copy.copy(one))
        for hidden in (two, [two], {two} if isinstance(two, Enum) else (two,)):
            with pytest.raises(InvalidKeyError, match=r"or to another one.*top level.*ignore=.*key=.*__cache_key__"):
                parameter(hidden)

    def test_a_class_inside_a_function_is_answered_uncached(self, caplog: pytest.LogCaptureFixture) -> None:
        """A local class has no name of its own: the function runs each time, and says so once."""

        def made(unit: str) -> Any:
            @dataclass
            class Local:
                x: int

                def __str__(self) -> str:
                    return f"{self.x} {unit}"

            return Local(1)

        def text(it: object) -> str:
            return str(it)

        cached = Cache().cached("p")(text)
        assert [cached(made("m")), cached(made("ft"))] == ["1 m", "1 ft"]
        assert caplog.text.count("was not cached") == 1

    def test_a_name_that_leads_to_two_classes_names_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`C` of the module `a.b` and `b.C` of the module `a` are written alike."""
        package, module = ModuleType("k6a"), ModuleType("k6a.b")
        inner: Any = dataclass(type("C", (), {"__module__": "k6a", "__qualname__": "b.C"}))
        outer: Any = dataclass(type("C", (), {"__module__": "k6a.b"}))
        monkeypatch.setitem(sys.modules, "k6a", package)
        monkeypatch.setattr(package, "b", type("b", (), {"C": inner}), raising=False)
        parameter(inner())
        monkeypatch.setitem(sys.modules, "k6a.b", module)
        monkeypatch.setattr(module, "C", outer, raising=False)
        for it in (inner(), outer()):
            with pytest.raises(InvalidKeyError, match="leads to no class or to another one"):
                parameter(it)

    def test_a_combination_of_flags_is_no_member(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where a flag is named like a combination of others, or like a number, combinations are refused."""
        members = {"A": 1, "B": 2, "A|B": 4, "0": 8}
        odd: Any = Flag("Odd", members, module=__name__)  # type: ignore[misc]
        monkeypatch.setattr(sys.modules[__name__], "Odd", odd, raising=False)
        assert len({parameter(odd(value)) for value in (1, 2, 4, 8)}) == 4
        for value in (0, 3):
            with pytest.raises(InvalidKeyError, match="Odd cannot be part of a key"):
                parameter(odd(value))

    def test_an_enum_member_is_known_by_its_own_name(self) -> None:
        """A property called `name` hides it from readers, not from the key."""
        assert parameter(Masked.ONE) != parameter(Masked.TWO)

    def test_a_zone_from_a_file_is_refused_whatever_its_key_says(self) -> None:
        """`ZoneInfo.from_file` takes any key, and its zone may be another than the one of that name."""
        data = next(path for root in TZPATH if (path := Path(root, "Asia/Tokyo")).exists()).read_bytes()
        false = ZoneInfo.from_file(io.BytesIO(data), key="Europe/Rome")
        with pytest.raises(InvalidKeyError, match=r"not what ZoneInfo\.from_file made"):
            parameter(datetime(2024, 5, 1, tzinfo=false))
        true = [ZoneInfo("Europe/Rome"), ZoneInfo.no_cache("Europe/Rome")]
        assert len({parameter(time(1, tzinfo=zone)) for zone in true}) == 1

    @pytest.mark.parametrize("zone", [type("Zone", (ZoneInfo,), {})("UTC"), timezone(timedelta(0), Text("UTC"))])
    def test_a_zone_or_a_name_by_inheritance_is_refused(self, zone: Any) -> None:
        """A subclass may say anything of itself."""
        with pytest.raises(InvalidKeyError, match="cannot be part of a key"):
            parameter(datetime(2024, 5, 1, tzinfo=zone))

    @pytest.mark.parametrize(("plain", "arguments"), [
        ("a", ("a",)), (1, (1,)), (1.0, (1.0,)), (b"a", (b"a",)), (ID, (ID.hex,)), (Decimal(1), (1,)), ((1,), ((1,),)),
        (date(2024, 5, 1), (2024, 5, 1)), (datetime(2024, 5, 1), (2024, 5, 1)), (time(1), (1,)), (timedelta(1), (1,)),
    ])  # fmt: skip
    def test_a_subclass_of_a_plain_type_is_not_that_type(self, plain: Any, arguments: tuple[Any, ...]) -> None:
        """Neither the key nor the wrapper's short cut takes a subclass, which may hold more, for its base."""
        base: Any = type(plain)
        cls = type("Sub", (base,), {})

        def which(it: Any) -> Any:
            return it

        which.__annotations__["it"] = base
        cached = Cache().cached("p")(which)
        for it in (plain, cls(*arguments), cls(*arguments)):
            assert type(cached(it)) is type(it)

    @pytest.mark.parametrize(("value", "key"), [
        (1, "1"),
        (2**300, "458942a42bc2912620141b3332cc164cf19e126256475a6df84a82f61f3ca38d"),
        (-5, "-5"),
        (True, "True"),
        (1.5, "1.5"),
        (None, "None"),
        ("redis", "redis"),
        ("a b", "a%20b"),
        ("x" * 64, "05e30464a4c560a3645c8f327826009e0e7921eeb30945966b05d1120cb2e331"),
        (b"ab", "fb718ef950eb408bb5a317a7b25fa6fd9ecb0440978d2bb40826d5967aea6ac0"),
        (ID, "550e8400-e29b-41d4-a716-446655440000"),
        (date(2024, 5, 1), "date'2024-05-01'"),
        (datetime(2024, 5, 1, tzinfo=ZoneInfo("Europe/Rome")), "datetime'2024-05-01T00%3A00%3A00%3BEurope/Rome'"),
        (datetime(2024, 10, 27, 2, 30, fold=1), "datetime'2024-10-27T02%3A30%3A00%3Bfold'"),
        (time(1, tzinfo=timezone(timedelta(0, 1))), "ffd67004e8ecafa6a1bc7534126f6c4394385fce01b40084613085c2951b1b35"),
        (time(12, 30, tzinfo=UTC), "time'12%3A30%3A00%3Bdatetime.timezone.utc'"),
        (timedelta(hours=1), "timedelta'0,3600,0'"),
        (Decimal("1.50"), "Decimal'1.50'"),
        ([1, "1", None], "fa2a71743df4ffcb27e18f99510b8154fab17c07e697bde864892b2caff056c0"),
        ((1, [2.0]), "ec4a32b2615cd26652207a02142b98c1cf8442d334dd097c30e3ec44694d4d8d"),
        ({"b": 1, "a": (ID,)}, "cc33ff0840cfc4c9fa3c2fd338113e241a23ad463b2d0c5ff50d37d992884054"),
        ({8, 0}, "b896ff7a31be81efe87e8bf4b46af41f91918b4dc98ede2cdf2f0bb102b5cb9a"),
        (frozenset({"a"}), "be24eca9443915e63e7dbb08dcf2c142a7b27653267e268205720375ff6f9601"),
    ])  # fmt: skip
    def test_plain_values_keep_their_keys(self, value: object, key: str) -> None:
        """What was cached under a plain value's key is found again."""
        assert parameter(value) == key


class TestWrittenByHand:
    """Keys as people write them."""

    def test_with_and_without_instance_and_version(self) -> None:
        """A key may be written in full or from the prefix on."""
        cache = Cache()
        cache.set("p:f:1", "one")
        assert cache.get("aikernel:v1:p:f:1") == cache.get("p:f:1") == "one"

    @pytest.mark.parametrize("key", ["", "a b", "a*", "a?", "a[b]", "{a}", "a\\", "a\n", "~a", "!a", ":a", "a" * 1025])
    def test_malformed_keys_are_refused(self, key: str) -> None:
        """Spaces, wildcards, braces, a reserved first character and excess length are an `InvalidKeyError`."""
        with pytest.raises(InvalidKeyError, match=r"a key must be 1 to 1024 characters.*escapes"):
            Cache().get(key)

    def test_what_is_no_str_is_refused(self) -> None:
        """A key of another type is an `InvalidKeyError` that says which."""
        with pytest.raises(InvalidKeyError, match="a key must be a str, got int"):
            Cache().get(1)  # type: ignore[call-overload]

    @pytest.mark.parametrize("part", ["", "a:b", "a*", "a b", "-a", "é", "~a", "!a"])
    def test_prefix_and_operation_are_names(self, part: str) -> None:
        """`Cache.key` refuses a prefix or an operation that could separate or match."""
        with pytest.raises(ConfigError, match="prefix must be letters"):
            Cache().key(part, "op")
        with pytest.raises(ConfigError, match="operation must be letters"):
            Cache().key("p", part)


LONE = "\ud800"


@pytest.mark.parametrize(
    "call",
    [
        lambda cache: cache.get(f"p:f:{LONE}"),
        lambda cache: cache.get_many(["p:f:1", f"p:f:{LONE}"]),
        lambda cache: cache.set(f"p:f:{LONE}", 1),
        lambda cache: cache.set("p:f:1", 1, tags=(LONE,)),
        lambda cache: cache.set("p:f:1", 1, tags="ab"),
        lambda cache: cache.set_many({f"p:f:{LONE}": 1}),
        lambda cache: cache.get_or_load(f"p:f:{LONE}", lambda: 1),
        lambda cache: cache.get_or_load("p:f:1", lambda: 1, tags=(LONE,)),
        lambda cache: cache.invalidate(f"p:f:{LONE}"),
        lambda cache: cache.invalidate(f"p:{LONE}*:x"),
        lambda cache: cache.invalidate_key(f"p:f:{LONE}"),
        lambda cache: cache.invalidate_tags(LONE),
    ],
)
def test_what_utf8_cannot_write_is_refused_in_keys_by_hand(call: Callable[[Cache], object]) -> None:
    """A lone surrogate in a key, a pattern or a tag is an `InvalidKeyError`, with a server or without."""
    with pytest.raises(InvalidKeyError):
        call(CACHE)


def test_what_utf8_cannot_write_may_be_an_argument() -> None:
    """In an argument, or a template's field, a lone surrogate is escaped like any other character."""
    cache = Cache(instance="catalog")

    @cache.cached("p", tags=("t:{a}",))
    def f(a: str) -> str:
        return a

    assert f(LONE) == f(LONE) == LONE
    assert f.cache_info().hits == 1
    cache.invalidate("p:f:{a}", a=LONE)
    assert f.peek(LONE) is None
