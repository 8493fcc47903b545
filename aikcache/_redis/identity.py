"""Identifies the server at the end of a connection: its run, its role, and the majority behind it.

A new server is announced (`TransportEvents.new_server`) before any other command is sent to it. One thread announces
it; the others wait. If it replaces another server, a new generation of connections begins first, so that nothing more
is sent to the old one.

Threads: any. Failure: `RemoteError` and `TimeoutError`.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from aikcache._redis.modes import mode
from aikcache._redis.reply import Command, ErrorReply
from aikcache._redis.transport import NewServer, ServerIdentity, TransportEvents
from aikcache.errors import RemoteError, RemoteUnavailableError

if TYPE_CHECKING:
    from aikcache._redis.backing import Backing
    from aikcache._redis.connection import Connection

_LONGEST_ID = 100


class Generations(Protocol):
    """The owner of the connections."""

    def begin_generation(self) -> None: ...
    def on_failover(self) -> None: ...


class Identity:
    """The server that was identified last."""

    def __init__(self, owner: Generations, events: TransportEvents, backing: Backing | None) -> None:
        self.run_id: str | None = None
        self.informed = False
        """Whether the server answered `INFO` at the last connect."""
        self._owner = owner
        self._events = events
        self._backing = backing
        self._announcing = threading.RLock()
        self._wanted = self._announced = 0  # how often the server was to be announced again, and was

    def announce_again(self) -> None:
        """Announce the server again even if it is the same one: it may have missed invalidations."""
        self._wanted += 1

    @property
    def heartbeat(self) -> Command:
        """The command that the channel sends each second.

        Behind Sentinel it asks for the role, because a primary that becomes a replica goes on answering reads; and for
        the replicas, where an ACL allows that.
        """
        return ("PING",) if self._backing is None else ("INFO", "replication") if self.informed else ("HELLO",)

    def check_heartbeat(self, hello: Any, connection: Connection, age: float) -> None:
        """Evaluate the reply to a heartbeat that was sent `age` seconds ago. May raise `RemoteError`."""
        try:
            if isinstance(hello, bytes) and self._backing is not None:
                _check_role({"role": hello.partition(b"role:")[2].split(b"\r", 1)[0]})
                self._backing.record_followers(connection, hello, time.monotonic() - age)
            else:
                _check_role({name.decode(): value for name, value in hello.items()})
        except RemoteError:
            self._owner.on_failover()
            raise

    def check(self, connection: Connection, hello: dict[str, Any], info: Any, asked_at: float, deadline: float) -> None:
        """Evaluate the replies to HELLO and INFO, sent at `asked_at` on a new connection. May raise `RemoteError`."""
        if self._backing is not None:
            _check_role(hello)
            if isinstance(info, bytes):
                self._backing.record_followers(connection, info, asked_at)
            self._backing.wait_for_majority(connection, deadline)
        self.informed = isinstance(info, bytes)
        if not isinstance(info, bytes):  # an ACL refuses it: restarts and failovers then go unnoticed
            return
        found = _identity(info)
        if found.id == self.run_id and self._announced == self._wanted:
            return
        if self._announcing._is_owned():  # type: ignore[attr-defined]
            raise TimeoutError
        try:  # one thread announces; the others wait here
            if not self._announcing.acquire(timeout=max(deadline - time.monotonic(), 0)):
                raise TimeoutError
            wanted = self._wanted
            if found.id != self.run_id or self._announced != wanted:
                self._announce(found, connection, deadline)
                self.run_id, self._announced = found.id, wanted  # last, so that an interrupted announcement is repeated
        finally:
            try:  # noqa: SIM105  # one call into C, and nothing before it: else the lock might stay taken
                self._announcing.release()
            except RuntimeError:  # it was not taken
                pass

    def _announce(self, found: ServerIdentity, connection: Connection, deadline: float) -> None:
        replaces = self.run_id is not None
        if replaces:
            self._owner.begin_generation()  # first: from here on nothing is sent to the old server
        self._events.new_server(NewServer(found, replaces, lambda batch: _accepted(connection.ask(batch, deadline))))
        if replaces:
            self._events.on_failover(at_once=False)

    def forget(self) -> None:
        """Reset after a fork, in the child."""
        self._announcing = threading.RLock()
        if self._backing is not None:
            self._backing.forget()


def _identity(info: bytes) -> ServerIdentity:
    facts = dict(line.split(":", 1) for line in info.decode("utf-8", "replace").splitlines() if ":" in line)
    # The replication id changes at each promotion, the run's at each start.
    run_id, uptime = f"{facts.get('run_id', '')}-{facts.get('master_replid', '')}", facts.get("uptime_in_seconds")
    seconds = int(uptime) if uptime and uptime.isdecimal() and len(uptime) < 20 else 0
    return ServerIdentity(run_id[:_LONGEST_ID], seconds, mode(facts))


def _check_role(hello: dict[str, Any]) -> None:
    role = hello.get("role", b"")
    if role != b"master":
        what = repr(role.decode()) if role in (b"slave", b"replica", b"sentinel") else "something else"
        raise RemoteUnavailableError(f"the server is not the primary, but says it is {what}")


def _accepted(replies: list[Any]) -> list[Any]:
    """Return the replies to an announcement. None may be an error: what a server refused, it does not know.

    On a cluster a redirection is allowed: the caller sends that command to the other node.
    """
    for reply in replies:
        if isinstance(reply, ErrorReply) and not reply.redirection:
            raise RemoteUnavailableError(f"the server refuses: {reply}")
    return replies
