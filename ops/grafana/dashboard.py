"""The panels as Grafana's JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .names import PREFIX
from .panels import ROWS, Panel

UID = "aikernel-redis-cache"
FILE = Path(__file__).with_name("dashboards") / f"{UID}.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
HEIGHT, WIDTH = 8, 24


def dashboard() -> dict[str, Any]:
    """All of it; places and ids come from the order."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row in ROWS:
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": row.title, "collapsed": False, "gridPos": place})
        x, y = 0, y + 1
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y = 0, y + HEIGHT
            place = {"x": x, "y": y, "w": panel.width, "h": HEIGHT}
            panels.append({"id": len(panels) + 1, **_panel(panel), "gridPos": place})
            x += panel.width
        y += HEIGHT
    return {
        "uid": UID,
        "title": "aikcache",
        "description": "Whether the cache works, whether it helps, and what is wrong. Alerts: docs/runbook.md.",
        "tags": ["aikcache", "redis"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,  # the same moment in all panels
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "panels": panels,
    }


def files() -> list[tuple[Path, str]]:
    """The generated file, and what belongs in it."""
    return [(FILE, json.dumps(dashboard(), indent=1) + "\n")]


def _variables() -> list[dict[str, Any]]:
    up = f"{PREFIX}_cache_uptime_seconds"
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return [
        source,
        _choice("job", "Application", f"label_values({up}, job)"),
        _choice("instance", "Process", f'label_values({up}{{job=~"$job"}}, instance)'),
        _choice("redis", "Redis server", 'label_values(redis_up{job="redis"}, instance)'),
    ]


def _choice(name: str, label: str, query: str) -> dict[str, Any]:
    everything = {
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }
    asked = {"query": query, "refId": "Variables"}
    # 2: when the time range changes, too, so that processes that have come since are there.
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": asked,
        "refresh": 2,
        **everything,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    steps = [{"value": value, "color": color} for value, color in panel.steps]
    defaults: dict[str, Any] = {"unit": panel.unit, "noValue": "–", **({} if panel.signed else {"min": 0})}
    defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    defaults["color"] = {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"}
    if panel.top is not None:
        defaults["max"] = panel.top
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "targets": [_target(panel, number) for number in range(len(panel.targets))],
    }


def _target(panel: Panel, number: int) -> dict[str, Any]:
    expr, legend = panel.targets[number]
    # Over a range, topk gives all that were ever among the ten.
    now = {"instant": True, "range": False} if "$__range" in expr else {"range": True}
    return {"refId": "ABCDEFGH"[number], "datasource": SOURCE, "expr": expr, "legendFormat": legend, **now}


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "timeseries":
        legend = ("table", "right") if panel.listed else ("list", "bottom")
        shown = dict(zip(("displayMode", "placement"), legend, strict=True))
        return {"legend": shown, "tooltip": {"mode": "multi", "sort": "desc"}}
    reduced = {"reduceOptions": {"calcs": ["lastNotNull"]}}
    return {**reduced, "orientation": "horizontal"} if panel.kind == "bargauge" else reduced
