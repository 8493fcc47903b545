"""Whether a majority stands behind the primary in use, and since when.

A primary that is cut off goes on answering "master", and so does the Sentinel beside it. So a value read from it, or
held here, counts only up to the last moment for which there is evidence of one of these:

    asked      a majority of all Sentinels named this primary to us: without one of them none is replaced
    reached    one Sentinel named it and said that it reaches a majority itself (`SENTINEL CKQUORUM`); one that was cut
               off can reach the others again before it has received their decisions
    followed   every known replica was following it, so none was left that could have replaced it;
               or most of them were, while no Sentinel says that it is, or was a moment ago, cut off from the others

No answer is no evidence, neither for nor against. The number of Sentinels and replicas is the largest that any Sentinel
has reported, even if that one is silent now. A Sentinel that was cut off cannot make it smaller.

The date of a piece of evidence is the time when its question was sent, less the possible lag of the answer.

One case is not detected: a primary that keeps most but not all of its replicas on a side without a Sentinel. It looks
the same when all Sentinels are being redeployed while a replica is down, and then the primary must stay in use.

Threads: any; dictionaries are replaced entry by entry, without a lock. No I/O here.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from aikcache._concurrency.shared import items

Address = tuple[str, int]

NOTICED = 1.2
"""Seconds by which a Sentinel may notice later than the others that it is cut off: they ask each other each second."""
GOSSIP = 5.0
"""Seconds in which a Sentinel that was cut off learns who the primary is: it connects, and they publish it every 2."""
LATEST = 2
"""Seconds since its last acknowledgement after which a replica does not count as following."""
SILENT = 3.0
"""Seconds after which a Sentinel's statement that it reaches a majority is not used any more."""
MOST_PRIMARIES = 16


class Opinion(NamedTuple):
    """A Sentinel's answer to questions sent at `asked_at` (monotonic seconds).

    `reaches`: whether it reaches a majority of the Sentinels; None: it does not know. `sentinels` includes itself.
    """

    asked_at: float
    sentinel: str
    epoch: int
    primary: Address
    sentinels: int
    replicas: int
    reaches: bool | None


class Majority:
    """The evidence for one service."""

    def __init__(self) -> None:
        self._opinions: dict[Address, Opinion] = {}  # by where it was asked: as many as the URL names
        self._dates: dict[Address, float] = {}
        self._cut_off_at: dict[Address, float] = {}  # when each last said that it does not reach a majority

    def confirmed_at(self, primary: Address | None) -> float:
        """The latest time (monotonic seconds) at which a majority stood behind this primary; -inf: no evidence."""
        return -inf if primary is None else self._dates.get(primary, -inf)

    def record_opinion(self, address: Address, opinion: Opinion) -> None:
        """Record a Sentinel's answer."""
        self._opinions[address] = opinion
        if opinion.reaches is False:
            self._cut_off_at[address] = opinion.asked_at
        self._date(opinion.primary, self._by_sentinels(opinion.primary))

    def record_followers(self, primary: Address, asked_at: float, lags: list[int]) -> None:
        """Record a primary's list of lags: seconds since each replica's last acknowledgement; -1: not in step."""
        following = sorted(lag for lag in lags if 0 <= lag <= LATEST)
        known = max([len(lags), *(opinion.replicas for opinion in list(self._opinions.values()))])
        if len(following) >= known:
            needed = known
        elif len(following) >= (known + 1) // 2 and not self._reported_cut_off(asked_at):
            needed = (known + 1) // 2
        else:
            return
        # Redis counts full seconds of the clock: the last acknowledgement may be one second older.
        self._date(primary, asked_at - (following[needed - 1] + 1 if needed else 0))

    def _by_sentinels(self, primary: Address) -> float:
        """The latest time at which the Sentinels confirm the primary."""
        opinions = dict(items(self._opinions))
        voters = max(opinion.sentinels for opinion in opinions.values())
        agreed: dict[str, float] = {}  # by Sentinel: the URL may name one twice
        reached = -inf
        for where, opinion in opinions.items():
            if opinion.primary == primary:
                agreed[opinion.sentinel] = max(agreed.get(opinion.sentinel, -inf), opinion.asked_at)
                up_to_date = opinion.asked_at - self._cut_off_at.get(where, -inf) > GOSSIP
                if opinion.reaches and opinion.sentinels == voters and up_to_date:
                    reached = max(reached, opinion.asked_at - NOTICED)
        asked = sorted(agreed.values(), reverse=True)
        most = voters // 2 + 1
        return max(reached, asked[most - 1] if len(asked) >= most else -inf)

    def _reported_cut_off(self, now: float) -> bool:
        """Whether a Sentinel has lately reported that it does not reach a majority, which may have decided since."""
        return any(now - at < GOSSIP for _, at in items(self._cut_off_at))

    def _date(self, primary: Address, at: float) -> None:
        if at > self._dates.get(primary, -inf):
            if primary not in self._dates and len(self._dates) >= MOST_PRIMARIES:
                self._dates = {}
            self._dates[primary] = at


def lags(info: bytes) -> list[int]:
    """From `INFO replication`: the seconds since each replica's last acknowledgement; -1 for one not in step."""
    found = []
    for line in info.decode("utf-8", "replace").splitlines():
        name, _, rest = line.partition(":")
        if name.startswith("slave") and name[5:].isdigit():
            facts = dict(part.partition("=")[::2] for part in rest.split(","))
            lag = facts.get("lag", "")
            found.append(int(lag) if facts.get("state") == "online" and lag.isdecimal() and len(lag) < 10 else -1)
    return found
