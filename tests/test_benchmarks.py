"""What is logic in the benchmarks: their command line, plots, progress, and the model of a cluster."""

from __future__ import annotations

import dataclasses
import importlib
import io
import math
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as command
from benchmarks._cluster_model import Costs, Deployment, demand
from benchmarks._harness.measure import ROOT, Plot, Settings
from benchmarks._harness.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, number, svg
from benchmarks._harness.progress import Progress

SVG = "{http://www.w3.org/2000/svg}"
COSTS = Costs(
    push=10e-6, push_each=3e-6, push_bytes=100, receive=20e-6, beat=5e-6, beat_bytes=900, view_bytes_each=300,
    channel=2000, connection=17_000, stamp=140, stamp_here=160,
)  # fmt: skip
THOUSAND = Deployment(
    processes=1000, primaries=3, nodes=6, threads=8, keys=30, tags=60, stamps=300_000, stamps_used=1000
)


@pytest.mark.parametrize("name", command.QUESTIONS)
def test_every_question_can_be_asked_and_is_explained(name: str) -> None:
    """Each question is a module with an answer in its docstring's first line, and is in the README."""
    module = importlib.import_module(f"benchmarks.{name}")
    assert callable(module.run)
    assert (module.__doc__ or "").splitlines()[0].endswith(".")
    assert f"`{name}.py`" in (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")


def test_the_command_line_says_what_to_measure() -> None:
    """Questions, value size, distribution, server and time are taken over; what is not given is None."""
    options = command.parse(["many", "--value-size=99", "--distribution=uniform", "--url=redis://h", "--seconds=0.5"])
    assert (options.questions, options.value_size, options.distribution) == (["many"], 99, "uniform")
    assert (options.url, options.seconds, options.rounds, options.plots) == ("redis://h", 0.5, None, None)


@pytest.mark.parametrize(
    "wrong", [["manny"], ["--rounds=0"], ["--value-size=-1"], ["--seconds=0"], ["--seconds=nan"], ["--distribution=x"]]
)
def test_what_cannot_be_measured_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown question, and a number that makes no sense, end with a message and status 2."""
    with pytest.raises(SystemExit) as ended:
        command.parse(wrong)
    assert ended.value.code == 2
    assert wrong[0].split("=")[0] in capsys.readouterr().err


def test_a_run_prints_a_table_and_writes_json_and_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows go to the table and the file, plots to files of their own; a bar that is missed is the exit status."""
    from benchmarks import many
    from benchmarks._harness.measure import Bar, Row

    plot = Plot(name="picture", title="A picture", x="x", y="y", lines={"us": [(1, 2), (2, 3)]})
    found = {"measured": 1.0}
    monkeypatch.setattr(
        many,
        "run",
        lambda settings: [Row(question="how many", figure="9", measured=found["measured"], bar=Bar(2)), plot],
    )
    arguments = ["many", f"--json={tmp_path / 'out.json'}", f"--plots={tmp_path / 'plots'}"]
    assert command.main(arguments) == 0
    assert "| how many | 9 " in capsys.readouterr().out
    assert '"how many"' in (tmp_path / "out.json").read_text(encoding="utf-8")
    assert "A picture" in (tmp_path / "plots" / "picture.svg").read_text(encoding="utf-8")
    found["measured"] = 3.0
    assert command.main(["many"]) == 1


def test_keys_are_drawn_by_a_zipf_or_a_uniform_distribution() -> None:
    """By Zipf's law the first of ten keys comes some ten times as often as the last; else both as often."""
    zipf, uniform = (Counter(Settings(distribution=name).draw(20_000, 10)) for name in ("zipf", "uniform"))
    assert 8 < zipf[0] / zipf[9] < 12.5
    assert 0.85 < uniform[0] / uniform[9] < 1.15
    assert Settings().draw(50, 10) == Settings().draw(50, 10)


POINTS = st.lists(
    st.tuples(st.floats(1e-9, 1e12), st.one_of(st.just(0.0), st.floats(1e-9, 1e12))), min_size=1, max_size=8
)


@given(lines=st.dictionaries(st.text("a<&\"'é ", min_size=1), POINTS, min_size=1, max_size=9), logs=st.booleans())
def test_a_plot_holds_every_line_within_its_axes(lines: dict[str, list[tuple[float, float]]], logs: bool) -> None:
    """Whatever the names and numbers, the SVG is well-formed, and every point is inside the frame."""
    if logs and not any(y > 0 for line in lines.values() for _, y in line):
        return
    plot = Plot(name="p", title="<t>", x="x & y", y='"y"', lines=lines, log_x=logs, log_y=logs)
    root = ElementTree.fromstring(svg(plot, "a < b"))
    drawn = root.findall(f"{SVG}polyline")
    assert len(drawn) == len(lines)
    for line, points in zip(drawn, lines.values(), strict=True):
        places = [tuple(map(float, place.split(","))) for place in line.attrib["points"].split()]
        assert len(places) == len(points)
        assert all(
            LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1 and TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1 for x, y in places
        )
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"<t>", "x & y", '"y"', "a < b", *lines} <= set(texts)


def test_a_plot_puts_points_where_their_numbers_are() -> None:
    """Twice as much is twice as high from 0, and ten times as much one step of a logarithmic axis."""
    linear = _heights(Plot(name="p", title="", x="", y="", lines={"a": [(0, 10), (1, 20), (2, 40)]}))
    assert math.isclose(linear[1], 2 * linear[0], abs_tol=0.2)
    assert math.isclose(linear[2], 4 * linear[0], abs_tol=0.2)
    assert linear[2] == HEIGHT - BOTTOM - TOP
    log = _heights(Plot(name="p", title="", x="", y="", lines={"a": [(0, 1), (1, 10), (2, 100)]}, log_y=True))
    assert log[0] == 0
    assert math.isclose(log[2], 2 * log[1], abs_tol=0.2)


def _heights(plot: Plot) -> list[float]:
    (line,) = ElementTree.fromstring(svg(plot)).findall(f"{SVG}polyline")
    return [HEIGHT - BOTTOM - float(place.split(",")[1]) for place in line.attrib["points"].split()]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.25, "0.25"), (20_000, "20k"), (1.25e6, "1.25M"), (-3e9, "-3G"), (999, "999")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    """An axis shows three digits and a unit."""
    assert number(value) == text


class Terminal(io.StringIO):
    """Somebody watches."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("out", "bar"), [(io.StringIO(), False), (Terminal(), True)])
def test_the_progress_bar_is_shown_in_a_terminal_only(out: io.StringIO, bar: bool) -> None:
    """A terminal sees a bar of the measurement under way; a file has a line for each question answered."""
    progress = Progress(3, out)
    progress.ask("many")
    progress.answered()
    assert ("[1/3] many" in out.getvalue()) is bar
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().endswith((" s\n", " s\x1b[K\n"))


def test_more_primaries_share_all_but_the_stamp_of_any_tag() -> None:
    """Keys and tags are divided among the primaries; the one stamp that every tag's invalidation renews is not."""
    three, many = demand(COSTS, THOUSAND), demand(COSTS, dataclasses.replace(THOUSAND, primaries=3000))
    assert three.names == pytest.approx(30 / 3 + 60 / 3 + 60)
    assert many.names == pytest.approx(60, rel=0.001)
    assert three.received == 30 + 2 * 60


def test_the_model_adds_up() -> None:
    """Costs times counts: pushes, connections (a channel, the threads' and one that asks for the map), stamps."""
    found = demand(COSTS, THOUSAND)
    assert found.pushes == pytest.approx(90_000)
    assert found.push_cpu == pytest.approx(90 * (10e-6 + 1000 * 3e-6))
    assert found.push_cpu / found.names == pytest.approx(1 / found.most_names)
    assert found.connections == 10_000
    assert found.connection_memory == pytest.approx(1000 * (2000 + 9 * 17_000))
    assert (found.stamps, found.stamp_memory_here) == (100_000, 160_000)
