"""How deep a cached function may call itself under the usual limit of 1000 frames, and lru_cache's."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable

from aikcache import Cache
from benchmarks._harness.measure import Bar, Row, Settings

LIMIT = 1000


def run(settings: Settings) -> list[Row]:
    """Nothing is cached at first, so each level is a call that runs the function."""
    with Cache() as cache:
        ours = _depth(lambda f: cache.cached("deep")(f))
    theirs = _depth(functools.lru_cache(maxsize=None))
    return [
        Row(
            question=f"depth of a recursion, of {LIMIT} frames", figure=str(ours),
            rival=f"functools.lru_cache: {theirs}", measured=ours, unit=" deep", bar=Bar(250, " deep", least=True),
        )
    ]  # fmt: skip


def _depth(decorate: Callable[[Callable[[int], int]], Callable[[int], int]]) -> int:
    """How deep it gets in a thread of its own, whose stack is empty."""
    deepest = 0

    def down(level: int) -> int:
        nonlocal deepest
        deepest = max(deepest, level)
        return cached(level + 1)

    def work() -> None:
        with contextlib.suppress(RecursionError):
            cached(1)

    cached, limit = decorate(down), sys.getrecursionlimit()
    sys.setrecursionlimit(LIMIT)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        sys.setrecursionlimit(limit)
    return deepest
