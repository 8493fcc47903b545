"""Whether this process may rely on Redis, and until when.

Local values, and what Redis answers, are good only as long as an invalidation would arrive here. A working channel is
not enough: a server that is full, is a replica, or has lost its own replicas still answers reads while it refuses
every invalidation. So each heartbeat carries a write that changes nothing (`SET name 1 XX` on a name that never
exists). The server refuses it exactly when it would refuse an invalidation. Only a heartbeat whose write was accepted
vouches, for `max_staleness` from when it was sent. A read that no heartbeat vouches for (a process's first, or one
with the channel down) carries the same write in its own round trip.

Behind Sentinel a majority must stand behind the server as well (`_redis/majority`). Then the older of the two counts,
as the channel dates it. Without a majority nothing is asked at all (`_redis/pool`).

Threads: the channel's thread writes, any thread reads. Each field is replaced in one step and needs no other to match.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from aikcache.errors import RemoteUnavailableError


class Trust:
    """What vouches for Redis."""

    __slots__ = ("_clock", "_live", "_max_staleness", "refused", "until")

    def __init__(self, max_staleness: float, clock: Callable[[], float]) -> None:
        self._max_staleness = max_staleness
        self._clock = clock
        self._live = False
        self.until = -inf  # what is held may be served, and what was read believed, before this time
        self.refused: str | None = None  # why the live channel's last heartbeat does not vouch

    @property
    def coherent(self) -> bool:
        """Whether others' invalidations arrive at once, as far as can be known."""
        return self._live and self.refused is None and self._clock() < self.until

    def renew(self, alive_at: float) -> float:
        """The channel vouches as of `alive_at`: a heartbeat was answered, its write accepted. Gives the new `until`."""
        self._live, self.refused = True, None
        self.until = alive_at + self._max_staleness
        return self.until

    def refuse(self, why: str | None) -> None:
        """The channel lives, but a write was not accepted: nothing is vouched for any longer than it was."""
        self._live, self.refused = True, why

    def lose(self) -> None:
        """The channel is down. What it vouched for stays so until its time is over."""
        self._live, self.refused = False, None

    def covers(self) -> bool:
        """Whether a read can rely on the channel; if not it must carry the write itself. May raise `RemoteError`."""
        now = self._clock()
        if self._live and now < self.until:
            return True
        if self.refused is not None:
            raise RemoteUnavailableError(f"the server answers, but would refuse an invalidation: {self.refused}")
        return False
