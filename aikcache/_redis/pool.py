"""Connections to one server, and the one place where their failures become a `RemoteError`.

A connection is made, and its login, database and server checked in one round trip, all before one deadline
(`connect_timeout`). After that its socket is driven directly: one send for all commands of an exchange, one deadline
for the exchange as a whole, and nothing else in between (half the cost of `Redis.get`).

An exchange either returns a reply for every command or raises `RemoteError`. After any failure its connection is
closed, because a late reply on it would be taken for another command's. If a kept connection turns out to be dead
before the first reply, the exchange is tried once more on a new one. So all commands sent here may be sent twice,
except those that ask for `once`.

Moving: another server may be behind a URL from one moment to the next. Every connection carries the generation in
which its address was found. A new generation begins when Sentinel reports a switch, when an old primary refuses, or
when a new connection meets another run or replication id. Connections of earlier generations are not used again.

Threads: idle connections are in a deque, whose ends any thread may use. One thread at a time uses a connection. After
`fork` the child starts without any.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from aikcache._codec.frame import MAX_EXTRA
from aikcache._concurrency.circuit_breaker import Breaker, Changed, unobserved
from aikcache._concurrency.foreign import clean
from aikcache._concurrency.outside import let_out
from aikcache._redis.backing import BEAT, Backing
from aikcache._redis.connector import Connector
from aikcache._redis.credentials import Credentials
from aikcache._redis.majority import Address
from aikcache._redis.origin import origin
from aikcache._redis.reply import TROUBLE, pack
from aikcache._redis.reply import Command as Command
from aikcache._redis.reply import ErrorReply as ErrorReply
from aikcache._redis.sentinel import SHARE, Sentinels
from aikcache._settings import url as _url
from aikcache._settings.config import CacheConfig
from aikcache._settings.secret import hidden
from aikcache.errors import ConfigError, RemoteError, RemoteTimeoutError, RemoteUnavailableError

if TYPE_CHECKING:
    from aikcache._embedded.attach import Attachment
    from aikcache._redis.connection import Connection, Wire

MAX_IDLE = 64
"""Connections kept when nobody uses them; more threads than this at once connect anew."""
_LONGEST_ID = 100
MOVE_REST = 0.1
"""Seconds between two generations that refusals begin: one failing server must not make a storm of connections."""
_ELSEWHERE = ("READONLY", "MASTERDOWN", "NOREPLICAS", "LOADING")
"""Refusals of a server that is not the primary (any more), or not yet."""
_UNSERVING = (*_ELSEWHERE, "NOAUTH", "WRONGPASS", "NOPERM", "BUSY", "CLUSTERDOWN", "ERR max")


class ServerIdentity(NamedTuple):
    """One run of a server as a primary, from its start or promotion to its end; `uptime` of the process in seconds."""

    id: str
    uptime: int


class LostReplyError(RemoteUnavailableError):
    """The connection died before the reply: what was sent `once` may have been done, and is not sent again as it is."""


class Sent(NamedTuple):
    """Commands under way: `finish` gives their replies. Whoever does not finish closes the link."""

    link: Connection
    data: bytes
    replies: int
    kept: bool
    once: bool


class Pool:
    """The connections of one cache to one server, behind one breaker."""

    ordered = True
    """Whether the commands of one exchange are carried out in their order."""

    def __init__(self, config: CacheConfig, where: _url.Where | None = None, on_breaker: Changed = unobserved) -> None:
        """`where`: one server of several, instead of where the configuration's URL leads.

        `on_breaker` is told when the breaker opens or closes.
        """
        self.config = config
        self._on_breaker = on_breaker
        self.breaker = Breaker(config.breaker_failures, config.breaker_reset, time.monotonic, on_breaker)
        url = hidden(config.url or "")
        self._embedded = _url.scheme(url) == "embedded"
        self._where = where or origin(config)
        self._within = _url.number(self._where.options, "socket_connect_timeout") or config.connect_timeout
        self._dialer = Connector(self._where)
        self._credentials = Credentials(self._where, self.moved)
        self.sentinels: Sentinels | None = None
        self._backing: Backing | None = None
        if self._where.service:
            beat = min(BEAT, config.max_staleness / 4)
            self.sentinels = Sentinels(self._where, self._within, lambda address: self.moved(switched=True), beat)
            self._backing = Backing(self.sentinels, config.max_staleness)
        self._idle: deque[Connection] = deque()
        self._connecting: set[Connection] = set()
        self._server: Attachment | None = None
        self._attached = False
        self._closed = False
        self._meeting = threading.RLock()
        self._moved_at = 0.0
        self.generation = 0
        self.run_id: str | None = None
        self._to_greet = self._greeted = 0  # how often there was a reason to greet again whoever is there
        self._informed = False
        self.on_new_server: Callable[[ServerIdentity, bool, Callable[[list[Command]], list[Any]]], None] | None = None
        self.on_move: Callable[[bool], object] | None = None
        """Told of each new generation; True: it is known that the new primary is there."""

    def exchange(self, commands: Sequence[Command], within: float | None = None, *, once: bool = False) -> list[Any]:
        """Send all commands at once and return their replies, a `ErrorReply` where the server answered with an error.

        Blocks for `within` seconds at most (`timeout` by default), and `connect_timeout` more when it has to connect.
        Raises `RemoteTimeoutError` or `RemoteUnavailableError`; whether anything was done is then not known.
        `once`: and raises `LostReplyError` where it would otherwise send the same again.
        """
        return self.send(pack(commands), len(commands), within, once)

    def send(self, data: bytes, count: int, within: float | None = None, once: bool = False) -> list[Any]:
        """The same for `count` commands that are packed already."""
        self._admit()
        try:
            replies = self._attempt(data, count, within or self.config.timeout, once)
        except RemoteError as error:
            self.breaker.failure(error)
            raise
        return self._judged(replies)

    def begin(self, commands: Sequence[Command], *, once: bool = False) -> Sent:
        """The first half of an exchange, for who asks several servers at once."""
        self._admit()
        data = pack(commands)
        try:
            link = self._kept()
            if link is not None and self._sends(link, data):
                return Sent(link, data, len(commands), True, once)
            if link is not None and once:
                raise self._lost()
            link = self.connect()
            if not self._sends(link, data):
                raise RemoteUnavailableError("the connection broke before anything was sent.")
            return Sent(link, data, len(commands), False, once)
        except RemoteError as error:
            self.breaker.failure(error)
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
        except RemoteTimeoutError as error:
            self.breaker.failure(error)
            raise
        except RemoteError:
            try:
                if sent.once:
                    raise self._lost() from None
                if not sent.kept:
                    raise
                self._drop_idle()
                replies = self._on(self.connect(), sent.data, sent.replies, deadline)
            except RemoteError as error:
                self.breaker.failure(error)
                raise
        return self._judged(replies)

    def _admit(self) -> None:
        if self._closed:
            raise RemoteUnavailableError("this cache is closed.")
        if self._backing is not None:
            self._backing.check()  # first: the breaker's probe is for who then asks
        if not self.breaker.allows():
            cause = self.breaker.cause
            raise RemoteUnavailableError(f"the server has failed repeatedly, so the breaker is open; the last: {cause}")

    def _judged(self, replies: list[Any]) -> list[Any]:
        for reply in replies:
            if type(reply) is ErrorReply and str(reply).startswith(_UNSERVING):
                self.breaker.failure(f"the server refuses: {reply}")
                if str(reply).startswith(_ELSEWHERE):
                    self.moved()
                raise RemoteUnavailableError(f"the server refuses: {reply}")
        self.breaker.success()
        return replies

    def _sends(self, link: Connection, data: bytes) -> bool:
        try:
            link.send(data)
            return True
        except TimeoutError as error:
            link.close()
            let_out(error)
            raise self._translate(error, self.config.timeout) from error
        except OSError as error:
            link.close()
            let_out(error)
            return False

    def _attempt(self, data: bytes, count: int, within: float, once: bool) -> list[Any]:
        link = self._kept()
        if link is None:
            return self._on(self.connect(), data, count, time.monotonic() + within)
        began = time.monotonic()
        try:
            return self._on(link, data, count, began + within)
        except RemoteTimeoutError:
            raise
        except RemoteUnavailableError:
            if once:
                raise self._lost() from None
            self._drop_idle()  # the server went away while they lay here: the others are dead as well
            spent = time.monotonic() - began
            return self._on(self.connect(), data, count, time.monotonic() + within - spent)

    def _lost(self) -> LostReplyError:
        self._drop_idle()
        return LostReplyError("the connection broke before the reply.")

    def _kept(self) -> Connection | None:
        """A connection that is kept, unless it is of an earlier generation."""
        while True:
            try:
                link = self._idle.pop()
            except IndexError:
                return None
            if link.generation == self.generation:
                return link
            link.close()

    def _on(self, link: Connection, data: bytes, count: int, deadline: float) -> list[Any]:
        try:
            replies = link.exchange(data, count, deadline)
            self._keep(link)
            return replies
        except BaseException as error:
            link.close()
            with contextlib.suppress(ValueError):
                self._idle.remove(link)
            raise self._translate(error, self.config.timeout) from error

    def _keep(self, link: Connection) -> None:
        if link.generation == self.generation and len(self._idle) < MAX_IDLE and not self._closed:
            self._idle.append(link)
        else:
            link.close()

    def _translate(self, error: BaseException, within: float) -> BaseException:
        if not isinstance(error, (RemoteError, *TROUBLE)):
            return error  # from outside: a caller's time limit is not our trouble
        let_out(error)
        hint = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
        if isinstance(error, RemoteError):
            return type(error)(f"{str(error).rstrip('.')}.{hint}") if hint else error
        if isinstance(error, TimeoutError):
            return RemoteTimeoutError(f"Redis did not answer within {within:g} seconds.{hint}")
        # The system's and OpenSSL's text is ours; a parser's would quote what the server has said.
        text = f": {clean(str(error))}" if isinstance(error, OSError) else ""
        return RemoteUnavailableError(f"Redis cannot be used: {type(error).__name__}{text}{hint and '.' + hint}")

    def _hint(self, error: BaseException, link: Connection | None) -> None:
        """What is likely wrong where a server goes away, or says what is no reply, at the first plain words."""
        if link is None or self._where.tls or not self._where.hosts:
            return
        said = str(error)
        closed = isinstance(error, RemoteUnavailableError) and ("closed the connection" in said or "Protocol" in said)
        if closed or isinstance(error, ConnectionError):
            error.add_note("Does this port want TLS? Then the url begins with 'rediss'.")

    def connect(self, *, protocol: int = 2, name: str = "aikcache", timeout: float | None = None) -> Connection:
        """A new connection to the server as it is now, logged in; for a use other than `exchange` the caller closes it.

        Blocks for `connect_timeout` at most, whatever takes the time: names, Sentinels, TLS, the first words.
        """
        link: Connection | None = None
        try:
            if self._embedded:
                self._attach()
            deadline = time.monotonic() + self._within
            login = self._credentials.login(deadline)
            generation = self.generation  # before the address is found: what moves from here on makes it stale
            largest = self.config.max_value_bytes + MAX_EXTRA
            wire, primary = self._dial(deadline)
            link = self._dialer.connection(wire, timeout or self.config.timeout, generation, largest=largest)
            link.primary, began = primary, time.monotonic()
            self._connecting.add(link)
            who = [("INFO", "server", "replication")]
            told, replies = link.handshake(login, protocol, name, deadline, more=who)
            self._identify(link, told, replies[0], began, deadline)
        except BaseException as error:
            if link is not None:
                link.close()
            self._doubt()
            if isinstance(error, ConfigError):
                raise
            self._hint(error, link)
            raise self._translate(error, self._within) from error
        finally:
            self._connecting.discard(link)
        return link

    def _dial(self, deadline: float) -> tuple[Wire, Address | None]:
        if self._server is not None:
            wire = self._dialer.dial_unix(self._server.socket, deadline)
            self._server.check_peer(wire._sock)
            return wire, None
        if self._where.path:
            return self._dialer.dial_unix(self._where.path, deadline), None
        host, port = self._where.hosts[0]
        if self.sentinels is not None:
            now = time.monotonic()
            host, port = self.sentinels.primary(now + (deadline - now) * SHARE)
        return self._dialer.dial(host, port, deadline), (host, port)

    def _identify(self, link: Connection, told: dict[str, Any], info: Any, began: float, deadline: float) -> None:
        """Who is this, and who stands behind it? A server not met before is greeted before anything is asked of it."""
        if self._backing is not None:
            self._check_role(told)
            if isinstance(info, bytes):
                self._backing.followed(link, info, began)
            self._backing.seek(link, deadline)
        self._informed = isinstance(info, bytes)
        if not isinstance(info, bytes):  # refused by an ACL: its restarts and failovers then go unnoticed
            return
        facts = dict(line.split(":", 1) for line in info.decode("utf-8", "replace").splitlines() if ":" in line)
        # The replication id changes at each promotion, the run's at each start.
        run_id, uptime = f"{facts.get('run_id', '')}-{facts.get('master_replid', '')}", facts.get("uptime_in_seconds")
        run = ServerIdentity(
            run_id[:_LONGEST_ID], int(uptime) if uptime and uptime.isdecimal() and len(uptime) < 20 else 0
        )
        if run.id == self.run_id and self._greeted == self._to_greet:
            return
        if self._meeting._is_owned():  # type: ignore[attr-defined]
            raise TimeoutError
        try:  # one thread greets; the others come when it is done
            if not self._meeting.acquire(timeout=max(deadline - time.monotonic(), 0)):
                raise TimeoutError
            due = self._to_greet
            if run.id == self.run_id and self._greeted == due:
                return
            known = self.run_id is not None
            if known:
                self.begin_generation()  # before the greeting: from then on nothing is said to the one before
            if self.on_new_server is not None:
                self.on_new_server(run, known, lambda commands: _said(link.ask(commands, deadline)))
            if known and self.on_move is not None:
                self.on_move(False)
            self.run_id, self._greeted = run.id, due  # last: who was interrupted before begins again
        finally:
            try:  # noqa: SIM105  # one call into C, and nothing before it: else the lock might stay taken
                self._meeting.release()
            except RuntimeError:  # it was not taken
                pass

    @property
    def heartbeat(self) -> Command:
        """What the channel asks each second.

        Behind Sentinel that is the role: a primary that becomes a replica goes on answering reads, for ever; and who
        follows it, where an ACL lets us ask.
        """
        self._credentials.watch()
        return ("PING",) if self.sentinels is None else ("INFO", "replication") if self._informed else ("HELLO",)

    def check_heartbeat(self, told: Any, link: Connection, age: float) -> None:
        """What the answer on `link` to what was asked `age` seconds ago is to mean. May raise `RemoteError`."""
        try:
            if isinstance(told, bytes) and self._backing is not None:
                self._check_role({"role": told.partition(b"role:")[2].split(b"\r", 1)[0]})
                self._backing.followed(link, told, time.monotonic() - age)
            else:
                self._check_role({name.decode(): value for name, value in told.items()})
        except RemoteError:
            self.moved()
            raise

    def age(self, link: Connection | None = None) -> float:
        """Seconds since a majority is known to have stood behind the server; -inf where there is none that must.

        Of the one at the end of `link`, if that is given, else of the one that is used.
        """
        return -inf if self._backing is None else self._backing.age(link)

    def _check_role(self, told: dict[str, Any]) -> None:
        role = told.get("role", b"")
        if role != b"master":
            what = repr(role.decode()) if role in (b"slave", b"replica", b"sentinel") else "something else"
            raise RemoteUnavailableError(f"the server is not the primary, but says it is {what}")

    def _doubt(self) -> None:
        """After a failure to connect: whatever was believed about the way there may be wrong."""
        self._dialer.reset_route()
        if self.sentinels is not None:
            self.sentinels.reset_route()
        self._attached = False  # an embedded server that has died is started anew

    def _attach(self) -> None:
        if self._attached:
            return
        from aikcache._embedded import attach as _embedded

        server = _embedded.attach(hidden(self.config.url or "").reveal().removeprefix("embedded://") or None)
        gone, self._server = self._server, server  # the channel's thread may be here as well: one is held
        self._attached = True
        if gone is not None:
            gone.close()
        if self._closed:
            server.close()

    def moved(self, *, switched: bool = False, greet: bool = False) -> None:
        """The server may be another now: connections made before are not used again. `switched`: it is known to be.

        `greet`: even if it is the same, it may have missed something, and is told that before it is asked again.
        """
        now = time.monotonic()
        self._to_greet += greet
        if not switched and now - self._moved_at < MOVE_REST:
            return
        self._moved_at = now
        self.begin_generation()
        if switched:
            self.breaker.reconsider()
        if self.on_move is not None:
            self.on_move(switched)

    def parts(self) -> Iterator[Pool]:
        """The servers that hold a part of the data each: this one holds all."""
        yield self

    def servers(self) -> Sequence[Pool]:
        """The servers that are known, without a question."""
        return (self,)

    @property
    def informed(self) -> bool:
        """Whether the server told of itself (`INFO`) when it was last connected to."""
        return self._informed

    def tags(self) -> Sequence[str]:
        """What a name begins with to be on each server: here there is one."""
        return ("",)

    def tags_beside(self, names: Sequence[str]) -> Sequence[str]:
        """What a name begins with to be on each server that has one of `names`."""
        return ("",)

    def drop_kept(self) -> None:
        """Connections that are kept may be out of step: they are not used again."""
        self._drop_idle()

    def begin_generation(self) -> None:
        """Connections made before are not used again, and the next to be made asks who is there."""
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
        self._meeting = threading.RLock()
        if self._backing is not None:
            self._backing.forget()
        limit, reset = self.config.breaker_failures, self.config.breaker_reset
        self.breaker = Breaker(limit, reset, time.monotonic, self._on_breaker)
        self._dialer.forget()
        self._credentials.forget()
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
        if isinstance(reply, ErrorReply) and not reply.way:
            raise RemoteUnavailableError(f"the server refuses: {reply}")
    return replies
