"""A real Redis or Valkey server as a child process: found, started, stopped, and staged to fail.

Its one idea: every server gets a unix socket of its own in a directory of its own, also when it listens on TCP. What
answers there is that very process, while a port may be answered by a stranger who won the race for it; and the server
binds its ports before its socket, so whoever answers on the socket is ready on all of them (TLS and cluster too).

Nothing outlives the process that started it: `stop` at exit, and on Linux a parent-death signal for the exits that run
no Python. Nothing is written to disk but a configuration and a log, unless the configuration asks for it. Only the
standard library and this package's smallest modules are imported, so that an embedded server's supervisor starts fast.

Threading: a `Server` belongs to one thread at a time. Failure: a server that does not come up raises
`RemoteUnavailableError` with the end of its log; no binary raises `ConfigError` with the ways out.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import shutil
import signal
import socket as sockets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

from aikcache._embedded.binaries import available_servers, find_server
from aikcache._embedded.sockets import SOCKET_NAME, answers, fits, short_directory
from aikcache.errors import RemoteUnavailableError

__all__ = ["Server", "available_servers", "find_server"]

_READY_WITHIN = 30.0
_STOP_WITHIN = 5.0
_POLL = 0.002
_PORT_TRIES = 10
# A cluster node also listens on its port + 10000.
_HIGHEST_PORT = 65535 - 10000
_PR_SET_PDEATHSIG = 1

_T = TypeVar("_T")


class Server:
    """One server process. As a context manager it is started on entry and stopped on exit."""

    def __init__(
        self,
        *,
        binary: Path | None = None,
        directory: Path | None = None,
        port: int | None = None,
        socket: Path | None = None,
        password: str | None = None,
        config: Iterable[str] = (),
        args: Iterable[str] = (),
        inside: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        """Says what to start; nothing happens before `start`.

        Args:
            binary: the server; `None`: the first that `find_server` finds.
            directory: where it keeps its files, left in place by `stop`; `None`: a temporary one, removed by `stop`.
            port: TCP on 127.0.0.1; 0: a free port; `None`: the unix socket only.
            socket: path of the unix socket; `None`: in `directory`, or in a temporary one when that is too long.
            password: what AUTH asks for; `None`: nothing.
            config: lines added to the configuration, such as `"maxmemory 64mb"`; they override what is set here.
            args: added to the command line, such as `"--sentinel"`.
            inside: a context in which the process is started, each time that it is.
        """
        self._binary = binary
        self._wanted_directory = directory
        self._wanted_port = port
        self._wanted_socket = socket
        self._password = password
        self._config = tuple(config)
        self._args = tuple(args)
        self._inside = inside
        self._directory: Path | None = None
        self._socket: Path | None = None
        self._port: int | None = None
        self._temporary: list[Path] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    @property
    def directory(self) -> Path:
        """Where its configuration (`server.conf`), log (`server.log`) and data are."""
        return _started(self._directory)

    @property
    def socket(self) -> Path:
        """Its unix socket, which it has besides a port as well."""
        return _started(self._socket)

    @property
    def port(self) -> int | None:
        """Its TCP port; `None` when it has only the socket."""
        _started(self._directory)
        return self._port

    @property
    def pid(self) -> int:
        """Its process id."""
        return _started(self._process).pid

    @property
    def url(self) -> str:
        """Where clients find it: by port when it has one, else by socket; the password is part of it."""
        login = "" if self._password is None else f":{quote(self._password, safe='')}@"
        if self.port is not None:
            return f"redis://{login}127.0.0.1:{self.port}/0"
        return f"unix://{login}{quote(os.fspath(self.socket))}?db=0"

    def start(self) -> Self:
        """Starts it and returns when it answers; when it runs already, does nothing.

        Raises:
            ConfigError: there is no server binary.
            RemoteUnavailableError: it ended, or did not answer within 30 seconds; the end of its log is in the message.
        """
        if self._process is not None and self._process.poll() is None:
            return self
        fresh = self._directory is None
        for left in reversed(range(_PORT_TRIES)):
            if fresh:
                self._lay_out()
            self._spawn()
            try:
                self._wait()
                return self
            except RemoteUnavailableError:
                # A free port was free when it was looked for; somebody else may have taken it since.
                lost = fresh and self._wanted_port == 0 and "Address already in use" in self._log()
                self.stop()
                if not (lost and left):
                    raise
            except BaseException:
                self.stop()
                raise
        raise AssertionError("unreachable: the last try raises")

    def stop(self) -> None:
        """Ends it, by SIGKILL after 5 seconds, and removes what is temporary; idempotent."""
        self._end(signal.SIGTERM)
        self._process = None
        for directory in self._temporary:
            shutil.rmtree(directory, ignore_errors=True)
        self._temporary.clear()
        self._directory = self._socket = self._port = None
        atexit.unregister(self._stop_at_exit)

    def kill(self) -> None:
        """Ends it by SIGKILL, as a crash would; `restart` brings it back, `stop` cleans up."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Ends it, unless it has ended, and starts it with the same port, socket, configuration and directory."""
        _started(self._directory)
        self._end(signal.SIGTERM)
        self.start()

    def pause(self) -> None:
        """Stops it from running by SIGSTOP: connections stay open, nothing is answered."""
        _started(self._process).send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undoes `pause`."""
        _started(self._process).send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _lay_out(self) -> None:
        """Makes the directory and writes the configuration, once: a Sentinel and CONFIG REWRITE write to it too."""
        binary = self._binary = self._binary or find_server()
        directory = self._wanted_directory or self._make_temporary()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory = directory.absolute()
        self._socket = self._wanted_socket or directory / SOCKET_NAME
        if self._wanted_socket is None and not fits(self._socket):
            self._socket = self._make_temporary() / SOCKET_NAME
        self._port = _free_port() if self._wanted_port == 0 else self._wanted_port
        lines = [
            f"port {self._port or 0}",
            "bind 127.0.0.1",
            f"unixsocket {_quoted(self._socket)}",
            "unixsocketperm 700",
            f"dir {_quoted(directory)}",
            "daemonize no",
            'save ""',
            "appendonly no",
        ]
        if self._password is not None:
            lines.append(f"requirepass {_quoted(self._password)}")
        path = directory / "server.conf"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)  # before there is a password in it
        path.write_text("\n".join([f"# {binary.name}", *lines, *self._config, ""]), encoding="utf-8")
        (directory / "server.log").unlink(missing_ok=True)

    def _make_temporary(self) -> Path:
        self._temporary.append(short_directory())
        return self._temporary[-1]

    def _spawn(self) -> None:
        command: list[str | Path] = [_started(self._binary), self.directory / "server.conf", *self._args]
        # Output goes to a file, not to the server's own log file: what is wrong with the configuration is said before
        # that is open. And a server refuses to start under a locale that is not installed, hence C.
        with open(self.directory / "server.log", "ab") as log, self._inside():
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**os.environ, "LC_ALL": "C"},
                preexec_fn=_die_with_parent(),
            )
        self._owner = os.getpid()
        atexit.unregister(self._stop_at_exit)
        atexit.register(self._stop_at_exit)

    def _wait(self) -> None:
        deadline = time.monotonic() + _READY_WITHIN
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                if answers(self.socket, password=self._password) and _started(self._process).poll() is None:
                    return
            if _started(self._process).poll() is not None:
                raise RemoteUnavailableError(f"{self._binary} ended while starting. The end of its log:\n{self._log()}")
            time.sleep(_POLL)
        raise RemoteUnavailableError(
            f"{self._binary} did not answer within {_READY_WITHIN:g} seconds. The end of its log:\n{self._log()}"
        )

    def _log(self) -> str:
        try:
            lines = (self.directory / "server.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            lines = []
        return "\n".join(lines[-12:]) or "(empty)"

    def _end(self, how: signal.Signals) -> None:
        process = self._process
        if process is None or self._owner != os.getpid():  # after a fork it is the parent's to end
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # a paused one would not see SIGTERM
        try:
            process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _stop_at_exit(self) -> None:
        if self._owner == os.getpid():
            self.stop()


def _started(value: _T | None) -> _T:
    if value is None:
        raise RuntimeError("The server is not started: call start(), or use it as a context manager.")
    return value


def _quoted(value: str | Path) -> str:
    return '"' + os.fspath(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _free_port() -> int:
    while True:
        with sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port <= _HIGHEST_PORT:
            return port


def _die_with_parent() -> Callable[[], None] | None:
    """What a child calls before it becomes the server, so that it dies with us however we end; None where it cannot.

    Linux sends the signal when the *thread* that started the child ends. From another thread than the main one the
    server would therefore die too early, and is left to `stop` at exit.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    # Loaded here: between fork and exec nothing may be imported or allocated that another thread could hold a lock on.
    prctl, parent, number = ctypes.CDLL(None).prctl, os.getpid(), int(signal.SIGKILL)

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it ended before the signal was armed
            os._exit(1)

    return arm
