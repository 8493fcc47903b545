"""Refuses a primary that has no majority behind it. `majority` holds the evidence; `Backing` checks each exchange.

A new connection waits for evidence, if it must, because Sentinels are asked in the background. After that, an exchange
is refused when the last evidence is older than `max_staleness`. Redis then counts as unavailable.

Threads: any. Failure: `RemoteUnavailableError`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aikcache._redis.failures import unsent
from aikcache._redis.majority import lags
from aikcache.errors import RemoteUnavailableError

if TYPE_CHECKING:
    from aikcache._redis.connection import Connection
    from aikcache._redis.sentinel import Sentinels

BEAT = 1.0
"""Seconds between two questions for evidence; fewer where `max_staleness` is small."""
_POLL = 0.005


class Backing:
    """The evidence of a majority behind the primary of one service."""

    def __init__(self, sentinels: Sentinels, max_staleness: float) -> None:
        self._sentinels = sentinels
        self._max_staleness = max_staleness
        self._started = False

    def age(self, connection: Connection | None = None) -> float:
        """Seconds since the last evidence of a majority behind the server of `connection`; None: the primary in use."""
        sentinels = self._sentinels
        at = sentinels.confirmed_at() if connection is None else sentinels.majority.confirmed_at(connection.primary)
        return time.monotonic() - at

    def check(self) -> None:
        """Refuse an exchange without evidence. Before the first connection nothing is checked: that one waits."""
        if self._started and self.age() >= self._max_staleness:
            raise self._missing()

    def wait_for_majority(self, connection: Connection, deadline: float) -> None:
        """Wait on a new connection for evidence, until `deadline` (monotonic seconds)."""
        self._started = True
        while self.age(connection) >= self._max_staleness:
            if time.monotonic() + _POLL > deadline or self._sentinels.closed:
                raise self._missing()
            time.sleep(_POLL)

    def record_followers(self, connection: Connection, info: bytes, asked_at: float) -> None:
        """Record the reply to an `INFO replication` that was sent at `asked_at` (monotonic seconds)."""
        if connection.primary is not None:
            self._sentinels.majority.record_followers(connection.primary, asked_at, lags(info))

    def forget(self) -> None:
        """Reset after a fork, in the child: no Sentinel is asked there before its first connection."""
        self._started = False

    def _missing(self) -> RemoteUnavailableError:
        return unsent(
            f"no majority stands behind the primary: for max_staleness ({self._max_staleness:g} s) neither most "
            "Sentinels named it nor did its replicas follow it. It is used again when they do."
        )
