"""Faults of what a server stands on: its disk, its name, its port. Importing this adds them to `FAULTS`."""

from __future__ import annotations

import contextlib
import resource
import shlex
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from aikcache.testing import Server, wait_until
from aikcache.testing.proxy import Impostor
from aikcache.testing.sentinel import ask

from ._faults import FAULTS, Stage, allowed, cut, fault, serve


def disk_full(
    stack: ExitStack, binary: Path, *, config: Sequence[str], until: Callable[[Server], object], refuses: bool = False
) -> Stage:
    """No file of the server may grow: writing fails as on a full disk (EFBIG for ENOSPC), and needs no mount."""
    assert sys.platform == "linux"
    ignoring = Path(stack.enter_context(tempfile.TemporaryDirectory()), binary.name)
    ignoring.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec {shlex.quote(str(binary))} \"$@\"\n")  # else it dies of that
    ignoring.chmod(0o700)
    server = serve(stack, ignoring, *config)
    free = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)

    def begin() -> None:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, free[1]))
        allowed(lambda: ask(server, "BGSAVE"))
        allowed(lambda: ask(server, "SET", "a", "write"))
        wait_until(lambda: until(server), 90, "the disk to be found full")

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):  # it exited
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, free)
        server.start()  # unless it runs
        wait_until(lambda: allowed(lambda: ask(server, "BGSAVE")), 90, "a snapshot to begin")  # it will succeed

    return Stage(server.url, begin, end, refuses)


def _fails(what: str) -> Callable[[Server], bool]:
    return lambda server: f"{what}_status:err".encode() in ask(server, "INFO", "persistence")


def _exited(server: Server) -> bool:
    return not allowed(lambda: ask(server, "PING", within=5.0))


if sys.platform == "linux":  # elsewhere nobody changes another process's limits
    AOF = "appendonly yes", "appendfsync everysec"
    FAULTS["disk full (RDB: MISCONF)"] = partial(
        disk_full, config=("save 3600 1",), until=_fails("rdb_last_bgsave"), refuses=True
    )
    FAULTS["disk full (AOF: MISCONF)"] = partial(disk_full, config=AOF, until=_fails("aof_last_write"), refuses=True)
    FAULTS["disk full (AOF always: it exits)"] = partial(
        disk_full, config=("appendonly yes", "appendfsync always"), until=_exited
    )


@fault("name not resolved")
def unresolved(stack: ExitStack, binary: Path) -> Stage:
    return _resolver(stack, binary, hangs=False)


@fault("name server hangs")
def hanging(stack: ExitStack, binary: Path) -> Stage:
    return _resolver(stack, binary, hangs=True)


def _resolver(stack: ExitStack, binary: Path, *, hangs: bool) -> Stage:
    server = serve(stack, binary)
    fail, work = partial(names_fail, hangs), names_work

    def begin() -> None:
        fail()
        cut(server)

    stack.callback(work)
    return Stage(f"redis://localhost:{server.port}/0", begin, work, there=(fail, work))


_resolve = socket.getaddrinfo
_released = threading.Event()


def names_fail(hangs: bool) -> None:
    """In this process: from now on localhost is not resolved, at once or after a long while."""

    def fails(host: Any, *args: Any, **options: Any) -> Any:
        if host != "localhost" or options.get("flags", 0) & socket.AI_NUMERICHOST:
            return _resolve(host, *args, **options)
        if hangs:
            _released.wait(60)
            return _resolve(host, *args, **options)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    _released.clear()
    socket.getaddrinfo = fails


def names_work() -> None:
    socket.getaddrinfo = _resolve
    _released.set()


@fault("another protocol on the port")
def other_protocol(stack: ExitStack, binary: Path) -> Stage:
    server = serve(stack, binary)
    closing = stack.enter_context(ExitStack())

    def answer(link: socket.socket) -> None:
        while link.recv(4096):
            link.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    def begin() -> None:
        server.kill()
        closing.enter_context(Impostor(answer, port=server.port or 0))

    def end() -> None:
        closing.close()
        server.restart()

    return Stage(server.url, begin, end)
