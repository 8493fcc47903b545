"""Names that stop resolving: what the scripts and the Sentinels do when their hosts file is taken away."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aikcache.testing import wait_until

from ._names import Names
from ._pods import WITHIN, Fleet, Pod, finish

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(sys.platform != "linux", reason="pods have addresses of 127.0.0.0/8"),
    pytest.mark.skipif(shutil.which("redis-cli") is None, reason="the scripts need redis-cli"),
]
RECORD = "aikernel:session:kept"


@pytest.fixture(scope="module")
def started(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The durable profile under names."""
    root = tmp_path_factory.mktemp("fleet")
    names = Names(root / "names")
    if not names.possible():
        pytest.skip("there can be no hosts file of one's own here (unshare --mount)")
    with Fleet(binary, root, names=names) as fleet:
        fleet.start(PROFILE="durable")
        assert fleet.wait().address.endswith(f".redis:{fleet.redis[0].port}")
        yield fleet


@pytest.fixture
def fleet(started: Fleet) -> Fleet:
    """All is well, and both replicas have a value."""
    wait_until(started.known, WITHIN, "the Sentinels to know all")
    primary = started.wait()
    wait_until(lambda: primary.ask("HSET", RECORD, "f", "1", user="session") in (0, 1), WITHIN, "a write")
    wait_until(lambda: primary.ask("WAIT", "2", "1000", user="session") == 2, WITHIN, "both replicas")
    return started


def kill_primary(fleet: Fleet) -> Pod:
    """Gives the dead one, when another has been promoted."""
    old = wait_until(fleet.primaries, WITHIN, "a primary")[0]
    old.end(kill=True)
    wait_until(fleet.primaries, WITHIN, "a promotion")
    return old


def test_without_dns_all_pods_are_alive_and_ready(fleet: Fleet) -> None:
    """A probe asks its own server by address: an outage of DNS restarts nobody, and takes nobody from the clients."""
    fleet.resolve()
    for pod in fleet.pods:
        user = "monitor" if pod.kind == "redis" else "sentinels"
        wait_until(lambda pod=pod, user=user: pod.run("live.sh", user).returncode == 0, WITHIN, pod.name)  # type: ignore[misc]
        wait_until(lambda pod=pod: fleet.ready(pod), WITHIN, pod.name)  # type: ignore[misc]
    fleet.resolve(*fleet.pods)


def bring_back(fleet: Fleet, *pods: Pod) -> None:
    """With all names again. They start as replicas, and everybody has the value."""
    fleet.resolve(*fleet.pods)
    for pod in pods:
        assert "starts as a replica of redis-" in finish(pod.init(PROFILE="durable"))
        pod.serve()
    fleet.wait()
    assert [pod.ask("HGET", RECORD, "f", user="session") for pod in fleet.redis] == [b"1"] * 3


def test_a_failover_when_the_stopped_primary_has_no_dns_name(fleet: Fleet) -> None:
    """As when its node is gone (redis 12184): a replica is promoted, the other follows it, the old one may return."""
    fleet.resolve(*(pod for pod in fleet.pods if pod not in fleet.primaries()))
    old = kill_primary(fleet)
    wait_until(lambda: any(pod.info().get("master_link_status") == "up" for pod in fleet.redis), WITHIN, "the other")
    bring_back(fleet, old)


def test_pods_that_come_back_under_each_others_address_leave_no_ghosts(fleet: Fleet) -> None:
    """Kubernetes uses addresses again. The Sentinels know servers by name: two replicas, and none of them down."""
    replicas = [pod for pod in fleet.redis if pod not in fleet.primaries()]
    for pod in replicas:
        pod.end()
    one, two = replicas
    one.host, two.host = two.host, one.host
    bring_back(fleet, *replicas)
    wanted = {(pod.name.encode(), b"slave") for pod in replicas}
    for sentinel in fleet.sentinels:
        wait_until(lambda sentinel=sentinel: seen(sentinel) == wanted, WITHIN, sentinel.name)  # type: ignore[misc]
    old = kill_primary(fleet)
    bring_back(fleet, old)


def seen(sentinel: Pod) -> set[tuple[bytes, bytes]]:
    """The replicas that a Sentinel knows: what they are called, and how it sees them."""
    replies = sentinel.ask("SENTINEL", "REPLICAS", "aikcache")
    facts = [dict(zip(reply[::2], reply[1::2], strict=True)) for reply in replies]
    return {(fact[b"ip"], fact[b"flags"]) for fact in facts}


def test_no_name_resolves_and_the_data_survives(fleet: Fleet) -> None:
    """A server waits instead of starting as anything, a Sentinel starts, a primary is replaced; then names are back."""
    fleet.resolve()
    primary = wait_until(fleet.primaries, WITHIN, "the primary")[0]
    replica = next(pod for pod in fleet.redis if pod is not primary)
    replica.end()
    (replica.volume / "redis.conf").unlink()
    done = replica.run("init-redis.sh", PROFILE="durable", WAIT="2")
    assert done.returncode == 1
    assert "Fewer than 2 of the Sentinels" in done.stderr
    assert not (replica.volume / "redis.conf").exists()
    sentinel = fleet.sentinels[0]
    sentinel.end()
    sentinel.start()
    wait_until(lambda: sentinel.ask("PING") == b"PONG", WITHIN, "a Sentinel that knows only names")
    bring_back(fleet, kill_primary(fleet), replica)
