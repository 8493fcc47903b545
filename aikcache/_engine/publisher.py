"""Publishes every `publish_interval`: one log line about a cache, and a snapshot in Redis for readers of all processes.

A daemon thread does so. It starts with the first load, or the first change of the channel, so an unused cache has none.
It ends with the cache, which publishes a last time if it has published or could have; the process is no longer alive
then, unless it has another such cache. At the interpreter's end it is
closed like any cache. After `fork` the child counts from zero, under its own id, and has a thread once it uses the
cache.

Threads: any thread may call `publish`; the script in Redis lets no older snapshot replace a newer one. Failure: logged
once a minute; the next interval tries again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence

from aikcache._concurrency.reporter import RateLimitedReporter, emit
from aikcache._concurrency.thread import Daemon
from aikcache._engine import reading
from aikcache._engine.events import BreakerChange, ChannelChange, Closed, Invalidated, Load, RoundTrip
from aikcache._engine.fleet import Fleet
from aikcache._engine.stats import CacheStats
from aikcache._engine.tally import tallies
from aikcache.errors import RemoteError


def line(stats: CacheStats) -> str:
    """The counts of one cache, as one line."""
    minutes, seconds = divmod(int(stats.uptime), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"Cache Metrics - Uptime: {hours:02d}:{minutes:02d}:{seconds:02d}, Hit Rate: {stats.hit_rate:.2%}, "
        f"Hits: {stats.hits}, Misses: {stats.misses}, Writes: {stats.writes}, Evictions: {stats.evictions}, "
        f"Errors: {stats.errors}, Bytes Written: {stats.bytes_written}"
    )


class Publisher:
    """Publishes for one cache; an observer of it."""

    def __init__(
        self,
        stats: Callable[[], CacheStats],
        fleet: Fleet | None,
        interval: float,
        within: float,
        reporter: RateLimitedReporter,
        names: dict[str, str],
    ) -> None:
        """`names` are added to the line as fields of the log record. `within` bounds one exchange, in seconds."""
        self._stats = stats
        self.fleet = fleet
        self._interval = interval
        self._within = within
        self._reporter = reporter
        self._names = names
        self._daemon = Daemon(self._run, "aikcache-publisher")

    def start(self) -> None:
        """Publish from here on."""
        if self.fleet is not None:
            self.fleet.used = True
        self._daemon.start()

    def _run(self) -> None:
        while not self._daemon.stopping.wait(self._interval):
            self.log()
            if self.fleet is not None:
                self._try(self._publish_and_tidy)

    def _publish_and_tidy(self) -> None:
        assert self.fleet is not None
        self.fleet.publish(self._within)
        self.fleet.tidy(self._within)

    def log(self) -> None:
        """Log one line, with its figures as fields of the record."""
        stats = self._stats()
        figures = {"uptime": stats.uptime, "hit_rate": stats.hit_rate, "hits": stats.hits, "misses": stats.misses}
        figures |= {name: getattr(stats, name) for name in ("writes", "evictions", "errors", "bytes_written")}
        more = {f"aikcache_{name}": value for name, value in (self._names | figures).items()}
        emit(logging.INFO, "%s", line(stats), extra=more)

    def close(self) -> None:
        """Publish a last time, and stop."""
        if self._daemon.stopping.is_set():
            return
        self._daemon.stop()
        fleet = self.fleet
        if fleet is not None and fleet.used:  # a child with only local hits has no thread, but its parent had one
            self._try(lambda: fleet.publish(self._within, last=not fleet.goes_on()))

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except RemoteError as error:
            self._reporter.report("publish", f"what this process did could not be published: {error}")

    # As an observer

    def round_trips(self, batch: Sequence[RoundTrip]) -> None:
        """The channel comes before them."""

    def reads(self, operation: str, seconds: Sequence[float]) -> None:
        """The channel comes before them too."""

    def load(self, details: Load) -> None:
        self.start()

    def invalidated(self, details: Invalidated) -> None:
        """A process that only invalidates has a channel, or nothing to publish."""

    def channel(self, details: ChannelChange) -> None:
        if details.live:
            self.start()

    def breaker(self, details: BreakerChange) -> None:
        """A load or the channel follows."""

    def closed(self, details: Closed) -> None:
        self.close()


def _after_fork() -> None:
    for tally in tallies():
        reading.restart(tally)


os.register_at_fork(after_in_child=_after_fork)
