"""How everything here is measured: side by side, in turns, and judged by medians.

These machines are noisy, so a figure alone says little. All that is compared runs in one process, in short rounds that
alternate; each round gives one ratio, and the median of the ratios counts. Spread is half the interquartile range.

Round trips have two speeds here: where a core goes to sleep between question and answer, waking it costs several times
the work, and hides what a library costs. So round trips are measured twice: with the server on the caller's core, where
nobody sleeps and a few per cent show, and with both where the system puts them.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[2]
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
    distribution: str = "zipf"
    progress: Callable[[float], object] = field(default=lambda share: None, repr=False)
    """Told which share of a longer measurement is done."""

    @property
    def span(self) -> float:
        """Seconds for what is measured in one piece: all rounds of one contender."""
        return self.rounds * self.seconds

    def draw(self, count: int, size: int, seed: int = 1) -> list[int]:
        """`count` places 0 … `size`-1, the first ones most often by Zipf's law (exponent 1), or all alike."""
        weights = accumulate(1 / (place + 1) if self.distribution == "zipf" else 1.0 for place in range(size))
        return Random(seed).choices(range(size), cum_weights=list(weights), k=count)


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
        digits = ".0f" if self.measured is not None and abs(self.measured) >= 1000 else ".3g"
        ratio = "" if self.measured is None else f"{self.measured:{digits}}{self.unit}"
        bar = "" if self.bar is None else str(self.bar)
        return (self.question, self.figure, self.rival, ratio, bar, self.verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Lines for a picture: by name the points of each, in the order of their x. `name` is the file's."""

    name: str
    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = False
    log_y: bool = False


CAN_PIN = hasattr(os, "sched_setaffinity")
"""Linux alone lets a thread say where it runs."""


@contextmanager
def one_core() -> Iterator[None]:
    """This thread, and all that it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


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


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    settings: Settings,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Samples]:
    """Time each contender in short rounds, in an order that is shuffled every round."""
    statement = "; ".join(["f()"] * _UNROLLED)
    return timed(
        {name: timeit.Timer(statement, timer=clock, globals={"f": f}) for name, f in contenders.items()}, settings
    )


def timed(timers: Mapping[str, timeit.Timer], settings: Settings) -> dict[str, Samples]:
    """The same for timers whose statement makes ten calls. The garbage collector rests, as timeit has it."""
    gc.collect()
    loops = {}
    for name, timer in timers.items():
        timer.timeit(2)  # whatever is made at the first call
        loops[name] = max(1, int(settings.seconds / max(timer.timeit(2) / 2, 1e-9)))
    rounds: dict[str, list[float]] = {name: [] for name in timers}
    order, random = list(timers), Random(1)
    for done in range(settings.rounds):
        random.shuffle(order)
        for name in order:
            rounds[name].append(timers[name].timeit(loops[name]) / loops[name] / _UNROLLED)
        settings.progress((done + 1) / settings.rounds)
    return {name: Samples(samples) for name, samples in rounds.items()}
