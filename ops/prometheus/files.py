"""What Prometheus and its operator read, made of the rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .rules import ALERTS, RECORDINGS, RUNBOOK, Alert

OPS = Path(__file__).parents[1]
PLAIN = OPS / "prometheus" / "aikcache.rules.yml"
OPERATOR = OPS / "k8s" / "monitoring" / "prometheusrule.yaml"
HEADER = (
    "# Made by `python -m ops.prometheus` of ops/prometheus/rules.py: change it there.\n"
    "# `--runbook ADDRESS --to DIRECTORY` puts the address of your own runbook in.\n"
)


def advice(alert: Alert, runbook: str = RUNBOOK) -> dict[str, str]:
    """What somebody reads who was woken. `runbook`: an address; `{alert}` in it is the name, in small letters."""
    link = runbook.replace("{alert}", alert.name.lower())
    return {"summary": alert.summary, "description": alert.description, "runbook_url": link}


def groups(runbook: str = RUNBOOK) -> list[dict[str, Any]]:
    """One group: a rule sees what was recorded before it in the same evaluation."""
    rules: list[dict[str, Any]] = [{"record": one.name, "expr": one.expr} for one in RECORDINGS]
    for alert in ALERTS:
        labels = {"severity": alert.severity}
        rule = {"alert": alert.name, "expr": alert.expr, "for": alert.hold, "labels": labels}
        rules.append({**rule, "annotations": advice(alert, runbook)})
    return [{"name": "aikcache", "interval": "30s", "rules": rules}]


def files(runbook: str = RUNBOOK, directory: Path | None = None) -> list[tuple[Path, str]]:
    """Every generated file, and what belongs in it. `directory`: where both go, in place of where they are shipped."""
    made = groups(runbook)
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "aikcache"},
        "spec": {"groups": made},
    }
    plain, operator = ((directory / path.name if directory else path) for path in (PLAIN, OPERATOR))
    return [(plain, HEADER + dump({"groups": made})), (operator, HEADER + dump(resource))]


def dump(value: Any) -> str:
    """YAML in the order that was given."""
    return yaml.safe_dump(value, sort_keys=False, width=110, allow_unicode=True)
