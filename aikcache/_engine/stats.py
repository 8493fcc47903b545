"""A snapshot of a cache's counts, as plain numbers.

Every decorated call counts once: as a local hit, a remote hit, `joined` (answered by another thread's load that it
waited for) or a miss (its own function ran). `hits` is the sum of the first three.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple

from aikcache._local.region import Region


class CacheInfo(NamedTuple):
    """As `functools.lru_cache` has it, in calls and entries. `maxsize` is the bound of the whole local tier."""

    hits: int
    misses: int
    maxsize: int
    currsize: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationStats:
    """The counts of one `prefix:operation` since its cache was made, or bytes where the name says so.

    `local_hits`, `remote_hits`, `joined` (answered by another thread's load) and `misses` are calls. `loads` are runs
    of the function that returned, `writes` values stored in Redis, `stale` aged values that answered, `evictions` local
    entries that were removed for room, `errors` problems that callers did not see, `bytes_read` and `bytes_written` the
    size of values in Redis, `waits` waits for another thread's or process's load, `refreshes` renewals in the
    background.
    """

    local_hits: int = 0
    remote_hits: int = 0
    joined: int = 0
    misses: int = 0
    loads: int = 0
    writes: int = 0
    stale: int = 0
    evictions: int = 0
    errors: int = 0
    bytes_written: int = 0
    bytes_read: int = 0
    waits: int = 0
    refreshes: int = 0

    @property
    def hits(self) -> int:
        """Calls answered without running their function."""
        return self.local_hits + self.remote_hits + self.joined

    @property
    def hit_rate(self) -> float:
        """Hits per call, 0.0 to 1.0; 0.0 before the first call."""
        calls = self.hits + self.misses
        return self.hits / calls if calls else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats(OperationStats):
    """The same over all operations, and the state of coherence. All times are in seconds.

    `coherent`: the channel is live, so others' invalidations are pushed here (always true without a url).
    `coherent_for`: seconds since it became so; `last_heartbeat`: seconds since the last answered heartbeat was sent;
    None while there is no channel. `pending_invalidations` are not sent to Redis yet, the oldest for `oldest_pending`
    seconds. `uptime`: seconds since the cache was made. `operations`: an `OperationStats` for each `prefix:operation`.
    `compiled`: the extension is in, so local hits are answered in C.
    """

    uptime: float = 0.0
    local_entries: int = 0
    coherent: bool = False
    coherent_for: float | None = None
    last_heartbeat: float | None = None
    channel_connects: int = 0
    pushes: int = 0
    pending_invalidations: int = 0
    oldest_pending: float | None = None
    replayed_invalidations: int = 0
    compiled: bool = False
    operations: Mapping[str, OperationStats]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStats(OperationStats):
    """The counts of one process. It published them `age` seconds ago, after counting for `uptime` seconds."""

    host: str
    pid: int
    age: float
    uptime: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStats(OperationStats):
    """The totals of all present and past processes, and each one that is alive.

    In `operations`, `evictions` are 0: they are only counted as a whole.
    """

    processes: tuple[ProcessStats, ...]
    operations: Mapping[str, OperationStats]


@dataclass(frozen=True, slots=True)
class Problem:
    """`kind` is one of a fixed set of words, `what` is for people, `cure` says what to do.

    `severity`: "degraded" where values are not cached, or invalidations not received, as they should be; else
    "warning".
    """

    kind: str
    severity: Literal["degraded", "warning"]
    what: str
    cure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the cache works as it should. Calls are answered even when it does not.

    `live`: the cache is open. `ready`: it answers calls, which it does whatever Redis does. `degraded`: some problem is
    more than a warning. `ok`: the server can be used. `server`: "reachable", "none" (no url), or what is wrong.
    `coherent`: others' invalidations are pushed here. `breaker_open`: Redis failed too often, and only probes are sent.
    `pending_invalidations`: how many were not sent to Redis yet. `latency`: seconds of one round trip, or None.
    """

    ok: bool
    server: str
    coherent: bool
    breaker_open: bool
    pending_invalidations: int
    live: bool = True
    ready: bool = True
    latency: float | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def degraded(self) -> bool:
        """Whether any problem is more than a warning."""
        return any(problem.severity == "degraded" for problem in self.problems)

    @property
    def status(self) -> Literal["ok", "degraded", "closed"]:
        """In one word."""
        return "closed" if not self.live else "degraded" if self.degraded else "ok"


def health_as_dict(health: Health) -> dict[str, Any]:
    """What a health check answers, for JSON."""
    return {"status": health.status, "degraded": health.degraded, **asdict(health)}


SUMMED = tuple(f.name for f in fields(OperationStats))


def counted(region: Region) -> Iterable[int]:
    """The counters of a region, in the order of the fields of `OperationStats`."""
    counters = region.counters
    return [region.local_hits() if name == "local_hits" else getattr(counters, name) for name in SUMMED]
