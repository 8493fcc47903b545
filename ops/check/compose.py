"""compose.yaml, and the configuration that only it uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .tools import OPS, ROOT, complaints

FILE = ROOT / "compose.yaml"
PROMETHEUS = OPS / "prometheus"


def check() -> list[str]:
    """Everything about it."""
    return [
        *lint(yaml.safe_load(FILE.read_text(encoding="utf-8")), ROOT),
        *complaints("promtool", "check", "config", PROMETHEUS / "prometheus.yml"),
        *complaints("amtool", "check-config", PROMETHEUS / "alertmanager.yml"),
        *inhibited((PROMETHEUS / "alertmanager.yml").read_text(encoding="utf-8")),
    ]


def lint(compose: dict[str, Any], root: Path) -> list[str]:
    """What Docker would find only when it starts, or not at all."""
    found = []
    services, known = compose["services"], set(compose["volumes"])
    for name, one in services.items():
        image, _, tag = one["image"].rpartition(":")
        if not image or tag == "latest":
            found.append(f"{name}: its image {one['image']} is not pinned")
        for volume in one.get("volumes", ()):
            source = volume.split(":")[0]
            if not (root / source).exists() if source.startswith(".") else source not in known:
                found.append(f"{name}: there is no {source} to mount")
        found += [
            f"{name}: it waits for {other}, which is no service"
            for other in set(one.get("depends_on", ())) - set(services)
        ]
        found += [
            f"{name}: {port} is open to the network" for port in one.get("ports", ()) if not port.startswith("127.")
        ]
        own = one.get("environment", {}).get("SELF", "")
        if own and own.split(":")[0] != name:
            found.append(f"{name}: it calls itself {own}")
        for other in one.get("environment", {}).get("SENTINELS", "").split():
            if other.split(":")[0] not in services:
                found.append(f"{name}: there is no Sentinel {other}")
    return found + targets(services, (PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))


def targets(services: dict[str, Any], prometheus: str) -> list[str]:
    """Whom Prometheus asks, besides the application, is there."""
    jobs = {job["job_name"]: job for job in yaml.safe_load(prometheus)["scrape_configs"]}
    found = [
        f"prometheus.yml has no job {name}, which the rules ask for"
        for name in ("redis", "sentinel")
        if name not in jobs
    ]
    for name in jobs.keys() - {"application"}:
        for target in jobs[name]["static_configs"][0]["targets"]:
            host = target.rpartition("/")[2].rpartition("@")[2].split(":")[0]
            if host not in services:
                found.append(f"prometheus.yml asks {target}, which is no service")
    return found


def inhibited(alertmanager: str) -> list[str]:
    """Whom an alert silences is no stranger: they share labels."""
    rules = yaml.safe_load(alertmanager).get("inhibit_rules", ())
    return [
        f"alertmanager.yml: {one['source_matchers']} silences others everywhere: it has no `equal`"
        for one in rules
        if not one.get("equal")
    ]
