"""What the workers logged, compared with the guarantees.

A change counts from when its invalidation returned (`returned`); if its process was killed before that, nothing is
guaranteed. Redis acknowledged it at `acknowledged`. That is the same moment, unless Redis could not be reached: then
the invalidation was pending, and was sent later, by that process or, from its journal, by the next of its slot.

A read that began at time t must give the version of every change
  own      that its own process had made, t > returned: no staleness at all, whatever Redis does;
  bound    of any process, t > acknowledged + max_staleness: however the channel is cut, and without any slack, because
           `t` is taken before the cache reads its clock, and `acknowledged` after the server answered;
  live     of any process that was acknowledged before a heartbeat was sent which was answered before t: what is pushed
           arrives before that answer. It compares no durations, so a busy machine changes nothing;
  refused  of any process, t > returned + max_staleness, if the read ended while a server that answers reads refused all
           writes: from then on a process that has not received the invalidation may read before its writer sends it;
  strong   of any process, t > acknowledged, by a worker whose cache is consistency="strong".
Invalidating a tag of a result covers what was made of the row before the change, and nothing older, which another
change covers. For such a change read "not the version before it" instead of "at least its version".

Before `acknowledged` other processes read what Redis still holds. Pending invalidations that are sent late are
reported, and all must have been sent by the end.

When another server takes over (`Takeover`), it may not have what the one before acknowledged last. An invalidation that
went to a slot it took over, LAG before that began or later, by a process that had not met the new server yet, counts as
acknowledged when that process has met it, because then it was sent again. A process that lives must meet the new
server, and within AGAIN seconds, unless a fault hit that process or it exited, it must have read or stored a value
there. If it was killed before, what it sent last is lost: that is the limit of failover="replay", and counted. `own`
does not change, `bound` counts from `acknowledged` as above, and `live` and `strong` demand nothing of a process from
the beginning of the takeover until it has met the new server, even if a partition separates them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import inf
from pathlib import Path

from benchmarks.consistency.changes import Change, Requirements, collect
from benchmarks.consistency.faults import Happened
from benchmarks.consistency.findings import Verdict
from benchmarks.consistency.records import Read, read_events, read_reads
from benchmarks.consistency.sites import Takeover
from benchmarks.consistency.story import Meetings, Story, slot_of
from benchmarks.consistency.worker import READ_WAYS

AGAIN = 20.0
"""Seconds; in one or two it is done where a process gets the processor."""


def judge(
    directory: Path,
    names: Sequence[str],
    happened: Sequence[Happened],
    takeovers: Sequence[Takeover],
    max_staleness: float,
    start: float,
    *,
    strong: bool = False,
) -> Verdict:
    """Read all logs and check every read."""
    verdict = Verdict(takeovers=[takeover for takeover in takeovers if takeover.lossy])
    events = {name: read_events(directory, name) for name in names}
    meetings = Meetings(events, takeovers)
    changes = collect(verdict, names, events, meetings, happened)
    checker = _Checker(verdict, changes, happened, max_staleness, start, strong)
    for name in names:
        story, last = Story(name, events[name], happened, meetings), -inf
        for event in events[name]:
            if event["what"] == "raised":
                verdict.violate("raised", f"worker {name}, at {event['at'] - start:.3f}: {event['error']}")
        for read in read_reads(directory, name):
            verdict.reads += 1
            verdict.read_ways[READ_WAYS[read.way]] += 1
            checker.check(read, story)
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
    lives = not any(slot_of(name) == story.slot for name in names[names.index(story.name) + 1 :])
    disturbances = [(h.began, h.ended) for h in happened if h.slot == story.slot]
    for takeover in (t for t in meetings.takeovers if t.lossy and t.named > story.began):
        met, used = meetings.met(story.name, takeover), meetings.used[story.name].get(takeover.run, inf)
        text = f"worker {story.name}, {takeover.name} that was known at {takeover.named - start:.3f}"
        if last < takeover.named + AGAIN and inf in (met, used):
            continue  # it ended before it had to
        if met == inf and lives:
            verdict.violate("never met", text)
        until = min(used, takeover.named + AGAIN)
        if any(t.began < until and t.named > takeover.named for t in meetings.takeovers):
            continue  # soon followed by the next
        if any(began < until and ended > takeover.named - 0.5 for began, ended in disturbances):
            continue
        if used > takeover.named + AGAIN:
            verdict.violate("again", f"{text}: not used within {AGAIN:g} seconds")
        else:
            verdict.met.append(max(met - takeover.named, 0))
            verdict.used.append(max(used - takeover.named, 0))


class _Checker:
    """Checks reads one by one."""

    def __init__(
        self,
        verdict: Verdict,
        changes: list[Change],
        happened: Sequence[Happened],
        max_staleness: float,
        start: float,
        strong: bool,
    ) -> None:
        self._verdict = verdict
        self._happened = sorted(happened, key=lambda h: h.began)
        self._max_staleness = max_staleness
        self._start = start
        self._strong = strong
        acknowledged: dict[int, list[Change]] = defaultdict(list)
        own: dict[tuple[str, int], list[Change]] = defaultdict(list)
        self._refused: dict[int, list[Change]] = defaultdict(list)
        for change in changes:
            acknowledged[change.record].append(change)
            own[change.process, change.record].append(change)
            if change.refused is not None:
                self._refused[change.record].append(change)
        self._acknowledged = {
            record: Requirements(found, lambda change: change.acknowledged) for record, found in acknowledged.items()
        }
        self._own = {key: Requirements(found, lambda change: change.returned) for key, found in own.items()}

    def check(self, read: Read, story: Story) -> None:
        own = self._own.get((story.name, read.record))
        missed = own.broken_by(read) if own is not None else None
        if missed is not None:
            self._violate("own", read, missed, story, read.began - missed.returned)
        self._check_refused(read, story)
        acknowledged = self._acknowledged.get(read.record)
        missed = acknowledged.broken_by(read) if acknowledged is not None else None
        if missed is None:
            return
        age = read.began - missed.acknowledged
        undisturbed = story.disturbed.over_since(read.began) < missed.acknowledged
        (self._verdict.stale_live if undisturbed else self._verdict.stale_cut).append(age)
        stable_since = story.moving.over_since(read.began)
        if age >= self._max_staleness:
            self._violate("bound", read, missed, story, age)
        elif stable_since < read.began and max(missed.acknowledged, stable_since) < story.delivered_until(read.began):
            self._violate("live", read, missed, story, story.delivered_until(read.began) - missed.acknowledged)
        elif stable_since < read.began and self._strong:
            self._violate("strong", read, missed, story, age)

    def _check_refused(self, read: Read, story: Story) -> None:
        for change in self._refused.get(read.record, ()):
            late = read.began - change.returned - self._max_staleness
            if late > 0 and change.refused is not None and read.ended < change.refused and change.unseen_by(read):
                self._violate("refused", read, change, story, late)
                return

    def _violate(self, guarantee: str, read: Read, missed: Change, story: Story, by: float) -> None:
        start = self._start
        meanwhile = [
            f"{h.name}{'' if h.slot is None else f' of {h.slot}'} {h.began - start:.4f}-{h.ended - start:.4f}"
            for h in self._happened
            if h.ended > missed.committed - 2.0 and h.began < read.ended
        ]
        self._verdict.violate(
            guarantee,
            f"worker {story.name} read record {read.record} at version {read.version} by {READ_WAYS[read.way]}, "
            f"from {read.began - start:.4f} to {read.ended - start:.4f}, {by * 1000:.1f} ms too old a view: version "
            f"{missed.version} by worker {missed.process} was committed at {missed.committed - start:.4f}, its "
            f"invalidation ({missed.way}) returned at {missed.returned - start:.4f}, Redis acknowledged it at "
            f"{missed.acknowledged - start:.4f}; the channel is undisturbed since "
            f"{story.disturbed.over_since(read.began) - start:.4f}, and valid until "
            f"{story.delivered_until(read.began) - start:.4f}. Meanwhile: {', '.join(meanwhile) or 'nothing'}; "
            f"and in the process: {story.around(missed.committed - 2.0, read.ended, start)}",
        )
