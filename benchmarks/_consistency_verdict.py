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
A tag that was made of a result ends what was made of the row before the change, and nothing older: that is another
change's to end. For such a change read "not the version before it" instead of "at least its version".

LIVE is far more than a push takes; it is what a busy machine may take to run a thread. A process that noticed itself
that it had not run for a while (`stalled`) was disturbed meanwhile. Before `told` other processes read what Redis still
holds: nobody has told them. What is told late is reported, and must have been told by the end.

When another server takes over (`Takeover`), it may not have what the one before acknowledged last. An invalidation that
went to a slot it took over, LAG before that began or later, by a process that had not met the new server yet, counts as
told when that process has met it: for then it was sent again. A process that lives must meet it, and in AGAIN seconds,
unless something was done to that process or it ended, it must have read a value there, or stored one. Of one that was
killed before it could, what it told last is lost: that is the limit of failover="replay", and counted. `own` stands as
it is, `bound` counts from `told` as above, and for `live` a process is disturbed from the beginning until it has met
the new server.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from ._consistency_faults import Happened
from ._consistency_records import Read, read_events, read_reads
from ._consistency_sites import Takeover
from ._consistency_worker import READ_WAYS

LIVE = 0.25
LAG = 0.1
"""Seconds that replication may be behind before anything is done to it; on one host it takes a few milliseconds."""
AGAIN = 10.0
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
    narrow: bool


class Violation(NamedTuple):
    """What was read although something newer had been promised; `change` is the oldest that was not seen."""

    law: str
    text: str


class Meetings:
    """Which servers that took over each process has met, and when."""

    def __init__(self, events: dict[str, list[dict[str, Any]]], takeovers: Sequence[Takeover]) -> None:
        self.takeovers = sorted(takeovers, key=lambda takeover: takeover.named)
        self.used = {name: _firsts("used", history) for name, history in events.items()}
        self._met: dict[tuple[str, Takeover], float] = {}
        met = {name: _firsts("met", history) for name, history in events.items()}
        for number, takeover in enumerate(self.takeovers):
            runs = [later.run for later in self.takeovers[number:] if later.concerns(takeover.slots)]
            for name in events:
                self._met[name, takeover] = min((met[name].get(run, inf) for run in runs), default=inf)

    def met(self, process: str, takeover: Takeover) -> float:
        """When the process met this server, or one that followed it; never: inf."""
        return self._met[process, takeover]

    def effective(self, told: float, process: str, slots: frozenset[int] | None) -> float:
        """From when on the server that serves knows of what the process told; inf: it never will."""
        for takeover in self.takeovers:
            if takeover.lossy and takeover.began - LAG <= told < (met := self.met(process, takeover)):
                told = met if takeover.concerns(slots) else told
        return told


def _firsts(what: str, history: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of each run when it was first met, or used."""
    return {event["run"]: event["at"] for event in reversed(history) if event["what"] == what}


class Story:
    """The past of one process: when its channel was disturbed."""

    def __init__(
        self, name: str, events: Sequence[dict[str, Any]], happened: Sequence[Happened], meetings: Meetings
    ) -> None:
        self.name = name
        self.slot = _slot(name)
        self.began = events[0]["at"] if events else inf
        spans = [(h.began, h.ended) for h in happened if h.cuts and h.slot in (None, self.slot)]
        spans += [(t.began, meetings.met(name, t)) for t in meetings.takeovers if t.lossy and t.named > self.began]
        lost = -inf  # until it was first live
        for event in events:
            if event["what"] in ("silent", "stalled"):
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

    def violate(self, law: str, text: str) -> None:
        self.violations[law] += 1
        if self.violations[law] <= FIRST:
            self.first.append(Violation(law, text))


def judge(
    directory: Path,
    names: Sequence[str],
    happened: Sequence[Happened],
    takeovers: Sequence[Takeover],
    max_staleness: float,
    start: float,
) -> Verdict:
    """Read all logs and check every read."""
    verdict = Verdict(takeovers=[takeover for takeover in takeovers if takeover.lossy])
    events = {name: read_events(directory, name) for name in names}
    meetings = Meetings(events, takeovers)
    changes = _changes(verdict, names, events, meetings)
    court = _Court(verdict, changes, happened, max_staleness, start)
    for name in names:
        story, last = Story(name, events[name], happened, meetings), -inf
        for event in events[name]:
            if event["what"] == "raised":
                verdict.violate("raised", f"worker {name}, at {event['at'] - start:.3f}: {event['error']}")
        for read in read_reads(directory, name):
            verdict.reads += 1
            verdict.read_ways[READ_WAYS[read.way]] += 1
            court.hear(read, story)
            last = max(last, read.began)
        _check_meetings(verdict, story, names, happened, meetings, last, start)
    return verdict


def _check_meetings(
    verdict: Verdict,
    story: Story,
    names: Sequence[str],
    happened: Sequence[Happened],
    meetings: Meetings,
    last: float,
    start: float,
) -> None:
    """Whether the process, which read until `last`, has met and used all that took over meanwhile, and when."""
    lives = not any(_slot(name) == story.slot for name in names[names.index(story.name) + 1 :])
    trouble = [(h.began, h.ended) for h in happened if h.slot == story.slot]
    for takeover in (t for t in meetings.takeovers if t.lossy and t.named > story.began):
        met, used = meetings.met(story.name, takeover), meetings.used[story.name].get(takeover.run, inf)
        text = f"worker {story.name}, {takeover.name} that was known at {takeover.named - start:.3f}"
        if met == inf and lives:
            verdict.violate("never met", text)
        until = min(used, takeover.named + AGAIN)
        if any(t.began < until and t.named > takeover.named for t in meetings.takeovers):
            continue  # soon followed by the next
        if any(began < until and ended > takeover.named - 0.5 for began, ended in trouble):
            continue
        if used == inf and last < takeover.named + AGAIN:
            continue  # it ended before it had to
        if used > takeover.named + AGAIN:
            verdict.violate("again", f"{text}: not used within {AGAIN:g} seconds")
        else:
            verdict.met.append(max(met - takeover.named, 0))
            verdict.used.append(max(used - takeover.named, 0))


def _changes(
    verdict: Verdict, names: Sequence[str], events: dict[str, list[dict[str, Any]]], meetings: Meetings
) -> list[Change]:
    """All changes, each with the time at which Redis was told."""
    slots: dict[int, list[str]] = defaultdict(list)
    for name in names:
        if any(event["what"] == "start" for event in events[name]):  # else it was killed before it was at work
            slots[_slot(name)].append(name)
    changes = []
    for followers in slots.values():
        for place, name in enumerate(followers):
            for event in events[name]:
                if event["what"] != "write":
                    continue
                verdict.invalidations[event["way"]] += 1
                told, teller = event["returned"], name
                if event["kept"] is not None:
                    verdict.kept += 1
                    later = {follower: events[follower] for follower in followers[place:]}
                    told, teller = _told(verdict, event["kept"], later, event["way"])
                known = meetings.effective(told, teller, event["slots"] and frozenset(event["slots"]))
                verdict.again += told < known < inf
                verdict.lost += told < known == inf
                for record, version in event["records"]:
                    verdict.changes += 1
                    changes.append(
                        Change(
                            told=known,
                            version=version,
                            record=record,
                            returned=event["returned"],
                            committed=event["committed"],
                            process=name,
                            way=event["way"],
                            narrow=event["narrow"],
                        )
                    )
    return sorted(changes)


def _slot(name: str) -> int:
    return int(name.split(".")[0])


def _told(verdict: Verdict, kept: float, histories: dict[str, list[dict[str, Any]]], way: str) -> tuple[float, str]:
    """When what was kept at `kept` by the first of these processes was told, and by whom: it, or a follower."""
    names = list(histories)
    for number, (name, history) in enumerate(histories.items()):
        telling = 0
        for event in history:
            telling += (event["what"] == "settling") - (event["what"] == "settled")
            if event["what"] == "settled" and event["kept_until"] and (number or event["kept_until"] >= kept):
                verdict.late.append(float(event["at"]) - kept)
                return float(event["at"]), name
        if number + 1 < len(names) and not _taken_over(histories[names[number + 1]]):
            if not telling:
                break
            verdict.unknown += 1  # killed while telling: it had been told, but when is not known
            return inf, name
    verdict.violate("never told", f"worker {names[0]}: an invalidation ({way}) kept at {kept:.3f} was never told")
    return inf, names[0]


def _taken_over(history: list[dict[str, Any]]) -> bool:
    """Whether this process found anything in its journal when it started; a journal is emptied when all was told."""
    return any(event["what"] == "start" and event["pending"] for event in history)


class _Promises:
    """What reads of one record must have seen, by a time that changes are sorted by."""

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


class _Court:
    """Checks reads one by one."""

    def __init__(
        self,
        verdict: Verdict,
        changes: list[Change],
        happened: Sequence[Happened],
        max_staleness: float,
        start: float,
    ) -> None:
        self._verdict = verdict
        self._happened = sorted(happened, key=lambda h: h.began)
        self._max_staleness = max_staleness
        self._start = start
        told: dict[int, list[Change]] = defaultdict(list)
        own: dict[tuple[str, int], list[Change]] = defaultdict(list)
        for change in changes:
            told[change.record].append(change)
            own[change.process, change.record].append(change)
        self._told = {record: _Promises(found, lambda change: change.told) for record, found in told.items()}
        self._own = {key: _Promises(found, lambda change: change.returned) for key, found in own.items()}

    def hear(self, read: Read, story: Story) -> None:
        own = self._own.get((story.name, read.record))
        missed = own.broken_by(read) if own is not None else None
        if missed is not None:
            self._violate("own", read, missed, story, read.began - missed.returned)
        told = self._told.get(read.record)
        missed = told.broken_by(read) if told is not None else None
        if missed is None:
            return
        calm = story.undisturbed_since(read.began)
        age = read.began - missed.told
        (self._verdict.stale_live if calm < missed.told else self._verdict.stale_cut).append(age)
        if age >= self._max_staleness:
            self._violate("bound", read, missed, story, age)
        elif read.began - max(missed.told, calm) > LIVE:
            self._violate("live", read, missed, story, read.began - max(missed.told, calm))

    def _violate(self, law: str, read: Read, missed: Change, story: Story, by: float) -> None:
        start = self._start
        meanwhile = [
            f"{h.name}{'' if h.slot is None else f' of {h.slot}'} {h.began - start:.4f}-{h.ended - start:.4f}"
            for h in self._happened
            if h.ended > missed.committed - 2.0 and h.began < read.ended
        ]
        self._verdict.violate(
            law,
            f"worker {story.name} read record {read.record} at version {read.version} by {READ_WAYS[read.way]}, "
            f"from {read.began - start:.4f} to {read.ended - start:.4f}, {by * 1000:.1f} ms too old a view: version "
            f"{missed.version} by worker {missed.process} was committed at {missed.committed - start:.4f}, its "
            f"invalidation ({missed.way}) returned at {missed.returned - start:.4f}, Redis was told at "
            f"{missed.told - start:.4f}; the channel is undisturbed since "
            f"{story.undisturbed_since(read.began) - start:.4f}. Meanwhile: {', '.join(meanwhile) or 'nothing'}",
        )
