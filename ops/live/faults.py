"""Real faults of a running stack. Each is begun once, may be kept up by `again`, and is repaired."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from aikcache.testing import wait_until
from ops.local.node import HOST, Node

from .stack import Stack

KILOBYTE = "x" * 1024
WITHIN = 60.0


class Fault:
    """What `begin` breaks, `repair` repairs; `again` is called about once a second in between."""

    def __init__(self, stack: Stack, node: Node) -> None:
        self.stack, self.node = stack, node

    def begin(self) -> None:
        """Break it."""

    def again(self) -> None:
        """Keep it up, where that takes more than leaving it alone."""

    def repair(self) -> None:
        """Repair it, also where `begin` failed midway."""

    def set(self, **settings: str | int) -> None:
        """CONFIG SET."""
        for name, value in settings.items():
            self.must("CONFIG", "SET", name.replace("_", "-"), value)

    def must(self, *words: str | int) -> None:
        """A command that has to be accepted, for which a busy server gets a minute."""
        wait_until(lambda: self.node.ask(*words) in (b"OK", True), WITHIN, f"{self.node.name} to accept {words[:3]}")

    def fact(self, name: str) -> int:
        """A number in INFO."""
        return int(wait_until(lambda: self.node.info().get(name), WITHIN, f"INFO of {self.node.name}") or 0)


class Frozen(Fault):
    """The process answers nobody: SIGSTOP."""

    def begin(self) -> None:
        self._send(signal.SIGSTOP)

    def repair(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        pid = self.node.pid()
        if pid is not None:
            os.kill(pid, number)


class Flood(Fault):
    """A primary is written to beyond its memory: it evicts, and a replica that is frozen lags by what was written."""

    def begin(self) -> None:
        self._client = client(self.stack, self.node)
        # The buffer for the frozen replica is not to push out the keys, and the replica is not to be given up.
        self.set(repl_backlog_size="1mb", repl_timeout=3600, maxmemory_clients=0)
        for _ in range(14):
            self._client.set("aikernel:filler", KILOBYTE * 1024)
        self.set(maxmemory=self.fact("used_memory") + 4 * 1024 * 1024)
        self._written, self._since = 0, time.monotonic()
        self._write(8000)

    def again(self) -> None:
        """Three hundred a second."""
        self._write(min(3000, int(300 * (time.monotonic() - self._since)) - self._written + 8000))

    def _write(self, count: int) -> None:
        with self._client.pipeline(transaction=False) as pipeline:
            for number in range(self._written, self._written + count):
                pipeline.set(f"aikernel:filler:{number}", KILOBYTE)
            pipeline.execute(raise_on_error=False)
        self._written += max(count, 0)

    def repair(self) -> None:
        self.set(maxmemory="3gb", repl_backlog_size="64mb", repl_timeout=30, maxmemory_clients="5%")
        self._client.close()


class Slow(Fault):
    """A server that stands still for 0.3 s again and again, but not so long that a scrape would time out."""

    def again(self) -> None:
        self.node.ask("CLIENT", "PAUSE", 300, "ALL")


class Crowded(Fault):
    """Nearly as many connections as the server accepts, and now and then more than that."""

    ROOM, HELD = 60, 54

    def begin(self) -> None:
        self._held: list[socket.socket] = []
        self.set(maxclients=self.fact("connected_clients") + self.ROOM)
        self._held = [self._connect() for _ in range(self.HELD)]

    def again(self) -> None:
        more = [self._connect() for _ in range(self.ROOM)]
        for one in more:
            one.close()

    def _connect(self) -> socket.socket:
        return socket.create_connection((HOST, self.node.port), 20)

    def repair(self) -> None:
        for one in self._held:
            one.close()
        self.set(maxclients=10000)


class NeverEvicting(Fault):
    """A server for sessions that is full."""

    def begin(self) -> None:
        self.set(maxmemory_clients=0, maxmemory_policy="noeviction", maxmemory=self.fact("used_memory"))

    def repair(self) -> None:
        self.set(maxmemory="3gb", maxmemory_policy="allkeys-lru", maxmemory_clients="5%")


class FullDisk(Fault):
    """No file of a primary may grow, which it has to take for an error (by default SIGXFSZ ends it)."""

    def begin(self) -> None:
        self._free: tuple[int, int] | None = None
        pid = self.node.pid()
        assert pid is not None
        self._free = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, self._free[1]))
        with closing(client(self.stack, self.node)) as writer, suppress(redis.RedisError):
            writer.set("aikernel:filler", "")

    def repair(self) -> None:
        pid = self.node.pid()
        if pid is not None and self._free is not None:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, self._free)


class WrongReplicationPassword(Fault):
    """A replica that its primary lets in no more."""

    def begin(self) -> None:
        self.set(masterauth="wrong")
        self.again()

    def again(self) -> None:
        self.node.ask("CLIENT", "KILL", "TYPE", "master")

    def repair(self) -> None:
        self.set(masterauth=(self.node.secrets / "replication").read_text())


class PasswordsChanged(Fault):
    """The users of cache and sessions have other passwords on the server: what follows from half of a rotation."""

    USERS = ("cache", "session")

    @property
    def _users(self) -> Path:
        return self.node.volume / "users.acl"

    @property
    def _kept(self) -> Path:
        return self.node.volume / "users.acl.kept"

    def begin(self) -> None:
        shutil.copy(self._users, self._kept)
        lines = self._users.read_text().splitlines()
        for user in self.USERS:
            lines = [
                f"user {user} on #{'0' * 64} -@all" if line.startswith(f"user {user} ") else line for line in lines
            ]
        self._users.write_text("\n".join([*lines, ""]))
        self._load()

    def _load(self) -> None:
        self.must("ACL", "LOAD")
        for user in self.USERS:
            self.node.ask("CLIENT", "KILL", "USER", user)

    def repair(self) -> None:
        if self._kept.exists():
            shutil.copy(self._kept, self._users)
            self._load()


class ApplicationFault(Fault):
    """The application's own load: one word makes it worse, another better."""

    def __init__(self, stack: Stack, worse: str, better: str) -> None:
        super().__init__(stack, stack.fleet.servers[0])
        self._worse, self._better = worse, better

    def begin(self) -> None:
        self.stack.send(self._worse)

    def repair(self) -> None:
        self.stack.send(self._better)


class Later(Fault):
    """The key ring's next key is due: under `PasswordsChanged` it cannot be made. Nothing is to be repaired."""

    def begin(self) -> None:
        self.stack.send("later")


def client(stack: Stack, node: Node) -> redis.Redis:
    """One that writes as the cache's user."""
    password = (stack.fleet.base / "secrets" / "cache").read_text()
    return redis.Redis(
        HOST,
        node.port,
        username="cache",
        password=password,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=WITHIN,
        socket_connect_timeout=WITHIN,
    )


def during(faults: list[Fault], seen: Callable[[], bool], within: float) -> bool:
    """Begins the faults, keeps them up until `seen`, or for `within` seconds; repairs them. Whether it was seen."""
    deadline = time.monotonic() + within
    try:
        for fault in faults:
            fault.begin()
        while not (found := seen()) and time.monotonic() < deadline:
            for fault in faults:
                with suppress(OSError, redis.RedisError):
                    fault.again()
            time.sleep(1)
        return found
    finally:
        for fault in faults:
            with suppress(AttributeError):  # one that never began
                fault.repair()
