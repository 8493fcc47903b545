"""The table that is printed, and under which circumstances its figures came about."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks._harness.measure import ROOT, Plot, Row

HEADINGS = ("question", "figure", "rival", "ratio", "bar", "verdict")


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table whose columns line up."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]
    lines.insert(1, tuple("-" * width for width in widths))
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


def circumstances() -> dict[str, str]:
    """Machine, Python, commit and command: what a figure is worth nothing without."""
    lines = _read("/proc/cpuinfo").splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    commit = _run("git", "rev-parse", "--short", "HEAD") or "unknown"
    changed = " with changes" if _run("git", "status", "--porcelain", "--", "aikcache") else ""
    return {
        "machine": f"{models[0] if models else platform.processor()}, {os.cpu_count()} cores, {platform.system()}",
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "commit": commit + changed,
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
    }


def as_json(rows: Sequence[Row], plots: Sequence[Plot] = ()) -> str:
    """The rows, what is behind the plots, and their circumstances, for a file."""
    described = [
        {**asdict(row), "bar": None if row.bar is None else str(row.bar), "verdict": row.verdict} for row in rows
    ]
    content = {**circumstances(), "rows": described, "plots": [asdict(plot) for plot in plots]}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
