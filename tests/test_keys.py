"""Keys: what stands in them, that no two calls share one, and that no argument can act as a separator or a wildcard."""

from __future__ import annotations

import logging
import re
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from itertools import combinations
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache import Cache, ConfigError, InvalidKeyError

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


class Text(str):
    """A string by inheritance."""


def form(value: Any) -> object:
    """What a value is, by an independent road: hashable, and equal for what may share a parameter."""
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
        same = form(args) == form(others) and form(kwargs) == form(named)
        assert (every_key(*args, **kwargs) == every_key(*others, **named)) == same


@given(st.text(st.characters(exclude_categories=()), max_size=80), st.text(max_size=80))
def test_a_string_is_never_taken_for_two(a: str, b: str) -> None:
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


def test_no_two_of_the_usual_suspects_share_a_parameter() -> None:
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
        """`*args` stand after the required ones, `**kwargs` by name, in no particular order."""

        @CACHE.cached("p", operation="star")
        def star(a: int, *rest: int, b: int, c: int = 3, **more: int) -> None: ...

        assert star.key(1, 2, 3, b=4, z=6, y=5) == star.key(1, 2, 3, y=5, z=6, b=4)
        assert star.key(1, 2, 3, b=4, z=6, y=5) == "catalog:v1:p:star:1:4:2:3:c|3:y|5:z|6"
        assert star.key(1, b=2) != star.key(1, 2, b=2)

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

    def test_a_bare_self_names_both_ways_out(self) -> None:
        """The first call of a method raises `TypeError` with the two things that can be done about it."""

        class Bare:
            @Cache().cached("p")
            def price(self, what: str) -> int:
                return 1

        for _ in range(2):
            with pytest.raises(
                TypeError, match=r"Bare\.price is a method.*ignore=\('self',\).*give \S*Bare a method __cache_key__\(\)"
            ):
                Bare().price("tea")

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

    def test_extra_fields_of_a_model_tell_it_apart(self) -> None:
        """A pydantic model that allows extra fields is told apart by them, as its own equality does."""
        assert Open.model_validate({"x": 1, "b": 2}) != Open.model_validate({"x": 1, "b": 3})
        assert parameter(Open.model_validate({"x": 1, "b": 2})) != parameter(Open.model_validate({"x": 1, "b": 3}))


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
            Cache().get(1)  # type: ignore[arg-type]

    @pytest.mark.parametrize("part", ["", "a:b", "a*", "a b", "-a", "é", "~a", "!a"])
    def test_prefix_and_operation_are_names(self, part: str) -> None:
        """`Cache.key` refuses a prefix or an operation that could separate or match."""
        with pytest.raises(ConfigError, match="prefix must be letters"):
            Cache().key(part, "op")
        with pytest.raises(ConfigError, match="operation must be letters"):
            Cache().key("p", part)
