"""All exported figures of a process, read at one moment. Readings can be written down, subtracted and added up.

Counters and histograms of several processes are added; of gauges (`Family.merge`) the sum, the least or the greatest
counts. A reading from Redis is checked against the table of instruments: what does not fit is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from aikcache._engine.events import OTHER
from aikcache._engine.families import FAMILIES, TIMINGS, hit_rate
from aikcache._engine.tally import BOUNDS, MAX_OPERATIONS, Histogram, Tally

COUNTERS = {family.name: family for family in FAMILIES if family.kind == "counter"}
GAUGES = {family.name: family for family in FAMILIES if family.kind == "gauge"}
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
    return now if tally.base is None else _less(now, tally.base)


def restart(tally: Tally) -> None:
    """Count from zero, under another id: in a forked child, or when the counts are in the totals of the dead."""
    tally.base, tally.id = None, tally.new_id()
    tally.base = take(tally)


def _less(now: Reading, base: Reading) -> Reading:
    for name in COUNTERS:
        before = base.samples.get(name, {})
        now.samples[name] = {labels: value - before.get(labels, 0) for labels, value in now.samples[name].items()}
    for name, histograms in now.timings.items():
        for label, histogram in histograms.items():
            past = base.timings.get(name, {}).get(label)
            if past is not None:
                histogram.add(past, -1)
    _derive(now)
    return now


def merged(living: Iterable[Reading], dead: Iterable[Reading] = ()) -> Reading:
    """Several processes as one; of those that have ended only the counts."""
    total = Reading({name: {} for name in (*COUNTERS, *GAUGES)}, {timing.name: {} for timing in TIMINGS})
    names: dict[str, None] = {}
    for reading in (alive := list(living)) + list(dead):
        for name, family in COUNTERS.items():
            sums = total.samples[name]
            for labels, value in reading.samples.get(name, {}).items():
                bounded = _bounded(names, labels) if family.labels[:1] == ("operation",) else labels
                sums[bounded] = sums.get(bounded, 0) + value
        for timing in TIMINGS:
            for label, histogram in reading.timings.get(timing.name, {}).items():
                (operation,) = _bounded(names, (label,)) if timing.label == "operation" else (label,)
                total.timings[timing.name].setdefault(operation, Histogram()).add(histogram)
    for name, gauge in GAUGES.items():
        gauges: dict[tuple[str, ...], list[float]] = {}
        for reading in alive:
            for labels, value in reading.samples.get(name, {}).items():
                gauges.setdefault(labels, []).append(value)
        total.samples[name] = {labels: gauge.merge(values) for labels, values in gauges.items()}
    _derive(total)
    return total


def _bounded(names: dict[str, None], labels: tuple[str, ...]) -> tuple[str, ...]:
    if labels[0] not in names:
        if len(names) >= MAX_OPERATIONS:
            return (OTHER, *labels[1:])
        names[labels[0]] = None
    return labels


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
    """The opposite, for untrusted data; what does not fit the table is left out."""
    reading = Reading()
    if not isinstance(data, dict):
        return reading
    samples, timings = data.get("samples"), data.get("timings")
    for family in FAMILIES:
        rows = samples.get(family.name) if isinstance(samples, dict) else None
        found = reading.samples[family.name] = {}
        for row in rows if isinstance(rows, list) else ():
            if (
                isinstance(row, list)
                and len(row) == len(family.labels) + 1
                and _are_labels(row[:-1])
                and _number(row[-1], 0 if family.kind == "counter" else -(2**63))
            ):
                found[tuple(row[:-1])] = row[-1]
    for timing in TIMINGS:
        kept = reading.timings[timing.name] = {}
        by_label = timings.get(timing.name) if isinstance(timings, dict) else None
        for label, numbers in by_label.items() if isinstance(by_label, dict) else ():
            if isinstance(numbers, list) and len(numbers) == len(BOUNDS) + 2 and all(map(_number, numbers)):
                kept[label] = Histogram(list(map(int, numbers[:-1])), float(numbers[-1]))
    return reading


def parse(data: bytes) -> Mapping[str, Any] | None:
    """A JSON object, or None."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _are_labels(values: list[object]) -> bool:
    return all(isinstance(value, str) and len(value) <= 300 for value in values)


def _number(value: object, least: int = 0) -> bool:
    if type(value) not in (int, float) or not isinstance(value, (int, float)):
        return False
    return isfinite(value) and least <= value < 2**63
