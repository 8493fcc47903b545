"""Recent invalidations of this process, which a server that takes over may not have.

An invalidation does not wait for replication, so a server that takes over may lack the last ones. A primary that is cut
off acknowledges invalidations that no other server will ever get. So a name is kept until there is evidence of a
majority behind the server (`_redis/majority`) from `REPLAY` seconds or more after the name was sent, however long that
takes.

Each name is kept once, however often it is invalidated. More than `MAX_RECENT` names become one of everything.

Threads: a name is added in one step, and none is removed individually. Only the channel's thread calls `turn`.
"""

from __future__ import annotations

from collections.abc import Iterable

from aikcache._keys.patterns import EVERYTHING

Name = tuple[str, str]
REPLAY = 60.0
"""Seconds of invalidations that are sent again to a new server."""
MAX_RECENT = 10_000
ALL: Name = ("groups", EVERYTHING)


class Recent:
    """Names, in two halves: those added since the last turn, and those added before it."""

    def __init__(self, now: float) -> None:
        self._turned_at = now
        self._new: dict[Name, None] = {}
        self._old: dict[Name, None] = {}

    def add(self, names: Iterable[Name]) -> None:
        """These names have just been sent."""
        for name in names:
            if len(self._new) >= MAX_RECENT:
                self._new = {ALL: None}  # also covers names that another thread adds to the old dictionary
            self._new[name] = None

    def turn(self, now: float, confirmed_at: float) -> None:
        """Forget names that are older by `REPLAY` than `confirmed_at`, the last evidence of a majority behind the
        server.
        """
        if confirmed_at - self._turned_at > REPLAY:
            self._turned_at = now
            self._old, self._new = self._new, {}

    def names(self) -> dict[Name, None]:
        """The names to send again."""
        new = self._new  # read first, because a turn makes it the old half
        found = {**self._old, **new}
        return {ALL: None} if ALL in found or len(found) > MAX_RECENT else found
