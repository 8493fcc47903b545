"""The shipped alerts and the dashboard on the real programs: each alert is provoked, delivered, and resolved again."""

from __future__ import annotations

import json
import math
import os
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aikcache.testing import find_server, wait_until
from ops.check.dashboard import expressions
from ops.grafana.dashboard import FILE
from ops.live import faults
from ops.live.shipped import SHORT
from ops.live.stack import Stack, missing
from ops.local.fleet import Fleet
from ops.prometheus.rules import ALERTS, RECORDINGS

from ._ports import sixteen_ports

WITHIN = 180.0
"""Seconds for what takes ten on a machine that has nothing else to do."""
BY_SEVERITY = {"critical": "now", "warning": "today", "info": "nobody"}

BY_SERVERS = {
    "RedisDown",
    "RedisHighMemoryUsage",
    "RedisHighLatency",
    "RedisTooManyConnections",
    "RedisRejectedConnections",
    "RedisKeyEvictionRate",
    "RedisReplicationLag",
    "RedisCacheHitRateLow",
    "AikcacheServingStale",
}
BY_LINKS = {
    "RedisMasterLinkDown",
    "RedisDiskWriteFailed",
    "RedisSentinelQuorumLost",
    "AikcacheCoherenceLost",
    "AikcachePendingInvalidations",
    "AikcacheBreakerOpen",
    "AikcacheKeyRotationOverdue",
}

pytestmark = pytest.mark.servers


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    if gone := missing():
        message = f"not installed: {', '.join(gone)}"
        if os.environ.get("AIKCACHE_REQUIRE_SERVERS") == "1":
            pytest.fail(message)
        pytest.skip(message)
    fleet = Fleet(tmp_path / "fleet", "sentinel", sixteen_ports(), "cache")
    try:
        server = find_server("valkey")
        start = tmp_path / server.name
        start.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec {shlex.quote(str(server))} \"$@\"\n")  # see FullDisk
        start.chmod(0o700)
        fleet.create(start)
        for sentinel in fleet.sentinels:  # no failover, however busy the machine
            words = ("SENTINEL", "SET", "aikcache", "down-after-milliseconds", "600000")
            wait_until(lambda sentinel=sentinel, words=words: sentinel.ask(*words) in (b"OK", True), 60)  # type: ignore[misc]
        with Stack(fleet, tmp_path / "stack", SHORT) as stack:
            yield stack
    finally:
        fleet.remove()


class Watch:
    """What has been seen so far: alerts that were delivered, expressions that returned data."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        board = json.loads(FILE.read_text(encoding="utf-8"))
        self.silent = {_plain(expr) for _, expr in expressions(board)} | {one.name for one in RECORDINGS}

    def look(self) -> bool:
        """Ask for every expression that has returned nothing yet; whether there is none left."""
        for expr in sorted(self.silent):
            reply = self.stack.ask("query", query=expr)
            if reply and any(math.isfinite(float(one["value"][1])) for one in reply["result"]):
                self.silent.discard(expr)
        return not self.silent

    def until(self, names: set[str], status: str) -> Waiting:
        """For the word on each alert of these names to have been `status`, with each of its severities."""
        return Waiting(self, {(one.name, one.severity) for one in ALERTS if one.name in names}, status)


class Waiting:
    """What has not come yet; called, whether all has.

    One after the other is enough, and that it fired once: where a scrape is missed, what it shows seems to be over.
    """

    def __init__(self, watch: Watch, left: set[tuple[str, str]], status: str) -> None:
        self._watch, self.left, self._status = watch, left, status
        self._start = len(watch.stack.receiver.notifications)

    def __call__(self) -> bool:
        self._watch.look()
        receiver = self._watch.stack.receiver
        words = receiver.notifications[self._start :] if self._status == "firing" else receiver.last().values()
        self.left -= {(one.name, one.severity) for one in words if one.status == self._status}
        return not self.left


def _plain(expr: str) -> str:
    """With everything chosen, over what this test lives."""
    variables = {"$__rate_interval": "20s", "$__range": "120s", "$job": ".*", "$instance": ".*", "$redis": ".*"}
    for name, value in variables.items():
        expr = expr.replace(name, value)
    return expr


def see(done: Callable[[], bool], left: Callable[[], object], stack: Stack) -> None:
    """Wait for it; else say what has not come."""
    deadline = time.monotonic() + WITHIN
    while not done():
        assert time.monotonic() < deadline, f"not seen: {left()}\n{stack.logs()}"
        time.sleep(1)


def calm(stack: Stack) -> bool:
    """Everything is scraped and has been long enough for a rate."""
    reply = stack.ask("query", query="count(up == 1) == 8 and sum(rate(aikernel_cache_hits_total[20s])) > 0")
    return bool(reply and reply["result"])


def test_every_alert_comes_and_goes_and_every_expression_returns_data(stack: Stack) -> None:
    """Two sets of real faults provoke all alerts; the receivers hear of each, and that it is over."""
    assert {one.name for one in ALERTS} == BY_SERVERS | BY_LINKS
    watch = Watch(stack)
    primary, second, third = stack.fleet.servers
    servers = [
        faults.Frozen(stack, second),
        faults.Flood(stack, primary),
        faults.Slow(stack, primary),
        faults.Crowded(stack, third),
        faults.NeverEvicting(stack, third),
        faults.ApplicationFault(stack, "cold", "warm"),
        faults.ApplicationFault(stack, "source-down", "source-up"),
    ]
    links = [
        faults.WrongReplicationPassword(stack, third),
        faults.FullDisk(stack, primary),
        faults.PasswordsChanged(stack, primary),
        faults.Later(stack, primary),
        *(faults.Frozen(stack, sentinel) for sentinel in stack.fleet.sentinels[1:]),
    ]
    see(lambda: calm(stack), lambda: "everything scraped, and calls", stack)
    for names, broken in ((BY_SERVERS, servers), (BY_LINKS, links)):
        firing, over = watch.until(names, "firing"), watch.until(names, "resolved")
        assert faults.during(broken, firing, WITHIN), f"did not fire: {firing.left}\n{stack.logs()}"
        see(over, lambda over=over: over.left, stack)  # type: ignore[misc]
    see(watch.look, lambda: watch.silent, stack)
    assert {(one.severity, one.receiver) for one in stack.receiver.notifications} == set(BY_SEVERITY.items())
