"""How round trips are counted: the fast path's, reported by their seconds alone, like any other; what threads count."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import aikcache
from aikcache._engine.events import RoundTrip
from aikcache._engine.tally import BOUNDS, MAX_RECENT, Tally


def test_reads_are_counted_as_other_round_trips_are() -> None:
    """In the same buckets, also at and beyond their bounds, by command and by operation."""
    seconds = [20.0, 0.0, *reversed(BOUNDS), 0.00011, 0.00011, 9.9]
    alone, detailed = Tally(), Tally()
    alone.reads("shop:price", seconds)
    detailed.round_trips([RoundTrip("get", "shop:price", one, None) for one in seconds])
    for found, expected in (
        (alone.commands["get"], detailed.commands["get"]),
        (alone.latencies["shop:price"], detailed.latencies["shop:price"]),
    ):
        assert found.counts == expected.counts
        assert found.total == pytest.approx(expected.total)


def test_the_latest_callbacks_are_kept() -> None:
    """As many as it may take long to pass on, and each once."""
    tally = Tally()
    recent = tally.follow()
    for number in range(100):
        tally.reads("shop:price", [float(number)] * 256)
    kept = [one for operation, seconds in recent.reads() for one in seconds if operation == "shop:price"]
    assert MAX_RECENT - 256 < len(kept) <= MAX_RECENT
    assert kept[-1] == 99.0
    assert list(recent.reads()) == []


def test_nothing_is_called_between_the_reading_of_a_counter_and_its_writing() -> None:
    """There the interpreter may switch threads, whose counts would be lost: a sum is worked out before it is added."""
    package, found = Path(aikcache.__file__).parent, []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.AugAssign):
                continue
            counter = ast.unparse(node.target)
            if ".counters." in f".{counter}" or counter.startswith("self.invalidations["):
                called = any(isinstance(part, ast.Call | ast.Yield | ast.YieldFrom) for part in ast.walk(node.value))
                found.append((called, f"{path.relative_to(package)}:{node.lineno} {counter}"))
    assert len(found) > 20
    assert [where for called, where in found if called] == []
