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
import time
from collections import deque
from collections.abc import Iterator, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from aikcache._concurrency.circuit_breaker import Breaker
from aikcache._concurrency.outside import let_out
from aikcache._redis.backing import BEAT, Backing
from aikcache._redis.credentials import Credentials
from aikcache._redis.failures import ELSEWHERE, UNSERVING, LostReplyError, hint_at_tls, translate
from aikcache._redis.identity import Identity
from aikcache._redis.origin import origin
from aikcache._redis.reply import Command, ErrorReply, pack
from aikcache._redis.route import Route
from aikcache._redis.sentinel import Sentinels
from aikcache._redis.transport import TransportEvents
from aikcache._settings import url as _url
from aikcache._settings.config import CacheConfig
from aikcache._settings.limits import MAX_EXTRA
from aikcache.errors import ConfigError, RemoteError, RemoteTimeoutError, RemoteUnavailableError

if TYPE_CHECKING:
    from aikcache._redis.connection import Connection

MAX_IDLE = 64
"""Connections kept when nobody uses them; more threads than this at once connect anew."""
MOVE_REST = 0.1
"""Seconds between two generations that refusals begin: one failing server must not make a storm of connections."""


class Sent(NamedTuple):
    """Commands under way: `finish` gives their replies. A caller that does not call it must close the connection."""

    link: Connection
    data: bytes
    replies: int
    kept: bool
    once: bool


class Pool:
    """The connections of one cache to one server, behind one breaker."""

    ordered = True

    def __init__(
        self, config: CacheConfig, where: _url.Where | None = None, events: TransportEvents | None = None
    ) -> None:
        """`where`: one server of several, instead of where the configuration's URL leads."""
        self.config = config
        self.events = events or TransportEvents()
        self.breaker = Breaker(config.breaker_failures, config.breaker_reset, time.monotonic, self.events.breaker)
        self._where = where or origin(config)
        self._within = _url.number(self._where.options, "socket_connect_timeout") or config.connect_timeout
        self._credentials = Credentials(self._where, self.moved)
        self.sentinels: Sentinels | None = None
        self._backing: Backing | None = None
        if self._where.service:
            beat = min(BEAT, config.max_staleness / 4)
            self.sentinels = Sentinels(
                self._where, self._within, lambda address: self.moved(switched=True), beat, self.events.report
            )
            self._backing = Backing(self.sentinels, config.max_staleness)
        self._idle: deque[Connection] = deque()
        self._connecting: set[Connection] = set()
        self._route = Route(config, self._where, self.sentinels)
        self._identity = Identity(self, self.events, self._backing)
        self.check_heartbeat = self._identity.check_heartbeat
        self._closed = False
        self._moved_at = 0.0
        self.generation = 0

    def exchange(self, commands: Sequence[Command], within: float | None = None, *, once: bool = False) -> list[Any]:
        """Send all commands at once and return their replies, a `ErrorReply` where the server answered with an error.

        Blocks for `within` seconds at most (`timeout` by default), and `connect_timeout` more when it has to connect.
        Raises `RemoteTimeoutError` or `RemoteUnavailableError`; whether anything was done is then not known.
        `once`: and raises `LostReplyError` where it would otherwise send the same again.
        """
        return self.send(pack(commands), len(commands), within, once=once)

    def send(self, data: bytes, count: int, within: float | None = None, *, once: bool = False) -> list[Any]:
        """The same for `count` commands that are packed already."""
        self._admit()
        try:
            replies = self._attempt(data, count, within or self.config.timeout, once=once)
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
                raise translate(error, self.config.timeout) from error
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
                self.drop_kept()
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
            if type(reply) is ErrorReply and str(reply).startswith(UNSERVING):
                self.breaker.failure(f"the server refuses: {reply}")
                if str(reply).startswith(ELSEWHERE):
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
            raise translate(error, self.config.timeout) from error
        except OSError as error:
            link.close()
            let_out(error)
            return False

    def _attempt(self, data: bytes, count: int, within: float, *, once: bool) -> list[Any]:
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
            self.drop_kept()  # the server went away while they lay here: the others are dead as well
            spent = time.monotonic() - began
            return self._on(self.connect(), data, count, time.monotonic() + within - spent)

    def _lost(self) -> LostReplyError:
        self.drop_kept()
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
            raise translate(error, self.config.timeout) from error

    def _keep(self, link: Connection) -> None:
        if link.generation == self.generation and len(self._idle) < MAX_IDLE and not self._closed:
            self._idle.append(link)
        else:
            link.close()

    def connect(self, *, protocol: int = 2, name: str = "aikcache", timeout: float | None = None) -> Connection:
        """A new connection to the server as it is now, logged in; for a use other than `exchange` the caller closes it.

        Blocks for `connect_timeout` at most, whatever takes the time: names, Sentinels, TLS, the first words.
        """
        link: Connection | None = None
        try:
            self._route.attach()
            deadline = time.monotonic() + self._within
            login = self._credentials.login(deadline)
            generation = self.generation  # before the address is found: what moves from here on makes it stale
            largest = self.config.max_value_bytes + MAX_EXTRA
            link = self._route.connection(deadline, timeout or self.config.timeout, generation, largest=largest)
            asked_at = time.monotonic()
            self._connecting.add(link)
            who = [("INFO", "server", "replication")]
            told, replies = link.handshake(login, protocol, name, deadline, more=who)
            self._identity.check(link, told, replies[0], asked_at, deadline)
        except BaseException as error:
            if link is not None:
                link.close()
                if self._where.hosts and not self._where.tls:
                    hint_at_tls(error)
            self._route.reset()
            if isinstance(error, ConfigError):
                raise
            raise translate(error, self._within) from error
        finally:
            self._connecting.discard(link)
        return link

    @property
    def heartbeat(self) -> Command:
        """What the channel asks each second."""
        self._credentials.watch()
        return self._identity.heartbeat

    def age(self, link: Connection | None = None) -> float:
        """Seconds since a majority is known to have stood behind the server; -inf where there is none that must.

        Of the one at the end of `link`, if that is given, else of the one that is used.
        """
        return -inf if self._backing is None else self._backing.age(link)

    def moved(self, *, switched: bool = False, greet: bool = False) -> None:
        """The server may be another now: connections made before are not used again. `switched`: it is known to be.

        `greet`: even if it is the same, it may have missed something, and is told that before it is asked again.
        """
        now = time.monotonic()
        if greet:
            self._identity.greet_again()
        if not switched and now - self._moved_at < MOVE_REST:
            return
        self._moved_at = now
        self.begin_generation()
        if switched:
            self.breaker.reconsider()
        self.events.moved(at_once=switched)

    def parts(self) -> Iterator[Pool]:
        yield self

    def servers(self) -> Sequence[Pool]:
        return (self,)

    @property
    def informed(self) -> bool:
        return self._identity.informed

    @property
    def run_id(self) -> str | None:
        return self._identity.run_id

    def tags(self) -> Sequence[str]:
        return ("",)

    def tags_beside(self, names: Sequence[str]) -> Sequence[str]:
        return ("",)

    def begin_generation(self) -> None:
        """Connections made before are not used again, and the next to be made asks who is there."""
        self.generation += 1
        self.drop_kept()

    def drop_kept(self) -> None:
        """Connections that are kept may be out of step, or dead: they are not used again."""
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    def forget(self) -> None:
        """After a fork, in the child: the sockets are the parent's, and only our copies of them are closed."""
        self.drop_kept()
        self._connecting = set()
        self._identity.forget()
        limit, reset = self.config.breaker_failures, self.config.breaker_reset
        self.breaker = Breaker(limit, reset, time.monotonic, self.events.breaker)
        self._route.forget()
        self._credentials.forget()
        if self.sentinels is not None:
            self.sentinels.forget()

    def close(self) -> None:
        self._closed = True
        self.drop_kept()
        for link in list(self._connecting):  # nobody need wait for its handshake: another may have its place
            link.interrupt()
        if self.sentinels is not None:
            self.sentinels.close()
        self._route.close()
