"""Run the benchmarks and print one table: `python -m benchmarks [QUESTION ...]`. Exit status 1 when a bar is missed."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
from pathlib import Path

from benchmarks._harness.measure import Plot, Row, Settings
from benchmarks._harness.plots import svg
from benchmarks._harness.progress import Progress
from benchmarks._harness.report import as_json, circumstances, table

QUESTIONS = (
    "local_hit", "remote_hit", "strong", "many", "writes", "value_size", "latency", "scaling", "threads", "stampede",
    "catalog", "invalidation", "push_latency", "channel_cost", "breaker", "stale", "hit_ratio", "memory",
    "compression", "dictionary", "metrics_cost", "import_time", "recursion", "sessions",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Ask the questions named, all by default."""
    options = parse(arguments)
    asked = options.questions or QUESTIONS
    progress = Progress(len(asked), sys.stderr)
    given = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(Settings)}
    given["progress"] = progress.part
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    rows: list[Row] = []
    plots: list[Plot] = []
    for name in asked:
        progress.ask(name)
        for answer in importlib.import_module(f"benchmarks.{name}").run(settings):
            (plots if isinstance(answer, Plot) else rows).append(answer)
        progress.answered()
    facts = circumstances()
    for what, value in facts.items():
        print(f"{what + ':':<9}{value}")
    print()
    print(table(rows))
    if options.json:
        options.json.write_text(as_json(rows, plots), encoding="utf-8")
    if options.plots:
        options.plots.mkdir(parents=True, exist_ok=True)
        note = f"{facts['machine']}; {facts['python']}; {facts['commit']}"
        for plot in plots:
            (options.plots / f"{plot.name}.svg").write_text(svg(plot, note), encoding="utf-8")
    return 1 if any(row.verdict == "MISSED" for row in rows) else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; what is not given is `Settings`' own default."""
    default = Settings()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="aikcache measured against its rivals.")
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(QUESTIONS)} (default: all)")
    parser.add_argument("--rounds", type=_positive, help=f"interleaved rounds (default: {default.rounds})")
    parser.add_argument("--seconds", type=_seconds, help=f"of a round of one contender (default: {default.seconds})")
    parser.add_argument(
        "--value-size", type=_positive, help=f"bytes of a value as JSON (default: {default.value_size})"
    )
    parser.add_argument(
        "--distribution",
        choices=("zipf", "uniform"),
        help=f"which keys are asked for (default: {default.distribution})",
    )
    parser.add_argument("--url", help="a server to use, as in redis://host:6379/9 (default: one is started)")
    parser.add_argument("--full", action="store_true", default=None, help="up to 1 000 000 keys, and all trace sizes")
    parser.add_argument("--traces", type=Path, help="directory of the access traces (default: ../shared/traces)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write rows and plots to this file")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="also draw the plots, as SVG files in this directory")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.questions if name not in QUESTIONS]
    if unknown:
        parser.error(f"there is no question {', '.join(unknown)}; there are {', '.join(QUESTIONS)}")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be greater than 0, got {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())
