"""`refreshing()`: calls inside run their functions, and the results replace the cached values."""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any, Literal

import pytest

from aikcache import Cache, CachedFunction
from aikcache._engine import load
from aikcache.errors import ConfigError, EncodeError, InvalidKeyError

PATIENCE = 60.0


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache() as cache:
        yield cache


Positive = Literal[1, 2, 3]


def lambda_of(given: list[int]) -> Callable[[], int]:
    def number() -> int:
        return given[0]

    return number


class Source:
    """Counts its reads, and gives their number."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self) -> int:
        self.reads += 1
        return self.reads

    def cached(self, cache: Cache, prefix: str) -> CachedFunction[[int], int]:
        @cache.cached(prefix)
        def number(x: int) -> int:
            return self.read()

        return number


def test_a_call_runs_its_function_and_what_it_gives_is_kept(cache: Cache) -> None:
    """The cached value is replaced for all callers."""
    source = Source()
    number = source.cached(cache, "p")
    assert (number(1), number(1)) == (1, 1)
    with cache.refreshing():
        assert number(1) == 2
    assert (number(1), source.reads) == (2, 2)


def test_each_key_is_loaded_once_in_a_block(cache: Cache) -> None:
    """A second call gets what the first has stored; another key is loaded too, and another block loads again."""
    source = Source()
    number = source.cached(cache, "p")
    with cache.refreshing():
        assert [number(1), number(1), number(2), number(1)] == [1, 1, 2, 1]
    with cache.refreshing():
        assert number(1) == 3


def test_a_function_that_calls_itself_runs_once_for_each_key(cache: Cache) -> None:
    """Calls inside a load load again too, and not once for each branch."""
    runs: list[int] = []

    @cache.cached("fib")
    def fib(n: int) -> int:
        runs.append(n)
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert fib(20) == 6765
    with cache.refreshing():
        assert fib(20) == 6765
    assert sorted(runs) == sorted([*range(21)] * 2)


def test_many_at_once_are_loaded_together(cache: Cache) -> None:
    """A batch runs its function once for all its ids, and `.many` once for each different call."""
    asked: list[list[int]] = []

    @cache.cached_many("p", operation="one")
    def batch(ids: list[int]) -> dict[int, int]:
        asked.append(ids)
        return {one: len(asked) for one in ids}

    source = Source()
    number = source.cached(cache, "q")
    assert batch([1, 2]) == {1: 1, 2: 1}
    assert number.many([1, 2, 1]) == [1, 2, 1]
    with cache.refreshing():
        assert batch([1, 2]) == {1: 2, 2: 2}
        assert number.many([1, 2, 1]) == [3, 4, 3]
    assert asked == [[1, 2], [1, 2]]
    assert number.many([1, 2]) == [3, 4]


def test_other_contexts_are_answered_from_the_cache(cache: Cache) -> None:
    """A block is its context's own: another thread's calls are hits meanwhile, and a copy's are not."""
    source = Source()
    number = source.cached(cache, "p")
    number(1)
    seen: list[int] = []
    with cache.refreshing():
        other = threading.Thread(target=lambda: seen.append(number(1)))
        other.start()
        other.join(PATIENCE)
        copied = contextvars.copy_context()
        assert copied.run(number, 1) == 2
    assert seen == [1]
    assert copied.run(number, 1) == 2, "the block has ended, also in a copy of its context"
    assert not cache.engine.local.waiting


def test_an_invalidation_meanwhile_undoes_it(cache: Cache) -> None:
    """A value that a function read before its key was invalidated is returned, and not kept."""
    prices = [3]

    @cache.cached("p")
    def price() -> int:
        read = prices[0]
        if read == 3:
            prices[0] = 4
            cache.invalidate("p")
        return read

    with cache.refreshing():
        assert price() == 3
    assert price() == 4


def test_inside_a_deferred_block_nothing_uncommitted_is_kept(cache: Cache) -> None:
    """A call that a waiting invalidation covers is stored nowhere, in a refreshing block as well."""
    source = Source()
    number = source.cached(cache, "p")
    with cache.refreshing(), cache.deferred():
        cache.invalidate("p")
        assert (number(1), number(1)) == (1, 2)
    assert number(1) == 3


def test_an_error_is_the_functions_own(cache: Cache) -> None:
    """A function that fails fails the call, also where `error_ttl` would answer; what is cached stays."""
    broken = [False]

    @cache.cached("p", error_ttl=60)
    def value() -> str:
        if broken[0]:
            raise LookupError("away")
        return "kept"

    value()
    broken[0] = True
    with cache.refreshing(), pytest.raises(LookupError):
        value()
    assert value() == "kept"


def test_by_key_it_loads_too(cache: Cache) -> None:
    """`get_or_load` runs its loader; `get` and `peek` only look."""
    source = Source()
    assert cache.get_or_load("p:q:1", source.read) == 1
    with cache.refreshing():
        assert cache.get("p:q:1") == 1
        assert cache.get_or_load("p:q:1", source.read) == 2
        assert cache.get("p:q:1") == 2


def test_a_load_that_fails_is_made_again_by_the_next_call(cache: Cache) -> None:
    """Not answered with the value that the block was to replace."""
    source = Source()
    number = source.cached(cache, "p")
    number(1)
    with cache.refreshing():
        read, source.read = source.read, lambda: 1 // 0  # type: ignore[method-assign]
        with pytest.raises(ZeroDivisionError):
            number(1)
        source.read = read  # type: ignore[method-assign]
        assert [number(1), number(1)] == [2, 2]


def test_a_thread_that_a_failed_load_has_left_is_not_inside_it(cache: Cache) -> None:
    """It has a copy of the load's context, and gets nothing from before the block all the same."""
    failed = threading.Event()
    source, found, left = Source(), list[int](), list[threading.Thread]()

    @cache.cached("p")
    def number() -> int:
        if source.reads == 1 and not left:
            context = contextvars.copy_context()
            left.append(threading.Thread(target=context.run, args=(call_later,)))
            left[0].start()
            raise ZeroDivisionError
        return source.read()

    def call_later() -> None:
        assert failed.wait(PATIENCE)
        found.append(number())

    assert number() == 1
    with cache.refreshing():
        with pytest.raises(ZeroDivisionError):
            number()
        failed.set()
        left[0].join(PATIENCE)
    assert found == [2]


KEEPS_NOTHING_BELOW_1: list[dict[str, Any]] = [{"cache_if": lambda n: n > 0}, {"ttl": lambda n: max(n, 0)}]


@pytest.mark.parametrize("options", [*KEEPS_NOTHING_BELOW_1, {"type": Positive}])
def test_what_cannot_be_kept_ends_the_older_value(cache: Cache, options: dict[str, Any]) -> None:
    """Else a later call would get what `refresh` has shown to be old."""
    given = [1]
    number = cache.cached("p", **options)(lambda_of(given))
    assert (number(), number()) == (1, 1)
    given[0] = 0
    assert (number.refresh(), number()) == (0, 0)
    given[0] = 1
    assert (number(), number()) == (1, 1)
    given[0] = 0
    with cache.refreshing():
        assert [number(), number()] == [0, 0]
    assert number() == 0


@pytest.mark.parametrize("options", [{"tags": lambda n: ["t"] if n else [n]}, {"type": Positive}])
def test_what_is_refused_ends_the_older_value(options: dict[str, Any]) -> None:
    """With `strict` the call raises; its function has shown all the same that the value is old."""
    with Cache(strict=True) as cache:
        given = [1]
        number = cache.cached("p", **options)(lambda_of(given))
        assert number() == 1
        given[0] = 0
        with pytest.raises((ConfigError, EncodeError, InvalidKeyError)):
            number.refresh()
        assert number.peek() is None


def test_what_a_function_has_not_given_stays() -> None:
    """Also where it fails with an error of the cache's own, and what a batch had not come to."""
    with Cache(strict=True) as cache:
        given: dict[int, object] = {number: number for number in range(1, 6)}

        @cache.cached("p", ttl=600, type=int)
        def number(x: int) -> object:
            if given[x] is None:
                raise ConfigError("another cache's")
            return given[x]

        assert number.many([1, 2, 3, 4, 5]) == [1, 2, 3, 4, 5]
        given[1] = None
        with pytest.raises(ConfigError):
            number.refresh(1)
        assert number.peek(1) == 1
        given[3] = "three"
        with cache.refreshing(), pytest.raises(EncodeError):
            number.many([2, 3, 4])
        assert [number.peek(x) for x in (3, 4)] == [None, 4]


def test_a_batch_that_fails_keeps_what_it_has_stored_and_ends_what_it_could_not(cache: Cache) -> None:
    """The function has given 1 and 2, of which 2 cannot be stored, and fails for 3."""
    given: dict[int, object] = {1: 1, 2: 2, 3: 3}

    @cache.cached("p", ttl=600, type=int)
    def number(x: int) -> object:
        if given[x] is None:
            raise ConfigError("another cache's")
        return given[x]

    assert number.many([1, 2, 3]) == [1, 2, 3]
    given.update({1: 10, 2: "two", 3: None})
    with cache.refreshing(), pytest.raises(ConfigError):
        number.many([1, 2, 3])
    assert [number.peek(x) for x in (1, 2, 3)] == [10, None, 3]


def test_no_call_joins_a_load_that_began_before_what_a_failing_batch_has_stored(cache: Cache) -> None:
    """Also where the local tier refuses it, because something of the operation was invalidated meanwhile."""
    loading, go = threading.Event(), threading.Event()
    given: dict[int, str | None] = {1: "old", 2: "old"}

    @cache.cached("p")
    def value(x: int) -> str:
        read = given[x]
        if read == "old":
            loading.set()
            assert go.wait(PATIENCE)
        if read is None:
            value.invalidate(3)
            raise ZeroDivisionError
        return read

    first = threading.Thread(target=value, args=(1,))
    first.start()
    assert loading.wait(PATIENCE)
    given.update({1: "new", 2: None})
    with cache.refreshing(), pytest.raises(ZeroDivisionError):
        value.many([1, 2])
    threading.Timer(0.2, go.set).start()  # for who joins it
    assert value(1) == "new"
    first.join(PATIENCE)


def test_a_batch_that_is_over_is_not_held(cache: Cache) -> None:
    """What is remembered of its keys has a bound."""
    numbers = cache.cached_many("p", operation="all", ttl=600)(lambda ids: dict.fromkeys(ids, 0))
    with cache.refreshing():
        numbers([*range(10)])
    (renewal,) = {renewed.by for renewed in cache.engine.local._renewed.values()}
    assert not renewal.given


def test_an_id_that_is_gone_is_not_found_after_a_block(cache: Cache) -> None:
    """A `cached_many` function leaves it out, so its value ends."""
    there = {1: "one", 2: "two"}

    @cache.cached_many("p")
    def names(ids: list[int]) -> dict[int, str]:
        return {i: there[i] for i in ids if i in there}

    assert names([1, 2]) == {1: "one", 2: "two"}
    del there[1]
    with cache.refreshing():
        assert names([1, 2]) == {2: "two"}
    assert names([1, 2]) == {2: "two"}


@pytest.mark.parametrize("step", range(1, 12))
def test_a_call_that_is_interrupted_is_made_again_by_the_next_call(cache: Cache, step: int) -> None:
    """Wherever it is interrupted before its function runs: the next call is no hit of the older value."""
    given = [1]
    number = cache.cached("p")(lambda_of(given))
    assert number() == 1
    given[0] = 2
    lines: list[int] = []

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code is not load.answer.__code__:
            return None
        if event == "line":
            lines.append(frame.f_lineno)
            if len(lines) == step:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    with cache.refreshing():
        sys.settrace(trace)
        try:
            with suppress(KeyboardInterrupt):
                number()
        finally:
            sys.settrace(before)
        assert number() == 2


def test_a_block_is_entered_once(cache: Cache) -> None:
    """As one of `deferred()`; a second time it would do nothing."""
    block = cache.refreshing()
    with block, pytest.raises(RuntimeError, match="entered once"), block:
        pass
    with pytest.raises(RuntimeError, match="entered once"), block:
        pass


def test_a_value_that_another_thread_is_loading_is_loaded(cache: Cache) -> None:
    """Two threads share the block: what the second one gets is no older than the block."""
    loading, go = threading.Event(), threading.Event()
    given = ["old"]

    @cache.cached("p")
    def value() -> str:
        read = given[0]
        if read == "new" and not loading.is_set():
            loading.set()
            assert go.wait(PATIENCE)
        return read

    assert value() == "old"
    given[0] = "new"
    seen: list[str] = []
    with cache.refreshing():
        first = threading.Thread(target=contextvars.copy_context().run, args=(lambda: seen.append(value()),))
        first.start()
        assert loading.wait(PATIENCE)
        assert value() == "new"
        go.set()
        first.join(PATIENCE)
    assert seen == ["new"]
    assert value() == "new"


def test_of_two_refreshes_the_one_that_began_later_stays(cache: Cache) -> None:
    """Whichever ends first: the other may have read before it."""
    loading, go = threading.Event(), threading.Event()
    given = ["old"]

    @cache.cached("p")
    def value() -> str:
        read = given[0]
        if read == "newer" and not loading.is_set():
            loading.set()
            assert go.wait(PATIENCE)
        return read

    assert value() == "old"
    given[0] = "newer"
    first = threading.Thread(target=value.refresh)
    first.start()
    assert loading.wait(PATIENCE)
    given[0] = "newest"
    assert value.refresh() == value() == "newest"
    go.set()
    first.join(PATIENCE)
    assert value() == "newest"


def test_a_refresh_that_is_filed_late_lets_nothing_in_from_before_another(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has taken the time, and is preempted: a load begins, and another refresh begins and ends."""
    filing, loading, file, go = (threading.Event() for _ in range(4))
    given = ["old"]

    @cache.cached("p")
    def value() -> str:
        read = given[0]
        if threading.current_thread() is load:
            loading.set()
            assert go.wait(PATIENCE)
        return read

    def held(*args: Any, **kwargs: Any) -> bool:
        if threading.current_thread() is late:
            filing.set()
            assert file.wait(PATIENCE)
        return fill(*args, **kwargs)

    fill = cache.engine.local.fill
    monkeypatch.setattr(cache.engine.local, "fill", held)
    late, load = threading.Thread(target=value.refresh), threading.Thread(target=value)
    late.start()
    assert filing.wait(PATIENCE)
    load.start()
    assert loading.wait(PATIENCE)
    given[0] = "new"
    assert value.refresh() == "new"
    for event, thread in ((file, late), (go, load)):
        event.set()
        thread.join(PATIENCE)
    assert value() == "new"


def test_a_function_that_reads_its_own_value_in_another_thread_ends(cache: Cache) -> None:
    """A thread with a copy of its context is inside the load too, and gets the value from before."""
    runs: list[int] = []

    @cache.cached("p")
    def total(x: int) -> int:
        runs.append(x)
        if len(runs) == 1:
            return 1
        assert len(runs) < 10
        found: list[int] = []
        context = contextvars.copy_context()
        helper = threading.Thread(target=lambda: found.append(context.run(total, x)))
        helper.start()
        helper.join(PATIENCE)
        return found[0] + 1

    assert total(1) == 1
    with cache.refreshing():
        assert total(1) == 2
        assert total(1) == 2
    assert len(runs) == 2
