"""Cached functions that call themselves."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from aikcache import Cache

from ..with_redis._staging import Ahead

LIMIT = 1000


@pytest.fixture(params=["local", "shared"])
def cache(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Cache]:
    """A cache in this process alone, and one with a server."""
    with Cache(
        None if request.param == "local" else redis_url, instance="recursion", timeout=10, connect_timeout=10
    ) as cache:
        yield cache


def reaches(function: Callable[[int], int], depth: int) -> bool:
    """Whether `function(depth)` succeeds under the usual limit, on a stack that is empty."""
    found: list[object] = []

    def work() -> None:
        try:
            found.append(function(depth))
        except RecursionError:
            found.append(None)

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(LIMIT)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        sys.setrecursionlimit(limit)
    return found == [depth]


def test_a_function_may_call_itself_half_as_deep_as_with_lru_cache(cache: Cache) -> None:
    """Between two runs of a cached function are few frames: it reaches 300 of a limit of 1000, lru_cache 500."""

    @cache.cached("deep")
    def down(n: int) -> int:
        return 0 if n == 0 else 1 + down(n - 1)

    assert reaches(down, 300)
    assert reaches(down, 300)


def test_a_function_may_call_itself_as_deep_when_what_was_cached_has_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that has to be renewed costs one frame more, and 240 are left."""
    ahead = Ahead(monkeypatch)
    with Cache(instance="recursion") as cache:

        @cache.cached("deep", 10)
        def down(n: int) -> int:
            return 0 if n == 0 else 1 + down(n - 1)

        assert reaches(down, 240)
        ahead.advance(20)
        assert reaches(down, 240)
        assert down.cache_info().misses == 2 * 241


@pytest.mark.parametrize("error", [StopIteration("over"), KeyError("x"), KeyboardInterrupt(), GeneratorExit()])
def test_what_the_function_raises_reaches_the_caller(cache: Cache, error: BaseException) -> None:
    """Whatever its class, it is the same exception, without another as its context, and the next call runs again."""
    runs = []

    @cache.cached("deep")
    def failing(n: int) -> int:
        runs.append(n)
        if len(runs) < 3:
            raise error
        return n

    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            failing(1)
        assert caught.value is error
        assert error.__context__ is None
        assert error.__cause__ is None
    assert failing(1) == failing(1) == 1
    assert len(runs) == 3
    assert not cache.engine.flights
