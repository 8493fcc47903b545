"""Attacks cost their victim, a process of its own, little of the processor's time, and 64 MiB beyond what was sent."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest

from aikcache.testing import Server

from . import _attacks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there a process knows how much memory it had")


@pytest.fixture(scope="module")
def server(servers: dict[str, Path]) -> Iterator[Server]:
    """Either kind: what is measured is the client."""
    if not servers:
        pytest.skip("no server is installed")
    with Server(binary=next(iter(servers.values()))) as server:
        yield server


LOOPS = 40
"""Of a million steps each. Where that takes 55 ms the worst attack takes 0.8 to 1.3 s; machines differ."""


def loop() -> float:
    """Seconds of processor for a million steps."""
    began = time.thread_time()
    sum(i * i for i in range(1_000_000))
    return time.thread_time() - began


@pytest.mark.parametrize("name", _attacks.CASES)
def test_an_attack_does_not_work_and_costs_little(name: str, server: Server) -> None:
    """What was attacked gives right answers, shows no secret, and has not been held up."""
    least = inf
    for _ in range(3):  # the least counts: sharing a processor with others makes the same work take more of it
        cost = _attacks.attack(name, server.url)
        assert cost.outcome == _attacks.SAFE
        assert cost.mib <= 64 + cost.payload
        least = min(least, cost.cpu)
        if least <= LOOPS * loop():
            return
    pytest.fail(f"it took {least:.1f} seconds of processor, a million steps of a loop {loop():.3f}")
