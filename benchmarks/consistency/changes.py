"""What the workers changed, and when others had to see it: the requirements that reads are checked against."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, NamedTuple

from benchmarks.consistency.faults import Happened
from benchmarks.consistency.findings import Verdict
from benchmarks.consistency.records import Read
from benchmarks.consistency.story import Events, Meetings, slot_of

CALM = 1.5
"""Seconds without another fault before a refusal, after which no process avoids Redis because of that fault."""


class Change(NamedTuple):
    """One record's change by one process. `refused`: until when the server refused its invalidation, if it did."""

    acknowledged: float
    version: int
    record: int
    returned: float
    committed: float
    process: str
    way: str
    narrow: bool
    refused: float | None

    def unseen_by(self, read: Read) -> bool:
        """Whether the read gives what this change has invalidated."""
        return read.version == self.version - 1 if self.narrow else read.version < self.version


class Refusals:
    """When a server refused all writes, while nothing else was wrong."""

    def __init__(self, happened: Sequence[Happened]) -> None:
        self._spans = [h for h in happened if h.refuses]
        self._others = [h for h in happened if not h.refuses and h.slot is None and h.began < h.ended]
        self._others += [h for h in happened if not h.refuses and h.name.startswith("kill-data")]

    def until(self, returned: float) -> float | None:
        """Until when an invalidation that failed at this time was refused; None: the cause may be another."""
        for span in self._spans:
            if span.began <= returned <= span.ended:
                if any(h.ended > returned - CALM and h.began < returned for h in self._others):
                    return None
                return span.ended
        return None


def collect(
    verdict: Verdict, names: Sequence[str], events: Events, meetings: Meetings, happened: Sequence[Happened]
) -> list[Change]:
    """All changes, each with the time at which Redis acknowledged it."""
    refusals = Refusals(happened)
    slots: dict[int, list[str]] = defaultdict(list)
    for name in names:
        if any(event["what"] == "start" for event in events[name]):  # else it was killed before it was at work
            slots[slot_of(name)].append(name)
    changes = []
    for followers in slots.values():
        for place, name in enumerate(followers):
            for event in events[name]:
                if event["what"] != "write":
                    continue
                verdict.invalidations[event["way"]] += 1
                acknowledged, sender, refused = event["returned"], name, None
                if event["kept"] is not None:
                    verdict.kept += 1
                    refused = refusals.until(event["returned"])
                    verdict.refused += refused is not None
                    later = {follower: events[follower] for follower in followers[place:]}
                    acknowledged, sender = _acknowledged(verdict, event["kept"], later, event["way"])
                known = meetings.effective(acknowledged, sender, event["slots"] and frozenset(event["slots"]))
                verdict.again += acknowledged < known < inf
                verdict.lost += acknowledged < known == inf
                for record, version in event["records"]:
                    verdict.changes += 1
                    changes.append(
                        Change(
                            acknowledged=known,
                            version=version,
                            record=record,
                            returned=event["returned"],
                            committed=event["committed"],
                            process=name,
                            way=event["way"],
                            narrow=event["narrow"],
                            refused=refused,
                        )
                    )
    return sorted(changes)


def _acknowledged(verdict: Verdict, kept: float, histories: Events, way: str) -> tuple[float, str]:
    """When the invalidation kept at `kept` by the first of these processes was sent, and by whom: it, or a follower."""
    names = list(histories)
    for number, (name, history) in enumerate(histories.items()):
        sending = 0
        for event in history:
            sending += (event["what"] == "settling") - (event["what"] == "settled")
            if event["what"] == "settled" and event["kept_until"] and (number or event["kept_until"] >= kept):
                verdict.late.append(float(event["at"]) - kept)
                return float(event["at"]), name
        if number + 1 < len(names) and not _taken_over(histories[names[number + 1]]):
            if not sending:
                break
            verdict.unknown += 1  # killed while sending: it was sent, but when is not known
            return inf, name
    verdict.violate(
        "never acknowledged", f"worker {names[0]}: an invalidation ({way}) kept at {kept:.3f} was never acknowledged"
    )
    return inf, names[0]


def _taken_over(history: list[dict[str, Any]]) -> bool:
    """Whether this process found anything in its journal when it started; a journal is emptied when all was sent."""
    return any(event["what"] == "start" and event["pending"] for event in history)


class Requirements:
    """The changes of one record that reads must have seen, by a time that they are sorted by."""

    def __init__(self, changes: Sequence[Change], when: Callable[[Change], float]) -> None:
        self._wide = sorted((change for change in changes if not change.narrow), key=when)
        self._narrow = {change.version - 1: change for change in changes if change.narrow}
        self._when = when
        self._times = list(map(when, self._wide))
        self._newest = list(itertools.accumulate((change.version for change in self._wide), max))

    def broken_by(self, read: Read) -> Change | None:
        """The earliest change that this read had to see and did not."""
        found = None
        place = bisect_left(self._times, read.began)
        if place and self._newest[place - 1] > read.version:
            found = next(change for change in self._wide[:place] if change.version > read.version)
        narrow = self._narrow.get(read.version)
        if narrow is not None and self._when(narrow) < read.began:
            found = narrow if found is None else min(found, narrow, key=self._when)
        return found
