"""The doctor on real servers: an application's user, a monitor's, Sentinel, a cluster, and a server that hangs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from aikcache.doctor import Finding, examine
from aikcache.errors import ConfigError
from aikcache.testing import Server, wait_until
from aikcache.testing.cluster import ClusterTopology
from aikcache.testing.sentinel import Topology

from ._workers import PATIENCE

PASSWORD = "hunter2-of-the-canary"


def complaints(found: Sequence[Finding]) -> set[tuple[str, str]]:
    return {(one.check, one.severity) for one in found if one.severity != "ok"}


def test_an_applications_user_is_told_what_it_may_not_do(binary: Path) -> None:
    """Settings are asked for as another user; no finding holds a password, and no key is left behind."""
    rules = "on >{} ~aikernel:* &aikernel:* -@all +hello +ping +info +get +set +mget +unlink +pttl +strlen +pexpire"
    users = (
        f"user cache {rules.format(PASSWORD)} +evalsha +client|tracking",
        f"user monitor on >{PASSWORD} resetkeys -@all +hello +ping +info +config|get",
    )
    with Server(binary=binary, port=0, config=users) as server:
        place = server.url.rpartition("@")[2].removeprefix("redis://")
        url, monitor = (f"redis://{user}:{quote(PASSWORD)}@{place}" for user in ("cache", "monitor"))
        found = examine(url)
        told = examine(url, monitor_url=monitor)
        refused = {(one.severity, one.evidence.split()[0]) for one in found if one.check == "commands"}
        optional = {("warning", name) for name in ("SCAN", "PUBLISH", "WAIT")}
        assert refused == {("error", "EVAL"), *optional}
        assert ("buffers", "unknown") in complaints(found)
        assert ("buffers", "warning") in complaints(told)
        assert PASSWORD not in repr([*found, *told]) + "".join(map(str, found))
        with redis.Redis.from_url(server.url) as client:
            assert client.dbsize() == 0


def test_behind_sentinel_with_the_shipped_configuration(binary: Path) -> None:
    """Only the default user is complained about, until a Sentinel is gone."""
    with Topology(binary=binary) as topology:
        known = {("protection", "warning")}
        old = {("version", "warning")}
        wait_until(lambda: complaints(examine(topology.url)) - old == known, 3 * PATIENCE, "servers in order")
        topology.sentinels[0].kill()
        assert ("sentinel", "warning") in complaints(examine(topology.url)) - known
        assert ("eviction", "error") in complaints(examine(topology.url, profile="durable"))


def test_each_primary_of_a_cluster_is_examined(binary: Path) -> None:
    """By its own address."""
    with ClusterTopology(binary=binary) as topology:

        def in_order() -> bool:  # a cluster that has just been made refuses some things for a moment
            found = examine(topology.url)
            seen = {one.where for one in found if one.check == "version"}
            return len(seen) == 3 and not [one for one in found if one.severity == "error"]

        wait_until(in_order, 3 * PATIENCE, "a cluster in order")


def test_a_server_that_is_away_or_hangs_is_a_finding(own_server: Server) -> None:
    """So is a wrong password, without its text; only arguments raise."""
    own_server.pause()
    try:
        assert complaints(examine(own_server.url, timeout=0.5)) == {("reachable", "error")}
    finally:
        own_server.resume()
    wrong = own_server.url.replace("://", f"://nobody:{PASSWORD}@")
    found = examine(wrong)
    assert complaints(found) == {("reachable", "error")}
    assert PASSWORD not in repr(found)
    assert complaints(examine("redis://127.0.0.1:1")) == {("reachable", "error")}
    assert {one.check for one in examine("redis+cluster://127.0.0.1:1", timeout=0.5)} == {"reachable"}
    with pytest.raises(ConfigError, match="profile must be 'cache' or 'durable', got 'session'"):
        examine(own_server.url, profile="session")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="timeout must be"):
        examine(own_server.url, timeout=0)
