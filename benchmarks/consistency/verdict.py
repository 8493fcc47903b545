"""What the workers logged, against what the laws promise.

A change counts from when its invalidation returned (`returned`); one whose process was killed before that was never
promised anything. Redis was told of it at `told`: that is the same moment, unless Redis could not be told and the
invalidation was kept, and replayed later, by that process or, from its journal, by the next of its slot.

A read that began at time t must give the version of every change
  own      that its own process had made, t > returned: no staleness at all, whatever Redis does;
  bound    of any process, t > told + max_staleness: however the channel is cut, and without any slack, for `t` is taken
           before the cache reads its clock, and `told` after the server answered;
  live     of any process that was told before a heartbeat was sent which was answered before t: what is pushed arrives
           before the answer. No time is in it, so a busy machine changes nothing;
  refused  of any process, t > returned + max_staleness, if it ended while a server that answers reads refused all
           writes: from then on one that has not heard may ask before whoever has to tell it does;
  strong   of any process, t > told, by a worker whose cache is consistency="strong".
A tag that was made of a result ends what was made of the row before the change, and nothing older: that is another
change's to end. For such a change read "not the version before it" instead of "at least its version".

Before `told` other processes read what Redis still holds: nobody has told them. What is told late is reported, and must
have been told by the end.

When another server takes over (`Takeover`), it may not have what the one before acknowledged last. An invalidation that
went to a slot it took over, LAG before that began or later, by a process that had not met the new server yet, counts as
told when that process has met it: for then it was sent again. A process that lives must meet it, and in AGAIN seconds,
unless something was done to that process or it ended, it must have read a value there, or stored one. Of one that was
killed before it could, what it told last is lost: that is the limit of failover="replay", and counted. `own` stands as
it is, `bound` counts from `told` as above, and `live` and `strong` demand nothing of a process from the beginning until
it has met the new server, be it cut off from it by a partition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import inf
from pathlib import Path

from benchmarks.consistency.changes import Change, Promises, collect
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
    court = _Court(verdict, changes, happened, max_staleness, start, strong)
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
    lives = not any(slot_of(name) == story.slot for name in names[names.index(story.name) + 1 :])
    trouble = [(h.began, h.ended) for h in happened if h.slot == story.slot]
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
        if any(began < until and ended > takeover.named - 0.5 for began, ended in trouble):
            continue
        if used > takeover.named + AGAIN:
            verdict.violate("again", f"{text}: not used within {AGAIN:g} seconds")
        else:
            verdict.met.append(max(met - takeover.named, 0))
            verdict.used.append(max(used - takeover.named, 0))


class _Court:
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
        told: dict[int, list[Change]] = defaultdict(list)
        own: dict[tuple[str, int], list[Change]] = defaultdict(list)
        self._refused: dict[int, list[Change]] = defaultdict(list)
        for change in changes:
            told[change.record].append(change)
            own[change.process, change.record].append(change)
            if change.refused is not None:
                self._refused[change.record].append(change)
        self._told = {record: Promises(found, lambda change: change.told) for record, found in told.items()}
        self._own = {key: Promises(found, lambda change: change.returned) for key, found in own.items()}

    def hear(self, read: Read, story: Story) -> None:
        own = self._own.get((story.name, read.record))
        missed = own.broken_by(read) if own is not None else None
        if missed is not None:
            self._violate("own", read, missed, story, read.began - missed.returned)
        self._hear_refused(read, story)
        told = self._told.get(read.record)
        missed = told.broken_by(read) if told is not None else None
        if missed is None:
            return
        age = read.began - missed.told
        undisturbed = story.disturbed.over_since(read.began) < missed.told
        (self._verdict.stale_live if undisturbed else self._verdict.stale_cut).append(age)
        settled = story.moving.over_since(read.began)
        if age >= self._max_staleness:
            self._violate("bound", read, missed, story, age)
        elif settled < read.began and max(missed.told, settled) < story.vouched(read.began):
            self._violate("live", read, missed, story, story.vouched(read.began) - missed.told)
        elif settled < read.began and self._strong:
            self._violate("strong", read, missed, story, age)

    def _hear_refused(self, read: Read, story: Story) -> None:
        for change in self._refused.get(read.record, ()):
            late = read.began - change.returned - self._max_staleness
            if late > 0 and change.refused is not None and read.ended < change.refused and change.unseen_by(read):
                self._violate("refused", read, change, story, late)
                return

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
            f"{story.disturbed.over_since(read.began) - start:.4f}, and vouched as of "
            f"{story.vouched(read.began) - start:.4f}. Meanwhile: {', '.join(meanwhile) or 'nothing'}; "
            f"and in the process: {story.around(missed.committed - 2.0, read.ended, start)}",
        )
