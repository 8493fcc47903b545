"""What this process has invalidated lately, which a server that takes over may never have heard of.

An invalidation does not wait for replication, so a server that takes over may lack the last ones. A primary that is
cut off acknowledges, for as long as it is alone, what nobody else will ever hear. So a name is kept until the server
has been vouched for (`_redis/majority`) as of a moment `REPLAY` seconds after the name was sent, however long that
takes.

Each name is kept once, however often it is invalidated. More than `MAX_RECENT` names become one of everything.

Threads: a name is added in one step, and none is removed one by one. `turn` is called by one thread, the channel's.
"""

from __future__ import annotations

from collections.abc import Iterable

from aikcache._keys.patterns import EVERYTHING

Name = tuple[str, str]
REPLAY = 60.0
"""Seconds of invalidations that are sent again to a server not met before."""
MAX_RECENT = 10_000
ALL: Name = ("groups", EVERYTHING)


class Recent:
    """Names, in two halves: those added since a turn, and those added before it."""

    def __init__(self, now: float) -> None:
        self._turned_at = now
        self._new: dict[Name, None] = {}
        self._old: dict[Name, None] = {}

    def add(self, names: Iterable[Name]) -> None:
        """These have just been sent."""
        for name in names:
            if len(self._new) >= MAX_RECENT:
                self._new = {ALL: None}  # also instead of whatever another thread adds to the one before
            self._new[name] = None

    def turn(self, now: float, confirmed_at: float) -> None:
        """Forget what is older by `REPLAY` than `confirmed_at`, as of when what the server says is known to count."""
        if confirmed_at - self._turned_at > REPLAY:
            self._turned_at = now
            self._old, self._new = self._new, {}

    def names(self) -> dict[Name, None]:
        """All that is to be sent again."""
        new = self._new  # read first: a turn meanwhile makes it the old half
        found = {**self._old, **new}
        return {ALL: None} if ALL in found or len(found) > MAX_RECENT else found
