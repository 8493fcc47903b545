"""What flows per second, from snapshots that come when they come."""

from __future__ import annotations

import pytest

from aikcache._engine.fleet import Member
from aikcache._engine.reading import Reading
from aikcache.cli.rates import Flow, Rates


def member(id: str, uptime: float, hits: float, misses: float = 0) -> Member:
    samples: dict[str, dict[tuple[str, ...], float]] = {
        "uptime_seconds": {(): uptime},
        "hits": {("p:f", "local"): hits},
        "misses": {("p:f",): misses},
        "loads": {("p:f", "ok"): misses, ("p:f", "error"): 7.0},
        "errors": {("p:f", "RemoteTimeoutError"): 0.0},
        "bytes_written": {("p:f",): misses * 100},
    }
    return Member(id, "h", 1, 0.0, True, Reading(samples))


def test_the_first_view_shows_averages_and_later_views_the_latest_interval() -> None:
    """A snapshot that has not been replaced yet keeps its rate."""
    rates = Rates()
    assert rates.take([member("a", 10, 100, 20)]) == {
        "p:f": Flow(local=10, misses=2, loads=2, written=200),
    }
    after = [member("a", 12, 140, 30)]
    assert rates.take(after)["p:f"] == rates.take(after)["p:f"] == Flow(local=20, misses=5, loads=5, written=500)


def test_rates_of_processes_are_added_and_exited_processes_have_none() -> None:
    """Each by its own clock."""
    rates = Rates()
    rates.take([member("a", 10, 100), member("b", 1000, 500)])
    both = rates.take([member("a", 20, 300), member("b", 1060, 1100)])
    assert both["p:f"].local == pytest.approx(20 + 10)
    assert rates.take([member("b", 1060, 1100)])["p:f"].local == pytest.approx(10)
    assert rates.take([]) == {}


def test_no_rate_is_negative() -> None:
    """A process that began to count anew, or for no time at all, gives no negative and no endless rate."""
    rates = Rates()
    rates.take([member("a", 10, 100)])
    assert rates.take([member("a", 11, 40)])["p:f"].local == 0
    assert Rates().take([member("a", 0, 40)]) == {}


def test_there_is_no_hit_rate_without_calls() -> None:
    """None is not 0."""
    assert Flow().hit_rate is None
    assert Flow(local=3, misses=1).hit_rate == 0.75
    assert Flow(misses=1).hit_rate == 0
