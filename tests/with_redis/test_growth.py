"""What a process holds after many keys: whatever is kept per key, tag or name has a bound.

`AIKCACHE_GROWTH_KEYS=100000` is a run of a minute or two; fewer, as by default, are beyond every bound as well.
"""

from __future__ import annotations

import gc
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

from aikcache import Cache
from aikcache.testing import wait_until

MANY = int(os.environ.get("AIKCACHE_GROWTH_KEYS", "16000"))
BATCH = 2_000
BOUND = 12_000
"""Above every bound that these settings have, and far below MANY."""


def containers(root: object) -> Iterator[Any]:
    """Every dict, list, set and deque that is reachable, but for what belongs to classes, modules and functions."""
    seen: set[int] = set()
    todo = [root]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, (type, ModuleType, FunctionType)):
            continue
        seen.add(id(thing))
        if isinstance(thing, (dict, list, set, frozenset, deque, tuple)):
            yield thing
        todo += gc.get_referents(thing)


def largest(cache: Cache) -> int:
    return max(map(len, containers([cache.engine, cache._registry, cache._policy])))


def test_nothing_grows_with_the_number_of_keys(
    redis_url: str, instance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls, tags, keys by hand and invalidations of ever new names leave no container of more than its bound."""
    monkeypatch.setattr("aikcache._remote.stamps.MAX_STAMPS", 5000)  # 100 000 would hide that others have no bound
    with Cache(
        redis_url,
        instance=instance,
        local_max_entries=1000,
        max_pending_invalidations=1000,
        journal=str(tmp_path / "journal"),
        timeout=30,
        connect_timeout=30,
    ) as cache:

        @cache.cached("grow", tags=("n:{n}", "half:{n}"), stale_ttl=60)
        def get(n: int) -> str:
            return f"{n}"

        def use(numbers: range) -> None:
            assert get.many(numbers) == [f"{n}" for n in numbers]
            cache.set_many({f"hand:by{n}:{n}": n for n in numbers}, tags=("hand",))
            cache.get_many([f"hand:by{n}:{n}" for n in numbers])
            cache.invalidate_key(*(f"hand:by{n}:{n}" for n in numbers))
            cache.invalidate_tags(*(f"n:{n}" for n in numbers))
            cache.invalidate(*(f"grow{n}:f" for n in numbers[:10]))
            for n in numbers[:10]:
                get(n)
                get.refresh(n)

        for begin in range(0, MANY, BATCH):
            use(range(begin, begin + BATCH))
        assert largest(cache) <= BOUND
        assert len(cache.stats().operations) < 150
        assert len(cache.engine.flights) == 0
        wait_until(lambda: cache.stats().pending_invalidations == 0, what="the invalidations to be sent")
