"""Who is at the end of a connection: which run of a server, in which role, and with whom behind it.

A server that has not been met before is greeted (`TransportEvents.new_server`) before anything else is asked of it. One
thread greets; the others wait for it. Where another server was met before, a new generation of connections begins
first, so that nothing more is said to the one before.

Threads: any. Failure: `RemoteError` and `TimeoutError`.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from aikcache._redis.backing import Backing
from aikcache._redis.reply import Command, ErrorReply
from aikcache._redis.transport import NewServer, ServerIdentity, TransportEvents
from aikcache.errors import RemoteError, RemoteUnavailableError

if TYPE_CHECKING:
    from aikcache._redis.connection import Connection

_LONGEST_ID = 100


class Generations(Protocol):
    """Whose connections they are."""

    def begin_generation(self) -> None: ...
    def moved(self) -> None: ...


class Identity:
    """The server that was met last."""

    def __init__(self, owner: Generations, events: TransportEvents, backing: Backing | None) -> None:
        self.run_id: str | None = None
        self.informed = False
        """Whether the server told of itself (`INFO`) when it was last connected to."""
        self._owner = owner
        self._events = events
        self._backing = backing
        self._meeting = threading.RLock()
        self._to_greet = self._greeted = 0  # how often there was a reason to greet again whoever is there

    def greet_again(self) -> None:
        """Whoever is there may have missed something, even if it is the server that was met."""
        self._to_greet += 1

    @property
    def heartbeat(self) -> Command:
        """What the channel asks each second.

        Behind Sentinel that is the role: a primary that becomes a replica goes on answering reads, for ever; and who
        follows it, where an ACL lets us ask.
        """
        return ("PING",) if self._backing is None else ("INFO", "replication") if self.informed else ("HELLO",)

    def check_heartbeat(self, told: Any, link: Connection, age: float) -> None:
        """What the answer on `link` to what was asked `age` seconds ago is to mean. May raise `RemoteError`."""
        try:
            if isinstance(told, bytes) and self._backing is not None:
                _check_role({"role": told.partition(b"role:")[2].split(b"\r", 1)[0]})
                self._backing.followed(link, told, time.monotonic() - age)
            else:
                _check_role({name.decode(): value for name, value in told.items()})
        except RemoteError:
            self._owner.moved()
            raise

    def check(self, link: Connection, told: dict[str, Any], info: Any, asked_at: float, deadline: float) -> None:
        """What a new connection's server says of itself (HELLO, INFO), asked at `asked_at`. May raise `RemoteError`."""
        if self._backing is not None:
            _check_role(told)
            if isinstance(info, bytes):
                self._backing.followed(link, info, asked_at)
            self._backing.seek(link, deadline)
        self.informed = isinstance(info, bytes)
        if not isinstance(info, bytes):  # refused by an ACL: its restarts and failovers then go unnoticed
            return
        found = _identity(info)
        if found.id == self.run_id and self._greeted == self._to_greet:
            return
        if self._meeting._is_owned():  # type: ignore[attr-defined]
            raise TimeoutError
        try:  # one thread greets; the others come when it is done
            if not self._meeting.acquire(timeout=max(deadline - time.monotonic(), 0)):
                raise TimeoutError
            due = self._to_greet
            if found.id != self.run_id or self._greeted != due:
                self._greet(found, link, deadline)
                self.run_id, self._greeted = found.id, due  # last: who was interrupted before begins again
        finally:
            try:  # noqa: SIM105  # one call into C, and nothing before it: else the lock might stay taken
                self._meeting.release()
            except RuntimeError:  # it was not taken
                pass

    def _greet(self, found: ServerIdentity, link: Connection, deadline: float) -> None:
        replaces = self.run_id is not None
        if replaces:
            self._owner.begin_generation()  # before the greeting: from then on nothing is said to the one before
        self._events.new_server(NewServer(found, replaces, lambda commands: _unrefused(link.ask(commands, deadline))))
        if replaces:
            self._events.moved(at_once=False)

    def forget(self) -> None:
        """After a fork, in the child."""
        self._meeting = threading.RLock()
        if self._backing is not None:
            self._backing.forget()


def _identity(info: bytes) -> ServerIdentity:
    facts = dict(line.split(":", 1) for line in info.decode("utf-8", "replace").splitlines() if ":" in line)
    # The replication id changes at each promotion, the run's at each start.
    run_id, uptime = f"{facts.get('run_id', '')}-{facts.get('master_replid', '')}", facts.get("uptime_in_seconds")
    seconds = int(uptime) if uptime and uptime.isdecimal() and len(uptime) < 20 else 0
    return ServerIdentity(run_id[:_LONGEST_ID], seconds)


def _check_role(told: dict[str, Any]) -> None:
    role = told.get("role", b"")
    if role != b"master":
        what = repr(role.decode()) if role in (b"slave", b"replica", b"sentinel") else "something else"
        raise RemoteUnavailableError(f"the server is not the primary, but says it is {what}")


def _unrefused(replies: list[Any]) -> list[Any]:
    """Replies to a greeting, none of which may be refused: what a server was not told, it does not know.

    On a cluster "elsewhere" is no refusal: what is for another node is told to that one.
    """
    for reply in replies:
        if isinstance(reply, ErrorReply) and not reply.way:
            raise RemoteUnavailableError(f"the server refuses: {reply}")
    return replies
