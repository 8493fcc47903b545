"""The catalog of `examples/` under load answers 94 % of its calls from a cache that begins empty.

It runs as a program of its own, with its own defaults: 4 processes, 80 000 calls each or 40 s, Zipf's law over the
modules installed here, 0.2 % of the calls re-index one. A longer run has a better ratio. Afterwards the example
compares the cache's answers with the database's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._harness.measure import ROOT, Bar, Row, Settings
from benchmarks._harness.server import INSTANCE, servers

PATIENCE = 300


def run(settings: Settings) -> list[Row]:
    """The ratio of all calls, and the wrong answers."""
    with tempfile.TemporaryDirectory() as directory, servers(settings.url) as urls:
        file = Path(directory, "report.json")
        command = [sys.executable, "examples/catalog.py", f"--json={file}"]
        command += [f"--url={next(iter(urls.values()))}", f"--instance={INSTANCE}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
        if not file.exists():
            raise RuntimeError(f"the example did not run: {done.stderr[-2000:]}")
        report = json.loads(file.read_text(encoding="utf-8"))
    total = report["total"]
    return [
        Row(
            question="catalog workload, hit ratio",
            figure=f"{100 * report['warm_ratio']:.1f} % in the second half",
            rival=f"{total['calls']} calls, {report['writes']} writes",
            measured=100 * total["hit_ratio"],
            unit=" %",
            bar=Bar(94, " %", least=True),
        ),
        Row(
            question="catalog workload, a call",
            figure=f"median {total['cached']['median']:.3g} µs",
            rival=f"its database: median {total['uncached']['median']:.3g} µs",
            measured=total["uncached"]["median"] / total["cached"]["median"],
            unit="× faster",
        ),
        Row(
            question="catalog workload, wrong answers",
            figure=f"of {report['answers_compared']} compared",
            measured=float(report["answers_wrong"]),
            unit=" wrong",
            bar=Bar(0, " wrong"),
        ),
    ]
