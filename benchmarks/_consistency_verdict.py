"""What the workers logged, against what the laws promise.

A change counts from when its invalidation returned (`returned`); one whose process was killed before that was never
promised anything. Redis was told of it at `told`: that is the same moment, unless Redis could not be told and the
invalidation was kept, and replayed later, by that process or, from its journal, by the next of its slot.

A read that began at time t must give the version of every change
  own    that its own process had made, t > returned: no staleness at all, whatever Redis does;
  bound  of any process, t > told + max_staleness: however the channel is cut, and without any slack, for `t` is taken
         before the cache reads its clock, and `told` after the server answered;
  live   of any process, t > told + LIVE, unless the channel was disturbed since; and when it was, then LIVE after the
         disturbance ended: a channel made anew begins with an emptied tier.
LIVE is far more than a push takes; it is what a busy machine may take to run a thread. Before `told` other processes
read what Redis still holds: nobody has told them. What is told late is reported, and must have been told by the end.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from ._consistency_faults import Disturbance
from ._consistency_records import Read, read_events, read_reads
from ._consistency_worker import READ_WAYS

LIVE = 0.25
FIRST = 10
"""Violations told in detail."""


class Change(NamedTuple):
    """One record's change by one process."""

    told: float
    version: int
    record: int
    returned: float
    committed: float
    process: str
    way: str


class Violation(NamedTuple):
    """What was read although something newer had been promised; `change` is the oldest that was not seen."""

    law: str
    text: str


class Story:
    """The past of one process: when its channel was disturbed."""

    def __init__(self, name: str, events: Sequence[dict[str, Any]], disturbances: Sequence[Disturbance]) -> None:
        self.name = name
        self.slot = int(name.split(".")[0])
        spans = [(d.began, d.ended) for d in disturbances if d.slot in (None, self.slot)]
        lost = -inf  # until it was first live
        for event in events:
            if event["what"] == "silent":
                spans.append((event["began"], event["ended"]))
            elif event["what"] == "lost" and lost == inf:
                lost = event["at"]
            elif event["what"] == "live" and lost != inf:
                spans.append((lost, event["at"]))
                lost = inf
        if lost != inf:
            spans.append((lost, inf))
        self._began: list[float] = []
        self._ended: list[float] = []
        for began, ended in sorted(spans):
            if self._ended and began <= self._ended[-1]:
                self._ended[-1] = max(self._ended[-1], ended)
            else:
                self._began.append(began)
                self._ended.append(ended)

    def undisturbed_since(self, when: float) -> float:
        """Until `when` the channel was undisturbed, from this time on; `when` itself while it is disturbed."""
        place = bisect_right(self._began, when)
        return min(self._ended[place - 1], when) if place else -inf


@dataclass
class Verdict:
    """All that is reported."""

    reads: int = 0
    read_ways: Counter[str] = field(default_factory=Counter)
    invalidations: Counter[str] = field(default_factory=Counter)
    changes: int = 0
    kept: int = 0
    unknown: int = 0
    late: list[float] = field(default_factory=list)
    stale_live: list[float] = field(default_factory=list)
    stale_cut: list[float] = field(default_factory=list)
    violations: Counter[str] = field(default_factory=Counter)
    first: list[Violation] = field(default_factory=list)

    def violate(self, law: str, text: str) -> None:
        self.violations[law] += 1
        if self.violations[law] <= FIRST:
            self.first.append(Violation(law, text))


def judge(
    directory: Path, names: Sequence[str], disturbances: Sequence[Disturbance], max_staleness: float, start: float
) -> Verdict:
    """Read all logs and check every read."""
    verdict = Verdict()
    events = {name: read_events(directory, name) for name in names}
    changes = _changes(verdict, names, events)
    court = _Court(verdict, changes, max_staleness, start)
    for name in names:
        story = Story(name, events[name], disturbances)
        for event in events[name]:
            if event["what"] == "raised":
                verdict.violate("raised", f"worker {name}, at {event['at'] - start:.3f}: {event['error']}")
        for read in read_reads(directory, name):
            verdict.reads += 1
            verdict.read_ways[READ_WAYS[read.way]] += 1
            court.hear(read, story)
    return verdict


def _changes(verdict: Verdict, names: Sequence[str], events: dict[str, list[dict[str, Any]]]) -> list[Change]:
    """All changes, each with the time at which Redis was told."""
    slots: dict[int, list[str]] = defaultdict(list)
    for name in names:
        slots[int(name.split(".")[0])].append(name)
    changes = []
    for slot in slots.values():
        for place, name in enumerate(slot):
            for event in events[name]:
                if event["what"] != "write":
                    continue
                verdict.invalidations[event["way"]] += 1
                told = event["returned"]
                if event["kept"] is not None:
                    verdict.kept += 1
                    told = _told(verdict, event["kept"], [events[later] for later in slot[place:]], event["way"], name)
                for record, version in event["records"]:
                    verdict.changes += 1
                    change = Change(told, version, record, event["returned"], event["committed"], name, event["way"])
                    changes.append(change)
    return sorted(changes)


def _told(verdict: Verdict, kept: float, histories: list[list[dict[str, Any]]], way: str, name: str) -> float:
    """When what was kept at `kept` by the first of these processes was told by it, or one of its followers."""
    for number, history in enumerate(histories):
        for event in history:
            if event["what"] == "settled" and (number or event["kept_until"] >= kept):
                verdict.late.append(float(event["at"]) - kept)
                return float(event["at"])
        if number == 0 and any(event["what"] == "settling" and event["at"] >= kept for event in history):
            if len(histories) > 1:  # killed while telling: whether it had been told is not known
                verdict.unknown += 1
                return inf
    verdict.violate("never told", f"worker {name}: an invalidation ({way}) kept at {kept:.3f} was never told")
    return inf


class _Court:
    """Checks reads one by one."""

    def __init__(self, verdict: Verdict, changes: list[Change], max_staleness: float, start: float) -> None:
        self._verdict = verdict
        self._max_staleness = max_staleness
        self._start = start
        self._told: dict[int, list[Change]] = defaultdict(list)
        self._own: dict[tuple[str, int], list[Change]] = defaultdict(list)
        for change in changes:
            self._told[change.record].append(change)
            self._own[change.process, change.record].append(change)
        self._told_at = {record: [change.told for change in found] for record, found in self._told.items()}
        self._newest = {record: _running_maximum(found) for record, found in self._told.items()}
        for found in self._own.values():
            found.sort(key=lambda change: change.returned)
        self._own_at = {key: [change.returned for change in found] for key, found in self._own.items()}
        self._own_newest = {key: _running_maximum(found) for key, found in self._own.items()}

    def hear(self, read: Read, story: Story) -> None:
        key = (story.name, read.record)
        if key in self._own:
            place = bisect_left(self._own_at[key], read.began)
            if place and self._own_newest[key][place - 1] > read.version:
                missed = next(change for change in self._own[key][:place] if change.version > read.version)
                self._violate("own", read, missed, story, read.began - missed.returned)
        if read.record not in self._told:
            return
        place = bisect_left(self._told_at[read.record], read.began)
        if not place or self._newest[read.record][place - 1] <= read.version:
            return
        calm = story.undisturbed_since(read.began)
        missed = [change for change in self._told[read.record][:place] if change.version > read.version]
        oldest = missed[0]
        age = read.began - oldest.told
        (self._verdict.stale_live if calm < oldest.told else self._verdict.stale_cut).append(age)
        if age >= self._max_staleness:
            self._violate("bound", read, oldest, story, age)
        elif read.began - max(oldest.told, calm) > LIVE:
            self._violate("live", read, oldest, story, read.began - max(oldest.told, calm))

    def _violate(self, law: str, read: Read, missed: Change, story: Story, by: float) -> None:
        start = self._start
        self._verdict.violate(
            law,
            f"worker {story.name} read record {read.record} at version {read.version} by {READ_WAYS[read.way]}, "
            f"from {read.began - start:.4f} to {read.ended - start:.4f}, {by * 1000:.1f} ms too old a view: version "
            f"{missed.version} by worker {missed.process} was committed at {missed.committed - start:.4f}, its "
            f"invalidation ({missed.way}) returned at {missed.returned - start:.4f}, Redis was told at "
            f"{missed.told - start:.4f}; the channel is undisturbed since "
            f"{story.undisturbed_since(read.began) - start:.4f}",
        )


def _running_maximum(changes: Sequence[Change]) -> list[int]:
    newest, found = 0, []
    for change in changes:
        newest = max(newest, change.version)
        found.append(newest)
    return found
