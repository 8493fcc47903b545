"""`@cached` in one process, without Redis: what a call gives, what is kept and for how long, and the wrapper's face."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import re
import traceback
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any, NamedTuple
from unittest.mock import MagicMock
from uuid import UUID

import pytest

from aikcache import Cache, ConfigError, EncodeError
from aikcache._codec.equality import exactly_equal
from aikcache._decorators import wrapper
from aikcache._decorators.signature import Signature
from aikcache._engine import build
from aikcache.testing import FakeClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The clock of caches made from here on, and of what they decorate; there is no public way to give one."""
    clock = FakeClock()
    monkeypatch.setattr(build, "monotonic", clock)
    monkeypatch.setattr(wrapper, "make", functools.partial(wrapper.make, clock=clock))
    return clock


@pytest.fixture
def cache(request: pytest.FixtureRequest) -> Iterator[Cache]:
    if "clock" in request.fixturenames:
        request.getfixturevalue("clock")
    with Cache() as made:
        yield made


_methods = Cache()


class Counter:
    """Has a cached method, and a name that pickle finds."""

    def __cache_key__(self) -> int:
        return 1

    @_methods.cached("counter")
    def price(self, what: str, count: int = 1) -> str:
        return f"{count} {what}"

    def stock(self, what: str) -> int:
        return 0


class Counted:
    """A function that counts its runs and returns a given value."""

    def __init__(self, give: Callable[[Any], Any] = lambda x: x) -> None:
        self.runs = 0
        self.give = give

    def __call__(self, x: Any) -> Any:
        self.runs += 1
        return self.give(x)


def counting(cache: Cache, give: Callable[[Any], Any] = lambda x: x, **options: Any) -> tuple[Any, Counted]:
    """A cached function of one argument, and the count of its runs."""
    counted = Counted(give)

    @cache.cached("p", **options)
    def f(x: Any) -> Any:
        return counted(x)

    return f, counted


class Word(StrEnum):
    ONE = "one"


class Color(Enum):
    RED = "red"


@dataclass(frozen=True)
class Point:
    x: int
    y: tuple[int, ...]


@dataclass
class Box:
    things: list[dict[str, int]]


class Pair(NamedTuple):
    left: int
    right: str


class Hiding(NamedTuple):
    left: int
    right: list[str]

    def __iter__(self) -> Iterator[Any]:
        return iter((self[0], "x"))


class TestHits:
    def test_the_function_runs_once(self, cache: Cache) -> None:
        """The second call of the same arguments is answered without the function."""
        f, counted = counting(cache)
        assert [f("a"), f("a"), f("b")] == ["a", "a", "b"]
        assert counted.runs == 2

    @pytest.mark.parametrize("value", [None, 0, False, "", (), [], {}, set(), 0.0, b""], ids=repr)
    def test_none_and_falsy_results_are_values(self, cache: Cache, value: object) -> None:
        """`None`, zero and empty results are cached like any other."""
        f, counted = counting(cache, lambda x: value)
        assert [f(1), f(1)] == [value, value]
        assert counted.runs == 1

    def test_exceptions_are_never_cached(self, cache: Cache) -> None:
        """A call that raises is run again, and raises the function's own exception."""
        errors = [LookupError("first"), LookupError("second")]

        def fail(x: object) -> None:
            raise errors[counted.runs - 1]

        f, counted = counting(cache, fail)
        for error in errors:
            with pytest.raises(LookupError) as caught:
                f(1)
            assert caught.value is error
        assert cache.stats().operations["p:f"].loads == 0

    def test_an_exception_carries_no_trace_of_the_cache_as_its_cause(self, cache: Cache) -> None:
        """What the function raises has no context but its own, so no argument shows in a log through the cache."""

        def fail(x: object) -> None:
            raise RuntimeError("mine")

        f, _ = counting(cache, fail)
        with pytest.raises(RuntimeError) as caught:
            f("private")
        assert caught.value.__context__ is None
        assert "KeyError" not in "".join(traceback.format_exception(caught.value))

    def test_one_entry_however_the_call_is_written(self, cache: Cache) -> None:
        """`f(1, 2)`, `f(1, b=2)`, `f(a=1, b=2)` and a default left out are one entry."""
        runs = []

        @cache.cached("p")
        def f(a: int, b: int = 2, *, c: str = "x") -> int:
            runs.append((a, b, c))
            return a + b

        assert {f(1, 2), f(1, b=2), f(a=1, b=2), f(b=2, a=1), f(1), f(1, c="x"), f(1, 2, c="x")} == {3}
        assert runs == [(1, 2, "x")]
        assert f.cache_info().currsize == 1

    def test_keyword_order_is_a_difference_where_the_function_sees_it(self, cache: Cache) -> None:
        """`**kwargs` in another order are another call; named parameters have one order."""
        runs = []

        @cache.cached("p")
        def f(x: int, y: int, **names: int) -> str:
            runs.append(names)
            return "".join(names)

        assert [f(1, 2, a=1, b=2), f(1, 2, b=2, a=1), f(y=2, a=1, x=1, b=2)] == ["ab", "ba", "ab"]
        assert len(runs) == 2

    def test_a_function_without_arguments(self, cache: Cache) -> None:
        """A function of nothing has one entry."""
        runs = []

        @cache.cached("p")
        def f() -> str:
            runs.append(1)
            return "x"

        assert [f(), f()] == ["x", "x"]
        assert len(runs) == 1
        f.invalidate()
        f()
        assert len(runs) == 2

    @pytest.mark.parametrize(
        "annotation", [None, int, str, float, bool, UUID, date, datetime, object, bytes, Any], ids=str
    )
    def test_types_are_told_apart_in_the_local_tier(self, cache: Cache, annotation: Any) -> None:
        """Equal arguments of different types are different calls, whatever the annotation promises."""
        at = datetime(2024, 5, 1, 12, tzinfo=UTC)
        two = at.astimezone(timezone(timedelta(hours=2)))
        assert at == two
        values: list[Any] = [
            1, True, 1.0, "1", Decimal(1), 0, False, 0.0, -0.0, None, "None", Word.ONE, "one", Color.RED, "red", at,
            two, at.date(), datetime(2024, 5, 1), b"1", UUID(int=1), (1,), (True,), [1], [1.0], frozenset({1}),
            frozenset({True}),
        ]  # fmt: skip

        def f(x: Any) -> str:
            return f"{type(x).__name__} {x!r}"

        if annotation is not None:
            f.__annotations__["x"] = annotation
        g = cache.cached("p")(f)
        for _ in range(2):
            assert [g(x) for x in values] == [f(x) for x in values]
        assert g.cache_info().misses == len(values)

    def test_a_subclass_of_str_is_not_taken_for_the_string(self, cache: Cache) -> None:
        """An argument of a class derived from `str` never gets the plain string's entry."""

        class Text(str):
            pass

        f, _ = counting(cache, lambda x: type(x).__name__)
        assert [f("a"), f(Text("a")), f("a")] == ["str", "Text", "str"]

    def test_two_parameters_cannot_swap(self, cache: Cache) -> None:
        """The local tier tells the order and the types of several arguments apart."""
        runs = []

        @cache.cached("p")
        def f(a: int, b: int) -> tuple[object, object]:
            runs.append((a, b))
            return a, b

        calls: list[tuple[Any, Any]] = [(1, 2), (2, 1), (1, True), (True, 1), (1.0, 2), ("1", 2), (1, "2"), ("1", "2")]
        for _ in range(2):
            assert [repr(f(a, b)) for a, b in calls] == list(map(repr, calls))
        assert len(runs) == len(calls)

    def test_two_functions_share_nothing(self, cache: Cache) -> None:
        """Functions of one prefix have entries of their own."""

        @cache.cached("p")
        def f(x: int) -> str:
            return "f"

        @cache.cached("p")
        def g(x: int) -> str:
            return "g"

        assert [f(1), g(1), f(1), g(1)] == ["f", "g", "f", "g"]

    def test_two_caches_share_nothing(self) -> None:
        """Caches without URL are each for themselves."""
        f, _ = counting(Cache(), lambda x: "one")
        g, _ = counting(Cache(), lambda x: "two")
        assert [f(1), g(1), f(1)] == ["one", "two", "one"]

    @pytest.mark.parametrize(("kind", "arg", "other", "same"), [(int, 5, UUID, UUID(int=5)), (int, 1, bool, True)])
    def test_functions_of_one_factory_for_other_types_share_no_entry(
        self, cache: Cache, kind: type, arg: object, other: type, same: object
    ) -> None:
        """Each uses the values of its own type as they are: `5` and the int of a UUID would be one key of one table."""

        def make(kind: Any) -> Any:
            def f(x: Any) -> str:
                return repr(x)

            f.__annotations__["x"] = kind
            return cache.cached("p")(f)

        f, g, again = make(kind), make(other), make(kind)
        for _ in range(2):
            assert (f(arg), g(same), again(arg)) == (repr(arg), repr(same), repr(arg))
        assert cache.stats().loads == 2

    def test_functions_of_one_factory_that_ignore_other_parameters_share_no_entry(self, cache: Cache) -> None:
        def make(ignored: str) -> Any:
            @cache.cached("p", ignore=(ignored,))
            def f(x: str = "", y: str = "") -> str:
                return f"{x},{y}"

            return f

        f, g = make("x"), make("y")
        for _ in range(2):
            assert (f(y="a"), g(x="a")) == (",a", "a,")


class TestTime:
    def test_an_entry_expires_after_its_ttl(self, cache: Cache, clock: FakeClock) -> None:
        """Just before `ttl` the value is cached, from then on it is not."""
        f, counted = counting(cache, ttl=10)
        f(1)
        clock.advance(9.999)
        f(1)
        assert counted.runs == 1
        clock.advance(0.001)
        f(1)
        assert counted.runs == 2
        clock.advance(9.999)
        f(1)
        assert counted.runs == 2

    def test_a_mutable_value_expires_after_its_ttl_too(self, cache: Cache, clock: FakeClock) -> None:
        """Values that are decoded for each caller keep the same time."""
        f, counted = counting(cache, lambda x: [x], ttl=10)
        f(1)
        clock.advance(9.999)
        f(1)
        assert counted.runs == 1
        clock.advance(0.001)
        f(1)
        assert counted.runs == 2

    def test_without_a_ttl_that_of_the_prefix_is_used(self, clock: FakeClock) -> None:
        """Without `ttl` the settings decide, by prefix; `local_ttl` of a cache without URL does not."""
        cache = Cache(ttls={"p": 1000}, local_ttl=60)
        f, counted = counting(cache)
        f(1)
        clock.advance(999)
        f(1)
        assert counted.runs == 1
        clock.advance(1)
        f(1)
        assert counted.runs == 2

    def test_a_timedelta_is_a_ttl(self, cache: Cache, clock: FakeClock) -> None:
        """`ttl` may be a `timedelta`."""
        f, counted = counting(cache, ttl=timedelta(minutes=1))
        f(1)
        clock.advance(59)
        f(1)
        clock.advance(1)
        f(1)
        assert counted.runs == 2

    def test_a_ttl_of_zero_keeps_nothing(self, cache: Cache) -> None:
        """`ttl=0` means: do not store."""
        f, counted = counting(cache, ttl=0)
        assert [f(1), f(1)] == [1, 1]
        assert counted.runs == 2
        assert cache.stats().local_entries == 0

    def test_a_ttl_of_the_result(self, cache: Cache, clock: FakeClock) -> None:
        """A function of the result decides for each."""
        f, counted = counting(cache, ttl=lambda result: result)
        for _ in range(2):
            f(0)
        assert counted.runs == 2
        f(5)
        f(10)
        clock.advance(7)
        f(5)
        f(10)
        assert counted.runs == 5

    @pytest.mark.parametrize("ttl", [lambda result: -1, lambda result: "soon", lambda result: 1 / 0])
    def test_a_ttl_function_that_fails_costs_the_cache_and_not_the_call(
        self, cache: Cache, ttl: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """The result is returned uncached, and one warning says why."""
        f, counted = counting(cache, ttl=ttl)
        assert [f(1), f(1)] == [1, 1]
        assert counted.runs == 2
        assert len(caplog.records) == 1
        assert "was not cached: cache_if or ttl failed" in caplog.text

    def test_local_ttl_bounds(self, cache: Cache, clock: FakeClock) -> None:
        """`local_ttl` expires an entry before its `ttl`; 0 holds nothing locally."""
        f, counted = counting(cache, ttl=100, local_ttl=10)
        f(1)
        clock.advance(10)
        f(1)
        assert counted.runs == 2
        g, counted = counting(cache, operation="g", ttl=100, local_ttl=0)
        g(1)
        g(1)
        assert counted.runs == 2

    def test_jitter_shortens_and_never_below_its_fraction(self, cache: Cache, clock: FakeClock) -> None:
        """With `jitter=0.5` lifetimes are spread between half the `ttl` and all of it."""
        f, _ = counting(cache, ttl=100, jitter=0.5)
        for x in range(300):
            f(x)
        left = [f.explain(x)["local"]["seconds_left"] for x in range(300)]
        assert 50 <= min(left) < 65
        assert 85 < max(left) <= 100

    def test_time_going_on_while_the_function_runs_counts_from_its_result(self, cache: Cache, clock: FakeClock) -> None:
        """A slow load's value lives for its whole `ttl`."""

        def slow(x: int) -> int:
            clock.advance(30)
            return x

        f, counted = counting(cache, slow, ttl=10)
        f(1)
        clock.advance(9)
        f(1)
        assert counted.runs == 1


class TestWhatIsKept:
    def test_cache_if_decides(self, cache: Cache) -> None:
        """What the predicate refuses is returned and not stored."""
        f, counted = counting(cache, cache_if=lambda result: result > 1)
        assert [f(1), f(1), f(2), f(2)] == [1, 1, 2, 2]
        assert counted.runs == 3

    def test_a_predicate_that_fails_costs_the_cache_and_not_the_call(
        self, cache: Cache, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An exception of `cache_if` is logged once, and the result returned."""
        f, counted = counting(cache, cache_if=lambda result: result.nothing)
        assert [f(1), f(1)] == [1, 1]
        assert counted.runs == 2
        assert len(caplog.records) == 1

    def test_what_cannot_be_kept_is_returned_itself(self, cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
        """A result of an unknown class is handed out as it is, uncached, with one warning that names its path."""
        things = [object(), object()]
        f, counted = counting(cache, lambda x: things[x])
        assert f(0) is things[0]
        assert f(0) is things[0]
        assert f(1) is things[1]
        assert counted.runs == 3
        (record,) = caplog.records
        assert re.search(r"a result of aikernel:v1:p:f:0 was not cached: result: object cannot be", record.getMessage())
        assert cache.stats().errors == 3

    def test_what_cannot_be_kept_raises_under_strict(self) -> None:
        """With `strict=True` it is an `EncodeError` with the path."""
        f, _ = counting(Cache(strict=True), lambda x: {"rows": [1, object()]})
        with pytest.raises(EncodeError, match=r"result\['rows'\]\[1\]: object cannot be stored") as caught:
            f(1)
        assert caught.value.path == "result['rows'][1]"

    @pytest.mark.parametrize(
        "value",
        [
            (1, [2.0, (True, None)]), {1: "a", "1": "b"}, {(1, 2): {3}}, float("nan"), [float("inf"), -0.0],
            b"\x00\xff", "\ud800", 2**100, [datetime(2024, 1, 1, tzinfo=UTC), date(2024, 1, 1), timedelta(1)],
            Decimal("1.10"),
            UUID(int=7), frozenset({(1, "a")}), [[], {}, set(), ()],
        ],
        ids=lambda value: type(value).__name__,
    )  # fmt: skip
    def test_a_hit_equals_the_miss_in_value_and_type(self, cache: Cache, value: object) -> None:
        """What comes from the cache is what the function gave, deep: types, signs, order and zones."""
        f, counted = counting(cache, lambda x: value)
        for _ in range(3):
            assert exactly_equal(f(1), value)
        assert counted.runs == 1

    def test_records_come_back_as_records(self, cache: Cache) -> None:
        """Dataclasses, NamedTuples and Enums of the return annotation are themselves on a hit."""

        @cache.cached("p")
        def f(x: int) -> tuple[Point, Pair, Color, Box]:
            return Point(x, (1, 2)), Pair(x, "a"), Color.RED, Box([{"a": x}])

        for _ in range(3):
            assert f(1) == (Point(1, (1, 2)), Pair(1, "a"), Color.RED, Box([{"a": 1}]))
            assert list(map(type, f(1))) == [Point, Pair, Color, Box]
        assert f.cache_info().misses == 1

    def test_the_type_argument_goes_before_the_annotation(self, cache: Cache) -> None:
        """`type=` says what an unannotated function gives."""

        @cache.cached("p", type=Box)
        def f(x):  # type: ignore[no-untyped-def]
            return Box([{"a": x}])

        assert f(1) == f(1) == Box([{"a": 1}])
        assert f.cache_info().hits == 1


class TestCallersCannotHurtEachOther:
    def test_changing_a_result_changes_no_other(self, cache: Cache) -> None:
        """Changing a result, also the first one, changes no other caller's."""

        @cache.cached("p")
        def f(x: int) -> Box:
            return Box([{"a": 1}])

        for _ in range(3):
            box = f(1)
            assert box == Box([{"a": 1}])
            box.things[0]["a"] = 2
            box.things.append({})
        assert f.cache_info().misses == 1

    def test_keeping_the_original_result_does_not_allow_changing_the_entry(self, cache: Cache) -> None:
        """The function may go on changing what it returned."""
        mine: list[int] = [1]
        f, _ = counting(cache, lambda x: mine)
        f(1)
        mine.append(2)
        assert f(1) == [1]

    def test_changing_a_stored_value_changes_nothing(self, cache: Cache) -> None:
        """What `.store` and `Cache.set` were given may be changed afterwards."""
        f, _ = counting(cache)
        mine = [1]
        f.store(mine, 1)
        cache.set("k", mine)
        mine.append(2)
        assert f(1) == cache.get("k") == [1]

    def test_immutable_values_are_one_object(self, cache: Cache) -> None:
        """Immutable values are given to all callers without a copy."""

        @cache.cached("p")
        def f(x: int) -> Point:
            return Point(x, (1, 2))

        assert f(1) is f(1)

    def test_share_hands_out_the_same_object(self, cache: Cache) -> None:
        """With `share=True` every caller gets the one object, whatever it is, encodable or not."""

        @cache.cached("p", share=True)
        def f(x: int) -> object:
            return object()

        @cache.cached("p", share=True)
        def g(x: int) -> list[int]:
            return [x]

        assert f(1) is f(1)
        assert g(1) is g(1)

    @pytest.mark.parametrize("value", [[1], object()], ids=["list", "object"])
    def test_one_object_that_is_stored_is_shared_too(self, cache: Cache, value: object) -> None:
        @cache.cached("p", share=True)
        def f(x: int) -> object:
            return None

        f.store(value, 1)
        assert f(1) is value

    def test_a_named_tuple_with_an_iter_of_its_own_is_not_shared(self, cache: Cache) -> None:
        """Whether a result can change is seen in what it holds."""

        @cache.cached("p")
        def f(x: int) -> Hiding:
            return Hiding(x, ["a"])

        f(1).right.append("changed")
        assert f(1).right == ["a"]

    def test_an_object_that_claims_another_class_is_counted(self) -> None:
        """`local_max_bytes` counts what an object is: a mock of a dict is none, and a class may have no hash."""

        class Comparing(type):
            def __eq__(cls, other: object) -> bool:
                return cls is other

        class Odd(metaclass=Comparing):
            pass

        with Cache(local_max_bytes=1_000_000) as cache:

            @cache.cached("p", share=True)
            def f(x: int) -> object:
                return MagicMock(spec={}) if x else Odd()

            assert f(1) is f(1)
            assert f(0) is f(0)

    def test_changing_an_argument_later_changes_no_key(self, cache: Cache) -> None:
        """An argument is read when the call is made."""
        f, counted = counting(cache, len)
        argument = [1]
        assert f(argument) == 1
        argument.append(2)
        assert f(argument) == 2
        assert f([1]) == 1
        assert counted.runs == 2


class TestTags:
    def test_invalidating_a_tag_invalidates_the_entries_with_it(self, cache: Cache) -> None:
        """`invalidate_tags` invalidates the entries of that tag, in all functions, and no others."""

        @cache.cached("p", tags=("user:{user}", "all"))
        def f(user: int) -> int:
            return user

        @cache.cached("q", tags=("user:{user}",))
        def g(user: int) -> int:
            return user

        for user in (1, 2):
            f(user)
            g(user)
        cache.invalidate_tags("user:1")
        assert [f.peek(1), f.peek(2), g.peek(1), g.peek(2)] == [None, 2, None, 2]
        cache.invalidate_tags("all", "nobody")
        assert [f.peek(2), g.peek(2)] == [None, 2]

    def test_tags_may_come_from_the_result(self, cache: Cache) -> None:
        """A function of result and arguments names tags that only the result knows."""

        @cache.cached("p", tags=lambda result, user: [f"team:{team}" for team in result])
        def f(user: int) -> list[str]:
            return ["a", "b"] if user == 1 else ["b"]

        f(1)
        f(2)
        cache.invalidate_tags("team:a")
        assert [f.peek(1), f.peek(2)] == [None, ["b"]]

    def test_a_tags_field_is_escaped(self, cache: Cache) -> None:
        """User input in a tag cannot name another's tag."""

        @cache.cached("p", tags=("user:{user}",))
        def f(user: str) -> str:
            return user

        f("a:b")
        f("a")
        cache.invalidate_tags("user:a")
        assert [f.peek("a:b"), f.peek("a")] == ["a:b", None]

    def test_calls_that_normalize_makes_one_share_a_tag(self, cache: Cache) -> None:
        """Whichever of them has loaded the value, the tag of the normalized argument invalidates it, and its own."""
        f, counted = counting(cache, tags=("word:{x}",), normalize={"x": str.lower})
        for tag in ("word:tea", "word:TEA"):
            assert f("TEA") == f("tea") == "TEA"
            cache.invalidate_tags(tag)
        with cache.deferred():
            cache.invalidate_tags("word:tea")
            assert (f("TEA"), f("TEA")) == ("TEA", "TEA")
        assert counted.runs == 4

    def test_a_tag_may_name_what_only_the_argument_has(self, cache: Cache) -> None:
        """What `normalize` makes of an argument need not fit the template."""
        f, counted = counting(cache, lambda x: x.x, tags=("x:{x.x}",), normalize={"x": lambda point: point.x})
        assert f(Point(1, ())) == f(Point(1, (2,))) == 1
        cache.invalidate_tags("x:1")
        assert f(Point(1, ())) == 1
        assert counted.runs == 2

    def test_an_argument_that_makes_no_tag_is_answered_uncached(
        self, cache: Cache, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A tag that is empty costs the cache and not the call."""
        argument = ""
        f, counted = counting(cache, tags=("{x}",))
        assert [f(argument), f(argument)] == [argument, argument]
        assert counted.runs == 2
        assert len(caplog.records) == 1

    @pytest.mark.parametrize(
        "tags", [lambda r, x: 1 / 0, lambda r, x: "a str", lambda r, x: [1], lambda r: [], lambda r, x: [""]]
    )
    def test_a_tags_function_that_fails_costs_the_cache_and_not_the_call(
        self, cache: Cache, tags: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Whatever is wrong with a result's tags, the result is returned, uncached."""
        f, counted = counting(cache, tags=tags)
        assert [f(1), f(1)] == [1, 1]
        assert counted.runs == 2
        assert len(caplog.records) == 1


class TestPastTheCache:
    def test_skip_if_neither_reads_nor_writes_the_cache(self, cache: Cache) -> None:
        """A call that `skip_if` is true for finds nothing, keeps nothing and counts nothing; other calls do."""
        counted = Counted()

        @cache.cached("p", skip_if=lambda x, fresh: fresh)
        def f(x: int, fresh: bool = False) -> int:
            counted(x)
            return counted.runs

        assert [f(1), f(1), f(1, True), f(1, fresh=True), f(1)] == [1, 1, 2, 3, 1]
        assert f.many([1, (1, True), {"x": 1, "fresh": True}, 2]) == [1, 4, 5, 6]
        assert f.refresh(1, True) == 7
        assert f.peek(1, True) is None
        assert (f.explain(1, True)["answer"], f.explain(1)["answer"]) == ("skipped", "local")
        assert (f.cache_info().hits, f.cache_info().misses) == (3, 3)  # a look that finds nothing is a miss

    def test_what_skip_if_raises_is_the_callers(self, cache: Cache) -> None:
        """A predicate's own error reaches the caller, and the function is not run."""
        f, counted = counting(cache, skip_if=lambda x: 1 // x)
        with pytest.raises(ZeroDivisionError):
            f(0)
        assert counted.runs == 0

    @pytest.mark.parametrize("version", [2, "b"])
    def test_another_version_leaves_behind_what_was_cached(self, cache: Cache, version: int | str) -> None:
        """Versions have keys of their own; a pattern that names the operation without a version, or its prefix,
        invalidates all.
        """

        def define(version: int | str | None) -> Any:
            @cache.cached("p", version=version)
            def f(x: int) -> str:
                return f"{version} {x}"

            return f

        plain, versioned = define(None), define(version)
        assert (plain(1), versioned(1)) == ("None 1", f"{version} 1")
        assert versioned.key(1) == f"aikernel:v1:p:f.{version}:1"

        @cache.invalidates("p:f:{x}")
        def change(x: int) -> None: ...

        ways: list[Callable[[], object]] = [
            lambda: change(1), *(lambda pattern=pattern: cache.invalidate(pattern)
                                 for pattern in ("p:f:1", "p:f", "p:f:?", "p:?:1", "p:[ef]:*", "?:f:1", "*f:1", "*f:*",
                                                 "p*f:1", "p?f:1", "p:f[:]1", "[p:]:[f:]:1", r"[p]:f\:1", r"[p]\:f:\1",
                                                 )),
        ]  # fmt: skip
        for end in ways:
            plain(1), versioned(1)
            end()
            assert (plain.peek(1), versioned.peek(1)) == (None, None)
        plain(1), versioned(1)
        cache.invalidate(f"p:f.{version}")
        assert (plain.peek(1), versioned.peek(1)) == ("None 1", None)

    @pytest.mark.parametrize(
        "pattern", [r"*f\:*", r"p:[f]\:*", r"p:\f:?", r"p\:f:?", r"p?f\:1", "*f:1", "p?f:1]", "p?f:["]
    )
    def test_a_glob_finds_versions_however_it_is_written(self, cache: Cache, pattern: str) -> None:
        """What it says of an operation it says of its versions: nothing more, and it is an error for neither."""

        def define(version: int | None) -> Any:
            @cache.cached("p", version=version)
            def f(x: int) -> str:
                return f"{version} {x}"

            return f

        plain, versioned = define(None), define(2)
        assert (plain(1), versioned(1)) == ("None 1", "2 1")
        cache.invalidate(pattern)
        assert (plain.peek(1) is None) is (versioned.peek(1) is None) is (pattern[-1] not in "[]")

    def test_not_enabled_is_always_empty(self) -> None:
        """With `enabled=False` each call runs its function, and everything else works as on an empty cache."""
        with Cache(enabled=False) as cache:
            f, counted = counting(cache, tags=("t:{x}",))
            assert [f(1), f(1), *f.many([1, 2]), f.refresh(1)] == [1, 1, 1, 2, 1]
            f.store(5, 1)
            f.invalidate(1)
            assert (f.peek(1), f.explain(1)["answer"], counted.runs) == (None, "load", 5)
            assert (f.cache_info().hits, f.cache_info().misses, f.cache_info().currsize) == (0, 6, 0)

            @cache.cached_many("p", operation="many")
            def many(ids: list[int]) -> dict[int, int]:
                return {i: counted(i) for i in ids}

            assert many([1, 2]) == many([1, 2]) == {1: 1, 2: 2}
            assert counted.runs == 9
            cache.set("p:x", 1)
            cache.set_many({"p:x": 1})
            assert (cache.get("p:x"), cache.get_many(["p:x"])) == (None, {})
            assert [cache.get_or_load("p:x", lambda: 7), cache.get_or_load("p:x", lambda: 8)] == [7, 8]
            assert f.key(1) == "aikernel:v1:p:f:1"
            cache.invalidate("p")
            cache.clear()
            assert (len(cache.engine.local), cache.stats().hits) == (0, 0)


class TestWrapper:
    def test_has_the_name_docstring_and_signature_of_the_function(self, cache: Cache) -> None:
        """Name, module, docstring, signature, annotations, attributes and `__wrapped__` are the function's."""

        def f(a: int, /, b: str = "x", *args: int, c: bool, **kwargs: float) -> tuple[int, ...]:
            """Says what it does."""
            return (a,)

        f.mark = 7  # type: ignore[attr-defined]
        g = cache.cached("p")(f)
        assert inspect.isfunction(g)
        for name in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__", "mark"):
            assert getattr(g, name) == getattr(f, name)
        assert inspect.signature(g) == inspect.signature(f)
        assert inspect.signature(g, follow_wrapped=False).parameters.keys() == inspect.signature(f).parameters.keys()
        assert g.__wrapped__ is f
        assert g.bypass is f

    @pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"z": 1}), ((1,), {"a": 1})])
    def test_wrong_arguments_are_a_type_error_as_without(self, cache: Cache, args: Any, kwargs: Any) -> None:
        """A call that does not fit the signature raises `TypeError`, here and in every method, and runs nothing."""
        runs = []

        @cache.cached("p")
        def f(a: int, b: int = 2) -> None:
            runs.append(a)

        for act in (f, f.key, f.peek, f.invalidate, f.refresh, f.explain, functools.partial(f.store, None)):
            with pytest.raises(TypeError):
                act(*args, **kwargs)
        assert runs == []

    def test_unusual_parameter_names_work(self, cache: Cache) -> None:
        """Parameters may be called as the wrapper calls its own things."""

        @cache.cached("p")
        def f(
            table: int,
            region: int,
            clock: int,
            entry: int,
            now: int,
            miss: int = 1,
            *,
            type: int = 2,
            KeyError: int = 3,
        ) -> int:
            return table + region + clock + entry + now + miss + type + KeyError

        assert f(1, 2, 3, 4, 5) == f(1, 2, 3, 4, 5) == 21
        assert f.cache_info().hits == 1

    def test_any_annotation_can_be_decorated(self, cache: Cache) -> None:
        """Annotations that nest lists, name nothing, or are no types at all are no obstacle."""

        @cache.cached("p")
        def f(a: Callable[[int], str] | None = None, b: list[int] | None = None, c: NoSuchName = 1, d: 7 = 7) -> int:  # type: ignore[name-defined, valid-type] # noqa: F821
            return 1

        def g(a: Callable[[int], str], b: Callable[[int], str] | None = None) -> int:
            return 1

        assert f() == f() == 1
        assert cache.cached("p")(g).__name__ == "g"

    def test_key_gives_the_key_of_the_call(self, cache: Cache) -> None:
        """`.key` gives the full key without running anything."""
        f, counted = counting(cache)
        assert f.key("a") == "aikernel:v1:p:f:a"
        assert counted.runs == 0

    def test_peek_never_runs_the_function(self, cache: Cache) -> None:
        """`.peek` gives the cached value or the default, and counts."""
        f, counted = counting(cache, lambda x: None)
        assert f.peek(1) is None
        assert f.peek(1, default="nothing") == "nothing"
        f(1)
        assert f.peek(1, default="nothing") is None
        assert counted.runs == 1

    def test_store_puts_a_value(self, cache: Cache, clock: FakeClock) -> None:
        """`.store` makes a value the result of a call, for its `ttl`, and refuses what cannot be kept."""
        f, counted = counting(cache, ttl=10)
        f.store("stored", 1)
        assert f(1) == "stored"
        f.store("again", x=1)
        assert f(1) == "again"
        assert counted.runs == 0
        clock.advance(10)
        assert f(1) == 1
        with pytest.raises(EncodeError):
            f.store(object(), 1)

    def test_refresh_runs_the_function_and_stores_its_result(self, cache: Cache) -> None:
        """`.refresh` runs the function now, and its result replaces what was cached."""
        f, counted = counting(cache, lambda x: counted.runs)
        assert [f(1), f.refresh(1), f(1)] == [1, 2, 2]

    def test_a_refresh_that_raises_keeps_the_old_value(self, cache: Cache) -> None:
        """What was cached survives a refresh that fails."""

        def give(x: object) -> int:
            if counted.runs == 2:
                raise RuntimeError("no")
            return counted.runs

        f, counted = counting(cache, give)
        f(1)
        with pytest.raises(RuntimeError):
            f.refresh(1)
        assert f(1) == 1

    def test_bypass_is_the_function(self, cache: Cache) -> None:
        """`.bypass` neither looks nor keeps."""
        f, counted = counting(cache, lambda x: counted.runs)
        assert [f(1), f.bypass(1), f(1)] == [1, 2, 1]

    def test_invalidate_invalidates_one_call(self, cache: Cache) -> None:
        """`.invalidate` invalidates this call's value and no other."""
        f, _counted = counting(cache)
        f(1)
        f(2)
        f.invalidate(1)
        assert [f.peek(1), f.peek(2)] == [None, 2]
        f.invalidate(99)

    def test_cache_clear_invalidates_all_calls_of_the_function(self, cache: Cache) -> None:
        """`.cache_clear` invalidates the operation, and nothing else."""
        f, _ = counting(cache)
        g, _ = counting(cache, operation="g")
        for x in range(3):
            f(x)
            g(x)
        f.cache_clear()
        assert [f.peek(x) for x in range(3)] == [None] * 3
        assert [g.peek(x) for x in range(3)] == [0, 1, 2]

    def test_cache_info_is_as_in_functools(self, cache: Cache) -> None:
        """Hits, misses, size and bound, under functools' names."""
        f, _ = counting(cache)
        for x in (1, 1, 2, 1):
            f(x)
        info = f.cache_info()
        assert (info.hits, info.misses, info.maxsize, info.currsize) == (2, 2, 10_000, 2)

    def test_explain_says_where_the_answer_is(self, cache: Cache, clock: FakeClock) -> None:
        """`.explain` describes what is held for a call, for how long, and what would happen; it counts nothing."""
        f, counted = counting(cache, ttl=10, tags=("t:{x}",))
        explained = f.explain(1)
        assert (explained["key"], explained["local"], explained["remote"], explained["answer"]) == (
            "aikernel:v1:p:f:1",
            None,
            None,
            "load",
        )
        f(1)
        clock.advance(4)
        explained = f.explain(1)
        assert explained["local"] == {"fresh": True, "seconds_left": 6.0, "tags": ["t:1"]}
        assert explained["answer"] == "local"
        assert set(explained["groups"]) == {"*", "p", "p:f", "#t:1"}
        clock.advance(6)
        assert f.explain(1)["answer"] == "load"
        assert counted.runs == 1
        assert (f.cache_info().hits, f.cache_info().misses) == (0, 1)

    def test_a_method_binds(self, cache: Cache) -> None:
        """As a method the wrapper gets its instance, and so do its helpers; through the class they take it first."""
        runs: list[str] = []

        class Shop:
            def __init__(self, name: str) -> None:
                self.name = name

            def __cache_key__(self) -> str:
                return self.name

            @cache.cached("p")
            def price(self, what: str, count: int = 1) -> str:
                """Says what it costs."""
                runs.append(what)
                return f"{self.name} {what}"

        shop, other = Shop("a"), Shop("b")
        assert shop.price("tea") == Shop.price(shop, "tea") == "a tea"
        assert other.price("tea") == "b tea"
        assert shop.price.key("tea") == Shop.price.key(shop, "tea") != other.price.key("tea")
        shop.price.invalidate("tea")
        assert (shop.price.peek("tea"), other.price.peek("tea", default="?")) == (None, "b tea")
        Shop.price.invalidate(other, "tea")
        assert other.price.peek("tea", default="?") == "?"
        shop.price.store("dear", "tea", count=2)
        assert shop.price("tea", 2) == "dear"
        assert shop.price.refresh("tea", 2) == shop.price.bypass("tea", 2) == "a tea"
        runs.clear()
        assert shop.price.many(["tea", ("tea", 2), {"what": "milk"}]) == ["a tea", "a tea", "a milk"]
        assert runs == ["tea", "milk"]
        assert shop.price.explain("tea")["answer"] == "local"
        shop.price.cache_clear()
        assert shop.price.cache_info().currsize == 0

    def test_methods_calls_share_an_entry_only_where_they_share_a_key(self) -> None:
        """Whatever instances and classes say of themselves: what the wrapper looks up is no coarser than the key."""

        class Says:
            def __init__(self, said: object) -> None:
                self.said = said

            def __cache_key__(self) -> object:
                return self.said

            def get(self, what: object, more: object = "x") -> None: ...

        class Other(Says): ...

        alike: list[object] = [1, True, 1.0, "1", b"1", None, (), (1,), (True,), (1, "x"), ("x", 1), ((1,),), "x", [1]]
        signature = Signature(Says.get)
        rests: list[tuple[object, ...]] = [(what, more) for what in (1, True, "x", 1.0) for more in ("x", 1)]
        longer: list[object] = [(1, "x", 1), (1, "x", "x", 1)]
        keys: dict[Hashable, str] = {}
        for args in [(kind(said), *rest) for kind in (Says, Other) for said in alike + longer for rest in rests]:
            text = signature.parameters(args, {})
            assert keys.setdefault(signature.local_key(args, {}), text) == text
        assert sum(len(key) > 1 for key in keys if isinstance(key, tuple)) > 100  # most are quick to find

    def test_a_cache_key_method_may_raise(self, cache: Cache) -> None:
        """Then the call is answered uncached, and one whose instance says it again is a hit."""

        class Shop:
            name = "a"

            def __cache_key__(self) -> str:
                if not self.name:
                    raise ValueError
                return self.name

            @cache.cached("p")
            def price(self, what: str) -> object:
                return self.name, what

        shop = Shop()
        assert shop.price("tea") == ("a", "tea")
        shop.name = ""
        assert shop.price("tea") == ("", "tea")
        shop.name = "a"
        hits = cache.stats().local_hits
        assert shop.price("tea") == ("a", "tea")
        assert cache.stats().local_hits == hits + 1

    def test_a_bound_method_has_the_name_docstring_and_signature_of_the_method(self, cache: Cache) -> None:
        """It compares, hashes, signs, documents and pickles as a method does; the class has the function itself."""
        assert inspect.isfunction(Counter.price)
        counter, other_counter = Counter(), Counter()
        bound = counter.price
        assert (bound == counter.price, hash(bound), bound == other_counter.price) == (True, hash(counter.price), False)
        assert list(inspect.signature(bound).parameters) == ["what", "count"]
        assert (bound.__name__, bound.__self__, bound.__func__) == ("price", counter, Counter.price)
        assert repr(bound) == f"<bound cached method Counter.price of {counter!r}>"
        assert pickle.loads(pickle.dumps(bound))("tea") == copy.copy(bound)("tea") == bound("tea") == "1 tea"
        assert pickle.loads(pickle.dumps(Counter.price)) is Counter.price
        other_counter.price = lambda what: "mine"
        assert other_counter.price("tea") == "mine"

    def test_a_method_without_ignored_normalized_or_keyed_self_is_refused_with_its_class(self, cache: Cache) -> None:
        """As soon as the class is complete, by a `ConfigError` that says what to do (Python 3.11 wraps it)."""
        for base, allowed in ((object, False), (Counter, True)):
            try:

                class Shop(base):  # type: ignore[misc, valid-type]
                    @cache.cached(f"p{allowed}")
                    def price(self, what: str) -> str:
                        return what

                    stock = cache.cached(f"p{allowed}", ignore=("self",))(Counter.stock)
            except (RuntimeError, ConfigError) as error:
                found = error if isinstance(error, ConfigError) else error.__cause__
                assert not allowed
                assert isinstance(found, ConfigError)
                assert "price is a method, and its 'self' cannot stand in a key" in str(found)
            else:
                assert allowed

    def test_a_parameter_may_have_the_name_of_a_methods_own(self, cache: Cache) -> None:
        """`value` and `self` by name are the function's."""

        class Shop:
            @cache.cached("p", ignore=("self",))
            def price(self, value: int) -> int:
                return value

        shop = Shop()
        Shop.price.store(7, self=shop, value=1)
        shop.price.store(8, value=2)
        for method in (Shop.price.peek, Shop.price.refresh):
            assert method(self=shop, value=1) == (7 if method == Shop.price.peek else 1)
        assert shop.price.peek(value=2) == 8
        Shop.price.invalidate(self=shop, value=2)
        assert Shop.price.peek(self=shop, value=2) is None
        assert Shop.price.key(self=shop, value=2) == Shop.price.explain(self=shop, value=2)["key"]

    def test_self_may_be_normalized(self, cache: Cache) -> None:
        """`normalize={"self": …}` says what of the instance stands in the key."""

        class Shop:
            def __init__(self, name: str) -> None:
                self.name = name

            @cache.cached("p", normalize={"self": lambda shop: shop.name})
            def price(self, what: str) -> str:
                return f"{self.name} {what}"

        assert (Shop("a").price("tea"), Shop("b").price("tea")) == ("a tea", "b tea")
        assert Shop("a").price.key("tea") == "aikernel:v1:p:price:a:tea"
        assert Shop("a").price.peek("tea") == "a tea"

    def test_classmethods_and_staticmethods_go_outside(self, cache: Cache) -> None:
        """They bind as they do without; what is below takes the class first, as Python's classmethod wants it."""

        class Shop:
            @classmethod
            @cache.cached("p", ignore=("cls",))
            def made(cls, what: str) -> str:
                return f"{cls.__name__} {what}"

            @staticmethod
            @cache.cached("p")
            def still(what: str) -> str:
                return what

        assert Shop.made("tea") == Shop().made("tea") == "Shop tea"
        assert Shop.still("tea") == Shop().still("tea") == "tea"
        Shop.still.invalidate("tea")
        assert Shop.still.peek("tea") is None
        made: Any = Shop.made
        assert made.peek(Shop, "tea") == "Shop tea"

    def test_decorators_on_top_of_a_method(self, cache: Cache) -> None:
        """What stands on top of a cached method is given something to call, and `@invalidates` a function."""

        class Shop:
            @cache.invalidates("q:{what}")
            @cache.cached("p", ignore=("self",))
            def price(self, what: str) -> str:
                return what

            @property
            @cache.cached("p", ignore=("self",))
            def name(self) -> str:
                return "shop"

        assert (Shop().price("tea"), Shop().name) == ("tea", "shop")

    def test_many_ids_of_a_method(self, cache: Cache) -> None:
        """A `self` that is not left out would be taken for the ids, and is refused."""

        def stock(self: Any, ids: list[int]) -> dict[int, int]:
            return {}

        with pytest.raises(ConfigError, match=r"'self' is no ids; leave it out: ignore=\('self',\)"):
            cache.cached_many("p")(stock)


class TestRecursion:
    def test_a_function_that_calls_itself(self, cache: Cache) -> None:
        """A recursive function is cached at every level, and does not wait for itself."""
        runs = []

        @cache.cached("p")
        def fib(n: int) -> int:
            runs.append(n)
            return n if n < 2 else fib(n - 1) + fib(n - 2)

        assert fib(50) == 12586269025
        assert sorted(runs) == list(range(51))

    def test_a_load_that_asks_for_its_own_key(self, cache: Cache) -> None:
        """Coming again for the very key that it is loading, a thread goes straight through."""
        depth = 0

        @cache.cached("p")
        def f(x: int) -> int:
            nonlocal depth
            depth += 1
            return f(x) + 1 if depth < 3 else 0

        assert f(1) == 2
        assert f.cache_info().misses == 3


class TestBadInput:
    """What is wrong in a decoration is said while decorating: what, the value, the rule, the way out."""

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"ttl": -1},
                "@cached on .*f: ttl must be between 0 and 315360000 seconds, got -1. 0 means: do not store.",
            ),
            ({"ttl": float("nan")}, "ttl must be between 0 and .* got nan"),
            ({"ttl": True}, "ttl must be seconds \\(a number or a timedelta\\), got bool"),
            ({"ttl": "60"}, "ttl must be seconds \\(a number or a timedelta\\), got str"),
            ({"local_ttl": -1}, "local_ttl must be between 0 and"),
            ({"jitter": 1}, "jitter must be a fraction of ttl, at least 0 and below 1, got 1"),
            ({"jitter": -0.1}, "jitter must be a fraction"),
            ({"jitter": True}, "jitter must be a fraction"),
            ({"skip_if": 1}, "skip_if must be a function of the call's arguments, got int"),
            ({"version": 1.5}, "version must be an int or a str, got float"),
            ({"version": True}, "version must be an int or a str, got bool"),
            ({"version": "a:b"}, "version must be letters, digits"),
            ({"cache_if": 1}, "cache_if must be a function of the result, got int"),
            ({"tags": "user:{x}"}, "a tags tuple is needed, as in tags=\\('user:\\{x\\}',\\), got a str"),
            ({"tags": ("user:{user}",)}, "a tag 'user:\\{user\\}' names 'user', which is no argument .* it can name x"),
            ({"tags": ("user:{}",)}, "names 'an unnamed field'"),
            ({"tags": (1,)}, "a tag must be a str, got int"),
            ({"tags": ("user:{x!r}",)}, "must have plain fields"),
            ({"ignore": "x"}, "ignore must be a collection of parameter names, as in ignore=\\('x',\\)"),
            ({"ignore": ("y",)}, "ignore names 'y', which is no parameter; there are x"),
            ({"normalize": {"y": str}}, "normalize names 'y', which is no parameter; there are x"),
            ({"normalize": {"x": 1}}, "normalize\\['x'\\] must be a function, got int"),
            ({"key": "x"}, "key must be a function of the call's arguments, got str"),
            (
                {"key": str, "ignore": ("x",)},
                "key= decides the key by itself; ignore= and normalize= do not go with it",
            ),
            ({"operation": "a:b"}, "operation must be letters, digits"),
            ({"operation": "a*"}, "operation must be letters, digits"),
        ],
        ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
    )
    def test_options(self, cache: Cache, options: dict[str, Any], message: str) -> None:
        """Each option that breaks its rule is a `ConfigError`."""

        def f(x: int) -> int:
            return x

        with pytest.raises(ConfigError, match=message):
            cache.cached("p", **options)(f)

    @pytest.mark.parametrize("prefix", ["a:b", "a*", "a b", "", "\t", "~a", "é", "-a", 5, None])
    def test_prefixes(self, cache: Cache, prefix: Any) -> None:
        """A prefix with a separator, a wildcard or a space is refused, and the message has the rule."""

        def f(x: int) -> int:
            return x

        rule = r"prefix must be letters, digits, '_', '-' or '\.'.*The colon separates.*'\*' is a wildcard"
        with pytest.raises(ConfigError, match=rule):
            cache.cached(prefix)(f)

    def test_only_plain_functions_can_be_decorated(self, cache: Cache) -> None:
        """Coroutines, generators, classes, method objects, builtins and callables are a `TypeError` with a way out."""

        async def coroutine() -> None: ...

        async def stream() -> Any:
            yield 1

        def generator(cls: Any = None) -> Any:
            yield 1

        class Thing:
            def __call__(self) -> None: ...

            def method(self) -> None: ...

        cases: list[tuple[Any, str]] = [
            (
                coroutine,
                "@cached is synchronous, and .*coroutine is `async def`. Decorate the function that does the work",
            ),
            (stream, "@cached is synchronous, and .*stream is `async def`"),
            (generator, "@cached cannot keep a generator, and .*generator is one. Let it return a list"),
            (Thing, "@cached decorates functions, and .*Thing is a class. Decorate its methods, or a factory function"),
            (
                classmethod(generator),
                "@cached goes below @classmethod, next to the function: put @classmethod on the outside",
            ),
            (staticmethod(generator), "@cached goes below @staticmethod"),
            (property(generator), "@cached goes below @property"),
            (len, "@cached decorates plain functions, got builtin_function_or_method len. Wrap it in a def"),
            (Thing(), "@cached decorates plain functions, got Thing"),
            (functools.partial(print), r"@cached decorates plain functions, got partial\. Wrap"),
            (Thing().method, "@cached decorates plain functions, got method"),
            (7, "@cached decorates plain functions, got int"),
        ]
        for thing, message in cases:
            with pytest.raises(TypeError, match=message):
                cache.cached("p")(thing)

    def test_two_functions_of_one_name(self, cache: Cache) -> None:
        """A second function under the same prefix and operation would be answered by the first, and is refused."""

        @cache.cached("p", operation="get")
        def one(x: int) -> int:
            return x

        here = rf"{re.escape(__file__)}:\d+"
        with pytest.raises(
            ConfigError,
            match=rf"two \({here}\): p:get is already the key of .*one \({here}\), .* Pass operation= with",
        ):

            @cache.cached("p", operation="get")
            def two(x: int) -> int:
                return x

    def test_the_same_function_again(self, cache: Cache) -> None:
        """The same definition run again, as after a reload, is no conflict."""

        def define() -> Any:
            @cache.cached("p")
            def f(x: int) -> int:
                return x

            return f

        assert define()(1) == define()(1) == 1

    @pytest.mark.parametrize("files", [("a.py", "a.py"), ("<cell 1>", "<cell 2>")], ids=["reloaded", "cell"])
    def test_a_function_defined_again_replaces_the_first(self, cache: Cache, files: tuple[str, str]) -> None:
        """A reloaded module's or a notebook cell's new definition answers, and nothing that the old one left here."""
        text = "@cache.cached('p')\ndef f(x: {}) -> str:\n    return {!r}\n"
        found = []
        for file, kind, result in zip(files, ("UUID", "int"), ("old", "new"), strict=True):
            names: dict[str, Any] = {"cache": cache, "UUID": UUID, "__name__": "notebook"}
            exec(compile(text.format(kind, result), file, "exec"), names)
            found.append(names["f"])
            assert found[-1](UUID(int=5) if kind == "UUID" else 5) == result
        old, new = found
        assert (old(UUID(int=5)), new(5)) == ("old", "new")
        new.invalidate(5)
        assert new.peek(5) is None

    @pytest.mark.parametrize("by_name", [False, True], ids=["module", "file"])
    def test_one_name_in_two_modules_is_refused(self, cache: Cache, by_name: bool) -> None:
        """Functions of one qualified name are the same only in one module, or one file run and imported."""
        code = "@cache.cached('p')\ndef f(x: int) -> int:\n    return x\n"
        exec(compile(code, "a.py", "exec"), {"cache": cache, "__name__": "__main__"})
        if by_name:
            exec(compile(code, "a.py", "exec"), {"cache": cache, "__name__": "a"})
            return
        with pytest.raises(ConfigError, match=r"f \(b\.py:1\): p:f is already the key of f \(a\.py:1\)"):
            exec(compile(code, "b.py", "exec"), {"cache": cache, "__name__": "b"})

    @pytest.mark.parametrize("what", ["cached", "cached_many", "invalidates"])
    def test_a_bare_decorator_says_what_to_write(self, cache: Cache, what: str) -> None:
        """A decorator without its parentheses fails when decorating, functions, methods and classes alike."""

        def f(x: int) -> int:
            return x

        for thing in (f, staticmethod(f), dict):
            with pytest.raises(ConfigError, match=rf'write @{what}\("prefix"\)'):
                getattr(cache, what)(thing)

    def test_a_lambda_needs_a_name(self, cache: Cache) -> None:
        """A function without a name of its own needs `operation`."""
        with pytest.raises(ConfigError, match="a function without a name of its own needs operation=, got '<lambda>'"):
            cache.cached("p")(lambda x: x)
        assert cache.cached("p", operation="named")(lambda x: x)(1) == 1
