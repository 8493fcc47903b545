"""A circuit breaker: after some failures in a row no call uses the server, except one probe at a time.

While it is closed, every call passes. `limit` consecutive failures open it. Then one call every `reset` seconds passes
as a probe, and its success closes the breaker. While it is open a call costs one clock reading.

Threads: a lock is held only while the next probe's time is moved. A probe that is interrupted gives nothing back; the
next one comes in its time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

EAGER, EAGER_FOR = 0.05, 10.0
"""Seconds between probes, and for how long, of an endpoint that has just taken over: its replicas are on their way."""


Changed = Callable[[bool, str], object]


def unobserved(is_open: bool, cause: str) -> None:
    """No one is informed."""


class Breaker:
    """Counts the failures of one endpoint."""

    __slots__ = (
        "_clock", "_eager_until", "_on_change", "_probing", "_retry_at", "cause", "failures", "limit", "opened",
        "reset",
    )  # fmt: skip

    def __init__(self, limit: int, reset: float, clock: Callable[[], float], on_change: Changed) -> None:
        """`on_change` is called when it opens (True), with the cause, and when it closes."""
        self.limit = limit
        self.reset = reset
        self._clock = clock
        self._on_change = on_change
        self._probing = threading.RLock()
        self._retry_at = self._eager_until = 0.0
        self.failures = 0
        self.cause = ""  # of the latest failure
        self.opened = 0  # how often

    @property
    def is_open(self) -> bool:
        return self.failures >= self.limit

    @property
    def rests(self) -> bool:
        """Whether it is open and no probe is due, so that `allows` would be False."""
        return self.failures >= self.limit and self._clock() < self._retry_at

    @property
    def refusal(self) -> str:
        """Why no call passes."""
        return f"the server has failed repeatedly, so the breaker is open; the last: {self.cause}"

    def allows(self) -> bool:
        """Whether this call may use the server. While it is open, that is True for one call every `reset` seconds."""
        if self.failures < self.limit:
            return True
        if self._clock() < self._retry_at:
            return False
        with self._probing:
            now = self._clock()
            if now < self._retry_at:
                return False
            self._retry_at = self._next(now)
            return True

    def reconsider(self) -> None:
        """The endpoint has changed: the next call may try it, and for a while probes are more frequent."""
        self._retry_at = self._clock()
        self._eager_until = self._retry_at + EAGER_FOR

    def _next(self, now: float) -> float:
        return now + (min(self.reset, EAGER) if now < self._eager_until else self.reset)

    def success(self) -> None:
        if self.failures:
            failures, self.failures = self.failures, 0
            if failures >= self.limit:
                self._on_change(False, "")

    def failure(self, cause: object = "") -> None:
        self.cause = str(cause)
        self.failures = failures = self.failures + 1  # one step; other threads may count on before the next
        if failures >= self.limit:
            self._retry_at = self._next(self._clock())
        if failures == self.limit:
            self.opened += 1
            self._on_change(True, self.cause)
