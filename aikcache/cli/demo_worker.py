"""One process of `aikcache demo`: a shop over a database, asked first without the cache and then with it.

    python -m aikcache.cli.demo_worker URL DATABASE CALLS SEED

It prints its progress and its figures as lines of JSON. The database is a real one (SQLite, shared by all processes);
each query waits a few milliseconds more, as one over a network would.
"""

from __future__ import annotations

import json
import random
import sqlite3
import sys
import time
from collections.abc import Callable
from typing import Any

from aikcache._cache import Cache
from aikcache._engine.stats import OperationStats

INSTANCE = "aikcache-demo"
PRODUCTS, GROUPS = 30, 6
BARE_CALLS = 60
"""Calls of each operation without the cache: they take long."""
WRITES = 5
"""Prices that each process changes."""
STEP = 250
DELAYS = {"product": 0.004, "listing": 0.008, "total": 0.012}
"""Seconds for which each query waits."""

SCHEMA = "create table product (id integer primary key, family integer, price integer, version integer)"


def make_database(path: str) -> None:
    """The shop's data."""
    with sqlite3.connect(path) as database:
        database.execute("pragma journal_mode = wal")
        database.execute(SCHEMA)
        rows = [(id, id % GROUPS, 100 + id, 0) for id in range(PRODUCTS)]
        database.executemany("insert into product values (?, ?, ?, ?)", rows)


class Shop:
    """The application: three queries, and a write that invalidates what it changes."""

    def __init__(self, url: str, path: str) -> None:
        self.database = sqlite3.connect(path, timeout=60, isolation_level=None)
        self.cache = cache = Cache(url, instance=INSTANCE, publish_interval=None, metrics=None)
        ask = self._ask

        @cache.cached("product", operation="get", ttl=600, tags=("product:{product}",))
        def product(product: int) -> list[int]:
            return list(ask("product", "select price, version from product where id = ?", product)[0])

        @cache.cached("product", operation="list", ttl=600, tags=("family:{family}",))
        def listing(family: int) -> list[list[int]]:
            return [list(row) for row in ask("listing", "select id, price from product where family = ?", family)]

        @cache.cached("report", operation="total", ttl=600)
        def total(family: int) -> int:
            return int(ask("total", "select sum(price) from product where family = ?", family)[0][0])

        @cache.invalidates("report:total", tags=("product:{product}", "family:{family}"))
        def reprice(product: int, family: int) -> int:
            change = "update product set price = price + 1, version = version + 1 where id = ? returning version"
            return int(self.database.execute(change, (product,)).fetchone()[0])

        self.queries: dict[str, tuple[Any, int]] = {
            "product:get": (product, PRODUCTS), "product:list": (listing, GROUPS), "report:total": (total, GROUPS),
        }  # fmt: skip
        self.product, self.reprice = product, reprice

    def _ask(self, name: str, query: str, argument: int) -> list[Any]:
        time.sleep(DELAYS[name])
        return self.database.execute(query, (argument,)).fetchall()


def work(url: str, path: str, calls: int, seed: int, say: Callable[[Any], object]) -> None:
    """Make the calls, and print the figures. `calls`: of each operation, with the cache."""
    shop, chance = Shop(url, path), random.Random(seed)
    bare = {name: [_timed(query.bypass, chance.randrange(most)) for _ in range(BARE_CALLS)]
            for name, (query, most) in shop.queries.items()}  # fmt: skip
    say({"done": 0})
    cached: dict[str, list[int]] = {name: [] for name in shop.queries}
    calls_of = dict.fromkeys(shop.queries, calls)
    older = 0
    for done in range(1, calls + 1):
        for name, (query, most) in shop.queries.items():
            argument = min(int(chance.expovariate(4 / most)), most - 1)
            cached[name].append(_timed(query, argument))
        if done % max(calls // WRITES, 1) == 0:
            product = chance.randrange(PRODUCTS)
            version = shop.reprice(product, product % GROUPS)
            older += shop.product(product)[1] < version
            calls_of["product:get"] += 1
        if done % STEP == 0 or done == calls:
            say({"done": STEP if done % STEP == 0 else done % STEP})
    stats = shop.cache.stats().operations
    operations = {
        name: {"calls": calls, **_counted(stats[name]), "bare": bare[name], "cached": cached[name]}
        for name, calls in calls_of.items()
    }
    say({"older": older, "operations": operations})
    shop.cache.close()


def _counted(counts: OperationStats) -> dict[str, int]:
    return {"local": counts.local_hits, "remote": counts.remote_hits, "joined": counts.joined, "misses": counts.misses}


def _timed(query: Callable[[int], object], argument: int) -> int:
    """Nanoseconds."""
    started_at = time.perf_counter_ns()
    query(argument)
    return time.perf_counter_ns() - started_at


if __name__ == "__main__":
    _, url, path, calls, seed = sys.argv
    try:
        work(url, path, int(calls), int(seed), lambda line: print(json.dumps(line), flush=True))
    except KeyboardInterrupt:
        sys.exit(130)
