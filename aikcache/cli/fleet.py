"""What all processes of a cache have published, as `stats` and `top` show it.

It only reads: the command itself does not count as a process. A process publishes every `publish_interval` (60 s), so
its figures are that old at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aikcache._cache import Cache
from aikcache._engine import fleet as _fleet
from aikcache._engine.fleet import Member
from aikcache._engine.reading import Reading
from aikcache._engine.stats import FleetStats
from aikcache.cli.failures import Misuse
from aikcache.cli.refusal import refusal

_WHEN = "Each does so every publish_interval (60 s), after its first load. Are --instance and AIKCACHE_METRICS right?"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is published, as of one moment. `total` also counts exited processes, `alive` does not.

    `refused`: why no process can publish, where none is alive and the server says so.
    """

    total: Reading
    alive: Sequence[Member]
    refused: str | None = None

    @property
    def unheard(self) -> str:
        """Why no process is alive, as far as is known."""
        return _WHEN if self.refused is None else f"None can publish now, because {self.refused}"

    @property
    def stats(self) -> FleetStats:
        return _fleet.stats(self.total, self.alive)

    @property
    def hosts(self) -> int:
        return len({member.host for member in self.alive})

    @property
    def incoherent(self) -> int:
        """Processes that do not receive others' invalidations now."""
        return sum(_gauge(member.reading, "coherent") == 0 for member in self.alive)

    @property
    def pending(self) -> int:
        """Invalidations that have not been sent to Redis yet."""
        return int(_gauge(self.total, "pending_invalidations"))

    @property
    def open_breakers(self) -> int:
        """Caches whose circuit breaker is open."""
        return int(_gauge(self.total, "breaker_open"))

    @property
    def local_entries(self) -> int:
        return int(_gauge(self.total, "local_entries"))


def read(cache: Cache) -> Snapshot:
    """Ask Redis. Raises `RemoteError`, or `Misuse`: the cache's `metrics` are None, so nothing is published."""
    fleet = cache.engine.fleet
    if fleet is None:
        raise Misuse("AIKCACHE_METRICS is empty, so nothing says under which name the processes publish: unset it.")
    total, alive = fleet.read(cache.config.timeout)
    return Snapshot(total, alive, None if alive else refusal(cache))


def _gauge(reading: Reading, name: str) -> float:
    return reading.samples.get(name, {}).get((), 0.0)
