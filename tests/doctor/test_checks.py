"""The doctor's judgement: each kind of trouble is found with its severity, and a server in order has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aikcache.doctor import checks
from aikcache.doctor.checks import Profile, judge, judge_sentinels
from aikcache.doctor.facts import Sentinel, Server

INFO = {
    "redis_version": "7.2.16",
    "role": "master",
    "connected_slaves": "2",
    "maxmemory": "3000000000",
    "maxmemory_policy": "allkeys-lru",
    "used_memory": "2999999999",
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "maxclients": "10000",
    "connected_clients": "12",
}
SETTINGS = {
    "client-output-buffer-limit": "normal 67108864 16777216 30 slave 1 1 1",
    "maxmemory-clients": "5%",
    "min-replicas-to-write": "1",
    "enable-debug-command": "no",
}
TLS = {"port": "0", "tls-port": "6379", "tls-replication": "yes", "tls-protocols": "TLSv1.2 TLSv1.3"}
SOUND = Server("one", INFO, SETTINGS, {}, "cache", 0.0, 0.0001, True)
DURABLE = replace(SOUND, info=INFO | {"maxmemory_policy": "noeviction", "used_memory": "1"})
FACTS = {"ip": "a", "port": "1", "flags": "master", "num-other-sentinels": "2", "quorum": "2"}
FACTS |= {"down-after-milliseconds": "5000"}
HEALTHY = Sentinel("s", "", "OK 3 usable Sentinels", FACTS)


@pytest.mark.parametrize(("server", "profile"), [(SOUND, "cache"), (DURABLE, "durable")])
def test_a_server_in_order_has_no_finding(server: Server, profile: Profile) -> None:
    """Every check says that it looked."""
    found = judge(server, profile)
    assert {one.severity for one in found} == {"ok"}
    assert {one.check for one in found} == checks.CHECKS.keys()


@pytest.mark.parametrize(
    ("check", "severity", "info", "settings", "other"),
    [
        ("version", "error", {"redis_version": "6.2.14"}, {}, {}),
        ("version", "warning", {"redis_version": "7.0.15"}, {}, {}),
        ("version", "warning", {"redis_version": "7.4.10"}, {}, {}),
        ("version", "warning", {"redis_version": "8.0.9"}, {}, {}),
        ("version", "ok", {"redis_version": "8.4.0"}, {}, {}),
        ("version", "warning", {"server_name": "valkey", "valkey_version": "9.1.1"}, {}, {}),
        ("version", "ok", {"server_name": "valkey", "valkey_version": "9.1.2"}, {}, {}),
        ("version", "unknown", {"redis_version": ""}, {}, {}),
        ("commands", "error", {}, {}, {"refused": {"EVALSHA": "NOPERM"}}),
        ("commands", "warning", {}, {}, {"refused": {"SCAN": "NOPERM"}}),
        ("eviction", "warning", {"maxmemory_policy": "noeviction", "used_memory": "1"}, {}, {}),
        ("eviction", "error", {"maxmemory_policy": "noeviction"}, {}, {}),
        ("eviction", "ok", {"maxmemory_policy": "volatile-lru"}, {}, {}),
        ("eviction", "warning", {"maxmemory": "0"}, {}, {}),
        ("eviction", "unknown", {"maxmemory_policy": ""}, {}, {}),
        ("persistence", "warning", {"aof_enabled": "0"}, {}, {}),
        ("persistence", "error", {"aof_last_write_status": "err"}, {}, {}),
        ("persistence", "unknown", {"aof_enabled": ""}, {}, {}),
        ("replication", "error", {"connected_slaves": "0"}, {}, {}),
        ("replication", "error", {"role": "slave"}, {}, {}),
        ("replication", "warning", {"slave0": "ip=a,port=1,state=wait_bgsave,offset=0,lag=0"}, {}, {}),
        ("replication", "warning", {}, {"min-replicas-to-write": "0"}, {}),
        ("buffers", "warning", {}, {"client-output-buffer-limit": "normal 0 0 0 slave 1 1 1"}, {}),
        ("buffers", "warning", {}, {"maxmemory-clients": "0"}, {}),
        ("buffers", "warning", {"evicted_clients": "3"}, {}, {}),
        ("buffers", "unknown", {}, {}, {"settings": None}),
        ("connections", "error", {"connected_clients": "9500"}, {}, {}),
        ("connections", "warning", {"rejected_connections": "7"}, {}, {}),
        ("clock", "warning", {}, {}, {"clock": -1.5}),
        ("clock", "error", {}, {}, {"clock": 301.0}),
        ("latency", "warning", {}, {}, {"latency": 0.02}),
        ("protection", "warning", {}, {"enable-debug-command": "yes"}, {}),
        ("protection", "warning", {}, {}, {"user": "default"}),
        ("protection", "unknown", {}, {}, {"user": ""}),
        ("tls", "ok", {}, TLS, {}),
        ("tls", "ok", {}, TLS | {"tls-cluster": "no"}, {}),
        ("tls", "warning", {}, TLS | {"port": "6379"}, {}),
        ("tls", "warning", {}, TLS | {"tls-replication": "no"}, {}),
        ("tls", "warning", {"cluster_enabled": "1"}, TLS | {"tls-cluster": "no"}, {}),
        ("tls", "warning", {}, TLS | {"tls-protocols": "TLSv1.1 TLSv1.2"}, {}),
    ],
)
def test_each_problem_is_found(
    check: str, severity: str, info: dict[str, str], settings: dict[str, str], other: dict[str, Any]
) -> None:
    """Each with what was seen, and a cure; and nothing else changes its judgement."""
    server = replace(SOUND, info=INFO | info, settings=SETTINGS | settings)
    found = judge(replace(server, **other), "cache")
    worst = min((one for one in found if one.check == check), key=lambda one: checks.SEVERITIES.index(one.severity))
    assert worst.severity == severity
    assert worst.evidence
    assert bool(worst.cure) == (severity != "ok")
    assert all(one.severity == "ok" for one in found if one.check != check)


@pytest.mark.parametrize(
    ("why", "cure"),
    [
        ("NOPERM", "users.acl"),
        ("OOM", "full"),
        ("NOREPLICAS", "replicas"),
        ("READONLY", "primary"),
        ("MISCONF", "disk"),
    ],
)
def test_the_cure_of_a_refused_command_is_that_of_its_reason(why: str, cure: str) -> None:
    """A full server does not need other permissions."""
    (found,) = [one for one in judge(replace(SOUND, refused={"SET": why}), "cache") if one.check == "commands"]
    assert (found.severity, cure in found.cure) == ("error", True)


def test_a_quick_ping_does_not_take_no_time() -> None:
    """What rounds to 0.0 ms is less than 0.1 ms."""
    said = {one.evidence for one in judge(replace(SOUND, latency=0.00004), "cache") if one.check == "latency"}
    assert said == {"a PING takes less than 0.1 ms"}


@pytest.mark.parametrize(
    "info",
    [
        {"maxmemory_policy": "allkeys-lfu"},
        {"maxmemory_policy": "volatile-lru"},
        {"maxmemory_policy": "volatile-ttl"},
        {"aof_enabled": "0"},
    ],
)
def test_a_session_store_needs_more_than_a_cache(info: dict[str, str]) -> None:
    """A server that forgets by itself is an error there."""
    found = judge(replace(DURABLE, info={**DURABLE.info, **info}), "durable")
    assert [one.severity for one in found if one.severity != "ok"] == ["error"]


@pytest.mark.parametrize(
    ("severity", "facts", "other"),
    [
        ("ok", {}, {}),
        ("error", {}, {"quorum": "NOQUORUM 1 usable Sentinels"}),
        ("warning", {"quorum": "1"}, {}),
        ("warning", {"quorum": "4"}, {}),
        ("warning", {"down-after-milliseconds": "60000"}, {}),
        ("warning", {"failover-timeout": "180000"}, {}),
        ("warning", {"parallel-syncs": "2", "num-slaves": "2"}, {}),
        ("ok", {"parallel-syncs": "2", "num-slaves": "6"}, {}),
        ("warning", {"flags": "s_down,master"}, {}),
        ("error", {"port": "2"}, {}),
        ("warning", {}, {"error": "ConnectionRefusedError"}),
    ],
)
def test_sentinels_are_judged_together(severity: str, facts: dict[str, str], other: dict[str, str]) -> None:
    """One that is broken, or of another opinion, is found among three."""
    changed = replace(HEALTHY, facts=FACTS | facts, **other)
    found = list(judge_sentinels([HEALTHY, HEALTHY, changed], "shop"))
    assert min((one.severity for one in found), key=checks.SEVERITIES.index) == severity


def test_fewer_than_three_sentinels_are_too_few() -> None:
    """Also where both of them are well."""
    assert [one.severity for one in judge_sentinels([HEALTHY, HEALTHY], "shop")].count("warning") == 1
