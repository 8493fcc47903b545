"""A circuit breaker: after some failures in a row, no call goes near the server but one probe at a time.

Closed, everything passes. `limit` consecutive failures open it; then one call every `reset` seconds is let through as
a probe, and its success closes the breaker. While open a call costs one clock reading.

Threads: the only lock is taken without waiting, so a thread that finds it taken is simply not the probe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

EAGER, EAGER_FOR = 0.05, 10.0
"""Seconds between probes, and for how long, of an endpoint that has just taken over: its replicas are on their way."""


class Breaker:
    """Counts the failures of one endpoint."""

    __slots__ = ("_claim", "_clock", "_eager_until", "_limit", "_reset", "_retry_at", "failures", "opened")

    def __init__(self, limit: int, reset: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._reset = reset
        self._clock = clock
        self._claim = threading.Lock()
        self._retry_at = self._eager_until = 0.0
        self.failures = 0
        self.opened = 0  # how often, for the metrics

    @property
    def is_open(self) -> bool:
        return self.failures >= self._limit

    def allows(self) -> bool:
        """Whether this call may try. Open, that is True for one call every `reset` seconds."""
        if self.failures < self._limit:
            return True
        if self._clock() < self._retry_at or not self._claim.acquire(blocking=False):
            return False
        try:
            now = self._clock()
            if now < self._retry_at:
                return False
            self._retry_at = self._next(now)
            return True
        finally:
            self._claim.release()

    def reconsider(self) -> None:
        """The endpoint is another one now: the next call may try it, and for a while probes are more frequent."""
        self._retry_at = self._clock()
        self._eager_until = self._retry_at + EAGER_FOR

    def _next(self, now: float) -> float:
        return now + (min(self._reset, EAGER) if now < self._eager_until else self._reset)

    def success(self) -> None:
        self.failures = 0

    def failure(self) -> None:
        self.failures += 1
        if self.failures == self._limit:
            self.opened += 1
        if self.failures >= self._limit:
            self._retry_at = self._next(self._clock())
