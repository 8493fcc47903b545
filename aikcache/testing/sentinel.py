"""A primary, its replicas and their Sentinels on loopback, from the very files that are deployed (`ops/redis`).

What is tested, and tried out with `python -m aikcache.testing.sentinel`, is the shipped configuration.
Lines that only make sense where it is deployed (ports, directories) are left out, addresses and times are put in their
place, and the rest is taken as it stands.

Every server can be killed, paused and restarted; Sentinel decides which one is the primary.
Threading: a topology belongs to one thread at a time. Failure: `RemoteUnavailableError` when it does not come up,
`ConfigError` without the files.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from aikcache._embedded.server import Server
from aikcache._embedded.sockets import short_directory
from aikcache._redis.connector import Connector
from aikcache._redis.reply import Command, ErrorReply
from aikcache._redis.sides import Side
from aikcache._settings import url
from aikcache.errors import AikcacheError, ConfigError, RemoteUnavailableError

__all__ = ["OPS", "Topology", "ask", "configuration"]

OPS = Path(__file__).parent / "ops"
"""A link to `ops/redis` in a checkout, and files of the package where it is installed."""
SERVICE = "aikcache"
_ELSEWHERE = frozenset({"port", "bind", "dir", "protected-mode", "aclfile", "logfile", "pidfile", "daemonize"})
_WITHIN = 60.0
_POLL = 0.02
_SILENT = 5.0
"""Seconds after which a server does not answer, where that is the question."""


def configuration(name: str, ops: Path = OPS) -> list[str]:
    """The lines of a shipped file that make sense anywhere."""
    try:
        text = (ops / name).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{ops / name} is not there: run this from a checkout of aikcache.") from error
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#") and line.split()[0] not in _ELSEWHERE]


def ask(server: Server, *command: str | int, login: Sequence[str] = (), within: float = 20.0) -> Any:
    """A server's reply to one command, over its unix socket; a refusal is raised as `RemoteUnavailableError`."""
    deadline = time.monotonic() + within
    try:
        connector = Connector(url.parse(f"unix://{quote(str(server.socket))}"))
        link = connector.connection(connector.connect_unix(str(server.socket), deadline), within)
        try:
            first: list[Command] = [("AUTH", *login)] if login else []
            words = tuple(str(word) if isinstance(word, int) else word for word in command)
            reply = link.ask([*first, words], deadline)[-1]
        finally:
            link.close()
    except OSError as error:
        raise RemoteUnavailableError(f"no answer: {type(error).__name__}") from error
    if isinstance(reply, ErrorReply):
        raise RemoteUnavailableError(f"the server refuses: {reply}")
    return reply


class Topology:
    """One primary, replicas and Sentinels. As a context manager it is started on entry and stopped on exit."""

    def __init__(
        self,
        *,
        binary: Path | None = None,
        replicas: int = 2,
        sentinels: int = 3,
        password: str | None = None,
        sentinel_password: str | None = None,
        down_after_ms: int | None = None,
        failover_timeout_ms: int | None = None,
        config: tuple[str, ...] = (),
        sentinel_config: tuple[str, ...] = (),
        login: tuple[str, str] | None = None,
        ops: Path = OPS,
        sides: Sequence[Side] = (),
    ) -> None:
        """Define what to start; nothing happens before `start`.

        Args:
            binary: the server; None: the first that is found.
            replicas: how many besides the primary.
            sentinels: how many; a majority of them is the quorum.
            password: of the default user of primary and replicas; None: none.
            sentinel_password: of the Sentinels.
            down_after_ms: instead of the file's, in milliseconds.
            failover_timeout_ms: instead of the file's, in milliseconds.
            config: lines added to every server's configuration, where they override the file's.
            sentinel_config: lines added to the Sentinels'.
            login: user and password for `ask`, where the default user is off.
            ops: the directory of `redis.conf` and `sentinel.conf`.
            sides: on which side of a network each server is, and then each Sentinel; empty: all are on loopback.
        """
        self.servers: list[Server] = []
        self.sentinels: list[Server] = []
        self.password = password
        self.sentinel_password = sentinel_password
        self._binary = binary
        self._counts = (replicas, sentinels)
        self._times = {"down-after-milliseconds": down_after_ms, "failover-timeout": failover_timeout_ms}
        self._config, self._sentinel_config = config, sentinel_config
        self._login = login or (() if password is None else (password,))
        self._ops = ops
        self._sides = list(sides)
        self._hosts: dict[Server, str] = {}
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """The URL for the library."""
        login = "" if self.password is None else f":{quote(self.password, safe='')}@"
        hosts = ",".join(f"{self.host(sentinel)}:{sentinel.port}" for sentinel in self.sentinels)
        query = "" if self.sentinel_password is None else f"?sentinel_password={quote(self.sentinel_password, safe='')}"
        return f"redis+sentinel://{login}{hosts}/{SERVICE}/0{query}"

    def host(self, server: Server) -> str:
        """The address at which the others find it."""
        return self._hosts[server]

    def start(self) -> Self:
        """Starts all, and returns when the replicas are in step and the Sentinels know them and each other."""
        try:
            self._start_all()
        except BaseException:
            self.stop()
            raise
        return self

    def _start_all(self) -> None:
        base = short_directory()
        self._stack.callback(shutil.rmtree, base, ignore_errors=True)
        replicas, sentinels = self._counts
        lines = [*configuration("redis.conf", self._ops), *self._config]
        if self.password is not None:
            lines.append(f'masterauth "{self.password}"')
        for number in range(1 + replicas):
            more = [f"replicaof {self.host(self.servers[0])} {self.servers[0].port}"] if number else []
            self.servers.append(self._serve(base / f"redis-{number}", [*lines, *more], self.password))
        self._until(lambda: self._connected() == replicas, "the replicas")
        watch = self._watching(sentinels // 2 + 1)
        for number in range(sentinels):
            args = ("--sentinel",)
            self.sentinels.append(self._serve(base / f"sentinel-{number}", watch, self.sentinel_password, args))
        self._until(lambda: all(self._ready(sentinel) for sentinel in self.sentinels), "the Sentinels")

    def _serve(self, directory: Path, lines: list[str], password: str | None, args: tuple[str, ...] = ()) -> Server:
        side = self._sides[len(self._hosts)] if self._sides else None
        if side is not None:
            lines = [*lines, f"bind {side.host}", "protected-mode no"]
        inside = nullcontext if side is None else side.inside
        server = Server(
            binary=self._binary, directory=directory, port=0, password=password, config=lines, args=args, inside=inside
        )
        self._hosts[server] = "127.0.0.1" if side is None else side.host
        self._stack.callback(server.stop)
        return server.start()

    def _watching(self, quorum: int) -> list[str]:
        """`sentinel.conf`, for this primary and with these times."""
        lines = []
        for line in configuration("sentinel.conf", self._ops):
            words = line.split()
            if words[1] == "monitor":
                words[2:] = [SERVICE, self.host(self.servers[0]), str(self.servers[0].port), str(quorum)]
            elif (value := self._times.get(words[1])) is not None:
                words[3] = str(value)
            lines.append(" ".join(words))
        if self.password is not None:
            lines.append(f'sentinel auth-pass {SERVICE} "{self.password}"')
        if self.sentinel_password is not None:
            lines.append(f'sentinel sentinel-pass "{self.sentinel_password}"')
        return [*lines, *self._sentinel_config]

    def _connected(self) -> int:
        reply = self.ask(self.servers[0], "INFO", "replication").decode()
        return int(reply.count("state=online"))

    def _ready(self, sentinel: Server) -> bool:
        found = self.ask(sentinel, "SENTINEL", "MASTER", SERVICE), *self.ask(sentinel, "SENTINEL", "REPLICAS", SERVICE)
        primary, *replicas = (dict(zip(reply[::2], reply[1::2], strict=True)) for reply in found)
        alone = int(primary[b"num-other-sentinels"]) + 1 < self._counts[1] or primary[b"flags"] != b"master"
        linked = [facts[b"flags"] == b"slave" and facts[b"master-link-status"] == b"ok" for facts in replicas]
        return not alone and linked == [True] * self._counts[0]

    def ask(self, server: Server, *command: str | int) -> Any:
        """A server's or Sentinel's reply to a command."""
        own = () if self.sentinel_password is None else (self.sentinel_password,)
        return ask(server, *command, login=own if server in self.sentinels else self._login)

    def primaries(self) -> list[Server]:
        """The servers that report the role of primary; those that do not answer are left out."""
        found = []
        for server in self.servers:
            try:
                if ask(server, "ROLE", login=self._login, within=_SILENT)[0] == b"master":
                    found.append(server)
            except AikcacheError:
                continue
        return found

    def primary(self) -> Server:
        """The only server with the role of primary; waits until there is only one."""
        self._until(lambda: len(self.primaries()) == 1, "one primary")
        return self.primaries()[0]

    def set_down_after(self, milliseconds: int) -> None:
        """From now on the Sentinels that answer count a server as down after so many milliseconds of silence."""
        for sentinel in self.sentinels:
            with contextlib.suppress(RemoteUnavailableError):
                self.ask(sentinel, "SENTINEL", "SET", SERVICE, "down-after-milliseconds", milliseconds)

    def fail_over(self) -> None:
        """A manual failover, as `SENTINEL FAILOVER` begins it."""
        self.ask(self.sentinels[0], "SENTINEL", "FAILOVER", SERVICE)

    def _until(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _WITHIN
        while not done():
            if time.monotonic() > deadline:
                raise RemoteUnavailableError(f"Waited {_WITHIN:g} seconds for {what}.")
            time.sleep(_POLL)

    def stop(self) -> None:
        """Stop all servers; idempotent."""
        self._stack.close()
        self.servers.clear()
        self.sentinels.clear()
        self._hosts.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


def main() -> int:
    """Start it, say where it is, and keep it until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m aikcache.testing.sentinel", description=main.__doc__)
    parser.add_argument("--down-after", type=int, metavar="MS", help="instead of the configured 5000")
    options = parser.parse_args()
    with Topology(down_after_ms=options.down_after) as topology:
        print(f"AIKCACHE_URL={topology.url}", flush=True)
        for server in topology.servers:
            print(f"  {server.directory.name}: port {server.port}, pid {server.pid}", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            signal.pause()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
