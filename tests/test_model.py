"""The protocol's model holds, and every rule in it is needed; on the quick scenarios (`model/protocol.py` has more)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.servers  # none, but it takes long, and tests nothing of the package
MODEL = Path(__file__).resolve().parent.parent / "model" / "protocol.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(MODEL), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)


def test_the_protocol_keeps_every_guarantee() -> None:
    """Every interleaving of the quick scenarios keeps every guarantee."""
    done = run("--small")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all hold" in done.stdout


def test_no_rule_of_the_protocol_is_idle() -> None:
    """With any one rule removed, a guarantee breaks in one of the quick scenarios."""
    done = run("--small", "--broken")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT CAUGHT" not in done.stdout
    assert done.stdout.count("caught:") == len(done.stdout.splitlines()) > 10
