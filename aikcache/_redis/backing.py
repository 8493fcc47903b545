"""Whether the primary that is used has a majority behind it: `majority`'s evidence, put to every connection.

The first connection seeks it, for a moment if need be, since Sentinels are asked in the background. From then on every
exchange is refused that is further than `max_staleness` from the last evidence: Redis then counts as away.

Threads: any. Failure: `RemoteUnavailableError`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aikcache._redis.majority import lags
from aikcache._redis.sentinel import Sentinels
from aikcache.errors import RemoteUnavailableError

if TYPE_CHECKING:
    from aikcache._redis.connection import Connection

BEAT = 1.0
"""Seconds between two questions for evidence; less where `max_staleness` is small."""
_POLL = 0.005


class Backing:
    """What stands behind the primary of one service."""

    def __init__(self, sentinels: Sentinels, max_staleness: float) -> None:
        self._sentinels = sentinels
        self._max_staleness = max_staleness
        self._sought = False

    def age(self, link: Connection | None = None) -> float:
        """Seconds since a majority is known to have stood behind who is at the end of `link`, or who is used (None)."""
        sentinels = self._sentinels
        at = sentinels.vouched_at() if link is None else sentinels.majority.vouched_at(link.primary)
        return time.monotonic() - at

    def check(self) -> None:
        """Before an exchange. Before the first connection there is nothing to go by: that will seek it."""
        if self._sought and self.age() >= self._max_staleness:
            raise self._missing()

    def seek(self, link: Connection, deadline: float) -> None:
        """At a new connection: wait for evidence, until `deadline` (monotonic)."""
        self._sought = True
        while self.age(link) >= self._max_staleness:
            if time.monotonic() + _POLL > deadline or self._sentinels.closed:
                raise self._missing()
            time.sleep(_POLL)

    def followed(self, link: Connection, info: bytes, asked_at: float) -> None:
        """What `INFO replication` was answered that was sent at `asked_at` (monotonic)."""
        if link.primary is not None:
            self._sentinels.majority.followers(link.primary, asked_at, lags(info))

    def forget(self) -> None:
        """After a fork, in the child: nobody asks Sentinels before its first connection."""
        self._sought = False

    def _missing(self) -> RemoteUnavailableError:
        return RemoteUnavailableError(
            f"no majority stands behind the primary: for max_staleness ({self._max_staleness:g} s) neither most "
            "Sentinels named it nor did its replicas follow it. It is used again when they do."
        )
