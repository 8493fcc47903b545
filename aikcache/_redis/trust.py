"""Whether this process may rely on Redis, and until when.

Local values, and what Redis answers, count only as long as an invalidation would arrive here. A working channel is not
enough: a server that is full, is a replica, or has lost its own replicas still answers reads while it refuses every
invalidation. So each heartbeat carries a write that changes nothing (`SET name 1 XX` on a name that never exists). The
server refuses it exactly when it would refuse an invalidation. Only a heartbeat whose write was accepted extends the
trust, for `max_staleness` from the time when it was sent. A read that no heartbeat covers (a process's first one, or
while the channel is down) carries the same write in its own round trip.

Behind Sentinel a majority must stand behind the server as well (`_redis/majority`). Then the older of the two times
counts. Without a majority nothing is sent to the server at all (`_redis/pool`).

Threads: the channel's thread writes, any thread reads. Each field is replaced in one step, independently of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from aikcache.errors import RemoteUnavailableError


class Trust:
    """Until when Redis is trusted."""

    __slots__ = ("_clock", "_live", "_max_staleness", "refused", "until")

    def __init__(self, max_staleness: float, clock: Callable[[], float]) -> None:
        self._max_staleness = max_staleness
        self._clock = clock
        self._live = False
        self.until = -inf  # before this time local values and values read from Redis may be served
        self.refused: str | None = None  # why the live channel's last heartbeat does not extend the trust

    @property
    def coherent(self) -> bool:
        """Whether other processes' invalidations arrive at once, as far as can be known."""
        return self._live and self.refused is None and self._clock() < self.until

    def renew(self, alive_at: float) -> float:
        """A heartbeat that was sent at `alive_at` was answered and its write accepted. Returns the new `until`."""
        self._live, self.refused = True, None
        self.until = alive_at + self._max_staleness
        return self.until

    def refuse(self, why: str | None) -> None:
        """The channel lives, but its write was not accepted: `until` stays as it is."""
        self._live, self.refused = True, why

    def lose(self) -> None:
        """The channel is down: `until` stays as it is."""
        self._live, self.refused = False, None

    def covers(self) -> bool:
        """Whether a read can rely on the channel. If not, it must carry the write itself. May raise `RemoteError`."""
        now = self._clock()
        if self._live and now < self.until:
            return True
        if self.refused is not None:
            raise RemoteUnavailableError(f"the server answers, but would refuse an invalidation: {self.refused}")
        return False
