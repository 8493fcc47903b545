"""A Redis Cluster on loopback: started, resharded, and staged to fail, through CLUSTER commands alone.

What an operator would do with a tool is done here step by step, so a test can stop between two steps: a slot can be
left half moved. Files are written to temporary directories only, and `stop` stops every node.

Threading: a topology belongs to one thread at a time. Failure: `RemoteUnavailableError` when it does not come up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from aikcache._embedded.server import Server
from aikcache._redis.cluster.topology import SLOTS
from aikcache._redis.sides import Side
from aikcache.errors import RemoteUnavailableError
from aikcache.testing.sentinel import ask

__all__ = ["ClusterTopology"]

_WITHIN = 60.0
_AGAIN = 3.0  # seconds between introductions
_BEGINNING_MS = 2000
"""The nodes' timeout while the cluster forms, because their handshakes time out by it."""
_SILENT = 5.0
"""Seconds after which a node does not answer, where that is the question."""
_POLL = 0.02


class ClusterTopology:
    """Primaries with their replicas. As a context manager it is started on entry and stopped on exit."""

    def __init__(
        self,
        *,
        binary: Path | None = None,
        primaries: int = 3,
        replicas: int = 1,
        password: str | None = None,
        node_timeout_ms: int = 15_000,
        config: tuple[str, ...] = (),
        sides: Sequence[Side] = (),
    ) -> None:
        """Define what to start; nothing happens before `start`.

        Args:
            binary: the server; None: the first that is found.
            primaries: how many, with an equal share of the slots each.
            replicas: how many of each.
            password: of the default user of all nodes; None: none.
            node_timeout_ms: after which a node that is silent counts as gone. On a busy machine a second is silence:
                `set_node_timeout` makes it short when a takeover is due.
            config: lines added to every node's configuration.
            sides: on which side of a network each node is, in the order of `servers`; empty: all are on loopback.
        """
        self.servers: list[Server] = []
        """The first primaries, their replicas in the same order, and what was added."""
        self.password = password
        self._binary = binary
        self._primaries, self._replicas = primaries, replicas
        self._node_timeout_ms = node_timeout_ms
        self._config = (
            f"cluster-node-timeout {node_timeout_ms}",
            "cluster-enabled yes",
            "cluster-config-file nodes.conf",
            "cluster-replica-validity-factor 0",
            "cluster-allow-replica-migration no",
            "repl-diskless-sync-delay 0",
            *([f'masterauth "{password}"'] if password is not None else []),
            *config,
        )
        self._sides = list(sides)
        self._hosts: dict[Server, str] = {}
        self._stack = ExitStack()

    def host(self, server: Server) -> str:
        """The address at which the others find it."""
        return self._hosts.get(server, "127.0.0.1")

    @property
    def url(self) -> str:
        """The URL for the library: the first primaries."""
        login = "" if self.password is None else f":{quote(self.password, safe='')}@"
        hosts = ",".join(f"{self.host(server)}:{server.port}" for server in self.servers[: self._primaries])
        return f"redis+cluster://{login}{hosts}"

    def start(self) -> Self:
        """Starts all, and returns when every node knows every other, and the replicas are in step."""
        try:
            self._start_all()
        except BaseException:
            self.stop()
            raise
        return self

    def _start_all(self) -> None:
        for _ in range(self._primaries * (1 + self._replicas)):
            self._serve()
        self.set_node_timeout(_BEGINNING_MS)
        self._allow_takeovers(False)
        for i, server in enumerate(self.servers[: self._primaries]):
            first, last = (SLOTS * n // self._primaries for n in (i, i + 1))
            self.ask(server, "CLUSTER", "ADDSLOTSRANGE", first, last - 1)
        for i, server in enumerate(self.servers):
            self.ask(server, "CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        self._acquaint(*self.servers)
        for i, server in enumerate(self.servers[self._primaries :]):
            self.ask(server, "CLUSTER", "REPLICATE", self.id(self.servers[i % self._primaries]))
        self.until(lambda: all(map(self.in_step, self.servers[self._primaries :])), "the replicas")
        self.until(self.serving, "the cluster to serve")
        self.until(lambda: all(map(self._knows_primaries, self.servers)), "the nodes to know who is a primary")
        self.set_node_timeout(self._node_timeout_ms)
        self._allow_takeovers(True)

    def _allow_takeovers(self, allowed: bool) -> None:
        for server in self.servers:
            self.ask(server, "CONFIG", "SET", "cluster-replica-no-failover", "no" if allowed else "yes")

    def set_node_timeout(self, milliseconds: int) -> None:
        """From now on the nodes that answer count a node as down after so many milliseconds of silence."""
        for server in self.alive():
            self.ask(server, "CONFIG", "SET", "cluster-node-timeout", milliseconds)

    def _knows_primaries(self, server: Server) -> bool:
        return sum("master" in flags for _, flags, *_ in self.nodes(server)) == self._primaries

    def _serve(self) -> Server:
        side = self._sides[len(self.servers)] if self._sides else None
        host = "127.0.0.1" if side is None else side.host
        on = () if side is None else (f"bind {host}", f"cluster-announce-ip {host}", "protected-mode no")
        inside = nullcontext if side is None else side.inside
        config = (*self._config, *on)
        server = Server(binary=self._binary, port=0, password=self.password, config=config, inside=inside)
        self._stack.callback(server.stop)
        self.servers.append(server.start())
        self._hosts[server] = host
        return server

    def _acquaint(self, *servers: Server) -> None:
        """Send CLUSTER MEET, and repeat it: on a busy machine a handshake times out and is forgotten."""
        again = 0.0

        def acquainted() -> bool:
            nonlocal again
            if all(map(self._knows_all, self.alive())):
                return True
            if time.monotonic() >= again:
                again = time.monotonic() + _AGAIN
                for server in servers:
                    self.ask(self.servers[0], "CLUSTER", "MEET", self.host(server), str(server.port))
            return False

        self.until(acquainted, "the nodes to know each other")

    def _knows_all(self, server: Server) -> bool:
        nodes = self.nodes(server)
        return len(nodes) == len(self.servers) and all("handshake" not in flags for _, flags, *_ in nodes)

    def add(self) -> Server:
        """A new primary without slots, known to all."""
        server = self._serve()
        self._acquaint(server)
        self.until(lambda: self.serving(server), "the new node to serve")
        return server

    # Asking

    def ask(self, server: Server, *command: str | int) -> Any:
        """A node's reply to a command."""
        return ask(server, *command, login=self._login())

    def _login(self) -> tuple[str, ...]:
        return () if self.password is None else (self.password,)

    def nodes(self, server: Server) -> list[list[str]]:
        """What a node says of all: the fields of CLUSTER NODES without the address."""
        lines = self.ask(server, "CLUSTER", "NODES").decode().splitlines()
        return [[fields[0], *fields[2:]] for fields in map(str.split, lines)]

    def id(self, server: Server) -> str:
        """A node's id."""
        name: bytes = self.ask(server, "CLUSTER", "MYID")
        return name.decode()

    def in_step(self, server: Server) -> bool:
        """Whether a node is a replica that has all its primary has."""
        role = self.ask(server, "ROLE")
        return bool(role[0] == b"slave" and role[3] == b"connected")

    def serving(self, *servers: Server) -> bool:
        """Whether these nodes, or all that live, say that the cluster serves."""
        return all(b"cluster_state:ok" in self.ask(server, "CLUSTER", "INFO") for server in servers or self.alive())

    def alive(self) -> list[Server]:
        """The nodes that answer."""
        found = []
        for server in self.servers:
            try:
                ask(server, "PING", login=self._login(), within=_SILENT)
            except RemoteUnavailableError:
                continue
            found.append(server)
        return found

    def primaries(self) -> list[Server]:
        """The nodes that take themselves for primaries."""
        return [server for server in self.alive() if self.ask(server, "ROLE")[0] == b"master"]

    def owner(self, slot: int) -> Server:
        """The primary that says it owns a slot."""
        for server in self.primaries():
            fields = next(fields for fields in self.nodes(server) if "myself" in fields[1])
            for part in fields[7:]:
                first, _, last = part.partition("-")
                if not part.startswith("[") and int(first) <= slot <= int(last or first):
                    return server
        raise RemoteUnavailableError(f"nobody owns slot {slot}.")

    # Moving a slot, step by step

    def begin_move(self, slot: int, target: Server) -> Server:
        """Begin to move a slot: from now on both nodes answer, each for the keys that it has. Returns the source."""
        source = self.owner(slot)
        self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id(source))
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id(target))
        return source

    def move_keys(self, slot: int, source: Server, target: Server, most: int = 1_000_000) -> int:
        """Migrate up to `most` keys, and return how many there were."""
        moved = 0
        login = () if self.password is None else ("AUTH", self.password)
        while moved < most:
            names = self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, min(most - moved, 100))
            if not names:
                break
            where = self.host(target), str(target.port)
            self.ask(source, "MIGRATE", *where, "", 0, 5000, "REPLACE", *login, "KEYS", *names)
            moved += len(names)
        return moved

    def end_move(self, slot: int, target: Server) -> None:
        """Finish the move: only the target owns the slot."""
        name = self.id(target)
        self.ask(target, "CLUSTER", "SETSLOT", slot, "NODE", name)
        for server in self.primaries():
            self.ask(server, "CLUSTER", "SETSLOT", slot, "NODE", name)

    def move(self, slot: int, target: Server) -> None:
        """Move a slot in all three steps."""
        source = self.begin_move(slot, target)
        self.move_keys(slot, source, target)
        self.end_move(slot, target)

    def promote(self, replica: Server) -> None:
        """Make a replica that is in step the primary.

        Where an election fails, the node holds no other for four times its timeout, and the others have given their
        votes: from the second attempt on it takes over without one.
        """
        again, how = 0.0, list[str]()

        def promoted() -> bool:
            nonlocal again, how
            if self.ask(replica, "ROLE")[0] == b"master":
                return True
            if time.monotonic() >= again and self.in_step(replica):
                self.ask(replica, "CLUSTER", "FAILOVER", *how)
                again, how = time.monotonic() + 2 * _AGAIN, ["TAKEOVER"]
            return False

        self.until(promoted, "the promotion")

    def until(self, done: Callable[[], object], what: str) -> None:
        """Poll until `done` returns something true; `RemoteUnavailableError` after a minute."""
        deadline = time.monotonic() + _WITHIN
        while not done():
            if time.monotonic() > deadline:
                raise RemoteUnavailableError(f"Waited {_WITHIN:g} seconds for {what}.")
            time.sleep(_POLL)

    def stop(self) -> None:
        """Stop all servers; idempotent."""
        self._stack.close()
        self.servers.clear()
        self._hosts.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
