"""For every alert when it fires, and when it does not: the figures, and what must be said. promtool runs them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import advice, dump
from .rules import ALERTS

INTERVAL = "30s"


@dataclass(frozen=True, slots=True)
class Case:
    """Series in promtool's notation, a value every 30 seconds, and the labels of the alert then; None: it is quiet."""

    alert: str
    series: Mapping[str, str]
    fires: Mapping[str, str] | None
    value: str = ""  # as the description gives it
    severity: str = ""  # where two rules have the name
    at: str = "40m10s"  # between two evaluations: on the edge of a window Prometheus 2 and 3 differ


@dataclass(frozen=True, slots=True)
class Redis:
    """A name of one server's metric."""

    instance: str
    job: str = "redis"

    def __call__(self, metric: str, **labels: str) -> str:
        inner = {"job": self.job, "instance": self.instance, **labels}
        return metric + "{" + ",".join(f'{key}="{value}"' for key, value in inner.items()) + "}"


A, B, C = Redis("a"), Redis("b"), Redis("c")
S, T, U = (Redis(name, "sentinel") for name in "stu")
SHOP, LARGE = Redis("shop", "shop"), Redis("large", "large")
ON_A, ON_B, ON_SHOP = ({"job": one.job, "instance": one.instance} for one in (A, B, SHOP))
UP = {one(name): "1x100" for one in (A, B, C) for name in ("up", "redis_up")}
OF_SHOP = {"job": SHOP.job}
MIB = 1024 * 1024


def memory(used: int, policy: str = "allkeys-lru", limit: int = 1000) -> dict[str, str]:
    info = A("redis_instance_info", maxmemory_policy=policy)
    return {A("redis_memory_used_bytes"): f"{used}x100", A("redis_memory_max_bytes"): f"{limit}x100", info: "1x100"}


def latency(fast: int, slow: int, of: Redis = SHOP) -> dict[str, str]:
    """So many round trips each half minute below 0.1 s and between 0.1 and 0.25 s."""
    bucket = "aikernel_cache_latency_seconds_bucket"
    counts = {"0.1": fast, "0.25": fast + slow, "+Inf": fast + slow}
    return {of(bucket, le=le): f"0+{count}x100" for le, count in counts.items()}


def connections(clients: int, limit: int) -> dict[str, str]:
    return {A("redis_connected_clients"): f"{clients}x100", A("redis_config_maxclients"): f"{limit}x100"}


def replication(behind: int, state: str = "online") -> dict[str, str]:
    offset = A("redis_connected_slave_offset_bytes", slave_ip="b", slave_state=state)
    return {A("redis_master_repl_offset"): f"{100 * MIB}x100", offset: f"{100 * MIB - behind}x100"}


def traffic(hits: int, misses: int, of: Redis = SHOP) -> dict[str, str]:
    hit, missed = of("aikernel_cache_hits_total", tier="local"), of("aikernel_cache_misses_total")
    return {hit: f"0+{hits}x100", missed: f"0+{misses}x100"}


def by_worker(*values: int | str) -> str:
    """Each scrape is answered by another process."""
    return " ".join(map(str, values * (100 // len(values))))


def quorum(*values: str) -> dict[str, str]:
    name = "redis_sentinel_master_ckquorum_status"
    return {one(name, message=""): value for one, value in zip((S, T, U), values, strict=True)}


def sentinels(*values: str) -> dict[str, str]:
    return {one("redis_up"): value for one, value in zip((S, T, U), values, strict=True)}


LINK_A = {
    A("redis_master_link_up", master_host="b"): "0x6 _x100",
    A("redis_master_link_up", master_host="c"): "_x6 0x90",
}
OFFLINE = {B("redis_up"): "1x60 0x40"}
GONE = {C("redis_up"): "1x20 stale", C("up"): "1x20 stale"}
DEAD_EXPORTER = {C("redis_up"): "1x20 stale", C("up"): "1x20 0x80"}
REJECTED = A("redis_rejected_connections_total")
LOG, SNAPSHOT = A("redis_aof_last_write_status"), A("redis_rdb_last_bgsave_status")
EVICTED = A("redis_evicted_keys_total")
COHERENT, PENDING, OPEN = (
    SHOP(f"aikernel_cache_{name}") for name in ("coherent", "pending_oldest_seconds", "breaker_open")
)
ROTATION = SHOP("aikernel_keyring_next_rotation_seconds")
STALE = SHOP("aikernel_cache_stale_total")
ON_LAG = {**ON_A, "slave_ip": "b", "slave_state": "online"}

CASES = (
    Case("RedisDown", {**UP, **OFFLINE}, ON_B),
    Case("RedisDown", {**UP, **OFFLINE}, None, at="34m10s"),  # four minutes: a restart
    Case("RedisDown", {**UP, **GONE}, {}),
    Case("RedisDown", {**UP, **DEAD_EXPORTER}, {"job": "redis", "instance": "c"}),
    Case("RedisDown", {}, {}),  # nothing is scraped at all
    Case("RedisDown", UP, None),
    Case("RedisHighMemoryUsage", memory(950, "noeviction"), ON_A, "95%", severity="critical"),
    Case("RedisHighMemoryUsage", memory(950), ON_A, "95%", severity="info"),
    Case("RedisHighMemoryUsage", memory(900), None),
    Case("RedisHighMemoryUsage", memory(950, "noeviction", limit=0), None),
    Case("RedisHighLatency", latency(95, 5), OF_SHOP, "220ms"),
    Case("RedisHighLatency", {**latency(95, 5), **latency(100_000, 0, LARGE)}, OF_SHOP, "220ms"),
    Case("RedisHighLatency", latency(1000, 5), None),
    Case("RedisTooManyConnections", connections(5001, 10000), ON_A),
    Case("RedisTooManyConnections", connections(850, 1000), ON_A),
    Case("RedisTooManyConnections", connections(4999, 10000), None),
    Case("RedisRejectedConnections", {REJECTED: "7x65 12x40"}, ON_A),
    Case("RedisRejectedConnections", {REJECTED: "7x20 12x80"}, None),  # long ago
    Case("RedisMasterLinkDown", LINK_A, ON_A, at="4m10s"),  # it followed two servers, and neither for two minutes
    Case("RedisMasterLinkDown", {A("redis_master_link_up", master_host="b"): "1x70 0x2 1x30"}, None, at="36m10s"),
    Case("RedisDiskWriteFailed", {LOG: "1x70 0x30", SNAPSHOT: "1x100"}, ON_A),
    Case("RedisDiskWriteFailed", {LOG: "1x100", SNAPSHOT: "1x70 0x30"}, ON_A),
    Case("RedisDiskWriteFailed", {LOG: "1x78 0x1 1x30", SNAPSHOT: "1x100"}, None),  # half a minute
    Case("RedisDiskWriteFailed", {LOG: "1x100", SNAPSHOT: "1x100"}, None),
    Case("RedisKeyEvictionRate", {EVICTED: "0+6000x100"}, ON_A, "200"),
    Case("RedisKeyEvictionRate", {EVICTED: "0+2700x100"}, None),
    Case("RedisReplicationLag", replication(12 * MIB), ON_LAG, "12Mi"),
    Case("RedisReplicationLag", replication(9 * MIB), None),
    Case("RedisReplicationLag", replication(50 * MIB, "wait_bgsave"), None),  # it is copying, RedisMasterLinkDown
    Case("RedisCacheHitRateLow", traffic(60, 60), OF_SHOP, "50%"),
    Case("RedisCacheHitRateLow", {**traffic(0, 60), **traffic(6000, 0, LARGE)}, OF_SHOP, "0%"),
    Case("RedisCacheHitRateLow", traffic(90, 30), None),
    Case("RedisCacheHitRateLow", traffic(4, 4), None),  # hardly any calls
    Case("RedisCacheHitRateLow", traffic(0, 0), None),
    Case("RedisSentinelQuorumLost", {**sentinels("1x100", "1x100", "1x100"), **quorum("1x100", "0x100", "1x100")},
         {"job": "sentinel", "instance": "t"}),
    Case("RedisSentinelQuorumLost", sentinels("1x100", "0x100", "0x100"), {}),
    Case("RedisSentinelQuorumLost", sentinels("1x20 stale", "1x20 stale", "1x20 stale"), {}),
    Case("RedisSentinelQuorumLost", {**sentinels("1x100", "1x100", "0x100"), **quorum("1x100", "1x100", "_x9")}, None),
    Case("RedisSentinelQuorumLost", UP, None),  # a cluster has none
    Case("AikcacheCoherenceLost", {COHERENT: "1x70 0x30"}, ON_SHOP),
    Case("AikcacheCoherenceLost", {COHERENT: by_worker(1, 1, 0)}, ON_SHOP),
    Case("AikcacheCoherenceLost", {COHERENT: "1x70 0x2 1x30"}, None, at="38m40s"),
    Case("AikcachePendingInvalidations", {PENDING: "90x100"}, ON_SHOP, "1m 30s"),
    Case("AikcachePendingInvalidations", {PENDING: by_worker(0, 0, 90)}, ON_SHOP, "1m 30s"),
    Case("AikcachePendingInvalidations", {PENDING: by_worker(0, 0, 30)}, None),
    Case("AikcacheBreakerOpen", {OPEN: "0x70 1x30"}, ON_SHOP),
    Case("AikcacheBreakerOpen", {OPEN: by_worker(0, 0, 1)}, ON_SHOP),
    Case("AikcacheBreakerOpen", {OPEN: "0x70 1x1 0x30"}, None, at="38m10s"),
    Case("AikcacheKeyRotationOverdue", {ROTATION: "900-30x100"}, ON_SHOP),
    Case("AikcacheKeyRotationOverdue", {ROTATION: by_worker(-60, "stale", "stale")}, ON_SHOP),  # few know the ring
    Case("AikcacheKeyRotationOverdue", {ROTATION: "900-30x42 7776000-30x60"}, None),  # late, and made
    Case("AikcacheKeyRotationOverdue", {ROTATION: "7776000-30x100"}, None),
    Case("AikcacheServingStale", {**traffic(60, 40), STALE: "0+5x100"}, OF_SHOP, "5%"),
    Case("AikcacheServingStale", {**traffic(60, 40), STALE: "0+5x100", **traffic(6000, 0, LARGE)}, OF_SHOP, "5%"),
    Case("AikcacheServingStale", {**traffic(60, 40), STALE: "0x100"}, None),
)  # fmt: skip


def tests(rules: Path) -> str:
    """The cases as promtool reads them."""
    return dump({"rule_files": [str(rules)], "evaluation_interval": INTERVAL, "tests": [_test(one) for one in CASES]})


def uncovered() -> list[str]:
    """The alerts that have no case in which they fire, or none in which they are quiet."""
    fire = {(one.alert, severity(one)) for one in CASES if one.fires is not None}
    quiet = {one.alert for one in CASES if one.fires is None}
    return [one.name for one in ALERTS if (one.name, one.severity) not in fire or one.name not in quiet]


def severity(case: Case) -> str:
    return case.severity or next(one.severity for one in ALERTS if one.name == case.alert)


def _test(case: Case) -> dict[str, Any]:
    expected = []
    if case.fires is not None:
        alert = next(one for one in ALERTS if (one.name, one.severity) == (case.alert, severity(case)))
        said = {key: _said(text, case) for key, text in advice(alert).items()}
        expected = [{"exp_labels": {"severity": alert.severity, **case.fires}, "exp_annotations": said}]
    asked = {"eval_time": case.at, "alertname": case.alert, "exp_alerts": expected}
    series = [{"series": name, "values": values} for name, values in case.series.items()]
    return {"interval": INTERVAL, "input_series": series, "alert_rule_test": [asked]}


def _said(text: str, case: Case) -> str:
    labels = case.fires or {}
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels.get(found[1], ""), text)
    return re.sub(r"\{\{ \$value[^}]*\}\}", case.value, text)
