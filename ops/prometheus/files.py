"""What Prometheus and its operator read, made of the rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .rules import ALERTS, RECORDINGS, RUNBOOK, Alert

OPS = Path(__file__).parents[1]
PLAIN = OPS / "prometheus" / "aikcache.rules.yml"
OPERATOR = OPS / "k8s" / "monitoring" / "prometheusrule.yaml"
HEADER = "# Made by `python -m ops.prometheus` of ops/prometheus/rules.py: change it there.\n"


def advice(alert: Alert) -> dict[str, str]:
    """What somebody reads who was woken."""
    link = f"{RUNBOOK}#{alert.name.lower()}"
    return {"summary": alert.summary, "description": alert.description, "runbook_url": link}


def groups() -> list[dict[str, Any]]:
    """One group: a rule sees what was recorded before it in the same evaluation."""
    rules: list[dict[str, Any]] = [{"record": one.name, "expr": one.expr} for one in RECORDINGS]
    for alert in ALERTS:
        labels = {"severity": alert.severity}
        rule = {"alert": alert.name, "expr": alert.expr, "for": alert.hold, "labels": labels}
        rules.append({**rule, "annotations": advice(alert)})
    return [{"name": "aikcache", "interval": "30s", "rules": rules}]


def files() -> list[tuple[Path, str]]:
    """Every generated file, and what belongs in it."""
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "aikcache"},
        "spec": {"groups": groups()},
    }
    return [(PLAIN, HEADER + dump({"groups": groups()})), (OPERATOR, HEADER + dump(resource))]


def dump(value: Any) -> str:
    """YAML in the order that was given."""
    return yaml.safe_dump(value, sort_keys=False, width=110, allow_unicode=True)
