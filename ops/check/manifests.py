"""Every overlay for Kubernetes, as kustomize builds it: schemas of three versions, and the rules between resources."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml

from . import custom
from .semantics import check as semantics
from .tools import OPS, Missing, complaints, run

OVERLAY = OPS / "k8s" / "overlays"
OVERLAYS = tuple(sorted(path.name for path in OVERLAY.iterdir()))
EXAMPLE = "../example"  # an application
VERSIONS = ("1.35", "1.36", "1.37")
OPERATORS = "monitoring.coreos.com/"  # kinds that only Prometheus' operator has a schema of


def build(path: Path) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send.

    Raises:
        ValueError: kustomize refuses it.
    """
    code, out, err = run("kubectl", "kustomize", path)
    if code:
        raise ValueError(err.strip() or f"kubectl ended with {code}")
    return [one for one in yaml.load_all(out, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if one]


def check() -> list[str]:
    """All overlays."""
    found: list[str] = []
    everything = []
    for name in (*OVERLAYS, EXAMPLE):
        try:
            resources = build(OVERLAY / name)
        except ValueError as error:
            found.append(f"{name}: {error}")
            continue
        found += [f"{name}: {wrong}" for wrong in semantics(resources)]
        everything += resources
    try:
        return found + schemas(everything)
    except Missing:
        if found:
            return found
        raise


def schemas(resources: list[dict[str, Any]]) -> list[str]:
    """What the API server of each version would refuse."""
    core = [one for one in resources if not one["apiVersion"].startswith(OPERATORS)]
    found = custom.check([one for one in resources if one["apiVersion"].startswith(OPERATORS)])
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "all.yaml"
        path.write_text(yaml.safe_dump_all(core), encoding="utf-8")
        return found + [
            f"Kubernetes {version}: {wrong}"
            for version in VERSIONS
            for wrong in complaints("kubernetes-validate", "--strict", "--quiet", "-k", version, path)
        ]
