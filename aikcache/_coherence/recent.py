"""Recent invalidations of this process, which a server that takes over may not have.

An invalidation does not wait for replication, so a server that takes over may lack the last ones. A primary that is cut
off acknowledges invalidations that no other server will ever get. So a name is kept until there is evidence of a
majority behind the server (`_redis/majority`) from `REPLAY` seconds or more after the name was sent, however long that
takes.

Each name is kept once, however often it is invalidated. Of more than `MAX_RECENT` names the keys become their
operations' groups; if those are still too many, all become one of everything.

Threads: names are added under a guard, and none is removed individually. Only the channel's thread calls `turn`.
"""

from __future__ import annotations

from collections.abc import Iterable

from aikcache._concurrency.guard import Guard
from aikcache._keys.patterns import EVERYTHING, groups_of

Name = tuple[str, str]
REPLAY = 60.0
"""Seconds of invalidations that are sent again to a new server."""
MAX_RECENT = 10_000
ALL: Name = ("groups", EVERYTHING)


class Recent:
    """Names, in two halves: those added since the last turn, and those added before it."""

    def __init__(self, now: float, namespace_prefix: str) -> None:
        self._turned_at = now
        self._namespace_prefix = namespace_prefix
        self._new: dict[Name, None] = {}
        self._old: dict[Name, None] = {}
        self._guard = Guard()

    def add(self, names: Iterable[Name]) -> None:
        """These names have just been sent."""
        added = list(names)

        def work() -> None:
            for name in added:
                if len(self._new) >= MAX_RECENT and name not in self._new:
                    self._new = self._few(self._new)
                self._new[name] = None

        self._guard.do(work)

    def _few(self, names: Iterable[Name]) -> dict[Name, None]:
        """At most half of `MAX_RECENT` names that cover these, so that it is not soon done again."""
        few = {
            ("groups", groups_of(name, self._namespace_prefix)[-1]) if kind == "keys" else (kind, name): None
            for kind, name in names
        }
        return few if len(few) <= MAX_RECENT // 2 else {ALL: None}

    def turn(self, now: float, confirmed_at: float) -> None:
        """Forget names that are older by `REPLAY` than `confirmed_at`, the last evidence of a majority behind the
        server.
        """
        if confirmed_at - self._turned_at > REPLAY:
            self._turned_at = now
            self._guard.do(self._turn)

    def _turn(self) -> None:
        self._old, self._new = self._new, {}

    def after_fork(self) -> None:
        """Reset in the child: another thread of the parent may have been adding."""
        self._guard = Guard()

    def names(self) -> dict[Name, None]:
        """The names to send again."""
        new = self._new  # read first, because a turn makes it the old half
        found = {**self._old, **new}
        if len(found) > MAX_RECENT:
            found = self._few(found)
        return {ALL: None} if ALL in found else found
