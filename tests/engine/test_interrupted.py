"""Exceptions that a signal handler raises in the middle of the cache's own work, without a server.

At every point, one after the other: whatever was interrupted says so to its caller, and leaves nothing behind that
another thread could wait for. And at random, by a timer, from all sides (`AIKCACHE_INTERRUPTS` says how often).
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from aikcache import Cache

from .._interrupted import Used
from .._interrupts import Late, Limit, Stop, Storm, interrupt

KINDS = (Stop, Limit, Late)
COUNT = int(os.environ.get("AIKCACHE_INTERRUPTS", "300"))
STEP = 6 if COUNT <= 300 else 2
"""Each second point meets one of the kinds; all of them in long runs by hand."""


@pytest.fixture
def used() -> Iterator[Used]:
    with Cache(lease_wait=5) as cache:
        used = Used(cache)
        used.warm()
        yield used


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_at_every_point_reaches_the_caller_and_leaves_nothing(
    used: Used, kind: type[BaseException]
) -> None:
    """Wherever a call is interrupted, its caller sees the exception, and other threads continue."""
    swallowed = []
    for name, work in used.works().items():
        for point in range(1 + 2 * KINDS.index(kind), 5000, STEP):
            reached, error = interrupt(point, work, kind)
            if not reached:
                break
            if error is None:
                swallowed.append(f"{name} {point}")
            assert used.cache.engine.flights.loading == set(), (name, point)
            assert all(flight.over() for flight in used.cache.engine.flights.flying.values()), (name, point)
        else:
            pytest.fail(f"{name} does not end")
        used.check()
    assert swallowed == []


def test_interrupts_at_random_points(used: Used) -> None:
    """Interrupted by a timer, with other threads about: all exceptions are seen, and no thread hangs."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    storm = Storm(seed, 100e-6)
    works = used.works()
    with used.others():
        storm.run(works, KINDS, COUNT)
    used.check()
    assert storm.swallowed == []


def test_a_decorator_that_is_interrupted_leaves_its_region_whole() -> None:
    """Wherever the making of a function and of its region is interrupted: what names them still works."""
    for point in range(1, 5000):
        with Cache(instance="first", metrics=None) as cache:

            def decorate(cache: Cache = cache) -> None:
                cache.cached("thing", operation="first")(lambda n: n)(1)

            reached, _ = interrupt(point, decorate, Stop)
            cache.invalidate("thing:first", "thing")
            assert cache.get_or_load("thing:first:1", lambda: 1) == 1
            if not reached:
                return
    pytest.fail("it does not end")
