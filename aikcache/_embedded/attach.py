"""The server behind `embedded://`: the first user starts it, and it ends when the last one has gone.

The kernel counts the users. Every user holds a shared flock on DIR/users. A *supervisor*, a small process in its own
session with the server as its child, waits for the exclusive lock. It gets the lock when no user is left, whether they
closed, crashed or were killed, and then ends the server and removes its socket.

Races: a user takes its lock before it looks for a server, so a server that answers afterwards cannot be ended under it.
A user that arrives while the supervisor cleans up waits for its lock, finds no server, and starts one. Starting
happens under an exclusive flock on DIR/starting, so that two that arrive at once share one server.

A fork inherits the lock: the server lives until parent and children are gone. So the lock is only ever *closed*,
because LOCK_UN in a child would release the parent's too. Nothing is persisted. On macOS, where a child cannot ask to
die with its parent, a supervisor ended by SIGKILL leaves its server running.

Threads: any thread may call `attach` and `close`. Failure: `RemoteUnavailableError` with the end of the server's log;
`ConfigError` for a directory that others own or can write to, or when there is no server binary.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from aikcache._embedded.binaries import find_server
from aikcache._embedded.server import Server
from aikcache._embedded.sockets import answers, fits, short_directory
from aikcache.errors import ConfigError, RemoteUnavailableError

__all__ = ["Attachment", "attach"]

_WITHIN = 15.0
_POLL = 0.002
_READY = "ready"
_MARK = "aikcache"
"""An empty file that marks a directory as an embedded server's."""
# What the supervisor's interpreter runs. The package is made by hand, without its __init__ and all that it imports:
# the supervisor needs the standard library alone, and neither site-packages nor the caller's environment (-I -S).
_SUPERVISOR = (
    "import sys, types; package = types.ModuleType('aikcache'); package.__path__ = [sys.argv[1]];"
    "sys.modules['aikcache'] = package; from aikcache._embedded.attach import _keep; _keep(*sys.argv[2:])"
)


class Attachment:
    """A running server, held until `close`, or until the process and all its forks have ended."""

    __slots__ = ("_users", "directory", "socket")

    def __init__(self, directory: Path, place: Path, users: int) -> None:
        self.directory = directory
        self.socket = os.fspath(place)
        self._users: int | None = users

    def check_peer(self, link: socket.socket) -> None:
        """The server must run as this user: another user's would receive the cached values. Raises `OSError`."""
        option = getattr(socket, "SO_PEERCRED", None)  # Linux; elsewhere the directories say it
        if option is not None:
            _, uid, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
            if uid != os.geteuid():
                link.close()
                raise ConnectionRefusedError(f"the server behind the socket belongs to uid {uid}")

    def close(self) -> None:
        """Release the server, which ends when no one else holds it; idempotent."""
        with _lock:
            users, self._users = self._users, None
            if self in _private:
                _private.remove(self)
        if users is not None:
            os.close(users)


# `embedded://` is one server a process, whatever the number of caches, so somebody has to know it. Forked children
# inherit the list and share the server.
_private: list[Attachment] = []
_lock = threading.RLock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()  # another thread may have held it at the fork


os.register_at_fork(after_in_child=_renew_lock)


def attach(directory: str | Path | None = None, *, within: float = _WITHIN) -> Attachment:
    """A server that runs, started when there is none; blocks until it answers.

    Args:
        directory: shared by all processes of this user that name it; made with mode 0700. `None`: private to this
            process and its forks, one for all callers, gone when the last of them has closed.
        within: seconds until it gives up.

    Raises:
        ConfigError: the directory belongs to or can be written by others, or there is no server binary.
        RemoteUnavailableError: the server did not start, or does not answer.
    """
    deadline = time.monotonic() + within
    if directory is not None:
        return _join(_own_directory(Path(directory).expanduser().absolute()), deadline, private=False)
    with _lock:
        fresh = not _private
        home = short_directory() if fresh else _private[0].directory
        try:
            attachment = _join(home, deadline, private=True)
        except BaseException:
            if fresh:
                shutil.rmtree(home, ignore_errors=True)
            raise
        _private.append(attachment)
        return attachment


def _join(directory: Path, deadline: float, *, private: bool) -> Attachment:
    users = os.open(directory / "users", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock_file(users, fcntl.LOCK_SH, deadline, "the server that is shutting down")
        place = _socket_in(directory)
        if not _answers(place, deadline):
            with _starting(directory, deadline):
                if not _answers(place, deadline):
                    _start_supervisor(directory, place, deadline, private=private)
    except BaseException:
        os.close(users)
        raise
    return Attachment(directory, place, users)


def _answers(place: Path, deadline: float) -> bool:
    """Whether a server runs. One that listens but is silent does: a second one must not take its socket away."""
    try:
        return answers(place, timeout=max(0.1, deadline - time.monotonic()))
    except TimeoutError as error:
        raise RemoteUnavailableError(f"The embedded server at {place} listens, but does not answer.") from error


@contextlib.contextmanager
def _starting(directory: Path, deadline: float) -> Iterator[None]:
    turn = os.open(directory / "starting", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock_file(turn, fcntl.LOCK_EX, deadline, "another process that starts it")
        try:
            yield
        finally:
            # Not left to close(): a child forked meanwhile has a copy, which would hold the lock for its whole life.
            fcntl.flock(turn, fcntl.LOCK_UN)
    finally:
        os.close(turn)


def _lock_file(file: int, kind: int, deadline: float, holder: str) -> None:
    """Polls, because flock itself has no timeout."""
    while True:
        try:
            return fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RemoteUnavailableError(f"Gave up waiting for {holder} (the embedded server).") from None
        time.sleep(_POLL)


def _own_directory(directory: Path) -> Path:
    """Makes the directory, or checks that it is an embedded server's and that no other user can replace anything in
    it.

    As ssh requires of its files: it and all directories above it belong to this user or to root, and no one else may
    write to them; a directory such as /tmp, in which only owners may remove, is accepted. A link at the end is refused,
    links above it are followed once. An existing directory must be empty, or have the mark of an earlier start:
    otherwise other files might be replaced.
    """
    home = directory.parent.resolve() / directory.name
    try:
        for part in [*reversed(home.parents), home]:
            try:
                os.mkdir(part, 0o700)
            except OSError:
                if not part.is_dir():
                    raise
            _check_owner(part, last=part == home)
        if os.listdir(home) and not (home / _MARK).is_file():  # in this order: another may just be making it
            raise ConfigError(
                f"The directory of an embedded server must be its own, and {home} has other files. "
                "Name one that does not exist yet, or an empty one."
            )
        os.close(os.open(home / _MARK, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ConfigError(f"The directory of an embedded server cannot be made: {home}: {error.strerror}.") from error
    return home


def _check_owner(part: Path, *, last: bool) -> None:
    status = part.lstat()
    mode = stat.S_IMODE(status.st_mode)
    ours = (os.geteuid(),) if last else (os.geteuid(), 0)
    others_write = mode & 0o022 and (last or not mode & stat.S_ISVTX)
    if stat.S_ISDIR(status.st_mode) and status.st_uid in ours and not others_write:
        return
    what = "The directory of an embedded server" if last else "What is above the directory of an embedded server"
    raise ConfigError(
        f"{what} must be no link, must belong to this user (uid {os.geteuid()}){'' if last else ' or root'} and be "
        f"writable by nobody else, got {part} (uid {status.st_uid}, mode {mode:04o}"
        f"{', a link' if stat.S_ISLNK(status.st_mode) else ''}). Name one that does not exist yet: it is made so."
    )


def _socket_in(directory: Path) -> Path:
    """Where the directory's socket is: in it, or under /tmp by a digest when that path would be too long."""
    place = directory / "server.sock"
    if fits(place):
        return place
    digest = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
    return _own_directory(Path("/tmp", f"aik-{os.geteuid()}-{digest}")) / "server.sock"


def _start_supervisor(directory: Path, place: Path, deadline: float, *, private: bool) -> None:
    """Returns when the server answers. The command forks and ends, so that this process keeps no child."""
    package = os.fspath(Path(__file__).parent.parent)
    supervisor = [_python(), "-I", "-S", "-c", _SUPERVISOR, package]
    try:
        done = subprocess.run(
            [*supervisor, directory, find_server(), place, "private" if private else "shared"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={"PATH": os.defpath, "LC_ALL": "C", **_loader()},  # nothing of ours that others could read there
            timeout=max(0.1, deadline - time.monotonic()),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RemoteUnavailableError(f"The embedded server in {directory} did not start in time.") from error
    said = done.stdout.decode(errors="replace").strip()
    if said != _READY:
        reason = said or done.stderr.decode(errors="replace").strip() or f"status {done.returncode}"
        raise RemoteUnavailableError(f"The embedded server in {directory} did not start: {reason}")


def _loader() -> dict[str, str]:
    """The environment variables by which this interpreter finds its libraries."""
    names = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in names if name in os.environ}


def _python() -> str:
    """An interpreter. Where Python is embedded, as in uWSGI, sys.executable is that program instead."""
    own = sys.executable or ""
    installed = Path(sys.prefix, "bin", "python3")
    if Path(own).name.startswith(("python", "pypy")) or not installed.exists():
        return own
    return os.fspath(installed)


def _keep(directory: str, binary: str, socket_path: str, kind: str) -> NoReturn:
    """The supervisor: start the server, report it, wait until there is no user, clean up."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    home, place = Path(directory), Path(socket_path)
    server = Server(binary=Path(binary), directory=home, socket=place, config=_bounds())
    try:
        users = os.open(home / "users", os.O_RDWR)
        server.start()
    except Exception as error:
        print(error, flush=True)
        os._exit(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(_READY, flush=True)
    _close_stdio()
    try:
        fcntl.flock(users, fcntl.LOCK_EX)
    finally:
        # In this order, because a new user that waits for the lock must find all of it done.
        server.stop()
        place.unlink(missing_ok=True)
        if place.parent != home:
            shutil.rmtree(place.parent, ignore_errors=True)
        if kind == "private":
            shutil.rmtree(home, ignore_errors=True)
    sys.exit(0)


def _bounds() -> list[str]:
    """Half of the machine's memory, for the server shares it with its users. What expires makes room, so what does not
    expire, a key ring, stays.
    """
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not every system has both names
        return []
    return [f"maxmemory {memory // 2}", "maxmemory-policy volatile-lru"] if memory > 0 else []


def _close_stdio() -> None:
    """Ends the caller's read of our output, and keeps no terminal or pipe open."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
