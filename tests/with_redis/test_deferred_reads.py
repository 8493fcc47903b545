"""Reading inside `deferred()`: a block's own context reads past the cache what the block will invalidate, and stores
nothing.
"""

from __future__ import annotations

import contextvars
import gc
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

from aikcache import Cache
from aikcache._engine.deferred import Deferred
from aikcache.testing import wait_until
from tests._interrupts import dropped

from ._workers import PATIENCE, PATIENT, Background, connect

pytestmark = pytest.mark.usefixtures("unhurried")


class Rollback(Exception):
    pass


class Shop:
    """A database of prices with one transaction, and what is cached of it."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.committed = {"tea": "old", "milk": "old"}
        self.written: dict[str, str] = {}
        self.loads = 0
        self.inside = contextvars.ContextVar("inside", default=False)

        @cache.cached("price", tags=("price:{name}", "prices"))
        def price(name: str) -> str:
            return self.row(name)

        @cache.cached("price", operation="boxed", tags=lambda result, name: [f"price:{name}"])
        def boxed(name: str) -> list[str]:
            return [self.row(name)]

        @cache.cached_many("price", operation="price", tags=("price:{names}", "prices"))
        def prices(names: list[str]) -> dict[str, str]:
            return {name: self.row(name) for name in names}

        self.price, self.boxed, self.prices = price, boxed, prices

    def row(self, name: str) -> str:
        self.loads += 1
        mine = self.inside.get()
        return self.written.get(name, self.committed[name]) if mine else self.committed[name]

    def write(self, end: Callable[[Cache], object]) -> None:
        """As in a transaction that is not committed yet."""
        self.inside.set(True)
        self.written["tea"] = "new"
        end(self.cache)

    def commit(self) -> None:
        self.committed.update(self.written)

    def elsewhere(self, function: Callable[..., Any], *args: Any) -> Any:
        """What a call gives outside the block's context."""
        return contextvars.Context().run(function, *args)


ENDS: dict[str, Callable[[Cache], object]] = {
    "the key": lambda cache: cache.invalidate_key("price:price:tea", "price:boxed:tea"),
    "the operation": lambda cache: cache.invalidate("price:price", "price:boxed"),
    "the prefix": lambda cache: cache.invalidate("price"),
    "everything": lambda cache: cache.clear(),
    "a tag": lambda cache: cache.invalidate_tags("price:tea"),
    "a glob": lambda cache: cache.invalidate("price:*:t?a"),
}
READS: dict[str, Callable[[Shop], Any]] = {
    "a call": lambda shop: shop.price("tea"),
    "a call that gives a list": lambda shop: shop.boxed("tea")[0],
    "many": lambda shop: shop.price.many(["tea", "milk"])[0],
    "cached_many": lambda shop: shop.prices(["milk", "tea"])["tea"],
    "refresh": lambda shop: shop.price.refresh("tea"),
    "get_or_load": lambda shop: shop.cache.get_or_load("price:price:tea", lambda: shop.row("tea"), tags=("price:tea",)),
}


@pytest.fixture(params=["without Redis", "with Redis", "without a local tier"])
def shop(request: pytest.FixtureRequest, redis_url: str, instance: str) -> Iterator[Shop]:
    url = None if request.param == "without Redis" else redis_url
    options: dict[str, Any] = {"local_ttl": 0} if request.param == "without a local tier" else {}
    with Cache(url, instance=instance, **PATIENT, **options) as cache:
        if url is not None:
            connect(cache)
        yield Shop(cache)


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("read", READS)
def test_a_rollback_leaves_no_uncommitted_value(read: str, warm: bool, shop: Shop) -> None:
    """Only the writer sees its own write, and after the rollback no reader ever does."""
    get = READS[read]
    for end in ENDS.values():
        shop.cache.clear()
        if warm:
            assert [get(shop), get(shop)] == ["old", "old"]
        with suppress(Rollback), shop.cache.deferred():
            contextvars.copy_context().run(inside, shop, end, get)
            raise Rollback
        assert get(shop) == get(shop) == "old"


def inside(shop: Shop, end: Callable[[Cache], object], get: Callable[[Shop], Any]) -> None:
    shop.write(end)
    assert [get(shop), get(shop)] == ["new", "new"]
    assert shop.elsewhere(get, shop) == "old"
    assert shop.elsewhere(get, shop) == "old"
    assert get(shop) == "new"
    assert shop.price.peek("tea") is shop.cache.get("price:price:tea") is None
    assert shop.price.explain("tea")["answer"] == "load"


@pytest.mark.parametrize("read", READS)
def test_after_the_commit_everybody_sees_what_was_written(read: str, shop: Shop) -> None:
    """What others have cached while the block was open is invalidated at its end."""
    get = READS[read]
    for end in ENDS.values():
        shop.committed["tea"] = "old"
        shop.cache.clear()
        assert get(shop) == "old"
        with shop.cache.deferred():
            contextvars.copy_context().run(inside, shop, end, get)
            shop.commit()
        assert get(shop) == shop.elsewhere(get, shop) == "new"


def test_what_is_not_covered_stays_cached_inside(shop: Shop) -> None:
    """A block invalidates what it names and nothing else: other keys are hits inside, and are cached there."""
    shop.price("milk")
    with shop.cache.deferred():
        shop.cache.invalidate_tags("price:tea")
        loads = shop.loads
        assert shop.price("milk") == shop.price.peek("milk") == shop.cache.get("price:price:milk") == "old"
        assert shop.price.many(["milk", "milk"]) == ["old", "old"]
        assert shop.loads == loads
        shop.cache.set("other:one:1", "set", tags=("others",))
        assert shop.cache.get("other:one:1") == "set"
        shop.cache.invalidate_tags("others")
        assert shop.cache.get("other:one:1") is None
    assert shop.price.peek("milk") == "old"


def test_a_local_hit_needs_no_detour_once_the_block_has_ended(shop: Shop) -> None:
    """Wrappers answer by themselves again; while the block is open others' calls are answered, and counted, as ever."""
    shop.price("tea")
    region = next(r for r in shop.cache.engine.local.regions["price:price"] if r._readers)
    with shop.cache.deferred():
        assert not region.diverted
        shop.cache.invalidate_tags("price:tea")
        assert region.diverted
        loads, hits = shop.loads, shop.price.cache_info().hits
        assert shop.elsewhere(shop.price, "tea") == "old"
        assert (shop.loads, shop.price.cache_info().hits) == (loads, hits + 1)
    assert not region.diverted
    assert not shop.cache.engine.local.waiting


def test_what_a_load_itself_names_is_not_kept(shop: Shop) -> None:
    """A function that invalidates its own key in a block is not cached: it may have read what it wrote."""

    @shop.cache.cached("price", operation="raised")
    def raised(name: str) -> str:
        shop.cache.invalidate(f"price:raised:{name}")
        return shop.row(name)

    with shop.cache.deferred():
        raised("tea")
        assert shop.elsewhere(raised.peek, "tea") is None
    assert raised.peek("tea") is None


def test_a_block_waits_for_no_load_of_others(shop: Shop) -> None:
    """A covered call joins no load, and no call joins its own."""
    began, go = threading.Event(), threading.Event()

    @shop.cache.cached("price", operation="slow")
    def slow(name: str) -> str:
        if not shop.inside.get():
            began.set()
            assert go.wait(PATIENCE)
        return shop.row(name)

    other = Background(lambda: slow("tea"))
    assert began.wait(PATIENCE)

    def block() -> None:
        with shop.cache.deferred():
            shop.write(lambda cache: cache.invalidate("price:slow"))
            assert slow("tea") == "new"
            go.set()
            assert other.result() == "old"

    contextvars.copy_context().run(block)
    assert slow("tea") == "old"


def test_renewals_keep_nothing_that_is_covered(shop: Shop) -> None:
    """A value is not renewed in the background of a block that will invalidate it."""

    @shop.cache.cached("price", operation="aging", ttl=0.05, stale_ttl=600)
    def aging(name: str) -> str:
        return shop.row(name)

    aging("tea")
    wait_until(lambda: aging.peek("tea") is None, PATIENCE, "the end of ttl")

    def block() -> None:
        with shop.cache.deferred():
            shop.write(lambda cache: cache.invalidate("price:aging"))
            assert aging("tea") == "new"
            assert shop.cache.engine.background._threads == 0

    contextvars.copy_context().run(block)
    assert aging("tea") == "old"


def test_a_copy_of_the_context_may_outlive_the_block(shop: Shop) -> None:
    """An invalidation in a copy of the block's context is made at once when the block is over."""
    shop.price("tea")
    with shop.cache.deferred():
        context = contextvars.copy_context()
    context.run(shop.cache.invalidate_tags, "price:tea")
    assert shop.price.peek("tea") is None


def test_threads_with_a_copy_of_the_context_add_to_the_block(shop: Shop) -> None:
    """A thread that runs in a copy of the block's context sees as the block does, and its invalidations wait for it."""
    shop.price("tea")
    with shop.cache.deferred():
        context = contextvars.copy_context()
        Background(lambda: context.run(shop.write, ENDS["a tag"])).result()
        assert Background(lambda: context.run(shop.price, "tea")).result() == "new"
        assert shop.elsewhere(shop.price, "tea") == "old"
    assert shop.price.peek("tea") is None


@pytest.mark.parametrize("way", ["entered", "dropped", "ended in another context"])
def test_nothing_is_lost_to_a_block_that_is_not_left_as_usual(way: str, shop: Shop) -> None:
    """Waiting invalidations are made at the block's end, however it ends, or when the block is dropped."""
    shop.price("tea")
    block: Deferred | None = shop.cache.deferred()
    assert block is not None
    block.__enter__()
    shop.cache.invalidate_tags("price:tea")
    if way == "ended in another context":
        contextvars.Context().run(block.__exit__, None, None, None)
    elif way == "entered":
        block.__exit__(None, None, None)
    block = None
    gc.collect()
    assert shop.price.peek("tea") is None
    shop.price("tea")
    shop.cache.invalidate_tags("price:tea")
    assert shop.price.peek("tea") is None


class Alarm(BaseException):
    pass


def test_a_signal_anywhere_in_a_block_loses_nothing() -> None:
    """Whenever a handler raises, the invalidations that had returned are carried out, and the next block works."""
    shop = Shop(Cache())

    def ring(number: int, frame: FrameType | None) -> None:
        if not dropped(frame):
            raise Alarm

    previous = signal.signal(signal.SIGALRM, ring)
    lost = rung = 0
    try:
        for number in range(300):
            shop.price("tea")
            named = False
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00002 * (number % 50 + 1))
                with shop.cache.deferred():
                    shop.cache.invalidate_tags("price:tea")
                    named = True
                    sum(range(200))
            except Alarm:
                rung += 1
            finally:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Alarm:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            lost += named and shop.price.peek("tea") is not None
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert lost == 0
    assert rung
    assert not shop.cache.engine.local.waiting
