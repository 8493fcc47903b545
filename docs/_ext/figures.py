"""The page of figures: every row of `make bench` with its bar, release by release, and the plots.

Made of `benchmarks/results/VERSION.json`, which `python -m benchmarks --json` writes, and of the SVG files beside them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def releases(results: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """What was measured, by version, the newest first."""
    files = sorted(results.glob("*.json"), key=lambda file: [int(part) for part in file.stem.split(".")], reverse=True)
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def figures(results: Path = RESULTS) -> str:
    """The tables and plots as Markdown. In a release that did not ask a question its cell is empty."""
    told = releases(results)
    newest = next(iter(told.values()))
    ratios = {version: {row["question"]: _measured(row) for row in run["rows"]} for version, run in told.items()}
    judged = [row for row in newest["rows"] if row["bar"] is not None]
    missed = [row for row in judged if row["verdict"] == "MISSED"]
    lines = [f"{len(judged) - len(missed)} of {len(judged)} bars are reached, {len(missed)} are missed.", ""]
    lines += [f"- {version}: {run['machine']}; load {run['load']}; {run['python']}; commit {run['commit']}; "
              f"`{run['command']}`" for version, run in told.items()]  # fmt: skip
    lines += ["", _line("question", "figure", "compared with", *told, "bar", ""), _line(*["---"] * (len(told) + 5))]
    for row in newest["rows"]:
        verdict = {"MISSED": "**missed**", "for information": ""}.get(row["verdict"], row["verdict"])
        over = (ratios[version].get(row["question"], "") for version in told)
        lines.append(
            _line(
                row["question"], row["figure"], row["rival"], *over, (row["bar"] or "").replace(" ", "\u00a0"), verdict
            )
        )
    for plot in newest["plots"]:
        lines += ["", f"![{plot['title']}](../benchmarks/results/{plot['name']}.svg)"]
    return "\n".join(lines) + "\n"


def _measured(row: dict[str, Any]) -> str:
    value = row["measured"]
    return "" if value is None else f"{value:{'.0f' if abs(value) >= 1000 else '.3g'}}{row['unit']}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
