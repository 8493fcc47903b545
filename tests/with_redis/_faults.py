"""Every way in which a server fails, staged for real.

Of each fault's stage, `begin` makes the server fail and `end` lets it recover. What a cache in front of it does
meanwhile is measured in `_fault_calls`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import redis

from aikcache.errors import AikcacheError
from aikcache.testing import Server, wait_until
from aikcache.testing.proxy import Proxy, Turn
from aikcache.testing.sentinel import ask


class Stage(NamedTuple):
    """A server that can be made to fail.

    `refuses`: it goes on answering what is read, and refuses what is written. `there`: what another process that uses
    the server must run when it begins and ends to fail likewise.
    """

    url: str
    begin: Callable[[], object]
    end: Callable[[], object]
    refuses: bool = False
    there: tuple[Callable[[], object], Callable[[], object]] | None = None


Fault = Callable[[ExitStack, Path], Stage]
FAULTS: dict[str, Fault] = {}


def fault(name: str) -> Callable[[Fault], Fault]:
    def register(stage: Fault) -> Fault:
        FAULTS[name] = stage
        return stage

    return register


def serve(stack: ExitStack, binary: Path, *config: str, **options: Any) -> Server:
    return stack.enter_context(Server(binary=binary, port=0, config=["enable-debug-command local", *config], **options))


def cut(server: Server) -> None:
    """Close all connections but the one that asks."""
    with contextlib.suppress(AikcacheError):
        ask(server, "CLIENT", "KILL", "TYPE", "normal")


class Loop:
    """Does something again and again, from `begin` to `end`."""

    def __init__(self, action: Callable[[], object], pause: float = 0.002) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(action, pause), daemon=True)

    def _run(self, action: Callable[[], object], pause: float) -> None:
        while not self._stop.wait(pause):
            with contextlib.suppress(AikcacheError):
                action()

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join(5)


class Faulty(Proxy):
    """A proxy that, while its fault is on, does something else with the server's replies."""

    def __init__(self, upstream: Path, instead: Callable[[socket.socket, socket.socket, bytes], object]) -> None:
        super().__init__(upstream)
        self.failing = threading.Event()
        self._instead = instead

    def _back(self, server: socket.socket, link: socket.socket, turn: Turn) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                turn.answered(data)
                if self.failing.is_set():
                    self._instead(link, server, data)
                else:
                    link.sendall(data)
            link.shutdown(socket.SHUT_RDWR)


def through(stack: ExitStack, binary: Path, instead: Callable[[socket.socket, socket.socket, bytes], object]) -> Stage:
    proxy = stack.enter_context(Faulty(serve(stack, binary).socket, instead))

    def end() -> None:
        proxy.failing.clear()
        proxy.cut()

    return Stage(proxy.url, proxy.failing.set, end)


def configured(stack: ExitStack, binary: Path, begin: str, end: str, *config: str, refuses: bool = True) -> Stage:
    """A fault of configuration, which new and old connections meet."""
    server = serve(stack, binary, *config)

    def send(words: str) -> None:
        for command in words.split(";"):
            ask(server, *command.split())

    return Stage(server.url, lambda: send(begin), lambda: send(end), refuses)


@fault("refused (kill -9)")
def refused(stack: ExitStack, binary: Path) -> Stage:
    server = serve(stack, binary)
    return Stage(server.url, server.kill, server.restart)


@fault("reset in the middle of a reply")
def reset(stack: ExitStack, binary: Path) -> Stage:
    def half_and_reset(link: socket.socket, server: socket.socket, data: bytes) -> None:
        link.sendall(data[: len(data) // 2])
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        link.shutdown(socket.SHUT_RDWR)

    return through(stack, binary, half_and_reset)


@fault("accepts, but never answers")
def silent(stack: ExitStack, binary: Path) -> Stage:
    return through(stack, binary, lambda link, server, data: None)


@fault("half a frame, then nothing")
def half(stack: ExitStack, binary: Path) -> Stage:
    return through(stack, binary, lambda link, server, data: link.sendall(data[: len(data) // 2]))


@fault("drips a byte every 50 ms")
def drips(stack: ExitStack, binary: Path) -> Stage:
    def drip(link: socket.socket, server: socket.socket, data: bytes) -> None:
        for byte in data:
            time.sleep(0.05)
            link.sendall(bytes([byte]))

    return through(stack, binary, drip)


@fault("stopped (SIGSTOP)")
def stopped(stack: ExitStack, binary: Path) -> Stage:
    server = serve(stack, binary)
    return Stage(server.url, server.pause, server.resume)


@fault("restarted")
def restarted(stack: ExitStack, binary: Path) -> Stage:
    server = serve(stack, binary)
    return Stage(server.url, server.restart, lambda: None)


@fault("LOADING")
def loading(stack: ExitStack, binary: Path) -> Stage:
    server = serve(stack, binary, "key-load-delay 300", "loading-process-events-interval-bytes 1024")
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        for first in range(0, 4000, 500):
            client.mset({f"ballast:{n}": "x" * 64 for n in range(first, first + 500)})
    threads: list[threading.Thread] = []

    def begin() -> None:
        ask(server, "SAVE", within=20)
        server.kill()
        threads.append(threading.Thread(target=server.start, daemon=True))  # returns when all is loaded
        threads[0].start()

    return Stage(server.url, begin, lambda: threads[0].join(20))


NOBODY = "127.0.0.1 1"  # a primary that nobody answers for


@fault("READONLY")
def readonly(stack: ExitStack, binary: Path) -> Stage:
    return configured(stack, binary, f"REPLICAOF {NOBODY}", "REPLICAOF NO ONE")


@fault("MASTERDOWN")
def masterdown(stack: ExitStack, binary: Path) -> Stage:
    return configured(
        stack, binary, f"REPLICAOF {NOBODY}", "REPLICAOF NO ONE", "replica-serve-stale-data no", refuses=False
    )


@fault("NOREPLICAS")
def noreplicas(stack: ExitStack, binary: Path) -> Stage:
    begin, end = "CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"
    return configured(stack, binary, begin, end)


@fault("OOM")
def oom(stack: ExitStack, binary: Path) -> Stage:
    return configured(stack, binary, "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "maxmemory-policy noeviction")


@fault("NOAUTH")
def noauth(stack: ExitStack, binary: Path) -> Stage:
    server = serve(stack, binary)

    def begin() -> None:
        ask(server, "CONFIG", "SET", "requirepass", "new")
        ask(server, "CLIENT", "KILL", "TYPE", "normal", login=("new",))

    return Stage(server.url, begin, lambda: ask(server, "CONFIG", "SET", "requirepass", "", login=("new",)))


@fault("wrong password")
def wrongpass(stack: ExitStack, binary: Path) -> Stage:
    server = serve(stack, binary, password="old")

    def begin() -> None:
        ask(server, "CONFIG", "SET", "requirepass", "new", login=("old",))
        ask(server, "CLIENT", "KILL", "TYPE", "normal", login=("new",))

    return Stage(server.url, begin, lambda: ask(server, "CONFIG", "SET", "requirepass", "old", login=("new",)))


@fault("maxclients")
def maxclients(stack: ExitStack, binary: Path) -> Stage:
    server = serve(stack, binary)
    inside = stack.enter_context(redis.Redis(unix_socket_path=str(server.socket), single_connection_client=True))

    def begin() -> None:
        inside.config_set("maxclients", 1)
        inside.execute_command("CLIENT", "KILL", "TYPE", "normal")  # all but this one

    def end() -> None:
        inside.config_set("maxclients", 10000)

    return Stage(server.url, begin, end)


def allowed(action: Callable[[], object]) -> bool:
    with contextlib.suppress(AikcacheError):
        action()
        return True
    return False


@fault("BUSY")
def busy(stack: ExitStack, binary: Path) -> Stage:
    server = serve(stack, binary, "busy-reply-threshold 20")
    threads: list[threading.Thread] = []

    def run() -> None:
        with contextlib.suppress(AikcacheError):
            ask(server, "EVAL", "while true do end", "0", within=30)

    def begin() -> None:
        threads.append(threading.Thread(target=run, daemon=True))
        threads[0].start()

    def end() -> None:
        wait_until(lambda: allowed(lambda: ask(server, "SCRIPT", "KILL")) or not threads[0].is_alive(), 20, "the end")
        threads[0].join(5)

    return Stage(server.url, begin, end)


@fault("NOSCRIPT (SCRIPT FLUSH in a loop)")
def noscript(stack: ExitStack, binary: Path) -> Stage:
    server = serve(stack, binary)
    loop = Loop(lambda: ask(server, "SCRIPT", "FLUSH"))
    return Stage(server.url, loop.begin, loop.end)


@fault("CLIENT KILL in a loop")
def killed(stack: ExitStack, binary: Path) -> Stage:
    server = serve(stack, binary)
    loop = Loop(lambda: cut(server))
    return Stage(server.url, loop.begin, loop.end)
