"""Exceptions that a signal handler raises in the middle of the cache's own work, with a server behind it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from typing import Any

import hiredis
import pytest

from aikcache import Cache
from aikcache._remote.store import RedisStore
from aikcache.testing import wait_until
from tests._interrupted import PATIENCE, Used
from tests._interrupts import Late, Limit, Stop, Storm, interrupt

KINDS = (Stop, Limit, Late)
COUNT = int(os.environ.get("AIKCACHE_INTERRUPTS", "300"))


@pytest.fixture
def used(redis_url: str, instance: str) -> Iterator[Used]:
    with Cache(redis_url, instance=instance, lease_wait=5, timeout=5.0, connect_timeout=5.0) as cache:
        used = Used(cache)
        assert cache.wait_coherent(PATIENCE)
        used.warm()
        yield used


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_at_every_point_reaches_the_caller_and_leaves_nothing(
    used: Used, kind: type[BaseException]
) -> None:
    """Wherever a call is interrupted, its caller sees the exception, and other threads go on."""
    swallowed = []
    for name, work in used.works().items():
        point = 1 + KINDS.index(kind)
        while (found := interrupt(point, work, kind))[0]:
            if found[1] is None:
                swallowed.append(f"{name} {point}")
            point += 7  # each path is taken many times, and each kind begins elsewhere
    used.check()
    assert swallowed == []


def test_interrupts_at_random_points(used: Used) -> None:
    """Interrupted by a timer, with other threads about: all exceptions are seen, and nothing is left behind."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    storm = Storm(seed, 1e-3)
    began = time.monotonic()
    with used.others():
        storm.run(used.works(), KINDS, COUNT)
    used.check()
    print(f"{storm.raised} in {time.monotonic() - began:.1f} s")
    assert storm.swallowed == []


def test_no_command_has_a_number_in_it(used: Used, monkeypatch: pytest.MonkeyPatch) -> None:
    """hiredis makes text of an int by a call into Python, and does not survive an exception that is raised there."""
    seen: set[type] = set()
    original = hiredis.pack_command

    def pack_command(command: tuple[Any, ...]) -> bytes:
        seen.update(map(type, command))
        packed: bytes = original(command)
        return packed

    monkeypatch.setattr(hiredis, "pack_command", pack_command)
    for work in used.works().values():
        work()
    assert seen == {str, bytes}


def test_a_value_whose_put_is_interrupted_is_left_nowhere(
    redis_url: str, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its old value is removed from Redis with the lease; copies of it must not stay in any process."""
    with Cache(redis_url, instance=instance) as here, Cache(redis_url, instance=instance) as there:
        for cache in (here, there):
            assert cache.get("thing:get:other") is None
            assert cache.wait_coherent(PATIENCE)
        here.set("thing:get:box", "old")
        assert here.get("thing:get:box") == there.get("thing:get:box") == "old"
        limits: list[BaseException] = [Stop()]
        take = RedisStore.take

        def taken(self: RedisStore, *given: Any, **named: Any) -> None:
            take(self, *given, **named)
            if limits:
                raise limits.pop()

        monkeypatch.setattr(RedisStore, "take", taken)
        with pytest.raises(Stop):
            here.set("thing:get:box", "new")
        assert here.get("thing:get:box") is None
        wait_until(lambda: there.get("thing:get:box") is None, PATIENCE, "the push")
