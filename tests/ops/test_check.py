"""`python -m ops.check`, which `make ops-check` runs: it fails where a file under `ops/` is broken, and says where."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ops.check.tools import ROOT

BROKEN = {
    "scripts": ("ops/scripts/lib.sh", "say() { echo", "say() { echo $1", "SC2086"),
    "yaml": ("ops/k8s/base/account.yaml", "kind: ServiceAccount", "kind: ServiceAccount  ", "trailing-spaces"),
    "rules": ("ops/prometheus/aikcache.rules.yml", "> 0.1", "> 1.0", "is not what its source makes"),
    "dashboard": (
        "ops/grafana/dashboards/aikernel-redis-cache.json",
        "short",
        "shorter",
        "is not what its source makes",
    ),
    "manifests": ("ops/k8s/base/redis.yaml", "prestop-redis.sh]", "live.sh, monitor]", "hands over to nobody"),
    "compose": ("compose.yaml", "127.0.0.1:", "0.0.0.0:", "is open to the network"),
}
"""By check: a file, what is replaced by what, and what is said of it."""


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """What the checks read, in a directory of its own."""
    shutil.copytree(ROOT / "ops", tmp_path / "ops", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "docs").mkdir()
    for file in ("compose.yaml", "docs/runbook.md", "docs/metrics.md"):
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


def said(copied: Path, *names: str) -> tuple[int, list[str]]:
    command = [sys.executable, "-m", "ops.check", *names]
    done = subprocess.run(command, cwd=copied, text=True, capture_output=True, timeout=600, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_every_check_fails_on_its_broken_file(copied: Path) -> None:
    """In one run, which goes on after the first that fails, names the file or the resource, and ends with 1."""
    for file, old, new, _ in BROKEN.values():
        text = (copied / file).read_text(encoding="utf-8")
        assert old in text
        (copied / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    code, lines = said(copied, *BROKEN)
    assert code == 1
    at = [number for number, line in enumerate(lines) if not line.startswith("    ")]
    for name, first, last in zip(BROKEN, at, [*at[1:], len(lines)], strict=True):
        verdict = lines[first].split()
        assert verdict[0] == name
        if verdict[1] == "not" and os.environ.get("AIKCACHE_REQUIRE_SERVERS") != "1":
            continue  # its tool is not installed
        assert verdict[1] == "FAILED"
        assert BROKEN[name][3] in "\n".join(lines[first:last])


def test_an_unknown_check_is_an_error(copied: Path) -> None:
    """With the names of those that there are."""
    done = subprocess.run(
        [sys.executable, "-m", "ops.check", "manifest"], cwd=copied, text=True, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert "There is no check manifest. There are: scripts, yaml" in done.stderr
