"""The rivals, each decorating one function the way its manual says; `None` where it is not installed.

They are imported by name at run time: `make check` and the benchmarks work without any of them.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

Function = Callable[[str], Any]
ENTRIES, TTL = 10_000, 300


def module(name: str) -> Any:
    """A module, or `None` when it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


def cachetools_ttl(fn: Function) -> Function:
    """cachetools: a TTLCache behind a lock."""
    cachetools = importlib.import_module("cachetools")
    cached: Function = cachetools.cached(cachetools.TTLCache(ENTRIES, TTL), lock=threading.RLock())(fn)
    return cached


def cachebox_ttl(fn: Function) -> Function | None:
    """cachebox: its TTLCache, in Rust."""
    cachebox = module("cachebox")
    if cachebox is None:
        return None
    cached: Function = cachebox.cached(cachebox.TTLCache(ENTRIES, TTL))(fn)
    return cached


def theine_memoize(fn: Function) -> Function | None:
    """theine: its `Memoize`, W-TinyLFU in Rust, with a function for the key, as it recommends."""
    theine = module("theine")
    if theine is None:
        return None
    cached = theine.Memoize(ENTRIES, timedelta(seconds=TTL))(fn)
    cached.key(lambda key: key)
    memoized: Function = cached
    return memoized


def diskcache_memoize(fn: Function, directory: Path) -> tuple[Function, Callable[[], None]] | None:
    """diskcache: `memoize` over a cache in a directory, SQLite, and what closes it."""
    diskcache = module("diskcache")
    if diskcache is None:
        return None
    cache = diskcache.Cache(str(directory))
    return cache.memoize(expire=TTL)(fn), cache.close


def dogpile(fn: Function, backend: str, **arguments: Any) -> Function | None:
    """dogpile.cache over one of its backends."""
    cache = module("dogpile.cache")
    if cache is None:
        return None
    region = cache.make_region().configure(f"dogpile.cache.{backend}", expiration_time=TTL, arguments=arguments)
    cached: Function = region.cache_on_arguments()(fn)
    return cached


def flask_caching_redis(fn: Function, url: str, prefix: str) -> tuple[Function, Callable[[], None]] | None:
    """Flask-Caching's `memoize` over Redis, in an application context, and what leaves the context."""
    flask, flask_caching = module("flask"), module("flask_caching")
    if flask is None or flask_caching is None:
        return None
    app = flask.Flask("benchmark")
    config = {
        "CACHE_TYPE": "RedisCache",
        "CACHE_REDIS_URL": url,
        "CACHE_DEFAULT_TIMEOUT": TTL,
        "CACHE_KEY_PREFIX": prefix,
    }
    cache = flask_caching.Cache(app, config=config)
    context = app.app_context()
    context.push()
    return cache.memoize()(fn), context.pop
