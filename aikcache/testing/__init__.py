"""What tests of cached code need: a clock that the test moves, polling with a deadline, real servers.

Nothing here imitates Redis. `Server` starts the real one and stages its failures for real (`kill`,
`pause`, `restart`); time is the only thing that is faked, where a cache takes a clock.

Nothing is imported from a test framework; the plugin `pytest_aikcache` makes fixtures of this. Threading: a
`FakeClock` may be read and moved by any thread, a `Server` belongs to one at a time. Failure: `wait_until` raises
`TimeoutError` and says what it waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from aikcache._embedded.server import Server, available_servers, find_server
from aikcache.testing.caches import default_cache, no_cache, two_caches
from aikcache.testing.loads import assert_loads
from aikcache.testing.proxy import FaultyProxy

__all__ = [
    "FakeClock",
    "FaultyProxy",
    "Server",
    "assert_loads",
    "available_servers",
    "default_cache",
    "find_server",
    "no_cache",
    "two_caches",
    "wait_until",
]

_T = TypeVar("_T")
_POLL = 0.005


class FakeClock:
    """A clock that stands still until it is moved; called, it returns its time in seconds, as `time.monotonic` does."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self._now = now
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float | timedelta) -> float:
        """Moves the clock on and returns its new time; negative seconds move it back, as real clocks sometimes do."""
        step = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        with self._lock:
            self._now += step
            return self._now


def wait_until(predicate: Callable[[], _T], timeout: float = 20.0, what: str = "the condition") -> _T:
    """Polls until the predicate's result is true, and returns that result.

    Args:
        predicate: called every few milliseconds, at least once; what it raises is passed on.
        timeout: seconds until it gives up.
        what: what is waited for, for the message.

    Raises:
        TimeoutError: it was not true in time.
    """
    __tracebackhide__ = True  # pytest shows who waits
    deadline = time.monotonic() + timeout
    while not (result := predicate()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"Waited {timeout:g} seconds for {what}; the last result was {result!r}.")
        time.sleep(_POLL)
    return result
