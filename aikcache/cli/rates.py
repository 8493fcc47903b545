"""What flows per second, of snapshots that each process publishes when its own time has come.

A process's rate is that of its latest interval: what it counted between its last two snapshots, divided by the time
between them (by its own uptime, so it does not matter when they are read). Before there are two, it is the average
since the process began. Pure: the readings are handed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from aikcache._engine.fleet import Member
from aikcache._engine.reading import Reading


@dataclass(frozen=True, slots=True)
class Flow:
    """Events per second, `written` in bytes."""

    local: float = 0.0
    remote: float = 0.0
    joined: float = 0.0
    misses: float = 0.0
    loads: float = 0.0
    errors: float = 0.0
    written: float = 0.0

    @property
    def hits(self) -> float:
        return self.local + self.remote + self.joined

    @property
    def calls(self) -> float:
        return self.hits + self.misses

    @property
    def hit_rate(self) -> float | None:
        """None: nothing flows."""
        return self.hits / self.calls if self.calls else None

    def __add__(self, other: Flow) -> Flow:
        return Flow(*(getattr(self, name) + getattr(other, name) for name in FIGURES))


FIGURES = tuple(field.name for field in fields(Flow))


class Rates:
    """Keeps the last two snapshots of each process."""

    def __init__(self) -> None:
        self._latest: dict[str, Reading] = {}
        self._before: dict[str, Reading] = {}

    def take(self, members: Sequence[Member]) -> dict[str, Flow]:
        """What flows in each operation, over all `members`, which are those that are alive."""
        total: dict[str, Flow] = {}
        for member in members:
            latest = self._latest.get(member.id)
            if latest is None or uptime(member.reading) > uptime(latest):
                if latest is not None:
                    self._before[member.id] = latest
                self._latest[member.id] = member.reading
            for name, flow in flows(self._before.get(member.id), self._latest[member.id]).items():
                total[name] = total.get(name, Flow()) + flow
        alive = {member.id for member in members}
        self._latest = {id: reading for id, reading in self._latest.items() if id in alive}
        self._before = {id: reading for id, reading in self._before.items() if id in alive}
        return total


def flows(before: Reading | None, after: Reading) -> dict[str, Flow]:
    """By operation, between two snapshots of one process; since it began without the first."""
    seconds = uptime(after) - (0.0 if before is None else uptime(before))
    if seconds <= 0:
        return {}
    counted, less = counts(after), {} if before is None else counts(before)
    return {
        name: Flow(*((max(now.get(what, 0) - less.get(name, {}).get(what, 0), 0)) / seconds for what in FIGURES))
        for name, now in counted.items()
    }


def uptime(reading: Reading) -> float:
    """Seconds for which a process had counted."""
    return reading.samples.get("uptime_seconds", {}).get((), 0.0)


_SINGLE = {"misses": "misses", "errors": "errors", "written": "bytes_written"}
"""Figures that are all of a counter's samples of an operation."""


def counts(reading: Reading) -> Mapping[str, Mapping[str, float]]:
    """The figures of a `Flow` since the process began, by operation."""
    found: dict[str, dict[str, float]] = {}

    def add(operation: str, what: str, value: float) -> None:
        of = found.setdefault(operation, {})
        of[what] = of.get(what, 0) + value

    for (operation, tier), value in _of(reading, "hits", 2):
        if tier in FIGURES:
            add(operation, tier, value)
    for (operation, result), value in _of(reading, "loads", 2):
        if result == "ok":
            add(operation, "loads", value)
    for what, counter in _SINGLE.items():
        for (operation, *_), value in reading.samples.get(counter, {}).items():
            add(operation, what, value)
    return found


def _of(reading: Reading, counter: str, labels: int) -> list[tuple[tuple[str, ...], float]]:
    return [(found, value) for found, value in reading.samples.get(counter, {}).items() if len(found) == labels]
