"""Read by mypy --strict and by pyright, never run: what the decorators keep of a function's type, and what they refuse.

Every line that must be an error carries an ignore for each checker, and both are told to complain of an ignore that
ignores nothing: so this file fails when a wrong call passes as well as when a right one does not.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, assert_type
from uuid import UUID

import aikcache
from aikcache import (
    Cache,
    CacheConfig,
    CachedFunction,
    CacheInfo,
    CacheStats,
    Deferred,
    Health,
    Settings,
    cached,
    cached_many,
    invalidates,
)

cache = Cache("redis://localhost:6379/0", instance="shop")
ID = UUID(int=1)


# A function keeps its parameters and its result.


@cached("resource", ttl=300, tags=("resource:{resource_id}",))
def get_by_id(resource_id: UUID, deep: bool = False, *, lang: str = "en") -> dict[str, int]:
    return {}


assert_type(get_by_id(ID), dict[str, int])
assert_type(get_by_id(resource_id=ID, deep=True, lang="de"), dict[str, int])
assert_type(get_by_id.refresh(ID), dict[str, int])
assert_type(get_by_id.bypass(ID, True), dict[str, int])
assert_type(get_by_id.key(ID), str)
assert_type(get_by_id.many([ID, (ID, True)]), list[dict[str, int]])
assert_type(get_by_id.explain(ID), dict[str, Any])
assert_type(get_by_id.cache_info().hits, int)
assert_type(get_by_id.__name__, str)
get_by_id.invalidate(ID, lang="de")
get_by_id.store({"a": 1}, ID)
assert_type(get_by_id.peek(ID), dict[str, int] | None)
assert_type(get_by_id.peek(ID, default=""), dict[str, int] | str)
get_by_id.peek("1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
get_by_id.store("x", ID)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
as_exported: CachedFunction[..., dict[str, int]] = get_by_id
info: CacheInfo = get_by_id.cache_info()
get_by_id.cache_clear()
as_callable: Callable[[UUID], dict[str, int]] = get_by_id

get_by_id("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
get_by_id()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
get_by_id(ID, False, "de")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
get_by_id(ID, nothing=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
get_by_id.key("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
get_by_id.invalidate()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
get_by_id.refresh("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
get_by_id.bypass("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
get_by_id.store({}, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
get_by_id.nothing()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
not_callable: Callable[[str], dict[str, int]] = get_by_id  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
wrong: int = get_by_id(ID)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


# So it does on a cache, and with every option.


@cache.cached(
    "search",
    lambda result: 5.0,
    operation="find",
    normalize={"query": str.lower},
    tags=lambda result, query, page: ["a"],
    local_ttl=timedelta(seconds=1),
    jitter=0.1,
    cache_if=bool,
    share=True,
    type=list,
)
def search(query: str, page: int = 1) -> list[str]:
    return []


assert_type(search("x"), list[str])
cache.cached(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
cache.cached("p", ttl="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
cache.cached("p", ignore=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
cache.cached("p", share="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
cache.cached("p", nothing=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
cache.cached("p")(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# Methods bind.


class Shop:
    @cached("price", ignore=("self",))
    def price(self, what: str, count: int = 1) -> float:
        return 1.0

    @cached_many("stock", ignore=("self",))
    def stock(self, ids: list[UUID]) -> dict[UUID, int]:
        return {}

    @invalidates("price:price:{what}*")
    def change(self, what: str, price: float) -> bool:
        return True


shop = Shop()
assert_type(shop.price("tea"), float)
assert_type(shop.price("tea", count=2), float)
assert_type(Shop.price(shop, "tea"), float)
assert_type(Shop.price.refresh(shop, "tea"), float)
Shop.price.invalidate(shop, "tea")
assert_type(shop.stock([ID]), dict[UUID, int])
assert_type(shop.change("tea", 1.0), bool)
shop.price(1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
shop.price()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
shop.price(shop, "tea")  # pyright: ignore[reportArgumentType]
Shop.price("tea")  # pyright: ignore[reportCallIssue]
Shop.price.invalidate("tea")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
shop.stock(ID)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
shop.change("tea")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


# What is below a bound method is bound as well.

assert_type(shop.price.key("tea"), str)
assert_type(shop.price.refresh("tea", count=2), float)
assert_type(shop.price.many(["tea"]), list[float])
shop.price.invalidate("tea")
shop.price.store(1.5, "tea")
shop.price.invalidate(shop, "tea")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
shop.price.store("x", "tea")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# Classmethods and staticmethods go outside. (mypy cannot tell them from methods, and takes either way to call one.)


class Made:
    @classmethod
    @cached("made", ignore=("cls",))
    def made(cls, what: str, count: int = 1) -> float:
        return 1.0

    @staticmethod
    @cached("still")
    def still(what: str) -> int:
        return 1

    @property
    @cached("name", ignore=("self",))
    def name(self) -> str:
        return ""


assert_type(Made.made("tea"), float)
assert_type(Made().made("tea", count=2), float)
assert_type(Made.still("tea"), int)
assert_type(Made().still("tea"), int)
assert_type(Made.still.refresh("tea"), int)
assert_type(Made().name, str)
Made.made(b"tea")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
Made.still(b"tea")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
Made().still(b"tea")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


# `@invalidates` and `@cached_many` keep the function's type.


@invalidates("resource:get_by_id:{resource_id}", "search:*", tags=("resource:{resource_id}",), when="both")
def update(resource_id: UUID, *names: str, size: int = 1) -> str:
    return ""


assert_type(update(ID, "a", "b", size=2), str)
update("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
update(ID, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
invalidates("p", when="later")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
invalidates(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@cache.cached_many("resource", operation="get_by_id")
def get_many(ids: list[UUID], deep: bool = False) -> dict[UUID, str]:
    return {}


assert_type(get_many([ID]), dict[UUID, str])
get_many(ID)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
get_many([ID], deep="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@cached_many("p")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def no_dict(ids: list[int]) -> list[int]:
    return ids


# A cache by itself.

assert_type(aikcache.configure("redis://h:1", instance="shop", timeout=1), Cache)
assert_type(aikcache.default_cache(), Cache)
assert_type(cache.config, CacheConfig)
assert_type(cache.stats(), CacheStats)
assert_type(cache.health(), Health)
assert_type(cache.stats().hit_rate, float)
assert_type(cache.key("p", "f", 1, a=2), str)
with Cache() as opened:
    assert_type(opened, Cache)
cache.invalidate("p:f:{x}", x=1)
cache.set("k", [1], ttl=timedelta(1), tags=("t",))
cache.invalidate(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
cache.set(5, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
cache.config.timeout = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
assert_type(cache.deferred(), Deferred)
assert_type(cache.get("k", type=int), int | None)
assert_type(cache.get("k", "", int), int | str)
assert_type(cache.get("k", type=list[int]), list[int] | None)
assert_type(cache.get("k"), Any)
assert_type(cache.get_many(["k"], type=int), dict[str, int])
assert_type(cache.get_or_load("k", lambda: [1], ttl=5, stale_ttl=timedelta(5)), list[int])
cache.get_or_load("k", lambda: 1, stale="5")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
cache.get_or_load("k", lambda: 1, stale_ttl="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# A misspelt setting.

settings: Settings = {"timeout": 1, "policy": "lru"}
assert_type(Cache("redis://h", **settings), Cache)
Cache("redis://h", time_out=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Cache(timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
aikcache.configure(time_out=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Cache.from_env(time_out=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Cache(policy="fifo")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Cache(consistency="strict")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
cache.cached("p", consistency="strict")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
assert_type(cache.get_or_load("k", lambda: [1], consistency="strong"), list[int])
