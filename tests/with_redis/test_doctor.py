"""The doctor on real servers: an application's user, a monitor's, Sentinel, a cluster, and a server that hangs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from aikcache import Cache
from aikcache._settings.config import CacheConfig
from aikcache.doctor import Finding, examine
from aikcache.errors import ConfigError, RemoteError
from aikcache.testing import Server, wait_until
from aikcache.testing.cluster import ClusterTopology
from aikcache.testing.sentinel import Topology

from .._canary import shown
from ._hostile import MALFORMED, Hostile, array, bulk
from ._workers import PATIENCE, PATIENT

PASSWORD = "hunter2-of-the-canary"


def complaints(found: Sequence[Finding]) -> set[tuple[str, str]]:
    return {(one.check, one.severity) for one in found if one.severity != "ok"}


def test_missing_permissions_of_an_applications_user_are_named(binary: Path) -> None:
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
        findings = examine(url, monitor_url=monitor)
        refused = {(one.severity, one.evidence.split()[0]) for one in found if one.check == "commands"}
        optional = {("warning", name) for name in ("SCAN", "PUBLISH", "SUBSCRIBE", "WAIT")}
        assert refused == {("error", "EVAL"), *optional}
        assert ("buffers", "unknown") in complaints(found)
        assert ("buffers", "warning") in complaints(findings)
        assert "protection" not in {
            check for check, _ in complaints(found)
        }  # it may not ask who it is: not the default user
        assert PASSWORD not in repr([*found, *findings]) + "".join(map(str, found))
        with redis.Redis.from_url(server.url) as client:
            assert client.dbsize() == 0


def test_a_monitor_that_cannot_log_in_costs_the_settings_alone(binary: Path) -> None:
    """The server is judged without them, and the finding names the argument; none holds a password."""
    users = (f"user cache on >{PASSWORD} ~* &* +@all -config",)
    with Server(binary=binary, port=0, config=users) as server:
        place = server.url.rpartition("@")[2].removeprefix("redis://")
        url, wrong = f"redis://cache:{PASSWORD}@{place}", f"redis://monitor:{PASSWORD}@{place}"
        found = examine(url, monitor_url=wrong)
        (finding,) = [one for one in found if one.check == "monitor"]
        assert (finding.severity, "monitor_url" in finding.cure) == ("unknown", True)
        assert "AIKCACHE_URL" not in str(finding)
        assert {"version", "commands", "buffers"} <= {one.check for one in found}
        assert "reachable" not in {one.check for one in found}
        assert PASSWORD not in repr(found)


def test_a_user_that_is_not_reported_is_unknown(binary: Path) -> None:
    """The error's word is no user's name."""
    with Server(binary=binary, port=0, config=['rename-command ACL ""']) as server:
        assert ("protection", "unknown") in complaints(examine(server.url))


def test_behind_sentinel_with_the_shipped_configuration(binary: Path) -> None:
    """Only the default user is complained about, until a Sentinel is gone."""
    with Topology(binary=binary) as topology:
        known = {("protection", "warning")}
        old = {("version", "warning")}
        wait_until(lambda: complaints(examine(topology.url)) - old == known, 3 * PATIENCE, "servers in order")
        url = f"redis://127.0.0.1:{topology.sentinels[0].port}"
        (finding,) = [one for one in examine(url) if one.severity != "ok"]
        assert finding.evidence.startswith("this is a Sentinel: the url begins with 'redis+sentinel'")
        with Cache(url, instance="lost", **PATIENT) as cache, pytest.raises(RemoteError, match="this is a Sentinel"):
            cache.ping()
        topology.sentinels[0].kill()
        assert ("sentinel", "warning") in complaints(examine(topology.url)) - known
        assert ("eviction", "error") in complaints(examine(topology.url, profile="durable"))


def test_a_node_of_a_cluster_needs_the_url_of_a_cluster(binary: Path) -> None:
    """By `redis://` it answers PING and takes invalidations that no process receives: doctor and cache refuse it."""
    with Server(binary=binary, config=["cluster-enabled yes"]) as node:
        (finding,) = [one for one in examine(node.url) if one.severity != "ok"]
        assert (finding.check, finding.severity, finding.cure) == ("reachable", "error", "Correct the URL.")
        with Cache(node.url, instance="lost", **PATIENT) as cache:
            assert cache.get_or_load("a:b:1", lambda: 1) == 1
            cache.invalidate("a")
            assert cache.stats().pending_invalidations == 1
            health = cache.health()
            assert (health.status, finding.evidence in health.server) == ("degraded", True)


def test_each_primary_of_a_cluster_is_examined(binary: Path) -> None:
    """By its own address."""
    with ClusterTopology(binary=binary) as topology:

        def in_order() -> bool:  # a cluster that has just been made refuses some things for a moment
            found = examine(topology.url)
            seen = {one.where for one in found if one.check == "version"}
            return len(seen) == 3 and not [one for one in found if one.severity == "error"]

        wait_until(in_order, 3 * PATIENCE, "a cluster in order")
        for node in topology.servers:
            with redis.Redis.from_url(node.url) as client:
                client.execute_command("ACL", "SETUSER", "app", "on", "nopass", "~*", "&*", "+@all", "-config")
                client.execute_command("ACL", "SETUSER", "monitor", "on", "nopass", "-@all", "+@all")
        app, monitor = (topology.url.replace("://", f"://{user}:x@") for user in ("app", "monitor"))
        assert ("buffers", "unknown") in complaints(examine(app))
        assert ("buffers", "unknown") not in complaints(examine(app, monitor_url=monitor))


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
    assert complaints(examine("redis+cluster://127.0.0.1:1", timeout=0.5)) == {("reachable", "error")}
    assert complaints(examine("redis://127.0.0.1:1", timeout=timedelta(seconds=1))) == {("reachable", "error")}
    with pytest.raises(ConfigError, match="profile must be 'cache' or 'durable', got 'session'"):
        examine(own_server.url, profile="session")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="timeout must be"):
        examine(own_server.url, timeout=0)


class Malformed(Hostile):
    """A server in order, but for what it answers to some commands. It knows our password."""

    def __init__(self, **answers: bytes) -> None:
        super().__init__("", b"")
        self._answers = answers

    def _answer(self, name: str, words: list[bytes], newer: bool) -> Iterator[bytes]:
        command = name.split()[-1]
        if command in self._answers:
            yield self._answers[command]
        elif name == "INFO":
            yield bulk(b"redis_version:7.2.16\r\nrole:master\r\naof_enabled:1\r\nmaxmemory_policy:allkeys-lru\r\n")
        elif name == "TIME":
            yield array(bulk(b"%d" % time.time()), bulk(b"1"))
        elif name == "CONFIG":
            yield b"%1\r\n" + bulk(b"maxclients") + bulk(b"0")
        elif name == "ACL":
            yield bulk(b"me")
        elif name == "EVALSHA":
            yield b"-NOSCRIPT there is none\r\n"
        else:
            yield from super()._answer(name, words, newer)


FIGURES = ("maxmemory", "used_memory", "connected_slaves", "connected_clients", "rejected_connections")
ANSWERS = {name: odd for name, odd in MALFORMED.items() if name not in ("silence", "half an answer")} | {
    "a map of lists": b"%1\r\n" + array(bulk(b"a")) + bulk(b"b"),
    "no figures": array(bulk(b"nan"), bulk(b"x")),
    "long figures": array(bulk(b"9" * 5000), bulk(b"1")),
    "one figure": array(bulk(b"1")),
    "infinity": bulk(b"".join(b"%b:inf\r\n" % name.encode() for name in FIGURES)),
    "none": bulk(b"".join(b"%b:nan\r\n" % name.encode() for name in FIGURES)),
    "our password everywhere": bulk(
        b"".join(b"%b:%b\r\n" % (name.encode(), PASSWORD.encode()) for name in
                 ("redis_version", "role", "maxmemory_policy", "aof_enabled", "aof_last_write_status", "server_name"))
    ),
    "our password": bulk(PASSWORD.encode()),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_what_no_redis_answers_is_a_finding_and_is_not_repeated(name: str) -> None:
    """Whatever one command is answered, also our password, which the server was told."""
    for command in ("INFO", "TIME", "CONFIG", "ACL", "MASTER", "CKQUORUM"):
        with Malformed(**{command: ANSWERS[name]}) as server:
            place = f":{PASSWORD}@127.0.0.1:{server.port}"
            of_sentinel = command in ("MASTER", "CKQUORUM")
            url = f"redis+sentinel://{place}/main?sentinel_password={PASSWORD}" if of_sentinel else f"redis://{place}"
            found = examine(url, timeout=PATIENCE)
        assert found, command
        text = "".join(map(str, found))
        assert PASSWORD not in text, command
        assert "\x1b" not in text, command


@pytest.mark.parametrize("wrong", ["redis://:{}@127.0.0.1:99999/0", "{}", "redis://:{}@h/x", "redis://:{}@h?nosuch=1"])
def test_a_url_that_breaks_a_rule_is_not_shown_by_a_traceback(wrong: str) -> None:
    """Neither of `examine`, as the server's or the monitor's, nor of a configuration that is made by hand."""
    url = wrong.format(PASSWORD)
    for make in (
        lambda: examine(url),
        lambda: examine("redis://127.0.0.1:1", monitor_url=url),
        lambda: CacheConfig(url=url),
    ):
        with pytest.raises(ConfigError) as caught:
            make()
        assert PASSWORD not in shown(caught.value)
