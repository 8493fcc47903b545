"""The rules: what promtool thinks of them, when they fire, and whether somebody who was woken finds what to do."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from aikcache.metrics import INSTRUMENTS
from ops.prometheus.cases import tests, uncovered
from ops.prometheus.files import PLAIN, files
from ops.prometheus.rules import ALERTS, RECORDINGS

from .promql import unknown
from .tools import ROOT, complaints, outdated

SAID = ("**Meaning.**", "**First look.**", "**Cure.**")


def check() -> list[str]:
    """Everything about the rules."""
    named = [(one.name, one.expr) for one in (*RECORDINGS, *ALERTS)]
    return [
        *outdated(files(), "python -m ops.prometheus"),
        *unknown(named, (one.name for one in RECORDINGS)),
        *[f"{name} has no case in which it fires, or none in which it does not" for name in uncovered()],
        *unexplained((ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")),
        *undocumented((ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")),
        *complaints("promtool", "check", "rules", PLAIN),
        *cases(),
    ]


def cases() -> list[str]:
    """promtool plays every case."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "cases.yml"
        path.write_text(tests(PLAIN), encoding="utf-8")
        return complaints("promtool", "test", "rules", path)


def undocumented(text: str) -> list[str]:
    """The metrics of which docs/metrics.md has no line with this kind, labels and meaning, and its other lines."""
    documented = set(re.findall(r"^\| `aikernel\w+` \|.*", text, re.MULTILINE))
    labels = {one.name: ", ".join(f"`{label}`" for label in one.labels) for one in INSTRUMENTS}
    emitted = {f"| `aikernel{one.name}` | {one.kind} | {labels[one.name]} | {one.help} |" for one in INSTRUMENTS}
    return [
        f"docs/metrics.md: {'wrong' if one in documented else 'missing'}: {one}" for one in sorted(documented ^ emitted)
    ]


def unexplained(runbook: str) -> list[str]:
    """The alerts that have no section of their own, or one that leaves something out."""
    sections = {}
    for section in runbook.split("\n### ")[1:]:
        title, _, body = section.partition("\n")
        sections[title] = body.split("\n## ")[0]
    found = []
    for name in dict.fromkeys(one.name for one in ALERTS):
        body = sections.get(name, "")
        found += [f"docs/runbook.md, {name}: there is no {part}" for part in SAID if part not in body]
    return found
