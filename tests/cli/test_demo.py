"""`aikcache demo`: its figures add up, and its report says what they mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from aikcache.cli.demo import Row, percentile, report
from aikcache.cli.output import console

pytestmark = pytest.mark.servers


def test_the_counts_of_the_demo_add_up(run: Callable[..., Result], redis_url: str) -> None:
    """Two processes on a server: each call is local, remote or a miss, and none is older than its process's writes."""
    done = run("demo", "--url", redis_url, "--processes", "2", "--calls", "100", "--json")
    figures = json.loads(done.stdout)
    assert (done.exit_code, figures["calls_add_up"], figures["older_than_own_write"]) == (0, True, 0)
    for row in figures["operations"]:
        changes = 2 * 5 if row["name"] == "product:get" else 0
        assert row["calls"] == row["local"] + row["remote"] + row["misses"] == 200 + changes


def test_without_a_server_the_demo_prints_one_line(run: Callable[..., Result]) -> None:
    """A demo that could not share anything shows nothing."""
    said = run("demo", "--url", "redis://127.0.0.1:1", "--processes", "1", "--calls", "100")
    assert (said.exit_code, "Nothing listens" in said.stderr) == (1, True)


def test_the_report_explains_itself_and_says_what_is_worse() -> None:
    """A p99 that is worse, calls that do not add up, and reads that are too old are said."""
    good: dict[str, Any] = {"calls": 10, "local": 7, "remote": 2, "misses": 1, "bare": (0.004, 0.009)}
    rows = [Row("a:f", **good, cached=(1e-6, 0.001))]
    text = shown(report(rows, 0))
    assert "calls = local + remote + misses" in text
    assert text.count("✓") == 3
    bad = shown(report([*rows, Row("a:g", **{**good, "calls": 11}, cached=(1e-6, 0.010))], 1))
    assert bad.count("✗") == 3
    assert "p99 is worse with the cache: a:g" in bad


def test_percentiles_are_values_that_were_measured() -> None:
    """The least that the part does not exceed."""
    assert [percentile([3.0, 1.0, 2.0], part) for part in (0.0, 0.5, 0.99)] == [1, 2, 3]


def shown(view: Any) -> str:
    made = console()
    with made.capture() as captured:
        made.print(view)
    return captured.get()
