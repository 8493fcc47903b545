"""All exported figures of a process, read at one moment. Readings can be written down, subtracted and added up.

Counters and histograms of several processes are added; of gauges (`Family.merge`) the sum, the least or the greatest
counts. A reading from Redis is checked against the table of instruments: what does not fit is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from aikcache._codec.costs import too_many_containers
from aikcache._engine.events import OTHER
from aikcache._engine.families import FAMILIES, TIMINGS, hit_rate
from aikcache._engine.session_tally import EVENTS, KEY_STATES
from aikcache._engine.tally import BOUNDS, COMMANDS, MAX_OPERATIONS, Histogram, Tally
from aikcache._local.region import MAX_ERROR_TYPES
from aikcache._remote.scripts import MAX_SNAPSHOT

COUNTERS = {family.name: family for family in FAMILIES if family.kind == "counter"}
GAUGES = {family.name: family for family in FAMILIES if family.kind == "gauge"}
MAX_SAMPLES = 6 * MAX_OPERATIONS
"""Of one family."""
_OPEN = {"operation": MAX_OPERATIONS, "error_type": MAX_ERROR_TYPES}
"""Labels whose values an application chooses, and how many are told apart."""
_KNOWN = {
    "tier": frozenset({"local", "remote", "joined"}),
    "result": frozenset({"ok", "error"}),
    "cause": frozenset({"room"}),
    "command": frozenset(COMMANDS),
    "kind": frozenset({"group", "key", "glob"}),
    "direction": frozenset({"in", "out"}),
    "state": frozenset({"live", "down", "open", "closed", *KEY_STATES}),
    "event": frozenset(EVENTS),
}
"""All values of the other labels."""
Samples = dict[tuple[str, ...], float]


@dataclass(slots=True)
class Reading:
    """The samples of each counter and gauge, and the histograms of each timing, by their labels."""

    samples: dict[str, Samples] = field(default_factory=dict)
    timings: dict[str, dict[str, Histogram]] = field(default_factory=dict)

    def counted(self) -> int:
        """Grows whenever anything is counted."""
        return int(sum(sum(self.samples.get(name, {}).values()) for name in COUNTERS))


def take(tally: Tally) -> Reading:
    """A process's figures now, less those it began with."""
    tally.flush()
    now = Reading(
        {family.name: dict(family.read(tally)) for family in FAMILIES},
        {timing.name: {label: one.copy() for label, one in dict(timing.read(tally)).items()} for timing in TIMINGS},
    )
    return now if tally.base is None else less(now, tally.base)


def restart(tally: Tally) -> None:
    """Count from zero, under another id, in a forked child."""
    tally.after_fork()
    tally.base = take(tally)


def less(now: Reading, base: Reading) -> Reading:
    """What was counted since `base`; the gauges are those of `now`."""
    found = Reading({**now.samples}, {name: {} for name in now.timings})
    for name in COUNTERS:
        before = base.samples.get(name, {})
        found.samples[name] = {labels: value - before.get(labels, 0) for labels, value in now.samples[name].items()}
    for name, histograms in now.timings.items():
        for label, histogram in histograms.items():
            found.timings[name][label] = since = histogram.copy()
            past = base.timings.get(name, {}).get(label)
            if past is not None:
                since.add(past, -1)
    _derive(found)
    return found


def merged(living: Iterable[Reading], exited: Iterable[Reading] = ()) -> Reading:
    """Several processes as one; of those that have ended only the counts."""
    total = Reading({name: {} for name in (*COUNTERS, *GAUGES)}, {timing.name: {} for timing in TIMINGS})
    names = Names()
    for reading in (alive := list(living)) + list(exited):
        for name, family in COUNTERS.items():
            sums = total.samples[name]
            for labels, value in reading.samples.get(name, {}).items():
                _count(sums, names.bounded(family.labels, labels), value)
        for timing in TIMINGS:
            for label, histogram in reading.timings.get(timing.name, {}).items():
                (known,) = names.bounded((timing.label,), (label,))
                total.timings[timing.name].setdefault(known, Histogram()).add(histogram)
    for name, gauge in GAUGES.items():
        gauges: dict[tuple[str, ...], list[float]] = {}
        for reading in alive:
            for labels, value in reading.samples.get(name, {}).items():
                gauges.setdefault(labels, []).append(value)
        total.samples[name] = {labels: gauge.merge(values) for labels, values in gauges.items()}
    _derive(total)
    return total


class Names:
    """The values that labels have in one reading: of those that are not known beforehand only so many."""

    def __init__(self) -> None:
        self._seen: dict[str, set[str]] = {name: set() for name in _OPEN}

    def bounded(self, names: Sequence[str], values: Iterable[str]) -> tuple[str, ...]:
        """The values of these labels, or `other`."""
        return tuple(
            [value if self._is_known(name, value) else OTHER for name, value in zip(names, values, strict=True)]
        )

    def _is_known(self, name: str, value: str) -> bool:
        seen = self._seen.get(name)
        if seen is None:
            return value in _KNOWN[name]
        if len(seen) < _OPEN[name]:
            seen.add(value)
        return value in seen


def _count(sums: Samples, labels: tuple[str, ...], value: float) -> None:
    if labels not in sums and len(sums) >= MAX_SAMPLES:
        labels = (OTHER,) * len(labels)
    sums[labels] = sums.get(labels, 0) + value


def _derive(reading: Reading) -> None:
    hits, misses = (sum(reading.samples.get(name, {}).values()) for name in ("hits", "misses"))
    reading.samples["hit_rate"] = dict(hit_rate(hits, misses))


def pack(reading: Reading) -> dict[str, Any]:
    """In a form for JSON."""
    return {
        "samples": {
            name: [[*labels, +value] for labels, value in found.items()] for name, found in reading.samples.items()
        },
        "timings": {
            name: {label: [*histogram.counts, histogram.total] for label, histogram in found.items()}
            for name, found in reading.timings.items()
        },
    }


def unpack(data: object) -> Reading:
    """The opposite, for untrusted data: what does not fit the table is left out, labels beyond a bound are `other`."""
    reading = Reading()
    if not isinstance(data, dict):
        return reading
    samples, timings, names = data.get("samples"), data.get("timings"), Names()
    for family in FAMILIES:
        rows = samples.get(family.name) if isinstance(samples, dict) else None
        found = reading.samples[family.name] = {}
        for row in rows if isinstance(rows, list) else ():
            if (
                isinstance(row, list)
                and len(row) == len(family.labels) + 1
                and all(map(_is_label, row[:-1]))
                and _number(row[-1], 0 if family.kind == "counter" else -(2**63))
            ):
                _count(found, names.bounded(family.labels, row[:-1]), row[-1])
    for timing in TIMINGS:
        kept = reading.timings[timing.name] = {}
        by_label = timings.get(timing.name) if isinstance(timings, dict) else None
        for label, numbers in by_label.items() if isinstance(by_label, dict) else ():
            if (
                _is_label(label)
                and isinstance(numbers, list)
                and len(numbers) == len(BOUNDS) + 2
                and all(map(_number, numbers))
            ):
                (known,) = names.bounded((timing.label,), (label,))
                kept.setdefault(known, Histogram()).add(Histogram(list(map(int, numbers[:-1])), float(numbers[-1])))
    return reading


def parse(data: bytes) -> Mapping[str, Any] | None:
    """A JSON object, or None."""
    if len(data) > MAX_SNAPSHOT or too_many_containers(data):
        return None
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_label(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 300 and value.isprintable()


def _number(value: object, least: int = 0) -> bool:
    """Neither infinite nor none."""
    return type(value) in (int, float) and least <= cast(float, value) < 2**63
