"""One snapshot of what a cache did, as plain numbers.

Every decorated call counts once: as a local hit, a remote hit, `joined` (answered by another thread's load that it
waited for) or a miss (its own function ran). `hits` is the first three together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from ._tiers import Tiers


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationStats:
    """What happened in one `prefix:operation` since its cache was made."""

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

    `coherent`: the channel is live, so others' invalidations arrive at once (always true without a URL).
    `coherent_for`: since when; `last_heartbeat`: how long ago the last answered heartbeat was sent; None while there is
    no channel. `pending_invalidations` could not be sent to Redis yet, the oldest for `oldest_pending` seconds.
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
    operations: Mapping[str, OperationStats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the cache serves as it should. `ok`: its server can be used; calls are answered anyway."""

    ok: bool
    server: str
    coherent: bool
    breaker_open: bool
    pending_invalidations: int


_SUMMED = tuple(f.name for f in fields(OperationStats))


def snapshot(tiers: Tiers, started: float) -> CacheStats:
    operations: dict[str, dict[str, int]] = {}
    for region in tiers.local.all_regions():
        sums = operations.setdefault(region.name, dict.fromkeys(_SUMMED, 0))
        sums["local_hits"] += region.local_hits()
        for name in region.counters.__slots__:
            sums[name] += getattr(region.counters, name)
    now = tiers.clock()
    channel, recovery = tiers.channel, tiers.recovery
    since = None if channel is None else channel.live_since
    alive_at = None if channel is None else channel.alive_at
    totals = {name: sum(sums[name] for sums in operations.values()) for name in _SUMMED}
    return CacheStats(
        **totals,
        uptime=now - started,
        local_entries=len(tiers.local),
        coherent=tiers.coherent,
        coherent_for=None if since is None else now - since,
        last_heartbeat=None if alive_at is None else now - alive_at,
        channel_connects=0 if channel is None else channel.connects,
        pushes=0 if channel is None else channel.pushes,
        pending_invalidations=0 if recovery is None else len(recovery),
        oldest_pending=None if recovery is None else recovery.oldest(),
        replayed_invalidations=0 if recovery is None else recovery.replayed,
        operations={name: OperationStats(**sums) for name, sums in operations.items()},
    )
