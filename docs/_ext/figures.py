"""The page of figures: every row of `make bench` with its bar, release by release, and the plots.

Made of `benchmarks/results/VERSION.json`, which `python -m benchmarks --json` writes, and of the SVG files beside them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def releases(results: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """What was measured, by version, the newest first."""
    files = sorted(
        results.glob("[0-9]*.json"), key=lambda file: [int(part) for part in file.stem.split(".")], reverse=True
    )
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def figures(results: Path = RESULTS) -> str:
    """The tables and plots as Markdown. In a release that did not ask a question its cell is empty."""
    told = releases(results)
    newest = next(iter(told.values()))
    ratios = {version: {_same(row): _measured(row) for row in run["rows"]} for version, run in told.items()}
    verdicts = Counter(row["verdict"] for row in newest["rows"] if row["bar"] is not None)
    lines = [", ".join(f"{count} bars {verdict.lower()}" for verdict, count in sorted(verdicts.items())) + ".", ""]
    lines += [f"- {version}: {run['machine']}; load {run['load']}; {run['python']}; commit {run['commit']}; "
              f"`{run['command']}`" for version, run in told.items()]  # fmt: skip
    lines += ["", _line("question", "figure", "compared with", *told, "bar", ""), _line(*["---"] * (len(told) + 5))]
    for row in newest["rows"]:
        verdict = {"MISSED": "**missed**", "for information": ""}.get(row["verdict"], row["verdict"])
        over = (ratios[version].get(_same(row), "") for version in told)
        lines.append(
            _line(
                row["question"], row["figure"], row["rival"], *over, (row["bar"] or "").replace(" ", "\u00a0"), verdict
            )
        )
    for plot in newest["plots"]:
        lines += ["", f"![{plot['title']}](../benchmarks/results/{plot['name']}.svg)"]
    return "\n".join(lines) + "\n"


def _same(row: dict[str, Any]) -> tuple[str, str]:
    """What a row has in common with that of another release: its question, and what it is compared with."""
    return row["question"], re.split("[:,]", row["rival"])[0]


def _measured(row: dict[str, Any]) -> str:
    value = row["measured"]
    return "" if value is None else f"{value:{'.0f' if abs(value) >= 1000 else '.3g'}}{row['unit']}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
