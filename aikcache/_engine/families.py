"""The table of exported metrics: each one's name, kind, unit, labels and meaning, and how it is read from a `Tally`.

OpenTelemetry and Prometheus export this table; no other code names a metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Literal

from aikcache._concurrency.shared import items
from aikcache._engine.stats import OperationStats
from aikcache._engine.tally import Histogram, Tally

Sample = tuple[tuple[str, ...], float]
"""The labels' values, and the number."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric as it appears to Prometheus.

    `name`: after the prefix, as `_cache_hits_total`; a histogram's without `_bucket`, `_sum` or `_count`. `unit`:
    "seconds", "bytes" or, for plain numbers, "".
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    help: str


@dataclass(frozen=True, slots=True)
class Family:
    """One counter or gauge. `name` comes after the prefix and `area`, and on the wire a counter ends in `_total`.

    `merge` combines a gauge of several processes, by its labels.
    """

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    labels: tuple[str, ...]
    read: Callable[[Tally], Iterable[Sample]]
    merge: Callable[[Iterable[float]], float] = sum
    area: str = "_cache_"

    @property
    def unit(self) -> str:
        """ "seconds", "bytes" or ""."""
        words = self.name.split("_")
        return next((unit for unit in ("seconds", "bytes") if unit in words), "")


@dataclass(frozen=True, slots=True)
class Timing:
    """One histogram of seconds, by its one label."""

    name: str
    meaning: str
    label: str
    read: Callable[[Tally], Mapping[str, Histogram]]


def _by_operation(value: Callable[[OperationStats], float]) -> Callable[[Tally], Iterable[Sample]]:
    return lambda tally: [((name,), value(stats)) for name, stats in tally.operations().items()]


def _hits(tally: Tally) -> Iterable[Sample]:
    for name, stats in tally.operations().items():
        yield (name, "local"), stats.local_hits
        yield (name, "remote"), stats.remote_hits
        yield (name, "joined"), stats.joined


def _loads(tally: Tally) -> Iterable[Sample]:
    for name, stats in tally.operations().items():
        yield (name, "ok"), stats.loads
        yield (name, "error"), tally.failed_loads[name]


def hit_rate(hits: float, misses: float) -> Iterable[Sample]:
    """The one sample of the hit rate; none before the first call."""
    return [((), hits / (hits + misses))] if hits + misses else []


def _hit_rate(tally: Tally) -> Iterable[Sample]:
    stats = tally.operations().values()
    return hit_rate(sum(one.hits for one in stats), sum(one.misses for one in stats))


def _evictions(tally: Tally) -> Iterable[Sample]:
    return [(("local", "room"), sum(stats.evictions for stats in tally.operations().values()))]


def _silence(tally: Tally) -> Iterable[Sample]:
    times = [engine.channel.alive_at for engine in tally.engines() if engine.channel is not None]
    alive = [at for at in times if at is not None]
    return [((), monotonic() - min(alive))] if alive else []


def _pending(tally: Tally) -> Iterable[Sample]:
    return [((), sum(len(engine.recovery) for engine in tally.engines() if engine.recovery is not None))]


def _oldest(tally: Tally) -> Iterable[Sample]:
    ages = [engine.recovery.oldest() or 0.0 for engine in tally.engines() if engine.recovery is not None]
    return [((), max(ages, default=0.0))]


def _local_bytes(tally: Tally) -> Iterable[Sample]:
    sizes = [engine.local.bytes for engine in tally.engines() if engine.local.max_bytes is not None]
    return [((), sum(sizes))] if sizes else []


def _sweeps(tally: Tally) -> Iterable[Sample]:
    return [((), sum(engine.remote.sweeps for engine in tally.engines() if engine.remote is not None))]


def _open(tally: Tally) -> Iterable[Sample]:
    remotes = [engine.remote for engine in tally.engines() if engine.remote is not None]
    return [((), sum(remote.connections.breaker.is_open for remote in remotes))]


_OPERATION = ("operation",)
FAMILIES = (
    Family("hits", "counter", "Calls answered without running their function.", ("operation", "tier"), _hits),
    Family("misses", "counter", "Calls whose function ran.", _OPERATION, _by_operation(lambda s: s.misses)),
    Family("hit_rate", "gauge", "Hits per call since the process began; use a rate of the counters.", (), _hit_rate),
    Family("stale", "counter", "Calls answered with a stale value.", _OPERATION, _by_operation(lambda s: s.stale)),
    Family("loads", "counter", "Runs of the function, by their result.", ("operation", "result"), _loads),
    Family(
        "waits", "counter", "Waits for a load by another thread or process.", _OPERATION,
        _by_operation(lambda s: s.waits),
    ),
    Family(
        "refreshes", "counter", "Values renewed in the background.", _OPERATION, _by_operation(lambda s: s.refreshes)
    ),
    Family("writes", "counter", "Values stored in Redis.", _OPERATION, _by_operation(lambda s: s.writes)),
    Family("evictions", "counter", "Entries that left the local tier for room.", ("tier", "cause"), _evictions),
    Family(
        "errors", "counter", "Problems that no caller felt, by their class.", ("operation", "error_type"),
        lambda tally: list(tally.errors().items()),
    ),
    Family(
        "bytes_written", "counter", "Bytes stored in Redis.", _OPERATION, _by_operation(lambda s: s.bytes_written)
    ),
    Family(
        "bytes_read", "counter", "Bytes of values found in Redis.", _OPERATION, _by_operation(lambda s: s.bytes_read)
    ),
    Family(
        "command_errors", "counter", "Round trips to Redis that failed.", ("command", "error_type"),
        lambda tally: items(tally.command_errors),
    ),
    Family(
        "invalidations", "counter", "Names invalidated by this process (out) or received (in).", ("kind", "direction"),
        lambda tally: list(tally.invalidations.items()),
    ),
    Family(
        "channel_changes", "counter", "Changes of the invalidation channel.", ("state",),
        lambda tally: [((state,), count) for state, count in tally.channel_changes.items()],
    ),
    Family(
        "breaker_changes", "counter", "Changes of a circuit breaker.", ("state",),
        lambda tally: [((state,), count) for state, count in tally.breaker_changes.items()],
    ),
    Family(
        "local_entries", "gauge", "Entries in the local tier.", (),
        lambda tally: [((), sum(len(engine.local) for engine in tally.engines()))],
    ),
    Family("local_bytes", "gauge", "Bytes in the local tier, where `local_max_bytes` bounds them.", (), _local_bytes),
    Family("sweeps_running", "gauge", "Sweeps of a glob that are under way.", (), _sweeps),
    Family(
        "coherent", "gauge", "1: every cache of the process receives others' invalidations at once.", (),
        lambda tally: [((), all(engine.coherent for engine in tally.engines()))],
        min,
    ),
    Family("channel_silence_seconds", "gauge", "Since the last answered heartbeat was sent.", (), _silence, max),
    Family("pending_invalidations", "gauge", "Invalidations that could not be sent to Redis yet.", (), _pending),
    Family("pending_oldest_seconds", "gauge", "How long the oldest of them has waited.", (), _oldest, max),
    Family("breaker_open", "gauge", "Caches whose circuit breaker is open.", (), _open),
    Family("processes", "gauge", "Processes that are counted here and alive.", (), lambda tally: [((), 1)]),
    Family(
        "uptime_seconds", "gauge", "Since the first cache of the process was made.", (),
        lambda tally: [((), monotonic() - tally.started)],
        max,
    ),
    Family(
        "session", "counter", "What happened to sessions.", ("event",),
        lambda tally: [((event,), count) for event, count in tally.sessions.events().items()], area="_",
    ),
    Family(
        "keyring_keys", "gauge", "Keys of the ring.", ("state",),
        lambda tally: [((state,), count) for state, count in tally.sessions.keys().items()], max, "_",
    ),
    Family(
        "keyring_next_rotation_seconds", "gauge", "Until the ring's next key must be made; below 0 it is overdue.", (),
        lambda tally: [((), seconds) for seconds in tally.sessions.next_rotation()], min, "_",
    ),
)  # fmt: skip
TIMINGS = (
    Timing("latency_seconds", "Round trips to Redis made for an operation.", "operation", lambda t: t.latencies),
    Timing("command_seconds", "Round trips to Redis, by what was asked.", "command", lambda t: t.commands),
    Timing("load_seconds", "Runs of the function.", "operation", lambda t: t.load_times),
)
INSTRUMENTS = tuple(
    Instrument(f"{f.area}{f.name}{'_total' * (f.kind == 'counter')}", f.kind, f.unit, f.labels, f.meaning)
    for f in FAMILIES
) + tuple(Instrument(f"_cache_{t.name}", "histogram", "seconds", (t.label,), t.meaning) for t in TIMINGS)
"""Everything that is exported, for dashboards and rules that are built from it."""
