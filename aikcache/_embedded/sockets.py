"""Unix sockets of servers: where they fit, and whether a server answers there."""

from __future__ import annotations

import contextlib
import os
import socket as sockets
import stat
import tempfile
from pathlib import Path

SOCKET_NAME = "server.sock"
# sun_path holds 104 bytes on macOS and 108 on Linux, the closing zero included.
_LONGEST_SOCKET = 103


def fits(socket: Path) -> bool:
    """Whether a unix socket can have this path on every system."""
    return len(os.fsencode(socket)) <= _LONGEST_SOCKET


def short_directory() -> Path:
    """A new temporary directory, 0700, short enough for a unix socket in it; where the session has one, in its own."""
    for parent in (_runtime_directory(), tempfile.gettempdir(), "/tmp"):
        if parent and fits(Path(parent, "aik-01234567", SOCKET_NAME)):
            return Path(tempfile.mkdtemp(prefix="aik-", dir=parent))
    raise AssertionError("unreachable: /tmp is short enough")


def _runtime_directory() -> str | None:
    """The directory in XDG_RUNTIME_DIR, if it is this user's alone, as its specification requires."""
    path = os.environ.get("XDG_RUNTIME_DIR", "")
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o700:
            return path
    return None


def answers(socket: Path, *, password: str | None = None, timeout: float = 1.0) -> bool:
    """Whether a server is ready at this unix socket. One that refuses the password is; one that is loading is not.

    Raises:
        TimeoutError: a server listens, and is silent for `timeout` seconds: stopped, or stuck in a long command.
    """
    request = b"*1\r\n$4\r\nPING\r\n"
    if password is not None:
        secret = password.encode()
        request = b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%b\r\n" % (len(secret), secret) + request
    lines = 1 if password is None else 2
    reply = b""
    try:
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as link:
            link.settimeout(timeout)
            link.connect(os.fspath(socket))
            link.sendall(request)
            while reply.count(b"\r\n") < lines:
                part = link.recv(4096)
                if not part:
                    return False
                reply += part
    except (FileNotFoundError, ConnectionError):
        return False
    except BlockingIOError as error:  # the queue of connections not yet accepted is full
        raise TimeoutError(f"{socket} accepts no connection") from error
    return b"-LOADING" not in reply
