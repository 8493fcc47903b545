"""A local hit takes 2.9 times functools.lru_cache, and beats cachetools 7.2, cachebox 3.0, dogpile 70 times.

Measured is a call with one string argument that is in the local tier, value included in the entry (a `str`): deadline
and the channel's `trusted_until` are checked and the hit is counted. lru_cache is C and does none of these; the rivals
expire. That mutable values are decoded for each caller, unless `share=True`, is shown for information.
"""

from __future__ import annotations

import functools
import timeit
from collections.abc import Callable
from typing import Any

from aikcache import Cache
from benchmarks._harness import rivals as _rivals
from benchmarks._harness.measure import Bar, Row, Samples, Settings, absent, timed
from benchmarks._harness.server import record

KEY = "resource-1"
MANY = [f"resource-{i}" for i in range(1000)]
BARS: dict[str, Bar | None] = {
    "cachetools TTLCache and lock": Bar(7, least=True),
    "cachebox TTLCache": Bar(3, least=True),
    "dogpile.cache memory": Bar(80, least=True),
    "theine Memoize": None,
}


def run(settings: Settings) -> list[Row]:
    """Against each rival, then what other values and more keys cost."""
    with Cache() as cache:
        functions = _contenders(cache, settings)
        installed = {name: f for name, f in functions.items() if f is not None}
        timers = {name: _timer(f) for name, f in installed.items()}
        samples = timed(timers | _method_timers(cache), settings)
        rows = [_row("local hit", samples, "aikcache", "functools.lru_cache", Bar(3))]
        for rival, bar in BARS.items():
            if rival in samples:
                rows.append(_row("local hit, times faster", samples, rival, "aikcache", bar, faster=True))
            else:
                rows.append(absent("local hit, times faster", rival, bar))
        rows.append(_row("local hit, mutable value decoded", samples, "aikcache, decoded", "functools.lru_cache"))
        rows.append(_row("local hit, mutable value shared", samples, "aikcache, share=True", "functools.lru_cache"))
        for method in ("method", "method, __cache_key__"):
            rows.append(_row(f"local hit of a {method}", samples, method, "aikcache"))
        rows.append(_many(installed, settings))
        return rows


def _contenders(cache: Cache, settings: Settings) -> dict[str, Callable[[str], Any] | None]:
    value = record(settings.value_size)

    def text(key: str) -> str:
        return key

    def load(key: str) -> dict[str, Any]:
        return value

    return {
        "functools.lru_cache": functools.lru_cache(maxsize=_rivals.ENTRIES)(text),
        "aikcache": cache.cached("bench", ttl=300)(text),
        "cachetools TTLCache and lock": _rivals.cachetools_ttl(text),
        "cachebox TTLCache": _rivals.cachebox_ttl(text),
        "dogpile.cache memory": _rivals.dogpile(text, "memory"),
        "theine Memoize": _rivals.theine_memoize(text),
        "aikcache, decoded": cache.cached("bench", ttl=300, operation="decoded")(load),
        "aikcache, share=True": cache.cached("bench", ttl=300, operation="shared", share=True)(load),
    }


def _method_timers(cache: Cache) -> dict[str, timeit.Timer]:
    """A method is looked up with each call, as callers do."""

    class Ignored:
        @cache.cached("bench", ttl=300, operation="ignored", ignore=("self",))
        def text(self, key: str) -> str:
            return key

    class Named:
        def __cache_key__(self) -> str:
            return "shop"

        @cache.cached("bench", ttl=300, operation="named")
        def text(self, key: str) -> str:
            return key

    statement = "; ".join(["s.text(k)"] * 10)
    return {
        name: timeit.Timer(statement, globals={"s": shop, "k": KEY})
        for name, shop in (("method", Ignored()), ("method, __cache_key__", Named()))
    }


def _timer(function: Callable[[str], Any]) -> timeit.Timer:
    return timeit.Timer("; ".join(["f(k)"] * 10), globals={"f": function, "k": KEY})


def _many(functions: dict[str, Callable[[str], Any]], settings: Settings) -> Row:
    """The same over a thousand keys as `--distribution` draws them: the memory is touched as in a service."""
    ours, theirs = "aikcache", "functools.lru_cache"
    keys = [MANY[place] for place in settings.draw(len(MANY), len(MANY))]
    timers = {}
    for name in (ours, theirs):
        statement = "for k in keys: f(k)"  # a thousand calls; `timed` takes a statement for ten
        timers[name] = timeit.Timer(statement, globals={"f": functions[name], "keys": keys})
    samples = {name: Samples([s / 100 for s in found.rounds]) for name, found in timed(timers, settings).items()}
    return _row(f"local hit, {len(MANY)} keys, {settings.distribution}", samples, ours, theirs)


def _row(
    question: str, samples: dict[str, Samples], slow: str, fast: str, bar: Bar | None = None, *, faster: bool = False
) -> Row:
    """`slow` over `fast`; `faster`: ours is the fast one."""
    ours, rival = (fast, slow) if faster else (slow, fast)
    return Row(
        question=question,
        figure=str(samples[ours]),
        rival=f"{rival}: {samples[rival]}",
        measured=samples[slow].over(samples[fast]),
        bar=bar,
    )
