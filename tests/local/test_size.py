"""What a value takes in memory, as it is counted and as it is."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from aikcache import Cache
from aikcache._local.size import MOST, held_bytes

FACTOR = 1.5
"""Stated in the reference, and in `_local/size`."""


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Point:
    x: int
    name: str
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Slotted:
    x: int
    name: str
    colour: Colour


class Named(NamedTuple):
    x: int
    name: str


VALUES: dict[str, Callable[[int], Any]] = {
    "short strings": lambda n: f"value {n}",
    "long strings": lambda n: f"{n}" * 1000,
    "wide strings": lambda n: f"{n}\N{GREEK SMALL LETTER ALPHA}" * 300,
    "bytes": lambda n: b"%d" % n * 500,
    "big ints": lambda n: 10**600 + n,
    "small ints": lambda n: n + 1000,
    "none": lambda n: None,
    "tuples of short strings": lambda n: tuple(f"{n}-{i}" for i in range(50)),
    "a long tuple of short strings": lambda n: tuple(f"{n}-{i}" for i in range(1000)),
    "tuples of tuples": lambda n: tuple((n * 1000 + i, f"{n}-{i}", float(n * i)) for i in range(300)),
    "frozen sets": lambda n: frozenset(f"{n}-{i}" for i in range(50)),
    "one string many times": lambda n: (f"only {n}",) * 400,
    "frozen dataclasses": lambda n: Point(n + 1000, f"name {n}", tuple(f"{n}-{i}" for i in range(5))),
    "slotted dataclasses": lambda n: tuple(Slotted(n * 1000 + i, f"name {n} {i}", Colour.RED) for i in range(20)),
    "named tuples": lambda n: tuple(Named(n * 1000 + i, f"name {n} {i}") for i in range(20)),
    "identifiers and times": lambda n: (UUID(int=n), datetime(2024, 1, 1, second=n % 60, tzinfo=UTC), Decimal(n)),
    "dicts": lambda n: {f"field {n}-{i}": n * i for i in range(20)},
    "lists, packed": lambda n: [f"{n}-{i}" for i in range(50)],
    "dicts, packed": lambda n: {f"field {i}": n * i for i in range(20)},
    "records, packed": lambda n: {"rows": [{"id": n * 1000 + i, "name": f"{n}-{i}", "at": (n, [i])} for i in range(9)]},
}


def grown(fill: Callable[[], object]) -> int:
    """Bytes that stay allocated of what `fill` does."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = fill()
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        del kept
    finally:
        tracemalloc.stop()
    return after - before


@pytest.mark.parametrize("what", [name for name in VALUES if "packed" not in name])
def test_what_is_counted_is_what_is_taken(what: str) -> None:
    """The count of a value's bytes is within the stated factor of the memory that many such values take."""
    make, count = VALUES[what], 20 if "long tuple" in what else 200
    kept: list[Any] = [None] * count

    def fill() -> None:
        for n in range(count):
            kept[n] = make(n)

    taken = grown(fill)
    counted = sum(map(held_bytes, kept))
    assert taken / FACTOR - 500 <= counted <= taken * FACTOR + 500


@pytest.mark.parametrize(
    ("what", "tagged", "hit"),
    [
        *((what, False, hit) for what in VALUES for hit in (False, True) if "packed" in what or not hit),
        ("none", True, False),
        ("frozen dataclasses", True, False),
    ],
)
def test_the_local_tier_takes_what_local_max_bytes_says(what: str, tagged: bool, hit: bool) -> None:
    """A local tier that is full takes its bound, within the stated factor, keys, entries and what copies are made of
    included.
    """
    make, bound = VALUES[what], 300_000
    with Cache(local_max_entries=100_000, local_max_bytes=bound, metrics=None) as cache:
        # The names are made as the values are: what the arguments take is held, too.
        if tagged:

            @cache.cached("size", tags=("n:{n}", "all"), share="packed" not in what)
            def get(n: str) -> Any:
                return make(int(n))
        else:

            @cache.cached("size", operation="get", share="packed" not in what)
            def get(n: str) -> Any:
                return make(int(n))

        for n in range(3):
            get(f"{n:040}")
        cache.clear()

        def fill() -> None:
            n, local = 100, cache.engine.local
            # What has been evicted is remembered for a while, which takes memory as well: so until that is full, too.
            while local.evictions < max(50, 3 * get.cache_info().currsize) and n < 20_000:
                n += 1
                for _ in range(1 + hit):
                    get(f"{n:040}")
            assert n < 20_000

        taken = grown(fill)
        assert bound / FACTOR <= taken <= bound * FACTOR


def test_a_count_ends_soon() -> None:
    """However large and deep a value is, some ten thousand of its objects are looked at, and cycles are none."""
    loop: list[Any] = []
    loop.append(loop)
    assert 0 < held_bytes(loop) < 200
    deep: Any = ()
    for _ in range(MOST * 3):
        deep = (deep,)
    assert held_bytes(deep) >= MOST * 48
    huge = [[list(range(1000, 1100)) for _ in range(100)] for _ in range(100)]
    assert held_bytes(huge) > 10_000 * 800 / FACTOR


def test_no_code_of_a_class_runs() -> None:
    """What a class says of itself is not asked."""

    class Unsizable:
        def __init__(self) -> None:
            self.name = "x" * 1000

        def __sizeof__(self) -> int:
            raise RuntimeError

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError

        def __hash__(self) -> int:
            raise RuntimeError

        @property
        def __class__(self) -> Any:
            return dict

        @__class__.setter
        def __class__(self, _: Any) -> None:
            raise RuntimeError

    assert 1000 < held_bytes(Unsizable()) < 2000
