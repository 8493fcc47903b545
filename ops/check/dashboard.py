"""The dashboard: rules that Grafana does not have, and every expression read by promtool."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from aikcache.metrics import INSTRUMENTS
from ops.grafana.dashboard import FILE, UID, files
from ops.prometheus.files import dump

from .compose import FILE as COMPOSE
from .promql import unknown
from .tools import complaints, outdated

ASKED_FOR = (
    "Hit rate", "Operations rate", "Errors", "Bytes written", "Latency by operation", "Top 10 operations", "Memory",
    "Connected clients", "Commands", "Evictions",
)  # fmt: skip
SOURCE = "${datasource}"
UNITS = ("short", "percentunit", "ops", "s", "bytes", "bool_on_off")
"""Those of Grafana that the panels use: an unknown one is shown behind each number as a word."""
COLOUR = re.compile("(?:(?:super-)?light-|(?:semi-)?dark-)?(?:red|orange|yellow|green|blue|purple)|#[0-9a-f]{6}")
KEYS = {
    "provider": {
        "name", "orgId", "folder", "folderUid", "type", "disableDeletion", "updateIntervalSeconds", "allowUiUpdates",
        "options",
    },
    "options": {"path", "foldersFromFilesStructure"},
    "datasource": {"name", "type", "uid", "url", "access", "orgId", "isDefault", "editable", "version", "jsonData"},
}  # fmt: skip
"""Those of the provisioning files that Grafana knows and a passwordless source may need."""
_COUNTED = re.compile(r"\w+_(?:total|bucket|count|sum)\b")
_RATED = re.compile(r"\b(?:rate|increase)\(\w+_(?:total|bucket|count|sum)\{[^}]*\}\[\$__(?:rate_interval|range)\]\)")
_WINDOW = re.compile(r"\[([^\]]*)\]")


def check() -> list[str]:
    """Everything about the dashboard."""
    board = json.loads(FILE.read_text(encoding="utf-8"))
    provisioning = FILE.parents[1] / "provisioning"
    return [
        *outdated(files(), "python -m ops.grafana"),
        *lint(board),
        *parse(board),
        *provisioned(*(path.read_text(encoding="utf-8") for path in sorted(provisioning.glob("*/*.yaml")))),
    ]


def lint(board: dict[str, Any]) -> list[str]:
    """What is wrong by the rules."""
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    titles = {panel.get("title") for panel in panels}
    found = [f"the panel {title} is missing" for title in ASKED_FOR if title not in titles]
    if board.get("uid") != UID:
        found.append(f"the uid is {board.get('uid')}, links ask for {UID}")
    numbers = Counter(panel["id"] for panel in board["panels"])
    found += [f"id {number} is given twice" for number, count in numbers.items() if count > 1]
    found += _overlaps(board["panels"])
    found += _variables(board["templating"]["list"])
    found += [f"{panel.get('title')}: {wrong}" for panel in panels for wrong in _panel(panel)]
    return found + unknown((panel.get("title", ""), _plain(expr)) for panel, expr in expressions(board))


def parse(board: dict[str, Any]) -> list[str]:
    """promtool reads every expression, as a rule."""
    asked = [_plain(expr) for _, expr in expressions(board)]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(asked)]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "panels.yml"
        path.write_text(dump({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
        return complaints("promtool", "check", "rules", path)


def provisioned(dashboards: str, sources: str) -> list[str]:
    """Keys that Grafana does not know it leaves out in silence, and then shows nothing."""
    provider, source = yaml.safe_load(dashboards)["providers"][0], yaml.safe_load(sources)["datasources"][0]
    given = (("provider", provider), ("options", provider.get("options", {})), ("datasource", source))
    found = [
        f"provisioning: Grafana knows no {key} of its {kind}" for kind, one in given for key in one.keys() - KEYS[kind]
    ]
    mounted = [volume.split(":")[1] for volume in yaml.safe_load(COMPOSE.read_text())["services"]["grafana"]["volumes"]]
    if provider.get("options", {}).get("path") not in mounted:
        found.append(f"provisioning: no dashboards are mounted at the path, only {mounted}")
    return found


def expressions(board: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Each with its panel."""
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel, target.get("expr", "")


def _plain(expr: str) -> str:
    """With values for Grafana's variables outside strings."""
    return expr.replace("$__rate_interval", "2m").replace("$__range", "1h")


def _panel(panel: dict[str, Any]) -> Iterator[str]:
    if not panel.get("title") or not panel.get("description"):
        yield "it has no title or no description"
    defaults = panel["fieldConfig"]["defaults"]
    if (unit := defaults.get("unit")) not in UNITS:
        yield f"Grafana knows no unit {unit}" if unit else "it has no unit"
    steps = defaults["thresholds"]["steps"]
    yield from (f"Grafana knows no colour {one['color']}" for one in steps if not COLOUR.fullmatch(one["color"]))
    if panel.get("title") == "Hit rate" and [one["value"] for one in steps] != [None, 0.7, 0.9]:
        yield "its colours do not change at 0.7, where the alert begins, and at 0.9"
    targets = panel.get("targets", [])
    if not targets or len({target.get("refId") for target in targets}) < len(targets):
        yield "it has no targets, or two with one refId"
    for holder in (panel, *targets):
        if holder.get("datasource", {}).get("uid") != SOURCE:
            yield f"its datasource is not {SOURCE}"
    for target in targets:
        yield from _expression(target.get("expr", ""))
        yield from _labels(target.get("expr", ""), target.get("legendFormat", ""))
        if "$__range" in target.get("expr", "") and not target.get("instant"):
            yield "a figure of the whole range is asked for at every point of it"


def _expression(expr: str) -> Iterator[str]:
    if not expr:
        yield "a target has no expression"
    if raw := _COUNTED.findall(_RATED.sub("", re.sub(r'"[^"]*"', '""', expr))):
        yield f"{raw[0]} is a counter and needs rate or increase over $__rate_interval or $__range"
    if fixed := [window for window in _WINDOW.findall(expr) if not window.startswith("$__")]:
        yield f"the window {fixed[0]} does not follow the zoom"
    for selector in re.findall(r"\w*\{[^}]*\}", expr):
        wanted = ("$redis",) if selector.startswith("redis_") else ("$job", "$instance")
        if missing := [name for name in wanted if name not in selector]:
            yield f"{selector.split('{')[0]} is not narrowed by {missing[0]}"


def _labels(expr: str, legend: str) -> Iterator[str]:
    """Whether it is added up by labels that the metrics have, and its legend names labels that are left."""
    metrics = {re.sub("_(?:bucket|count|sum)$", "", name) for name in re.findall(r"aikernel(\w+)\{", expr)}
    has = {"job", "instance", "le", *(label for one in INSTRUMENTS if one.name in metrics for label in one.labels)}
    by = {label for found in re.findall(r"\bby \(([^)]*)\)", expr) for label in found.split(", ")}
    yield from (f"there is no label {label} to add up by" for label in sorted(by - has))
    left = by if re.search(r"\b(?:sum|min|max)\b", expr) else {"instance", "slave_ip", "slave_port"}
    yield from (
        f"its legend names {label}, which is not left"
        for label in re.findall(r"\{\{(\w+)", legend)
        if label not in left
    )


def _variables(variables: list[dict[str, Any]]) -> Iterator[str]:
    named = {one["name"]: one for one in variables}
    yield from (
        f"there is no variable {name}" for name in ("datasource", "job", "instance", "redis") if name not in named
    )
    for name, one in named.items():
        if one["type"] == "query" and one.get("refresh") != 2:
            yield f"the variable {name} is not asked for anew when the time changes"
        if one["type"] == "query" and one.get("datasource", {}).get("uid") != SOURCE:
            yield f"the variable {name} asks another datasource"


def _overlaps(panels: list[dict[str, Any]]) -> Iterator[str]:
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        if place["x"] + place["w"] > 24:
            yield f"{panel['title']} is wider than the page"
        cells = [
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        if other := next((taken[cell] for cell in cells if cell in taken), None):
            yield f"{panel['title']} lies on {other}"
        taken.update(dict.fromkeys(cells, panel["title"]))
