"""The programs that check the shipped files: where they are, what they say, and what to do where one is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPS = ROOT / "ops"
PACKAGES = {
    "promtool": "apt-get install prometheus",
    "amtool": "apt-get install prometheus-alertmanager",
    "checkov": "pipx install checkov",
}
WITHIN = 120.0
"""Seconds that a tool may take: none needs ten, so this one hangs."""


class Missing(Exception):
    """A tool is not on this machine."""


def tool(name: str) -> str:
    """Where it is: beside this Python, which has the pinned ones, or on PATH."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ["PATH"]]))
    if found is None:
        raise Missing(f"{name} is not installed: {PACKAGES.get(name, 'pip install -e .[ops]')}")
    return found


def run(name: str, *arguments: str | Path, text: str | None = None) -> tuple[int, str, str]:
    """Its exit status and what it wrote to standard output and error."""
    done = subprocess.run(
        [tool(name), *map(str, arguments)],
        input=text,
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=WITHIN,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def complaints(name: str, *arguments: str | Path) -> list[str]:
    """What a tool finds wrong, by line; nothing when it is content."""
    code, out, err = run(name, *arguments)
    lines = [line for line in (out + err).splitlines() if line.strip()]
    return (lines or [f"{name} ended with {code}"]) if code else []


def outdated(files: Iterable[tuple[Path, str]], command: str) -> list[str]:
    """Which generated files are not what their source makes of them today."""
    stale = [path for path, text in files if not path.exists() or path.read_text(encoding="utf-8") != text]
    return [f"{path.relative_to(ROOT)} is not what its source makes: run {command}" for path in stale]
