"""Connections to one server, and the one place where their trouble becomes a `RemoteError`.

A connection is dialled, and its login, database and server checked in one round trip, all before one deadline
(`connect_timeout`). From then on its socket is driven directly: one send for all commands of an exchange, one deadline
for the exchange as a whole, and nothing else on the way (half the cost of `Redis.get`).

An exchange either gives a reply for every command or raises `RemoteError`; after any trouble its connection is closed,
for what is still under way on it belongs to nobody. A kept connection that turns out dead before the first reply is
tried once more on a new one: all commands sent here may be sent twice.

Moving: behind a URL there may be another server from one moment to the next. Every connection carries the generation in
which its address was found. A switch that Sentinel tells of, a refusal that an old primary gives, another run or
replication id at a new connection: each begins a new generation, and connections of earlier ones are not used again.

Threads: idle connections lie in a deque, whose ends are safe to use from all threads; a connection in use is one
thread's. After `fork` the child starts without any.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import hiredis

from . import _url
from ._breaker import Breaker
from ._config import CacheConfig
from ._dial import Dialer
from ._link import Command as Command
from ._link import Link as Link
from ._link import Refusal as Refusal
from ._sentinel import SHARE, Sentinels
from .errors import ConfigError, RemoteError, RemoteTimeoutError, RemoteUnavailableError

if TYPE_CHECKING:
    import socket

    from ._embedded import Attachment

MAX_IDLE = 64
"""Connections kept when nobody uses them; more threads than this at once connect anew."""
MOVE_REST = 0.1
"""Seconds between two generations that refusals begin: one failing server must not make a storm of connections."""
_ELSEWHERE = ("READONLY", "MASTERDOWN", "NOREPLICAS", "LOADING")
"""Refusals of a server that is not the primary (any more), or not yet."""
_UNSERVING = (*_ELSEWHERE, "NOAUTH", "WRONGPASS", "NOPERM", "BUSY", "CLUSTERDOWN", "ERR max")


class Run(NamedTuple):
    """One run of a server as a primary, from its start or promotion to its end; `uptime` of the process in seconds."""

    id: str
    uptime: int


class Sent(NamedTuple):
    """Commands under way: `finish` gives their replies. Whoever does not finish closes the link."""

    link: Link
    data: bytes
    replies: int
    kept: bool


class Connections:
    """The connections of one cache to one server, behind one breaker."""

    ordered = True
    """Whether the commands of one exchange are carried out in their order."""

    def __init__(self, config: CacheConfig, url: str | None = None) -> None:
        self.config = config
        self.breaker = Breaker(config.breaker_failures, config.breaker_reset, time.monotonic)
        self._url = url or config.url or ""
        self._embedded = self._url.startswith("embedded://")
        self._where = _url.parse("unix:///embedded" if self._embedded else self._url)
        self._within = _url.number(self._where.options, "socket_connect_timeout") or config.connect_timeout
        self._dialer = Dialer(self._where.options, tls=self._where.tls)
        self.sentinels: Sentinels | None = None
        if self._where.service:
            self.sentinels = Sentinels(self._where, self._within, lambda address: self.moved(switched=True))
        self._idle: deque[Link] = deque()
        self._connecting: set[Link] = set()
        self._server: Attachment | None = None
        self._attached = False
        self._closed = False
        self._meeting = threading.Lock()
        self._moved_at = 0.0
        self.generation = 0
        self.run_id: str | None = None
        self.greet: Callable[[Run, bool, Callable[[list[Command]], list[Any]]], None] | None = None
        self.on_move: Callable[[bool], object] | None = None
        """Told of each new generation; True: it is known that the new primary is there."""

    def exchange(self, commands: Sequence[Command], within: float | None = None) -> list[Any]:
        """Send all commands at once and return their replies, a `Refusal` where the server answered with an error.

        Blocks for `within` seconds at most (`timeout` by default), and `connect_timeout` more when it has to connect.
        Raises `RemoteTimeoutError` or `RemoteUnavailableError`; whether anything was done is then not known.
        """
        return self.send(b"".join(map(hiredis.pack_command, commands)), len(commands), within)  # type: ignore[arg-type]

    def send(self, data: bytes, count: int, within: float | None = None) -> list[Any]:
        """The same for `count` commands that are packed already."""
        self._admit()
        try:
            replies = self._attempt(data, count, within or self.config.timeout)
        except RemoteError:
            self.breaker.failure()
            raise
        return self._judged(replies)

    def begin(self, commands: Sequence[Command]) -> Sent:
        """The first half of an exchange, for who asks several servers at once."""
        self._admit()
        data = b"".join(map(hiredis.pack_command, commands))  # type: ignore[arg-type]
        try:
            link = self._kept()
            if link is not None and self._sends(link, data):
                return Sent(link, data, len(commands), True)
            link = self.connect()
            if not self._sends(link, data):
                raise RemoteUnavailableError("the connection broke before anything was sent.")
            return Sent(link, data, len(commands), False)
        except RemoteError:
            self.breaker.failure()
            raise

    def finish(self, sent: Sent, deadline: float) -> list[Any]:
        """The second half, before `deadline` (monotonic seconds)."""
        try:
            try:
                replies = sent.link.receive(sent.replies, deadline, late=True)
            except BaseException as error:
                sent.link.close()
                raise self._translate(error, self.config.timeout) from error
            self._keep(sent.link)
        except RemoteTimeoutError:
            self.breaker.failure()
            raise
        except RemoteError:
            try:
                if not sent.kept:
                    raise
                self._drop_idle()
                replies = self._on(self.connect(), sent.data, sent.replies, deadline)
            except RemoteError:
                self.breaker.failure()
                raise
        return self._judged(replies)

    def _admit(self) -> None:
        if self._closed:
            raise RemoteUnavailableError("this cache is closed.")
        if not self.breaker.allows():
            raise RemoteUnavailableError("the server has failed repeatedly; the breaker is open.")

    def _judged(self, replies: list[Any]) -> list[Any]:
        for reply in replies:
            if type(reply) is Refusal and str(reply).startswith(_UNSERVING):
                self.breaker.failure()
                if str(reply).startswith(_ELSEWHERE):
                    self.moved()
                raise RemoteUnavailableError(f"the server refuses: {reply}")
        self.breaker.success()
        return replies

    def _sends(self, link: Link, data: bytes) -> bool:
        try:
            link.sock.sendall(data)
            return True
        except TimeoutError as error:
            link.close()
            raise self._translate(error, self.config.timeout) from error
        except OSError:
            link.close()
            return False

    def _attempt(self, data: bytes, count: int, within: float) -> list[Any]:
        link = self._kept()
        if link is None:
            return self._on(self.connect(), data, count, time.monotonic() + within)
        began = time.monotonic()
        try:
            return self._on(link, data, count, began + within)
        except RemoteTimeoutError:
            raise
        except RemoteUnavailableError:
            self._drop_idle()  # the server went away while they lay here: the others are dead as well
            spent = time.monotonic() - began
            return self._on(self.connect(), data, count, time.monotonic() + within - spent)

    def _kept(self) -> Link | None:
        """A connection that is kept, unless it is of an earlier generation."""
        while True:
            try:
                link = self._idle.pop()
            except IndexError:
                return None
            if link.generation == self.generation:
                return link
            link.close()

    def _on(self, link: Link, data: bytes, count: int, deadline: float) -> list[Any]:
        try:
            replies = link.exchange(data, count, deadline)
        except BaseException as error:
            link.close()
            raise self._translate(error, self.config.timeout) from error
        self._keep(link)
        return replies

    def _keep(self, link: Link) -> None:
        if link.generation == self.generation and len(self._idle) < MAX_IDLE and not self._closed:
            self._idle.append(link)
        else:
            link.close()

    def _translate(self, error: BaseException, within: float) -> BaseException:
        if isinstance(error, RemoteError) or not isinstance(error, Exception):
            return error
        if isinstance(error, TimeoutError):
            return RemoteTimeoutError(f"Redis did not answer within {within:g} seconds.")
        return RemoteUnavailableError(f"Redis cannot be used: {type(error).__name__}: {error}")

    def connect(self, *, protocol: int = 2, name: str = "aikcache", timeout: float | None = None) -> Link:
        """A new connection to the server as it is now, logged in; for a use other than `exchange` the caller closes it.

        Blocks for `connect_timeout` at most, whatever takes the time: names, Sentinels, TLS, the first words.
        """
        generation = self.generation  # before the address is found: what moves from here on makes it stale
        link: Link | None = None
        try:
            if self._embedded:
                self._attach()
            deadline = time.monotonic() + self._within
            link = Link(self._dial(deadline), timeout or self.config.timeout, generation)
            self._connecting.add(link)
            who = [("INFO", "server", "replication")]
            told, replies = link.introduce(self._where, protocol, name, deadline, more=who)
            self._meet(link, told, replies[0], deadline)
        except BaseException as error:
            if link is not None:
                link.close()
            self._doubt()
            if isinstance(error, ConfigError):
                raise
            raise self._translate(error, self._within) from error
        finally:
            self._connecting.discard(link)
        return link

    def _dial(self, deadline: float) -> socket.socket:
        if self._server is not None:
            return self._dialer.dial_unix(self._server.socket, deadline)
        if self._where.path:
            return self._dialer.dial_unix(self._where.path, deadline)
        host, port = self._where.hosts[0]
        if self.sentinels is not None:
            now = time.monotonic()
            host, port = self.sentinels.primary(now + (deadline - now) * SHARE)
        return self._dialer.dial(host, port, deadline)

    def _meet(self, link: Link, told: dict[str, Any], info: Any, deadline: float) -> None:
        """Who is this? A server not met before is greeted before anything is asked of it."""
        if self.sentinels is not None:
            self._check_role(told)
        if not isinstance(info, bytes):  # refused by an ACL: its restarts and failovers then go unnoticed
            return
        facts = dict(line.split(":", 1) for line in info.decode("utf-8", "replace").splitlines() if ":" in line)
        # The replication id changes at each promotion, the run's at each start.
        run = Run(f"{facts.get('run_id', '')}-{facts.get('master_replid', '')}", int(facts.get("uptime_in_seconds", 0)))
        if run.id == self.run_id:
            return
        if not self._meeting.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise TimeoutError
        try:  # one thread greets; the others come when it is done
            if run.id == self.run_id:
                return
            known = self.run_id is not None
            if known:
                self._begin_generation()  # before the greeting: from then on nothing is said to the one before
            if self.greet is not None:
                self.greet(run, known, lambda commands: _said(link.ask(commands, deadline)))
            self.run_id = run.id
        finally:
            self._meeting.release()
        if known and self.on_move is not None:
            self.on_move(False)

    @property
    def heartbeat(self) -> tuple[Command, Callable[[Any], object] | None]:
        """What the channel asks each second, and what is to be made of the answer.

        Behind Sentinel that is the role: a primary that becomes a replica goes on answering reads, for ever.
        """
        return (("PING",), None) if self.sentinels is None else (("HELLO",), self._check_heartbeat)

    def _check_heartbeat(self, told: Any) -> None:
        try:
            self._check_role({name.decode(): value for name, value in told.items()})
        except RemoteError:
            self.moved()
            raise

    def _check_role(self, told: dict[str, Any]) -> None:
        role = told.get("role", b"")
        if role != b"master":
            raise RemoteUnavailableError(f"the server is not the primary, but says it is {role.decode()!r}")

    def _doubt(self) -> None:
        """After a failure to connect: whatever was believed about the way there may be wrong."""
        self._dialer.doubt()
        if self.sentinels is not None:
            self.sentinels.doubt()
        self._attached = False  # an embedded server that has died is started anew

    def _attach(self) -> None:
        if self._attached:
            return
        from . import _embedded  # here, because few need it, and it imports much

        server = _embedded.attach(self._url.removeprefix("embedded://") or None)
        gone, self._server = self._server, server  # the channel's thread may be here as well: one is held
        self._attached = True
        if gone is not None:
            gone.close()
        if self._closed:
            server.close()

    def moved(self, *, switched: bool = False) -> None:
        """The server may be another now: connections made before are not used again. `switched`: it is known to be."""
        now = time.monotonic()
        if not switched and now - self._moved_at < MOVE_REST:
            return
        self._moved_at = now
        self._begin_generation()
        if switched:
            self.breaker.reconsider()
        if self.on_move is not None:
            self.on_move(switched)

    def parts(self) -> Iterator[Connections]:
        """The servers that hold a part of the data each: this one holds all."""
        yield self

    def tags(self) -> Sequence[str]:
        """What a name begins with to be on each server: here there is one."""
        return ("",)

    def _begin_generation(self) -> None:
        self.generation += 1
        self._drop_idle()

    def _drop_idle(self) -> None:
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    def forget(self) -> None:
        """After a fork, in the child: the sockets are the parent's, and only our copies of them are closed."""
        self._drop_idle()
        self._connecting = set()
        self._meeting = threading.Lock()
        self.breaker = Breaker(self.config.breaker_failures, self.config.breaker_reset, time.monotonic)
        self._dialer.forget()
        if self.sentinels is not None:
            self.sentinels.forget()

    def close(self) -> None:
        self._closed = True
        self._drop_idle()
        for link in list(self._connecting):  # nobody need wait for its first words: another may have its place
            link.interrupt()
        if self.sentinels is not None:
            self.sentinels.close()
        if self._server is not None:
            self._server.close()


def _said(replies: list[Any]) -> list[Any]:
    """Replies to a greeting, none of which may be refused: what a server was not told, it does not know.

    On a cluster "elsewhere" is no refusal: what is for another node is told to that one.
    """
    for reply in replies:
        if isinstance(reply, Refusal) and not str(reply).startswith(("MOVED ", "ASK ")):
            raise RemoteUnavailableError(f"the server refuses: {reply}")
    return replies
