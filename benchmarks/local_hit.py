"""A local hit takes about as long as one of functools.lru_cache with the C extension, and 3.0 times as long without.

Measured is a call with one string argument that is in the local tier, value included in the entry (a `str`): deadline
and the channel's `trusted_until` are checked and the hit is counted. lru_cache is C and does none of these; the rivals
expire. Then calls with other types, several arguments, keywords and defaults against `lru_cache(typed=True)`, which
tells types apart as we do. What there is without the extension is measured in a process of its own, AIKCACHE_PURE=1.
A mutable value is copied for each caller, which is compared with decoding it each time; `share=True` does neither.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import timeit
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

from aikcache import Cache
from aikcache._compiled import fast
from benchmarks._harness import rivals as _rivals
from benchmarks._harness.measure import Bar, Row, Samples, Settings, absent, timed
from benchmarks._harness.server import record

KEY = "resource-1"
MANY = [f"resource-{i}" for i in range(1000)]
RIVALS: dict[str, tuple[float, float] | None] = {
    "cachetools TTLCache and lock": (7, 18),
    "cachebox TTLCache": (3, 7),
    "dogpile.cache memory": (80, 180),
    "theine Memoize": None,
}
"""How many times faster at least: without the extension, and with it."""
ID = UUID(int=0x12345678123456781234567812345678)
CALLS = {
    "str": ("a: str", "f('k')"),
    "int": ("a: int", "f(7)"),
    "UUID": ("a: UUID", "f(i)"),
    "two arguments": ("a: UUID, b: str", "f(i, 'x')"),
    "a keyword": ("a: str, b: int", "f('k', b=7)"),
    "a default": ("a: str, b: int = 7", "f('k')"),
}
"""By name the parameters of a function, and a call of it."""


def run(settings: Settings) -> list[Row]:
    """Against lru_cache with the extension and without, then against each rival, then what other values cost."""
    rows = _main_rows(settings)
    if fast is not None:
        rows[1:1] = _in_python(settings)
    return rows


def _main_rows(settings: Settings) -> list[Row]:
    with Cache() as cache:
        functions = _contenders(cache, settings)
        installed = {name: f for name, f in functions.items() if f is not None}
        timers = {name: _timer(f) for name, f in installed.items()}
        samples = timed(timers | _method_timers(cache), settings)
        how = "" if fast else ", without the extension"
        rows = [_row("local hit" + how, samples, "aikcache", "functools.lru_cache", Bar(1.1 if fast else 3))]
        rows += _typed_rows(cache, settings, how)
        for rival, bars in RIVALS.items():
            bar = None if bars is None else Bar(bars[fast is not None], least=True)
            if rival in samples:
                rows.append(_row("local hit, times faster", samples, rival, "aikcache", bar, faster=True))
            else:
                rows.append(absent("local hit, times faster", rival, bar))
        bar = Bar(0.35) if fast else None
        rows.append(_row(f"local hit{how}, mutable value", samples, "aikcache, copied", "aikcache, decoded", bar))
        rows.append(_row("local hit, mutable value shared", samples, "aikcache, share=True", "functools.lru_cache"))
        for method in ("method", "method, __cache_key__"):
            rows.append(_row(f"local hit of a {method}", samples, method, "aikcache"))
        rows.append(_many(installed, settings))
        return rows


def _typed_rows(cache: Cache, settings: Settings, how: str) -> Iterator[Row]:
    """Each kind of call, with annotations and without."""
    for hinted in (True, False):
        for name, (parameters, call) in CALLS.items():
            bare = parameters if hinted else parameters.replace(": str", "").replace(": int", "").replace(": UUID", "")
            found: dict[str, Any] = {"UUID": UUID}
            exec(f"def f({bare}):\n    return 'v'", found)
            cached = cache.cached("bench", ttl=300, operation=f"{name} {hinted}".replace(" ", "_"), type=str)(
                found["f"]
            )
            contenders = {
                "aikcache": cached,
                "lru_cache(typed=True)": functools.lru_cache(_rivals.ENTRIES, typed=True)(found["f"]),
            }
            statement = "; ".join([call] * 10)
            timers = {who: timeit.Timer(statement, globals={"f": f, "i": ID}) for who, f in contenders.items()}
            bar = None if not fast else Bar(1.2 if hinted else 1.5)
            question = f"local hit{how}, {name}{'' if hinted else ', no annotation'}"
            yield _row(question, timed(timers, settings), "aikcache", "lru_cache(typed=True)", bar)


def _in_python(settings: Settings) -> list[Row]:
    """The rows against lru_cache of a process without the extension."""
    code = "from benchmarks import local_hit; local_hit.tell()"
    given = json.dumps({"rounds": settings.rounds, "seconds": settings.seconds})
    child = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"AIKCACHE_PURE": "1"}, input=given, text=True, check=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    rows = json.loads(child.stdout)
    return [Row(**row | {"bar": None if row["bar"] is None else Bar(**row["bar"])}) for row in rows]


def tell() -> None:
    """For `_in_python`: those rows, as JSON."""
    rows = [row for row in _main_rows(Settings(**json.load(sys.stdin))) if "without" in row.question]
    json.dump([dataclasses.asdict(row) for row in rows], sys.stdout)


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
        "aikcache, copied": cache.cached("bench", ttl=300, operation="copied")(load),
        "aikcache, decoded": _decoded(cache, cache.cached("bench", ttl=300, operation="decoded")(load)),
        "aikcache, share=True": cache.cached("bench", ttl=300, operation="shared", share=True)(load),
    }


def _decoded(cache: Cache, function: Any) -> Callable[[str], Any]:
    """A function whose value is decoded for each caller, as one that cannot be copied is."""
    function(KEY)
    entry = cache.engine.local.peek(function.key(KEY))
    assert entry is not None
    entry.value = entry.value._replace(decoded=True)
    return function  # type: ignore[no-any-return]


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
