"""Every way in which a server fails, staged for real, and what a cache in front of it does meanwhile.

Of each fault's stage, `begin` makes the server fail and `end` lets it recover. `measure` runs threads that read and
update through a cache before, during and after, and checks every answer. The tests judge what comes of it, and
`python -m benchmarks.faults` prints it as the table of `docs/faults.md`.
"""

from __future__ import annotations

import contextlib
import logging
import random
import resource
import shlex
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import redis

from aikcache import Cache
from aikcache._topology import ask
from aikcache.errors import AikcacheError
from aikcache.testing import Server, wait_until

from ._proxy import Impostor, Proxy

THREADS, NAMES = 6, 40


class Stage(NamedTuple):
    """A server that can be made to fail."""

    url: str
    begin: Callable[[], object]
    end: Callable[[], object]


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
    """A proxy that, while told to, does something else with what the server says."""

    def __init__(self, upstream: Path, instead: Callable[[socket.socket, socket.socket, bytes], object]) -> None:
        super().__init__(upstream)
        self.failing = threading.Event()
        self._instead = instead

    def _back(self, server: socket.socket, link: socket.socket, turn: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                turn.set()
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


def configured(stack: ExitStack, binary: Path, begin: str, end: str, *config: str) -> Stage:
    """A fault of configuration, which new and old connections meet."""
    server = serve(stack, binary, *config)

    def send(words: str) -> None:
        for command in words.split(";"):
            ask(server, *command.split())

    return Stage(server.url, lambda: send(begin), lambda: send(end))


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
    return configured(stack, binary, f"REPLICAOF {NOBODY}", "REPLICAOF NO ONE", "replica-serve-stale-data no")


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


def _allowed(action: Callable[[], object]) -> bool:
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
        wait_until(lambda: _allowed(lambda: ask(server, "SCRIPT", "KILL")) or not threads[0].is_alive(), 20, "the end")
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


def disk_full(stack: ExitStack, binary: Path, *, config: Sequence[str], until: Callable[[Server], object]) -> Stage:
    """No file of the server may grow: writing fails as on a full disk (EFBIG for ENOSPC), and needs no mount."""
    assert sys.platform == "linux"
    ignoring = Path(stack.enter_context(tempfile.TemporaryDirectory()), binary.name)
    ignoring.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec {shlex.quote(str(binary))} \"$@\"\n")  # else it dies of that
    ignoring.chmod(0o700)
    server = serve(stack, ignoring, *config)
    free = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)

    def begin() -> None:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, free[1]))
        _allowed(lambda: ask(server, "BGSAVE"))
        _allowed(lambda: ask(server, "SET", "a", "write"))
        wait_until(lambda: until(server), 20, "the disk to be found full")

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):  # it exited
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, free)
        server.start()  # unless it runs
        wait_until(lambda: _allowed(lambda: ask(server, "BGSAVE")), 20, "a snapshot to begin")  # it will succeed

    return Stage(server.url, begin, end)


def _fails(what: str) -> Callable[[Server], bool]:
    return lambda server: f"{what}_status:err".encode() in ask(server, "INFO", "persistence")


def _exited(server: Server) -> bool:
    return not _allowed(lambda: ask(server, "PING"))


if sys.platform == "linux":  # elsewhere nobody changes another process's limits
    AOF = "appendonly yes", "appendfsync everysec"
    FAULTS["disk full (RDB)"] = partial(disk_full, config=("save 3600 1",), until=_fails("rdb_last_bgsave"))
    FAULTS["disk full (AOF)"] = partial(disk_full, config=AOF, until=_fails("aof_last_write"))
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
    real = socket.getaddrinfo
    released = threading.Event()

    def fails(host: Any, *args: Any, **options: Any) -> Any:
        if host != "localhost" or options.get("flags", 0) & socket.AI_NUMERICHOST:
            return real(host, *args, **options)
        if hangs:
            released.wait(60)
            return real(host, *args, **options)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    def begin() -> None:
        socket.getaddrinfo = fails
        cut(server)

    def end() -> None:
        socket.getaddrinfo = real
        released.set()

    stack.callback(end)
    return Stage(f"redis://localhost:{server.port}/0", begin, end)


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


# Measuring


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a cache's calls; seconds."""

    fault: str
    calls: int
    failed: tuple[str, ...]
    wrong: tuple[str, ...]
    worst: float
    slow: int  # calls that took more than 10 ms while it lasted
    recovered: float
    lines: tuple[str, ...]
    errors: int
    opened: int


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def listening() -> Iterator[list[str]]:
    handler, log = _Lines(), logging.getLogger("aikcache")
    log.addHandler(handler)
    try:
        yield handler.lines
    finally:
        log.removeHandler(handler)


def measure(name: str, binary: Path, lasting: float, **settings: Any) -> Outcome:
    """Stage a fault for `lasting` seconds under the calls of a few threads."""
    with ExitStack() as stack:
        lines = stack.enter_context(listening())
        stage = FAULTS[name](stack, binary)
        cache = stack.enter_context(Cache(stage.url, instance="faults", local_ttl=0, **settings))
        calls = _Calls(cache)
        calls.begin()
        stack.callback(calls.end)
        wait_until(lambda: cache.stats().remote_hits > 50, 30, "hits before the fault")
        del calls.took[:]
        stage.begin()
        deadline = time.monotonic() + lasting
        wait_until(lambda: time.monotonic() > deadline, lasting + 30, "its time")
        during = list(calls.took)
        stage.end()
        began = time.monotonic()
        wait_until(lambda: _usable(cache), 30, "the recovery")
        recovered = time.monotonic() - began
        calls.end()
        stats = cache.stats()
        return Outcome(
            fault=name,
            calls=len(calls.took),
            failed=tuple(calls.failed),
            wrong=tuple(calls.wrong),
            worst=max(calls.took),
            slow=sum(seconds > 0.01 for seconds in during),
            recovered=recovered,
            lines=tuple(lines),
            errors=stats.errors,
            opened=cache.tiers.remote.connections.breaker.opened,  # type: ignore[union-attr]
        )


def _usable(cache: Cache) -> bool:
    """Whether values are stored and found, the channel lives, and nothing waits to be told."""
    key = f"probe:x:{random.random()}"
    cache.set(key, 1)
    stats = cache.stats()
    return cache.get(key) == 1 and stats.coherent and not stats.pending_invalidations


class _Calls:
    """Threads that read and update, and check that no answer is older than an update that has returned."""

    def __init__(self, cache: Cache) -> None:
        self.took: list[float] = []
        self.failed: list[str] = []
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._now = [0] * NAMES  # the database
        self._ended = [0] * NAMES  # the version that an update which has returned has made
        self._updating = [threading.Lock() for _ in range(NAMES)]
        self._threads = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(THREADS)]

        @cache.cached("thing", tags=("n:{n}",))
        def get(n: int) -> list[int]:
            return [n, self._now[n]]

        @cache.invalidates("thing:get:{n}")
        def update(n: int) -> None:
            self._now[n] += 1

        self._get, self._update = get, update

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
            if thread.is_alive():
                self.failed.append("a call hangs")

    def _work(self, number: int) -> None:
        dice = random.Random(number)
        while not self._stop.wait(0.001):
            n = dice.randrange(NAMES)
            began = time.monotonic()
            try:
                if dice.random() < 0.03:
                    with self._updating[n]:
                        self._update(n)
                        self._ended[n] = self._now[n]
                else:
                    least = self._ended[n]
                    found = self._get(n)
                    if found[0] != n or found[1] < least:
                        self.wrong.append(f"{found} for {n} of {least}")
            except Exception as error:
                self.failed.append(repr(error))
            self.took.append(time.monotonic() - began)
