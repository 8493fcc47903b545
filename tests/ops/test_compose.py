"""The rules for compose.yaml, each with a broken copy that it must catch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from ops.check.compose import FILE, PROMETHEUS, inhibited, lint, targets
from ops.check.tools import OPS, ROOT

Compose = dict[str, Any]
BROKEN: dict[str, tuple[Callable[[Compose], object], str]] = {
    "any image": (lambda s: s["exporter"].update(image="redis_exporter:latest"), "exporter: its image"),
    "no such file": (lambda s: s["grafana"]["volumes"].append("./ops/graphana:/x"), "no ./ops/graphana to mount"),
    "no such volume": (lambda s: s["redis-0"]["volumes"].append("redis-9:/x"), "no redis-9 to mount"),
    "waiting for nobody": (lambda s: s["redis-0"].update(depends_on={"secrets": {}}), "waits for secrets"),
    "a port for the whole network": (lambda s: s["grafana"].update(ports=["3000:3000"]), "open to the network"),
    "somebody else's name": (lambda s: s["redis-1"]["environment"].update(SELF="redis-0:6379"), "calls itself"),
    "no such Sentinel": (lambda s: s.pop("sentinel-2"), "no Sentinel sentinel-2"),
    "a server that is not there": (lambda s: s.pop("redis-2"), "asks redis://redis-2:6379"),
}


@pytest.fixture
def compose() -> Compose:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_the_shipped_file_is_without_fault(compose: Compose) -> None:
    """By all rules."""
    assert lint(compose, ROOT) == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_copy_is_caught(compose: Compose, name: str) -> None:
    """By the rule that is for it."""
    change, expected = BROKEN[name]
    change(compose["services"])
    assert expected in "\n".join(lint(compose, ROOT))


def test_the_jobs_have_the_names_that_the_rules_ask_for(compose: Compose) -> None:
    """A renamed job would silence RedisDown's exporter and all that is said of Sentinels."""
    text = (OPS / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    assert targets(compose["services"], text.replace("job_name: sentinel", "job_name: sentinels")) == [
        "prometheus.yml has no job sentinel, which the rules ask for"
    ]


def test_an_alert_that_silences_strangers_is_caught() -> None:
    """One replica that is down anywhere would hide every application's alerts."""
    text = (PROMETHEUS / "alertmanager.yml").read_text(encoding="utf-8")
    assert inhibited(text) == []
    rule = "inhibit_rules: [{source_matchers: [alertname=RedisDown], target_matchers: [severity=warning]%s}]"
    assert len(inhibited(text + rule % "")) == 1
    assert inhibited(text + rule % ", equal: [cluster]") == []
