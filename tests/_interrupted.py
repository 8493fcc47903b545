"""A cache used from all sides, to be interrupted, and what must hold of it afterwards."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis

from aikcache import Cache
from aikcache._settings.secret import hidden
from aikcache.testing import wait_until

from ._interrupts import in_threads

PATIENCE = 60.0


class Used:
    """Every kind of call, on one cache."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.version = 0
        self._numbers = itertools.count(1)
        cached, tagged = cache.cached("thing"), cache.cached("thing", tags=("t:{x}",))

        @cached
        def plain(x: int) -> int:
            return x

        @tagged
        def mutable(x: int) -> list[int]:
            return [x, self.version]

        @cached
        def shared(x: int) -> int:
            time.sleep(0.0005)  # long enough to be waited for
            return x

        @cache.cached("late", tags=lambda result, x: [f"r:{x}"])
        def late(x: int) -> dict[str, int]:
            return {"x": x}

        @cache.cached_many("thing")
        def batch(ids: list[int]) -> dict[int, str]:
            return {i: str(i) for i in ids}

        @cache.invalidates("thing:plain", tags=("t:{x}",))
        def change(x: int) -> None:
            self.version += 1

        self.plain, self.mutable, self.remote_tier, self.late, self.batch, self.change = (
            plain, mutable, shared, late, batch, change,
        )  # fmt: skip

    def works(self) -> dict[str, Callable[[], object]]:
        """By name; each can be done again and again."""
        cache, number = self.cache, self._numbers.__next__
        self.plain(0)

        def deferred() -> None:
            with cache.deferred():
                self.change(1)
                cache.invalidate("thing:plain")

        def hundred() -> list[int]:
            first = 100 * number()
            return self.plain.many(range(first, first + 3))

        return {
            "hit": lambda: self.plain(0),
            "miss": lambda: self.plain(number()),
            "mutable": lambda: self.mutable(number() % 10),
            "late": lambda: self.late(number()),
            "many": hundred,
            "batch": lambda: self.batch(list(range(4))),
            "shared": lambda: self.remote_tier(1),
            "invalidate": lambda: self.mutable.invalidate(number() % 10),
            "tags": lambda: cache.invalidate_tags("t:1", "r:2"),
            "group": lambda: cache.invalidate("thing:shared", "thing:batch"),
            "change": lambda: self.change(1),
            "deferred": deferred,
            "store": lambda: self.mutable.store([0], number() % 10),
            "refresh": lambda: self.mutable.refresh(number() % 10),
            "set": lambda: cache.set(f"thing:free:{number() % 10}", {"a": 1}),
            "get": lambda: cache.get("thing:free:1"),
            "get_or_load": lambda: cache.get_or_load(f"thing:other:{number()}", lambda: (1, 2)),
        }

    def warm(self) -> None:
        """What is imported with a first call is there: an import that is interrupted leaves a file to the collector."""
        for work in self.works().values():
            work()

    @contextmanager
    def others(self, count: int = 2) -> Iterator[None]:
        """While other threads use the same: what is loading here is waited for, and the other way round."""
        stop = False

        def use() -> None:
            while not stop:
                self.remote_tier(1)
                self.cache.invalidate("thing:shared")

        threads = [threading.Thread(target=use, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop = True
            for thread in threads:
                thread.join(PATIENCE)
            assert not any(thread.is_alive() for thread in threads), "a thread hangs"

    def check(self) -> None:
        """Other threads work, see what has changed, and nothing is left of what was interrupted."""
        engine = self.cache.engine
        assert not engine.guard.held()
        assert engine.flights.loading == set()

        def use() -> None:
            for work in self.works().values():
                work()
            for x in range(10):
                self.mutable(x)
                self.change(x)
                assert self.mutable(x) == [x, self.version]

        in_threads(use, seconds=PATIENCE)
        use()
        assert engine.flights.loading == set()
        assert all(flight.over() for flight in engine.flights.flying.copy().values())
        if engine.remote_tier is not None:
            leases = engine.remote_tier.leases
            assert leases.held == {}
            wait_until(lambda: not leases._lost, PATIENCE, "the return of leases")
            self._check_server()

    def _check_server(self) -> None:
        """No lease is left in Redis, and no connection that is not kept."""
        url = self.cache.config.url
        assert url is not None
        with redis.Redis.from_url(hidden(url).reveal()) as client:
            wait_until(lambda: client.keys("*!lease:*") == [], PATIENCE, "the end of leases")
            kept = self.cache.engine.remote.connections._idle  # type: ignore[union-attr]

            def connected() -> int:
                gc.collect()  # an exception that is part of a cycle holds the frames it came through
                return sum(found["name"] == "aikcache" for found in client.client_list())

            wait_until(lambda: connected() == len(kept), PATIENCE, "the end of connections")
