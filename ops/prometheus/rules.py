"""The alerts and recording rules. `python -m ops.prometheus` makes the files of them that Prometheus reads.

Times and limits are those of the runbook. An expression takes its metrics from the library's own table or from
redis_exporter (`make ops-check` knows both), and survives what it is for: a pod that is gone has no metrics, a counter
that rose once never falls, a failover changes labels and would begin `for` anew. The scrape jobs are named `redis` and
`sentinel`; the applications' may have any name, and each is judged by itself: beside a large one nobody would see a
small one. Under several worker processes each scrape may be answered by another of them, and with Redis away each knows
only its own gauges: what one of them says counts for two minutes, and `for` is as much longer.
"""

from __future__ import annotations

from dataclasses import dataclass

RUNBOOK = "https://runbooks.example.com/aikcache/runbook.md#{alert}"
"""Where people find an alert's section of docs/runbook.md: a placeholder. `python -m ops.prometheus --runbook` puts in
your own."""


@dataclass(frozen=True, slots=True)
class Recording:
    """An expression that several rules need."""

    name: str
    expr: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule. Two may have the same name where the same fact is worth more in one place than in another."""

    name: str
    expr: str
    hold: str  # how long it must be true
    severity: str  # critical: now; warning: today; info: to be seen beside others
    summary: str
    description: str


CALLS = "aikernel_cache:calls:rate5m"
HIT_RATIO = "aikernel_cache:hit_ratio:rate15m"
P99 = "aikernel_cache:latency_seconds:p99_5m"

_CALLS = "sum by (job) (rate(aikernel_cache_hits_total[{0}])) + sum by (job) (rate(aikernel_cache_misses_total[{0}]))"
RECORDINGS = (
    Recording(CALLS, _CALLS.format("5m")),
    Recording(HIT_RATIO, f"sum by (job) (rate(aikernel_cache_hits_total[15m])) / ({_CALLS.format('15m')})"),
    # Round trips to Redis, as the applications wait for them: redis_exporter sees only the server's own time.
    Recording(P99, "histogram_quantile(0.99, sum by (job, le) (rate(aikernel_cache_latency_seconds_bucket[5m])))"),
)

_MEMORY = "redis_memory_used_bytes / (redis_memory_max_bytes > 0) > 0.90"  # without a limit it would be +Inf
_NEVER_EVICTS = 'on (job, instance) redis_instance_info{maxmemory_policy="noeviction"}'

ALERTS = (
    Alert(
        "RedisDown",
        # A pod that is gone takes its metrics with it, hence the count; an exporter that is gone leaves `up` alone.
        'redis_up{job="redis"} == 0 or up{job="redis"} == 0 or (count(up{job="redis"}) or vector(0)) < 3',
        "5m",
        "critical",
        "A Redis server is down",
        "{{ $labels.instance }} does not answer, or fewer than three servers are known. The cache goes on without it; "
        "one more and writes are refused.",
    ),
    Alert(
        "RedisHighMemoryUsage",
        f"{_MEMORY} and {_NEVER_EVICTS}",
        "5m",
        "critical",
        "A Redis server that never evicts is nearly full",
        "{{ $labels.instance }} uses {{ $value | humanizePercentage }} of its memory. When it is full it refuses "
        "writes: nobody can log in.",
    ),
    Alert(
        "RedisHighMemoryUsage",
        f"{_MEMORY} unless {_NEVER_EVICTS}",
        "5m",
        "info",
        "A Redis server for caching is full",
        "{{ $labels.instance }} uses {{ $value | humanizePercentage }} of its memory. That is normal for a cache; look "
        "at RedisKeyEvictionRate.",
    ),
    Alert(
        "RedisHighLatency",
        f"{P99} > 0.1",
        "5m",
        "warning",
        "Redis answers slowly",
        "{{ $labels.job }}: one round trip in a hundred takes {{ $value | humanizeDuration }} or more, measured in its "
        "processes.",
    ),
    Alert(
        "RedisTooManyConnections",
        "redis_connected_clients > 5000 or redis_connected_clients / redis_config_maxclients > 0.8",
        "5m",
        "warning",
        "A Redis server has too many connections",
        "{{ $labels.instance }} has more than 5000 connections, or more than 80 % of those that it accepts.",
    ),
    Alert(
        "RedisRejectedConnections",
        "increase(redis_rejected_connections_total[10m]) > 0",
        "5m",
        "critical",
        "A Redis server has refused connections",
        "{{ $labels.instance }} had as many connections as it accepts (maxclients) within the last ten minutes.",
    ),
    Alert(
        "RedisMasterLinkDown",
        "min by (job, instance) (redis_master_link_up) == 0",  # master_host changes at a failover
        "2m",
        "critical",
        "A replica has lost its primary",
        "{{ $labels.instance }} copies nothing any more. A failover to it would lose what was written since.",
    ),
    Alert(
        "RedisDiskWriteFailed",
        # A failed write of the log is tried again each second. A snapshot that failed counts until one succeeds.
        "min by (job, instance) (redis_aof_last_write_status) == 0 or "
        "min by (job, instance) (redis_rdb_last_bgsave_status) == 0",
        "1m",
        "critical",
        "A Redis server cannot write to its disk",
        "{{ $labels.instance }} keeps in memory alone what it has. As a primary it refuses writes (MISCONF); a replica "
        "ends itself at the next one.",
    ),
    Alert(
        "RedisKeyEvictionRate",
        "rate(redis_evicted_keys_total[2m]) > 100",
        "5m",
        "warning",
        "Redis evicts many keys",
        "{{ $labels.instance }} drops {{ $value | humanize }} keys a second for want of memory.",
    ),
    Alert(
        "RedisReplicationLag",
        "redis_master_repl_offset - on (job, instance) group_right () "
        'redis_connected_slave_offset_bytes{slave_state="online"} > 10 * 1024 * 1024',
        "5m",
        "warning",
        "A replica is behind",
        "{{ $labels.slave_ip }} has yet to copy {{ $value | humanize1024 }}B from {{ $labels.instance }}. A failover "
        "to it would lose that much.",
    ),
    Alert(
        "RedisCacheHitRateLow",
        f"{HIT_RATIO} < 0.70 and {CALLS} > 1",  # without traffic a ratio means nothing
        "15m",
        "warning",
        "The cache helps too little",
        "{{ $labels.job }}: only {{ $value | humanizePercentage }} of the calls were answered without running their "
        "function.",
    ),
    Alert(
        "RedisSentinelQuorumLost",
        # The last part: fewer than two answer, where there were any within six hours.
        "min by (job, instance) (redis_sentinel_master_ckquorum_status) == 0 or "
        '(count(redis_up{job="sentinel"} == 1) or 0 * count(count_over_time(redis_up{job="sentinel"}[6h]))) < 2',
        "1m",
        "critical",
        "The Sentinels cannot fail over",
        "Too few Sentinels reach each other. If the primary dies now, nobody promotes a replica.",
    ),
    Alert(
        "AikcacheCoherenceLost",
        "min by (job, instance) (min_over_time(aikernel_cache_coherent[2m])) == 0",
        "4m",
        "warning",
        "A process does not receive invalidations at once",
        "{{ $labels.instance }} checks its local values with Redis instead, and may answer up to max_staleness late.",
    ),
    Alert(
        "AikcachePendingInvalidations",
        "max by (job, instance) (max_over_time(aikernel_cache_pending_oldest_seconds[2m])) > 60",
        "1m",  # an age has waited by itself
        "critical",
        "Invalidations have not reached Redis",
        "The oldest one of {{ $labels.instance }} has waited for {{ $value | humanizeDuration }}. Until then other "
        "processes may answer with old values.",
    ),
    Alert(
        "AikcacheBreakerOpen",
        "max by (job, instance) (max_over_time(aikernel_cache_breaker_open[2m])) > 0",
        "3m",
        "warning",
        "A process has stopped asking Redis",
        "{{ $labels.instance }} had failures in a row and runs its functions instead; once a second it tries again.",
    ),
    Alert(
        "AikcacheKeyRotationOverdue",
        "min by (job, instance) (min_over_time(aikernel_keyring_next_rotation_seconds[2m])) < 0",
        "12m",
        "warning",
        "A key of the ring has not been replaced in time",
        "The ring of {{ $labels.instance }} should have had a new key, and has none. When the old one ends nobody can "
        "log in: by default two days after this began.",
    ),
    Alert(
        "AikcacheServingStale",
        f"sum by (job) (rate(aikernel_cache_stale_total[5m])) / {CALLS} > 0.01",
        "5m",
        "warning",
        "Callers get stale values",
        "{{ $labels.job }}: {{ $value | humanizePercentage }} of the calls got a value past its time, because "
        "the new one could not be computed soon enough.",
    ),
)
