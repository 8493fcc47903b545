"""The rules for the dashboard, each with a broken copy that it must catch."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from ops.check import dashboard, schema
from ops.check.tools import Missing, tool
from ops.grafana import names
from ops.grafana.dashboard import FILE, files

Board = dict[str, Any]


@pytest.fixture
def board() -> Board:
    return json.loads(FILE.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def panel(board: Board, title: str) -> Board:
    return next(one for one in board["panels"] if one["title"] == title)


def target(board: Board, title: str = "Operations rate") -> Board:
    return panel(board, title)["targets"][0]  # type: ignore[no-any-return]


def defaults(board: Board, title: str) -> Board:
    return panel(board, title)["fieldConfig"]["defaults"]  # type: ignore[no-any-return]


def steps(board: Board) -> list[Board]:
    return defaults(board, "Hit rate")["thresholds"]["steps"]  # type: ignore[no-any-return]


def variable(board: Board, name: str) -> Board:
    return next(one for one in board["templating"]["list"] if one["name"] == name)


def in_expr(old: str, new: str, title: str = "Operations rate") -> Callable[[Board], None]:
    def change(board: Board) -> None:
        one = target(board, title)
        assert old in one["expr"]
        one["expr"] = one["expr"].replace(old, new)

    return change


BROKEN: dict[str, tuple[Callable[[Board], object], str]] = {
    "another uid": (lambda b: b.update(uid="aikcache"), "links ask for aikernel-redis-cache"),
    "a panel of the ten is gone": (lambda b: b["panels"].remove(panel(b, "Evictions")), "Evictions is missing"),
    "one id twice": (lambda b: panel(b, "Errors").update(id=2), "id 2 is given twice"),
    "two in one place": (lambda b: panel(b, "Errors")["gridPos"].update(x=2), "Errors lies on Hit rate"),
    "off the page": (lambda b: panel(b, "Latency by operation")["gridPos"].update(w=9), "wider than the page"),
    "no title": (lambda b: panel(b, "Loads").update(title=""), "no title or no description"),
    "no description": (lambda b: panel(b, "Loads").pop("description"), "no title or no description"),
    "no unit": (lambda b: panel(b, "Loads")["fieldConfig"]["defaults"].pop("unit"), "no unit"),
    "an unknown unit": (lambda b: defaults(b, "Hit rate").update(unit="percentunits"), "knows no unit percentunits"),
    "an unknown colour": (lambda b: steps(b)[1].update(color="ornage"), "knows no colour ornage"),
    "other limits of the hit rate": (lambda b: steps(b)[1].update(value=0.5), "do not change at 0.7"),
    "added up by no label": (in_expr("by (tier)", "by (tiers)"), "no label tiers to add up by"),
    "a legend of no label": (lambda b: target(b).update(legendFormat="{{teir}}"), "names teir, which is not left"),
    "a legend of what was added up": (in_expr("by (tier) ", ""), "names tier, which is not left"),
    "no targets": (lambda b: panel(b, "Loads").update(targets=[]), "no targets"),
    "one refId twice": (lambda b: panel(b, "Operations rate")["targets"][1].update(refId="A"), "two with one refId"),
    "a datasource of somebody's": (lambda b: panel(b, "Loads").update(datasource={"uid": "P1"}), "its datasource"),
    "a target's own datasource": (lambda b: target(b).update(datasource={"uid": "P1"}), "its datasource"),
    "an empty expression": (lambda b: target(b).update(expr=""), "no expression"),
    "a raw counter": (in_expr("rate(", "("), "needs rate or increase"),
    "a fixed window": (in_expr("$__rate_interval", "5m"), "does not follow the zoom"),
    "all applications": (in_expr('job=~"$job",', ""), "not narrowed by $job"),
    "all processes": (in_expr('instance=~"$instance"', ""), "not narrowed by $instance"),
    "all servers": (in_expr('instance=~"$redis"', "", "Memory"), "not narrowed by $redis"),
    "a renamed metric": (in_expr("hits_total", "hit_total"), "which nobody emits"),
    "the top ten at each moment": (lambda b: target(b, "Top 10 operations").update(instant=False), "at every point"),
    "no variable": (lambda b: b["templating"]["list"].remove(variable(b, "job")), "no variable job"),
    "a variable that is asked once": (lambda b: variable(b, "job").update(refresh=1), "asked for anew"),
    "a variable of another source": (lambda b: variable(b, "job").pop("datasource"), "another datasource"),
}


def test_the_shipped_dashboard_keeps_the_rules_and_is_what_its_source_makes(board: Board) -> None:
    """Nothing is found, and the file is current."""
    assert dashboard.lint(board) == []
    assert [path.read_text(encoding="utf-8") == text for path, text in files()] == [True]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_dashboard_is_caught(board: Board, name: str) -> None:
    """By the rule that is for it."""
    change, expected = BROKEN[name]
    change(board)
    assert expected in "\n".join(dashboard.lint(board))


PROVISIONING = FILE.parents[1] / "provisioning"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("path:", "pathh:", "knows no pathh of its options"),
        ("/var/lib/grafana/dashboards", "/var/lib/dashboards", "no dashboards are mounted at the path"),
        ("folder:", "foldr:", "knows no foldr of its provider"),
        ("isDefault:", "default:", "knows no default of its datasource"),
    ],
)
def test_a_broken_provisioning_file_is_caught(old: str, new: str, expected: str) -> None:
    """Grafana would start, and show nothing."""
    shipped = [path.read_text(encoding="utf-8") for path in sorted(PROVISIONING.glob("*/*.yaml"))]
    assert dashboard.provisioned(*shipped) == []
    broken = [text.replace(old, new) for text in shipped]
    assert broken != shipped
    assert expected in "\n".join(dashboard.provisioned(*broken))


def test_each_server_has_its_limit_and_long_legends_a_table(board: Board) -> None:
    """A fleet of two sizes has two limits; the median is beside the slowest; a list at the bottom was cut off."""
    assert [one["legendFormat"] for one in panel(board, "Memory")["targets"]] == ["{{instance}}", "{{instance}} limit"]
    assert "max(" not in panel(board, "Memory")["targets"][1]["expr"]
    assert [one["legendFormat"][-3:] for one in panel(board, "Loads")["targets"]] == ["p50", "p99"]
    for title in ("Latency by operation", "Loads", "Stale answers and failed loads"):
        assert panel(board, title)["options"]["legend"] == {"displayMode": "table", "placement": "right"}


def test_promtool_reads_every_expression(board: Board) -> None:
    """One that Grafana would only show as an error in the panel is found."""
    try:
        tool("promtool")
    except Missing as error:
        pytest.skip(str(error))
    assert dashboard.parse(board) == []
    broken = copy.deepcopy(board)
    in_expr("sum by", "sum buy")(broken)
    assert dashboard.parse(broken)


def test_an_unknown_metric_or_label_fails_the_build() -> None:
    """A renamed metric is noticed where the dashboard is made."""
    assert names.cache("hits_total", tier="local") == (
        'aikernel_cache_hits_total{job=~"$job",instance=~"$instance",tier="local"}'
    )
    for name, labels in (("hit_total", {}), ("hits_total", {"kind": "x"})):
        with pytest.raises(KeyError):
            names.cache(name, **labels)
    with pytest.raises(KeyError, match="cannot be added up by"):
        names.total("hits_total", "tiers")
    with pytest.raises(KeyError, match="cannot be added up by"):
        names.quantile(0.5, "load_seconds", "op")
    with pytest.raises(KeyError):
        names.redis("masterlink_up")


def test_what_grafana_does_not_know_is_found_by_its_types() -> None:
    """An enum's value, an unknown key at each depth, wrong types: all in one run of tsc, which takes seconds."""

    def broken(board: dict[str, Any]) -> None:
        plotted, stat, bars = (
            next(panel for panel in board["panels"] if panel["type"] == kind)
            for kind in ("timeseries", "stat", "bargauge")
        )
        board["refreshes"] = "30s"
        board["templating"]["list"][1]["type"] = "question"
        plotted["gridPos"]["w"] = "8"
        plotted["options"]["legend"]["displayMode"] = "lists"
        stat["fieldConfig"]["defaults"]["units"] = "short"
        bars["options"]["orientation"] = "sideways"
        other = board["panels"][-1]
        other["fieldConfig"]["defaults"]["custom"] = {"lineWidths": 1}

    board = json.loads(FILE.read_text(encoding="utf-8"))
    broken(board)
    try:
        found = "\n".join(schema.complaints(board))
    except Missing as error:
        pytest.skip(str(error))
    by_type = "'string' is not assignable to type 'number'"
    for word in ("refreshes", "question", by_type, '"lists"', "units", '"sideways"', "lineWidths"):
        assert word in found, found
