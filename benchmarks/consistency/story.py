"""What became of each process: which servers it met, when its channel was disturbed, and what it had delivered."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from math import inf
from typing import Any

from benchmarks.consistency.faults import Happened
from benchmarks.consistency.sites import Takeover

LAG = 1.0
"""Seconds that replication may be behind before anything is done to it: a few milliseconds, but on a busy machine."""
RELEVANT = ("live", "lost", "map", "met", "settled")
"""Events of a process that help to understand what it read."""
Events = dict[str, list[dict[str, Any]]]


def slot_of(name: str) -> int:
    """A process's slot: those of one slot follow each other."""
    return int(name.split(".")[0])


class Meetings:
    """Which servers that took over each process has met, and when."""

    def __init__(self, events: Events, takeovers: Sequence[Takeover]) -> None:
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

    def effective(self, acknowledged: float, process: str, slots: frozenset[int] | None) -> float:
        """From when on the current server has what the process sent; inf: never."""
        for takeover in self.takeovers:
            if takeover.lossy and takeover.began - LAG <= acknowledged < (met := self.met(process, takeover)):
                acknowledged = met if takeover.concerns(slots) else acknowledged
        return acknowledged


def _firsts(what: str, history: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of each run when it was first met, or used."""
    return {event["run"]: event["at"] for event in reversed(history) if event["what"] == what}


class Spans:
    """Times that may overlap, joined."""

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        self._since: list[float] = []
        self._until: list[float] = []
        for began, ended in sorted(spans):
            if self._until and began <= self._until[-1]:
                self._until[-1] = max(self._until[-1], ended)
            else:
                self._since.append(began)
                self._until.append(ended)

    def over_since(self, when: float) -> float:
        """The end of the last span before `when`; `when` itself inside a span."""
        place = bisect_right(self._since, when)
        return min(self._until[place - 1], when) if place else -inf


class Story:
    """The past of one process."""

    def __init__(
        self, name: str, events: Sequence[dict[str, Any]], happened: Sequence[Happened], meetings: Meetings
    ) -> None:
        self.name = name
        self.slot = slot_of(name)
        self._events = events
        self.began = events[0]["at"] if events else inf
        spans = [(h.began, h.ended) for h in happened if h.cuts and h.slot in (None, self.slot)]
        moves = [(t.began, meetings.met(name, t)) for t in meetings.takeovers if t.lossy and t.named > self.began]
        lost = -inf  # until it was first live
        alive: list[tuple[float, float]] = []
        for event in events:
            if event["what"] in ("silent", "stalled"):
                spans.append((event["began"], event["ended"]))
            elif event["what"] == "lost" and lost == inf:
                lost = event["at"]
            elif event["what"] == "live" and lost != inf:
                spans.append((lost, event["at"]))
                lost = inf
            elif event["what"] == "alive":
                alive.append((event["at"], event["as_of"]))
        if lost != inf:
            spans.append((lost, inf))
        self.disturbed = Spans([*spans, *moves])
        self.moving = Spans(moves)
        self._alive_at = [at for at, _ in alive]
        self._as_of = [as_of for _, as_of in alive]

    def around(self, since: float, until: float, start: float) -> str:
        """The process's relevant events meanwhile; times are from `start` on."""
        acknowledged = []
        for event in self._events:
            relevant = event["what"] in RELEVANT and event.get("kept_until", True)  # not each vain attempt
            if since < event["at"] < until and relevant:
                more = ", ".join(f"{name} {value}" for name, value in event.items() if name not in ("what", "at"))
                acknowledged.append(f"{event['what']} {more}".rstrip() + f" at {event['at'] - start:.4f}")
        return "; ".join(acknowledged) or "nothing"

    def delivered_until(self, when: float) -> float:
        """The time up to which its channel, at `when`, had delivered all pushes.

        By the heartbeat before the last: a push about a stamp that the process is itself writing is followed by a
        question, whose answer comes before the next heartbeat's.
        """
        place = bisect_right(self._alive_at, when)
        return self._as_of[place - 2] if place >= 2 else -inf
