"""How everything here is measured: side by side, in turns, and judged by medians.

These machines are noisy, so a figure alone says little. All that is compared runs in one process, in short rounds that
alternate; each round gives one ratio, and the median of the ratios counts. Spread is half the interquartile range.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parent.parent
_UNROLLED = 10  # calls a loop step of a timing, so that the loop costs next to nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line says. `seconds` is the length of one round of one contender, at most."""

    rounds: int = 25
    seconds: float = 0.01
    value_size: int = 1024
    url: str | None = None
    full: bool = False
    traces: Path = ROOT.parent / "shared" / "traces"


@dataclass(frozen=True, slots=True)
class Bar:
    """What a measured number must be: at most, or at `least`, `limit`."""

    limit: float
    unit: str = "×"
    least: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.limit:g}{self.unit}"

    def met(self, measured: float) -> bool:
        return measured >= self.limit if self.least else measured <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table. `measured` is what the bar judges; without a bar the row is information."""

    question: str
    figure: str
    rival: str = ""
    measured: float | None = None
    unit: str = "×"
    bar: Bar | None = None

    @property
    def verdict(self) -> str:
        if self.bar is None:
            return "for information"
        if self.measured is None:
            return "not measured"
        return "reached" if self.bar.met(self.measured) else "MISSED"

    def cells(self) -> tuple[str, ...]:
        ratio = "" if self.measured is None else f"{self.measured:.3g}{self.unit}"
        bar = "" if self.bar is None else str(self.bar)
        return (self.question, self.figure, self.rival, ratio, bar, self.verdict)


HEADINGS = ("question", "figure", "rival", "ratio", "bar", "verdict")


def absent(question: str, rival: str, bar: Bar | None = None) -> Row:
    """The row of a rival that is not installed here."""
    return Row(question=question, figure="", rival=f"{rival}: not installed", bar=bar)


def duration(seconds: float) -> str:
    """Seconds for people to read: three digits, in the unit that suits."""
    for factor, unit in ((1e9, "ns"), (1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


@dataclass(frozen=True, slots=True)
class Samples:
    """Seconds per call, one for each round."""

    rounds: Sequence[float] = field(repr=False)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def __str__(self) -> str:
        low, middle, high = statistics.quantiles(self.rounds, n=4) if len(self.rounds) > 1 else [self.rounds[0]] * 3
        return f"{duration(middle)} ±{(high - low) / 2 / middle:.0%}"

    def over(self, other: Samples) -> float:
        """How many times `other` this takes: the median of the rounds' own ratios."""
        return statistics.median(a / b for a, b in zip(self.rounds, other.rounds, strict=True))


def interleaved(contenders: Mapping[str, Callable[[], object]], settings: Settings) -> dict[str, Samples]:
    """Time each contender in short rounds, in an order that is shuffled every round."""
    timers = {name: timeit.Timer("; ".join(["f()"] * _UNROLLED), globals={"f": f}) for name, f in contenders.items()}
    return timed(timers, settings)


def timed(timers: Mapping[str, timeit.Timer], settings: Settings) -> dict[str, Samples]:
    """The same for timers whose statement makes ten calls. The garbage collector rests, as timeit has it."""
    gc.collect()
    loops = {}
    for name, timer in timers.items():
        timer.timeit(2)  # whatever is made at the first call
        loops[name] = max(1, int(settings.seconds / max(timer.timeit(2) / 2, 1e-9)))
    rounds: dict[str, list[float]] = {name: [] for name in timers}
    order, random = list(timers), Random(1)
    for _ in range(settings.rounds):
        random.shuffle(order)
        for name in order:
            rounds[name].append(timers[name].timeit(loops[name]) / loops[name] / _UNROLLED)
    return {name: Samples(samples) for name, samples in rounds.items()}


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table whose columns line up."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]
    lines.insert(1, tuple("-" * width for width in widths))
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


def circumstances() -> dict[str, str]:
    """Machine, Python, commit and command: what a figure is worth nothing without."""
    models = [line.split(":")[1].strip() for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    commit = _run("git", "rev-parse", "--short", "HEAD") or "unknown"
    changed = " with changes" if _run("git", "status", "--porcelain", "--", "aikcache") else ""
    return {
        "machine": f"{models[0] if models else platform.processor()}, {os.cpu_count()} cores, {platform.system()}",
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "commit": commit + changed,
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
    }


def as_json(rows: Sequence[Row]) -> str:
    """The rows and their circumstances, for a file."""
    told = [{**asdict(row), "bar": None if row.bar is None else str(row.bar), "verdict": row.verdict} for row in rows]
    return json.dumps({**circumstances(), "rows": told}, indent=1, ensure_ascii=False) + "\n"


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
