"""What the checker found in a run: counts, ages of what was stale, and each violation of a guarantee."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.consistency.sites import Takeover

FIRST = 10
"""Violations of each guarantee that are reported in detail."""


class Violation(NamedTuple):
    """A read that was older than guaranteed."""

    guarantee: str
    text: str


@dataclass
class Verdict:
    """All that is reported."""

    reads: int = 0
    read_ways: Counter[str] = field(default_factory=Counter)
    invalidations: Counter[str] = field(default_factory=Counter)
    changes: int = 0
    kept: int = 0
    refused: int = 0
    unknown: int = 0
    again: int = 0
    lost: int = 0
    takeovers: list[Takeover] = field(default_factory=list)
    met: list[float] = field(default_factory=list)
    used: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    stale_live: list[float] = field(default_factory=list)
    stale_cut: list[float] = field(default_factory=list)
    violations: Counter[str] = field(default_factory=Counter)
    first: list[Violation] = field(default_factory=list)

    def violate(self, guarantee: str, text: str) -> None:
        self.violations[guarantee] += 1
        if self.violations[guarantee] <= FIRST:
            self.first.append(Violation(guarantee, text))
