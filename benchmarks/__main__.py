"""Run the benchmarks and print one table: `python -m benchmarks [QUESTION ...]`. Exit status 1 when a bar is missed."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
import time
from pathlib import Path

from ._measure import Row, Settings
from ._report import as_json, circumstances, table

QUESTIONS = (
    "local_hit", "remote_hit", "many", "invalidation", "push_latency", "breaker", "threads", "hit_ratio",
    "memory", "compression", "import_time",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Ask the questions named, all by default."""
    options = parse(arguments)
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(Settings)}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    rows: list[Row] = []
    for name in options.questions or QUESTIONS:
        began = time.perf_counter()
        print(f"{name} … ", end="", file=sys.stderr, flush=True)
        rows += importlib.import_module(f"benchmarks.{name}").run(settings)
        print(f"{time.perf_counter() - began:.1f} s", file=sys.stderr)
    for what, value in circumstances().items():
        print(f"{what + ':':<9}{value}")
    print()
    print(table(rows))
    if options.json:
        options.json.write_text(as_json(rows), encoding="utf-8")
    return 1 if any(row.verdict == "MISSED" for row in rows) else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; what is not given is `Settings`' own default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="aikcache measured against its rivals.")
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(QUESTIONS)} (default: all)")
    parser.add_argument("--rounds", type=_positive, help=f"interleaved rounds (default: {Settings().rounds})")
    parser.add_argument("--seconds", type=float, help=f"of one round of one contender (default: {Settings().seconds})")
    parser.add_argument("--value-size", type=_positive, help="bytes of a value as JSON (default: 1024)")
    parser.add_argument("--url", help="a server to use, as in redis://host:6379/9 (default: one is started)")
    parser.add_argument("--full", action="store_true", default=None, help="up to 1 000 000 keys, and all trace sizes")
    parser.add_argument("--traces", type=Path, help="directory of the access traces (default: ../shared/traces)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
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


if __name__ == "__main__":
    sys.exit(main())
