"""Whether a majority stands behind the primary that is used, and as of when.

A primary that is cut off answers "master" for as long as it is, and so does the Sentinel beside it. So what this
process reads there, or holds, counts only up to the last moment for which there is evidence of one of these:

    asked      a majority of all Sentinels named this primary to us: without one of them none is replaced
    reached    one Sentinel named it, and said that it reaches a majority itself (`SENTINEL CKQUORUM`); one that has
               just been cut off reaches the others again before it has heard what they have decided meanwhile
    followed   every replica that is known was following it: none was left that could have taken its place;
               or most of them were, while no Sentinel says that it is cut off from the others

No answer is no evidence, neither for nor against. The number of Sentinels and replicas is the most that any Sentinel
has said, even if that one is silent by now; a Sentinel that was cut off cannot make it fewer.

Every piece of evidence has a date: when its question was sent, less what the answer may lag.

What remains: a primary that keeps most of its replicas, but not all, on a side without a Sentinel. It looks the same
when all Sentinels are being deployed while a replica is down, and a healthy primary must stay in use then.

Threads: any; dictionaries are replaced entry by entry, without a lock. No I/O here.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from aikcache._concurrency.shared import items

Address = tuple[str, int]

NOTICED = 1.2
"""Seconds by which a Sentinel may notice later than the others that it is cut off: they ask each other each second."""
TOLD = 3.0
"""Seconds in which a Sentinel that was cut off hears who the primary is: they tell each other every 2."""
LATEST = 2
"""Seconds since its last word after which a replica does not count as following."""
SILENT = 3.0
"""Seconds after which what a Sentinel said of reaching the others says nothing."""
MOST_PRIMARIES = 16


class Opinion(NamedTuple):
    """What a Sentinel said, to questions sent at `asked_at` (monotonic seconds).

    `reaches`: whether it reaches a majority of the Sentinels; None: it does not know. `sentinels` with itself.
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

    def vouched_at(self, primary: Address | None) -> float:
        """As of when (monotonic seconds) a majority stood behind this primary; -inf: nothing is known of it."""
        return -inf if primary is None else self._dates.get(primary, -inf)

    def heard(self, asked: Address, opinion: Opinion) -> None:
        """A Sentinel has answered."""
        self._opinions[asked] = opinion
        if opinion.reaches is False:
            self._cut_off_at[asked] = opinion.asked_at
        self._date(opinion.primary, self._by_sentinels(opinion.primary))

    def followers(self, primary: Address, asked_at: float, lags: list[int]) -> None:
        """A primary has said how many seconds ago each replica that is in step said its last word; -1: never yet."""
        following = sorted(lag for lag in lags if 0 <= lag <= LATEST)
        known = max([len(lags), *(opinion.replicas for opinion in list(self._opinions.values()))])
        if len(following) >= known:
            needed = known
        elif len(following) >= (known + 1) // 2 and not self._denied(asked_at):
            needed = (known + 1) // 2
        else:
            return
        # Seconds are counted by the clock's full ones: the last word may be one more ago.
        self._date(primary, asked_at - (following[needed - 1] + 1 if needed else 0))

    def _by_sentinels(self, primary: Address) -> float:
        """As of when Sentinels vouch for it."""
        opinions = dict(items(self._opinions))
        voters = max(opinion.sentinels for opinion in opinions.values())
        agreed: dict[str, float] = {}  # by Sentinel: the URL may name one twice
        reached = -inf
        for where, opinion in opinions.items():
            if opinion.primary == primary:
                agreed[opinion.sentinel] = max(agreed.get(opinion.sentinel, -inf), opinion.asked_at)
                up_to_date = opinion.asked_at - self._cut_off_at.get(where, -inf) > TOLD
                if opinion.reaches and opinion.sentinels == voters and up_to_date:
                    reached = max(reached, opinion.asked_at - NOTICED)
        asked = sorted(agreed.values(), reverse=True)
        most = voters // 2 + 1
        return max(reached, asked[most - 1] if len(asked) >= most else -inf)

    def _denied(self, now: float) -> bool:
        """Whether a Sentinel has just said that it does not reach a majority."""
        opinions = list(self._opinions.values())
        return any(opinion.reaches is False and now - opinion.asked_at < SILENT for opinion in opinions)

    def _date(self, primary: Address, at: float) -> None:
        if at > self._dates.get(primary, -inf):
            if primary not in self._dates and len(self._dates) >= MOST_PRIMARIES:
                self._dates = {}
            self._dates[primary] = at


def lags(info: bytes) -> list[int]:
    """From `INFO replication`: of each replica the seconds since its last word; -1 when it is not in step."""
    found = []
    for line in info.decode("utf-8", "replace").splitlines():
        name, _, rest = line.partition(":")
        if name.startswith("slave") and name[5:].isdigit():
            facts = dict(part.partition("=")[::2] for part in rest.split(","))
            lag = facts.get("lag", "")
            found.append(int(lag) if facts.get("state") == "online" and lag.isdecimal() and len(lag) < 10 else -1)
    return found
