"""The page of figures shows what the benchmarks have written, release by release."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

import aikcache
from benchmarks._harness import report
from benchmarks._harness.measure import ROOT, Bar, Plot, Row

DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

import figures  # noqa: E402
import site_pages  # noqa: E402

SLOW = Row(question="load", figure="2 ms", rival="bare: 1 ms", measured=2.0, bar=Bar(1.5))
PLOT = Plot(name="latency", title="Latency | by tier", x="share", y="µs", lines={"hit": [(0.5, 1.0), (0.99, 2.0)]})


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two releases. The older one did not ask all questions, and its number is the longer text."""
    new = [
        SLOW,
        replace(SLOW, rival="by hand: 4 ms", measured=0.5),
        Row(question="hit", figure="40 ns", measured=1.04, bar=Bar(1.1)),
        Row(question="size", figure="3 kB"),
    ]
    (tmp_path / "1.10.0.json").write_text(report.as_json(new, [PLOT]), encoding="utf-8")
    old = [replace(SLOW, rival="bare: 0.7 ms", measured=3.0)]
    (tmp_path / "1.9.12.json").write_text(report.as_json(old), encoding="utf-8")
    return tmp_path


def test_every_row_has_its_bar_its_verdict_and_its_history(results: Path) -> None:
    """The newest release's rows, with the ratio of each release, and what is missed is said first."""
    page = figures.figures(results)
    assert page.startswith("1 bars missed, 2 bars reached.")
    assert "| question | figure | compared with | 1.10.0 | 1.9.12 | bar |  |" in page
    assert "| load | 2 ms | bare: 1 ms | 2× | 3× | ≤\u00a01.5× | **missed** |" in page
    assert "| load | 2 ms | by hand: 4 ms | 0.5× |  | ≤\u00a01.5× | reached |" in page
    assert "| hit | 40 ns |  | 1.04× |  | ≤\u00a01.1× | reached |" in page
    assert "| size | 3 kB |  |  |  |  |  |" in page
    assert "![Latency | by tier](../benchmarks/results/latency.svg)" in page


def test_the_site_has_the_figures_of_this_release() -> None:
    """The newest file is this version's, it says where its figures come from, and each plot is drawn."""
    history = figures.releases()
    version, newest = next(iter(history.items()))
    assert version == aikcache.__version__
    for run in history.values():
        assert {"machine", "load", "python", "commit", "command", "rows", "plots"} == set(run)
        assert all(set(row) == {*Row.__dataclass_fields__, "verdict"} for row in run["rows"])
    plots = sorted(plot["name"] for plot in newest["plots"])
    assert plots == sorted(file.stem for file in figures.RESULTS.glob("*.svg"))
    page = site_pages.expand((DOCS / "figures.md").read_text(encoding="utf-8"), "figures")
    assert [row["question"] for row in newest["rows"] if f"| {row['question']} |" not in page] == []
