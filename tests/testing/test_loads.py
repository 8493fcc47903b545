"""`assert_loads`: how often a cached function runs in a block."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from aikcache import Cache
from aikcache.testing import assert_loads, no_cache


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache() as cache:
        yield cache


class Shop:
    """A method, whose bound form is counted as well."""

    local = Cache()

    @local.cached("shop", ignore=("self",))
    def price(self, product: str) -> int:
        return 3


def test_runs_are_counted_and_hits_are_not(cache: Cache) -> None:
    """Also those of other threads, those past the cache and those that fail."""

    @cache.cached("p")
    def f(x: int) -> int:
        if x < 0:
            raise LookupError
        return x

    with assert_loads(f, 2):
        f(1), f(1), f(2)
    with assert_loads(f, 0):
        f(1), f(2)
    with assert_loads(f, 3):
        other = threading.Thread(target=f, args=(3,))
        other.start()
        other.join(60)
        f.refresh(1)
        with pytest.raises(LookupError):
            f(-1)
    with assert_loads(f, 2), no_cache():
        f(1), f(1)
    skipping = cache.cached("p", operation="skipping", skip_if=lambda x: x == 1)(f.__wrapped__)
    with assert_loads(skipping, 3):
        skipping(1), skipping.many([1, 2]), skipping(2)
    with assert_loads(f, 0):
        f(1)


def test_many_and_methods_are_counted(cache: Cache) -> None:
    """A function of many ids counts its runs, not its ids; a bound method is the function."""

    @cache.cached_many("p")
    def many(ids: list[int]) -> dict[int, int]:
        return {one: one for one in ids}

    with assert_loads(many, 1):
        many([1, 2])
        many([1, 2])
    shop = Shop()
    with assert_loads(shop.price, 1), assert_loads(Shop.price, 1):
        assert shop.price("tea") == shop.price("tea") == 3


@pytest.mark.parametrize("n", [0, 2])
def test_another_number_fails(cache: Cache, n: int) -> None:
    """With both numbers."""

    @cache.cached("p")
    def f(x: int) -> int:
        return x

    with (
        pytest.raises(AssertionError, match=f"ran once, not {'never' if n == 0 else f'{n} times'}"),
        assert_loads(f, n),
    ):
        f(1)


def test_an_error_of_the_block_comes_out(cache: Cache) -> None:
    """It is not replaced, and counting ends."""

    @cache.cached("p")
    def f(x: int) -> int:
        return x

    with pytest.raises(LookupError), assert_loads(f, 5):
        raise LookupError
    assert f(1) == 1


def test_it_takes_cached_functions_only() -> None:
    """Anything else is named."""
    with pytest.raises(TypeError, match="got sorted"), assert_loads(sorted, 1):
        pass
