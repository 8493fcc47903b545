"""Many at once in one process: `@cached_many`, `.many`, `get_many` and `set_many`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from aikcache import Cache, ConfigError, EncodeError
from aikcache._decorators.cached_function import CALL, CachedCall
from aikcache._decorators.signature import Arguments


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache() as made:
        yield made


def batch(cache: Cache, **options: Any) -> tuple[Callable[..., dict[Any, Any]], list[Any]]:
    """A function of many ids, and the ids it was run with; ids below 0 it does not know."""
    asked: list[Any] = []

    @cache.cached_many("p", operation="one", **options)
    def many(ids: list[int], lang: str = "en") -> dict[int, list[str]]:
        asked.append(list(ids))
        return {i: [f"{i} {lang}"] for i in ids if i >= 0}

    return many, asked


class TestCachedMany:
    def test_asks_for_what_is_missing_and_only_that(self, cache: Cache) -> None:
        """One call of the function has the missing ids, in the order they were asked for."""
        many, asked = batch(cache)
        assert many([1, 2]) == {1: ["1 en"], 2: ["2 en"]}
        assert many([3, 2, 4, 1]) == {3: ["3 en"], 2: ["2 en"], 4: ["4 en"], 1: ["1 en"]}
        assert many([1, 2, 3, 4]) == {i: [f"{i} en"] for i in (1, 2, 3, 4)}
        assert asked == [[1, 2], [3, 4]]

    @pytest.mark.parametrize("answer", [None, [1, 2]])
    def test_a_function_that_returns_no_dict_is_named(self, cache: Cache, answer: Any) -> None:
        """What the annotation would have said."""

        @cache.cached_many("p")
        def rows(ids: list[int]) -> dict[int, int]:
            return answer  # type: ignore[no-any-return]

        named = rf"rows must return a dict of the ids .* got {type(answer).__name__}\."
        with pytest.raises(TypeError, match=named):
            rows([1, 2])
        with pytest.raises(TypeError, match=named):
            rows([1])

    def test_gives_the_ids_in_the_order_asked(self, cache: Cache) -> None:
        """The result's order is that of the ids, hits and misses mixed."""
        many, _ = batch(cache)
        many([2])
        assert list(many([3, 2, 1])) == [3, 2, 1]

    def test_other_arguments_make_other_entries(self, cache: Cache) -> None:
        """Parameters beside the ids stand in the key of each."""
        many, asked = batch(cache)
        assert many([1], "de") == many([1], lang="de") == {1: ["1 de"]}
        assert many([1]) == {1: ["1 en"]}
        assert asked == [[1], [1]]

    def test_what_the_function_leaves_out_is_not_cached(self, cache: Cache) -> None:
        """An id without a value is missing from the result, and asked for again."""
        many, asked = batch(cache)
        assert many([1, -1]) == {1: ["1 en"]}
        assert many([1, -1]) == {1: ["1 en"]}
        assert asked == [[1, -1], [-1]]

    def test_what_the_function_gives_beyond_the_ids_is_returned_and_not_cached(self, cache: Cache) -> None:
        """Results for ids that were not asked for reach the caller after the others; a hit stands as it is cached."""
        asked = []

        @cache.cached_many("p")
        def many(ids: list[int]) -> dict[int, str]:
            asked.append(list(ids))
            return {0: "default", 1: f"call {len(asked)}", **{one: "own" for one in ids if one > 1}}

        assert list(many([2, 1]).items()) == [(2, "own"), (1, "call 1"), (0, "default")]
        assert many([1, 2]) == {1: "call 1", 2: "own"}
        assert many([1, 3]) == {1: "call 1", 3: "own", 0: "default"}
        assert many([0]) == {0: "default", 1: "call 3"}
        assert asked == [[2, 1], [3], [0]]

    def test_none_is_a_value(self, cache: Cache) -> None:
        """An id whose value is `None` is cached as such."""
        asked = []

        @cache.cached_many("p")
        def many(ids: list[int]) -> dict[int, None]:
            asked.append(list(ids))
            return dict.fromkeys(ids)

        assert many([1]) == many([1]) == {1: None}
        assert asked == [[1]]

    def test_an_id_asked_for_twice_is_asked_for_once(self, cache: Cache) -> None:
        """Repeated ids reach the function once."""
        many, asked = batch(cache)
        assert many([1, 1, 2, 1]) == {1: ["1 en"], 2: ["2 en"]}
        assert asked == [[1, 2]]

    def test_any_iterable_of_ids(self, cache: Cache) -> None:
        """Ids may come from a generator, a set or a tuple."""
        many, asked = batch(cache)
        assert many(i for i in (1, 2)) == many((1, 2)) == many({1, 2}) == {1: ["1 en"], 2: ["2 en"]}
        assert asked == [[1, 2]]

    def test_without_ids_the_function_is_called(self, cache: Cache) -> None:
        """For no ids the function is asked for none."""
        many, asked = batch(cache)
        assert many([]) == {}
        assert asked == [[]]

    def test_shares_its_entries_with_the_function_of_one(self, cache: Cache) -> None:
        """A `cached` function of the same prefix, operation and parameters finds what the batch cached, and back."""
        many, asked = batch(cache)
        runs = []

        @cache.cached("p", operation="one")
        def one(id: int, lang: str = "en") -> list[str]:
            runs.append(id)
            return [f"{id} {lang}"]

        many([1, 2])
        assert [one(1), one(2), one(3)] == [["1 en"], ["2 en"], ["3 en"]]
        assert runs == [3]
        assert many([3, 4]) == {3: ["3 en"], 4: ["4 en"]}
        assert asked == [[1, 2], [4]]
        one.invalidate(1)
        many([1])
        assert asked[2:] == [[1]]

    @pytest.mark.parametrize(("enabled", "ids"), [(False, [1]), (True, [])])
    def test_what_is_not_cached_may_be_anything(self, enabled: bool, ids: list[int]) -> None:
        """With the cache turned off, and without ids, the function's result is returned as it is."""
        with Cache(enabled=enabled) as cache:

            @cache.cached_many("p")
            def nothing(ids: list[int]) -> Any:
                return None

            assert nothing(ids) is None

    def test_ids_of_another_type_are_other_entries(self, cache: Cache) -> None:
        """The integer 5, the UUID of 5 and the text "5" are different ids for both functions."""

        @cache.cached_many("p", operation="one")
        def many(ids: list[Any]) -> dict[Any, str]:
            return {i: f"{type(i).__name__}" for i in ids}

        @cache.cached("p", operation="one")
        def one(id: UUID) -> str:
            return f"one of {type(id).__name__}"

        assert many([5, "5", UUID(int=7)]) == {5: "int", "5": "str", UUID(int=7): "UUID"}
        assert one(UUID(int=5)) == "one of UUID"
        assert one(UUID(int=7)) == "UUID"
        assert one(5) == "int"  # type: ignore[arg-type]

        @cache.cached_many("q", operation="one")
        def integers(ids: list[int]) -> dict[int, str]:
            return dict.fromkeys(ids, "int")

        @cache.cached("q", operation="one")
        def by_uuid(id: UUID) -> str:
            return "UUID"

        assert integers([5]) == {5: "int"}
        assert by_uuid(UUID(int=5)) == "UUID"

    def test_changing_a_result_changes_no_other(self, cache: Cache) -> None:
        """Each caller has its own copies."""
        many, _ = batch(cache)
        many([1])[1].append("changed")
        many([1])[1].append("changed")
        assert many([1]) == {1: ["1 en"]}

    def test_tags_name_one_id(self, cache: Cache) -> None:
        """In tags the first parameter's name stands for one id."""
        many, asked = batch(cache, tags=("one:{ids}",))
        many([1, 2])
        cache.invalidate_tags("one:1")
        many([1, 2])
        assert asked == [[1, 2], [1]]

    def test_exceptions_pass_and_hits_stay(self, cache: Cache) -> None:
        """When the function raises, the call does; what was cached is still there."""
        fail = False

        @cache.cached_many("p")
        def many(ids: list[int]) -> dict[int, int]:
            if fail:
                raise LookupError(ids)
            return {i: i for i in ids}

        many([1])
        fail = True
        with pytest.raises(LookupError):
            many([1, 2])
        assert many([1]) == {1: 1}

    def test_what_cannot_be_kept_is_returned(self, cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
        """A value of an unknown class is returned uncached, beside others that are cached."""
        thing = object()
        asked = []

        @cache.cached_many("p")
        def many(ids: list[int]) -> dict[int, Any]:
            asked.append(list(ids))
            return {i: thing if i == 1 else i for i in ids}

        for _ in range(2):
            assert many([1, 2]) == {1: thing, 2: 2}
        assert asked == [[1, 2], [1]]
        assert len(caplog.records) == 1

    def test_unkeyable_arguments_are_answered_uncached(self, cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
        """With an argument that no key can tell apart, the function has all ids, each time."""
        many, asked = batch(cache)
        odd: Any = object()
        assert list(many([1, 2], odd)) == list(many([1, 2], odd)) == [1, 2]
        assert asked == [[1, 2], [1, 2]]
        assert len(caplog.records) == 1

    def test_an_invalidation_during_the_load_is_respected(self, cache: Cache) -> None:
        """What a batch read before an invalidation is returned and not cached."""
        asked = []

        @cache.cached_many("p")
        def many(ids: list[int]) -> dict[int, int]:
            asked.append(list(ids))
            if len(asked) == 1:
                cache.invalidate("p")
            return {i: i for i in ids}

        assert many([1]) == many([1]) == many([1]) == {1: 1}
        assert asked == [[1], [1]]

    def test_batches_that_overlap_ask_for_each_id_once(self, cache: Cache) -> None:
        """Two batches at once divide the ids they have in common, and neither waits for ever."""
        asked: list[int] = []
        inside, go = threading.Event(), threading.Event()

        @cache.cached_many("p")
        def many(ids: list[int]) -> dict[int, int]:
            asked.extend(ids)
            if not inside.is_set():
                inside.set()
                assert go.wait(20)
            else:
                go.set()
            return {i: i for i in ids}

        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(many, [1, 2, 3])
            assert inside.wait(20)
            second = pool.submit(many, [2, 3, 4])
            assert first.result(20) == {1: 1, 2: 2, 3: 3}
            assert second.result(20) == {2: 2, 3: 3, 4: 4}
        assert sorted(asked) == [1, 2, 3, 4]

    def test_as_a_method(self, cache: Cache) -> None:
        """With `self` ignored the ids are the next parameter."""

        class Store:
            @cache.cached_many("p", ignore=("self",))
            def load(self, ids: list[int]) -> dict[int, int]:
                asked.append(ids)
                return {i: i for i in ids}

        asked: list[list[int]] = []
        assert Store().load([1]) == Store().load([1]) == {1: 1}
        assert asked == [[1]]

    def test_counts_each_id(self, cache: Cache) -> None:
        """Hits and misses count ids, not batches."""
        many, _ = batch(cache)
        many([1, 2, 3])
        many([2, 3, 4])
        stats = cache.stats().operations["p:one"]
        assert (stats.hits, stats.misses) == (2, 4)

    def test_bad_decorations(self, cache: Cache) -> None:
        """A function without ids, with ids by keyword only, and tags as a str are each a `ConfigError`."""

        def nothing() -> dict[int, int]:
            return {}

        def keyword(*, ids: list[int]) -> dict[int, int]:
            return {}

        def fine(ids: list[int]) -> dict[int, int]:
            return {}

        with pytest.raises(ConfigError, match="the first parameter must be the ids; there is none"):
            cache.cached_many("p")(nothing)
        with pytest.raises(ConfigError, match="the first parameter must be the ids"):
            cache.cached_many("p")(keyword)
        with pytest.raises(ConfigError, match="tags tuple is needed"):
            cache.cached_many("p", tags="t")(fine)
        with pytest.raises(ConfigError, match="ttl must be between"):
            cache.cached_many("p", -1)(fine)


class TestMany:
    def test_answers_each_call(self, cache: Cache) -> None:
        """`.many` takes single arguments, tuples and dicts of arguments, and gives the results in order."""
        runs = []

        @cache.cached("p")
        def f(a: int, b: int = 0) -> list[int]:
            runs.append((a, b))
            return [a, b]

        f(1)
        assert f.many([1, (2, 3), {"a": 4, "b": 5}, {"a": 1}]) == [[1, 0], [2, 3], [4, 5], [1, 0]]
        assert runs == [(1, 0), (2, 3), (4, 5)]
        assert f.many([]) == []

    def test_repeated_calls_run_once_and_share_nothing(self, cache: Cache) -> None:
        """The same call twice in one `.many` runs once, and gives two objects."""
        runs = []

        @cache.cached("p")
        def f(a: int) -> list[int]:
            runs.append(a)
            return [a]

        one, two = f.many([1, 1])
        assert one == two == [1]
        assert one is not two
        assert runs == [1]

    @pytest.mark.parametrize("annotation", [str, int, UUID])
    @pytest.mark.parametrize(
        "calls",
        [["a", "b-1"], ["a", "None"], ["a\nb", "c"], [1, 2], [1, True], [UUID(int=1), UUID(int=2)], [UUID(int=1), "a"]],
        ids=repr,
    )
    def test_finds_what_single_calls_have_cached_and_the_other_way_round(
        self, calls: list[Any], annotation: type, cache: Cache
    ) -> None:
        """Whatever the arguments' types and the annotation, a call and its place in a batch are one entry."""
        runs: list[Any] = []

        def f(a: Any) -> list[str]:
            runs.append(a)
            return [repr(a)]

        f.__annotations__["a"] = annotation
        first, second = cache.cached("p", operation="first")(f), cache.cached("p", operation="second")(f)
        expected = [[repr(call)] for call in calls]
        assert first.many(calls) == [first(call) for call in calls] == expected
        assert [second(call) for call in calls] == second.many(calls) == expected
        assert runs == calls + calls
        assert first.many((call,) for call in calls) == expected
        assert runs == calls + calls
        of: CachedCall = getattr(first, CALL)
        bounds: list[Arguments] = [((call,), {}) for call in calls]
        texts = [of.key_text((call,), {}) for call in calls]
        assert of.table_keys(bounds, texts) == [of.table_key(*bound, "") for bound in bounds]

    def test_starts_no_thread(self) -> None:
        """Without Redis, and with nothing to publish, there is nothing to do in the background."""
        before = set(threading.enumerate())
        with Cache(publish_interval=None) as cache:

            @cache.cached("p")
            def f(a: int) -> int:
                return a

            f.many([1, 2])
            assert set(threading.enumerate()) <= before


class TestByKey:
    def test_set_and_get_many(self, cache: Cache) -> None:
        """`get_many` gives what there is, under the names it was asked by."""
        cache.set_many({"a:b:1": [1], "a:b:2": None})
        assert cache.get_many(["a:b:1", "aikernel:v1:a:b:2", "a:b:3"]) == {"a:b:1": [1], "aikernel:v1:a:b:2": None}

    def test_get_gives_the_default(self, cache: Cache) -> None:
        """What is not there is the default; `None` is there."""
        cache.set("k", None)
        assert cache.get("k", 1) is None
        assert cache.get("l", 1) == 1

    def test_set_with_ttl_zero_removes_the_value(self, cache: Cache) -> None:
        """`ttl=0` stores nothing and leaves nothing."""
        cache.set("k", 1)
        cache.set("k", 2, ttl=0)
        assert cache.get("k") is None

    def test_set_refuses_what_cannot_be_kept(self, cache: Cache) -> None:
        """`set` raises `EncodeError` with the path, and what was there stays."""
        cache.set("k", 1)
        with pytest.raises(EncodeError, match=r"result\[0\]"):
            cache.set("k", [object()])
        assert cache.get("k") == 1

    def test_set_with_tags(self, cache: Cache) -> None:
        """Values set by key are invalidated by their tags."""
        cache.set("k", 1, tags=("t",))
        cache.set("l", 1)
        cache.invalidate_tags("t")
        assert (cache.get("k"), cache.get("l")) == (None, 1)

    def test_get_or_load(self, cache: Cache) -> None:
        """The loader runs once; its exceptions pass and are not cached."""
        runs: list[int] = []

        def load() -> list[int]:
            runs.append(1)
            if len(runs) == 1:
                raise LookupError
            return runs[:]

        with pytest.raises(LookupError):
            cache.get_or_load("k", load)
        assert cache.get_or_load("k", load) == cache.get_or_load("k", load) == [1, 1]
        assert cache.get("k") == [1, 1]

    def test_finds_what_a_decorated_function_cached(self, cache: Cache) -> None:
        """`get` and `set` reach the entries of functions by their keys."""

        @cache.cached("p")
        def f(x: int) -> int:
            return x

        f(1)
        assert cache.get(f.key(1)) == 1
        cache.set(f.key(1), 2)
        assert f(1) == 2
        cache.invalidate_key(f.key(1))
        assert f(1) == 1
