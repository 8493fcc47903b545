"""The shipped configuration of Prometheus and Alertmanager, with other addresses, and shorter times where wanted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from ops.prometheus.files import OPS, PLAIN, dump

WINDOWS = ("[2m]", "[5m]", "[10m]", "[15m]")


@dataclass(frozen=True, slots=True)
class Times:
    """How often Prometheus looks. `window` and `hold` replace those of the rules; None: the rules as they are."""

    scrape: str = "2s"
    window: str | None = "20s"
    hold: str = "2s"
    pending: str = "> 3"


SHORT, SHIPPED = Times(), Times(window=None)


def rules(times: Times) -> str:
    """The rules: the same expressions, over shorter windows and sooner."""
    text = PLAIN.read_text(encoding="utf-8")
    if times.window is None:
        return text
    for window in WINDOWS:
        if window not in text:
            raise ValueError(f"No rule has the window {window} any more: take it out of WINDOWS.")
        text = text.replace(window, f"[{times.window}]")
    config: Any = yaml.safe_load(text)
    for group in config["groups"]:
        group["interval"] = times.scrape
        for rule in group["rules"]:
            if "alert" in rule:
                rule["for"] = times.hold
            if rule.get("alert") == "AikcachePendingInvalidations":
                rule["expr"] = re.sub(r"> \d+$", times.pending, rule["expr"])
    return dump(config)


def prometheus(times: Times, targets: Mapping[str, Iterable[str]], addresses: Mapping[str, str]) -> str:
    """`targets` by job; `addresses` in place of what the file names, as in `exporter:9121`."""
    text = (OPS / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    config: Any = yaml.safe_load(_moved(text, addresses))
    config["global"] = {"scrape_interval": times.scrape, "scrape_timeout": times.scrape, "evaluation_interval": "2s"}
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": list(targets[job["job_name"]])}]
    return dump(config)


def alertmanager(receiver: str) -> str:
    """Every receiver is a path of `receiver`, an address; messages leave at once."""
    config: Any = yaml.safe_load((OPS / "prometheus" / "alertmanager.yml").read_text(encoding="utf-8"))
    config["route"] |= {"group_wait": "1s", "group_interval": "1s"}
    for one in config["receivers"]:
        one["webhook_configs"] = [{"url": f"http://{receiver}/{one['name']}", "send_resolved": True}]
    return dump(config)


def _moved(text: str, addresses: Mapping[str, str]) -> str:
    for old, new in addresses.items():
        if old not in text:
            raise ValueError(f"prometheus.yml names no {old} any more.")
        text = re.sub(rf"(?<![\w-]){re.escape(old)}\b", new, text)
    return text
