"""The script that makes a cluster of six servers, as the Job of the overlay runs it."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aikcache._redis.cluster.topology import slot_of
from aikcache.testing import wait_until

from ._pods import WITHIN, Fleet, Pod, finish

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on loopback"),
    pytest.mark.skipif(
        not shutil.which("redis-cli") and not shutil.which("valkey-cli"), reason="there is no redis-cli"
    ),
]


@pytest.fixture
def nodes(binary: Path, tmp_path: Path) -> Iterator[list[Pod]]:
    """Six servers of the cluster's profile, who do not know each other."""
    fleet = Fleet(binary, tmp_path)
    network = fleet.redis[0].host.rpartition(".")[0]
    fleet.redis += [Pod(fleet, "redis", f"{network}.{number}") for number in (4, 5, 6)]
    with fleet:
        for pod in fleet.redis:
            finish(pod.init(PROFILE="cluster", PRIMARY=pod.address, SENTINELS=""))
            pod.serve(f"cluster-announce-ip {pod.host}", f"bind-source-addr {pod.host}")
        yield fleet.redis


def form(nodes: list[Pod]) -> str:
    done = nodes[0].run("form-cluster.sh", NODES=" ".join(pod.address for pod in nodes))
    assert done.returncode == 0, done.stderr
    return done.stderr


def formed(nodes: list[Pod]) -> bool:
    """Three primaries with a replica each; which they are is the cluster's business."""
    infos = [pod.info() for pod in nodes]
    pairs = sorted((info.get("role", ""), info.get("connected_slaves", "")) for info in infos)
    return pairs == [("master", "1")] * 3 + [("slave", "0")] * 3


def test_six_servers_become_a_cluster_once(nodes: list[Pod]) -> None:
    """Also when it was interrupted after the first slots; and another run changes nothing."""
    nodes[0].ask("CLUSTER", "ADDSLOTSRANGE", "0", "5460")
    for _ in range(2):
        assert form(nodes) == "6 servers are a cluster.\n"
        wait_until(lambda: formed(nodes), WITHIN, "three primaries with a replica each")
    reply = nodes[0].ask("CLUSTER", "INFO")
    assert b"cluster_slots_assigned:16384" in reply
    assert b"cluster_known_nodes:6" in reply


def test_before_a_primary_of_a_cluster_stops_its_replica_has_all(nodes: list[Pod]) -> None:
    """It takes over first, with what was acknowledged under load; a replica stops at once, and silence is an error."""
    form(nodes)
    wait_until(lambda: formed(nodes), WITHIN, "three primaries with a replica each")
    primary = nodes[0]  # the first half are primaries until one is stopped
    replica = next(pod for pod in nodes if primary.info()["slave0"].startswith(f"ip={pod.name},"))
    tags = [number for number in range(200) if slot_of(f"{{{number}}}") <= 5460]
    acknowledged: list[str] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            tag = tags[len(acknowledged) % len(tags)]
            key = f"aikernel:session:{{{tag}}}:{len(acknowledged)}"
            if primary.ask("HSET", key, "f", "x", user="session") == 1:
                acknowledged.append(key)

    loading = threading.Thread(target=load)
    loading.start()
    try:
        wait_until(lambda: len(acknowledged) > 100, WITHIN, "some writes")
        done = primary.run("prestop-cluster.sh")
    finally:
        stop.set()
        loading.join(WITHIN)
    assert (done.returncode, done.stderr) == (0, "")
    assert (primary.info()["role"], replica.info()["role"]) == ("slave", "master")
    primary.end(kill=True)
    assert [key for key in acknowledged if replica.ask("HGET", key, "f", user="session") != b"x"] == []
    done = replica.run("prestop-cluster.sh", WAIT="1")
    assert (done.returncode, "has no replica that has its data" in done.stderr) == (1, True)
