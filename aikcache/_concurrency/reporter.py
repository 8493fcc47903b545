"""Logs problems that callers must not feel: once per cause and minute. Counts them always.

The cause is a short constant ("redis", "encode:resource:get_by_id"); the message names keys and types, never values.
A cause that continues is logged again after a minute, with the number of occurrences.

Threads: counting is a dictionary's own atomic steps; two threads may at worst log the same line twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from aikcache._concurrency.foreign import clean
from aikcache._concurrency.outside import let_out

log = logging.getLogger("aikcache")
AGAIN = 60.0
LONGEST = 600
"""Characters of a line: a long key in it loses its middle, what to do about it is whole."""
MOST_CAUSES = 1000
"""Causes that are counted separately; a function has a few, and a program may make functions for ever."""
OTHER = "other"
"""The cause of the others."""


class RateLimitedReporter:
    """The problems of one cache, by cause."""

    __slots__ = ("_clock", "_seen", "counts")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}  # cause: when logged, how often counted by then
        self.counts: dict[str, int] = {}

    def report(self, cause: str, message: str, *args: object, level: int = logging.WARNING) -> None:
        """`args` are put into `message` where it is logged, which is seldom."""
        if cause not in self.counts and len(self.counts) >= MOST_CAUSES:
            cause = OTHER
        # No lock: a finalizer or a signal handler may report as well, in a thread that would then wait for itself.
        count = self.counts[cause] = self.counts.get(cause, 0) + 1
        now = self._clock()
        when, before = self._seen.get(cause, (-AGAIN, 0))
        if now - when < AGAIN:
            return
        self._seen[cause] = (now, count)  # first: writing the line may take long, and other threads skip it
        more = f" ({count - before - 1} more since the last line)" if count - before > 1 else ""
        message = clean(message % args if args else message, LONGEST - len(more))
        emit(level, "%s%s", message, more, extra={"aikcache_cause": cause, "aikcache_count": count})


def emit(level: int, message: str, *args: object, extra: Mapping[str, object]) -> None:
    """Log a line. What the application's log handler raises there is not the call's failure."""
    try:
        log.log(level, message, *args, extra=extra)
    except Exception as error:
        let_out(error)
