"""Connections to one server. All their failures become a `RemoteError` here.

A new connection logs in, selects the database and checks the server in one round trip, before `connect_timeout` is
over. After that the socket is driven directly: one send for all commands of an exchange, one deadline for the exchange
as a whole (half the cost of `Redis.get`).

An exchange returns a reply for every command or raises `RemoteError`. After any failure its connection is closed,
because a late reply on it would be taken for another command's. If an idle connection turns out to be dead before the
first reply, the exchange is tried once more on a new one. So any command may be sent twice, unless it is sent `once`.
Every connection carries the generation in which its address was found, and is not used after it. A new one begins when
Sentinel reports a switch, when an old primary refuses, or when a connection finds another run or replication id.
Threads: idle connections are in a deque, whose ends any thread may use; one thread at a time uses a connection.
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
from aikcache._redis.failures import ELSEWHERE, UNSERVING, LostReplyError, hint_at_cause, translate, unsent
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
"""Idle connections that are kept; if more threads than this use Redis at once, the others connect each time."""
FAILOVER_REST = 0.1
"""Seconds between two generations that error replies begin: one failing server must not cause many new connections."""


class Sent(NamedTuple):
    """Commands that were sent. `finish` returns their replies; a caller that does not call it must close the
    connection.
    """

    connection: Connection
    data: bytes
    replies: int
    reused: bool
    once: bool


class Pool:
    """The connections of one cache to one server, behind one circuit breaker."""

    ordered = True

    def __init__(
        self, config: CacheConfig, where: _url.Where | None = None, events: TransportEvents | None = None
    ) -> None:
        """`where`: one server of several, instead of the configuration's URL."""
        self.config = config
        self.events = events or TransportEvents()
        self.breaker = Breaker(config.breaker_failures, config.breaker_reset, time.monotonic, self.events.breaker)
        self._where = where or origin(config)
        self._within = _url.number(self._where.options, "socket_connect_timeout") or config.connect_timeout
        self._credentials = Credentials(self._where, self.on_failover)
        self.sentinels: Sentinels | None = None
        self._backing: Backing | None = None
        if self._where.service:
            beat = min(BEAT, config.max_staleness / 4)
            self.sentinels = Sentinels(
                self._where, self._within, lambda address: self.on_failover(switched=True), beat, self.events.report
            )
            self._backing = Backing(self.sentinels, config.max_staleness)
        self._idle: deque[Connection] = deque()
        self._connecting: set[Connection] = set()
        self._route = Route(config, self._where, self.sentinels)
        self._identity = Identity(self, self.events, self._backing)
        self.check_heartbeat = self._identity.check_heartbeat  # for the channel, which exchanges nothing
        self.watch_credentials = self._credentials.watch  # at each heartbeat
        self._closed = False
        self._failover_at = 0.0
        self.generation = 0

    def exchange(self, commands: Sequence[Command], within: float | None = None, *, once: bool = False) -> list[Any]:
        """Send all commands at once and return their replies, an `ErrorReply` where the server answered with an error.

        Blocks for at most `within` seconds (`timeout` by default), plus `connect_timeout` if it has to connect.
        Raises `RemoteTimeoutError` or `RemoteUnavailableError`; the commands may or may not have been carried out.
        `once`: raises `LostReplyError` where it would otherwise send the commands again.
        """
        return self.send(pack(commands), len(commands), within, once=once)

    def send(self, data: bytes, count: int, within: float | None = None, *, once: bool = False) -> list[Any]:
        """As `exchange`, for `count` commands that are packed already."""
        self._admit()
        try:
            replies = self._attempt(data, count, within or self.config.timeout, once=once)
        except RemoteError as error:  # nothing else is a failure of the server: a caller's time limit passes through
            self.breaker.failure(error)
            raise
        return self._checked(replies)

    def begin(self, commands: Sequence[Command], *, once: bool = False) -> Sent:
        """Send the commands of an exchange. For callers that send to several servers before they receive."""
        self._admit()
        data = pack(commands)
        try:
            connection = self._take_idle()
            if connection is not None and self._sends(connection, data):
                return Sent(connection, data, len(commands), True, once)
            if connection is not None and once:
                raise self._lost()  # some bytes may have arrived, so the server may have carried it out
            connection = self.connect()
            if not self._sends(connection, data):
                raise RemoteUnavailableError("the connection broke before anything was sent.")
            return Sent(connection, data, len(commands), False, once)
        except RemoteError as error:
            self.breaker.failure(error)
            raise

    def finish(self, sent: Sent, deadline: float) -> list[Any]:
        """Receive the replies, before `deadline` (monotonic seconds)."""
        try:
            try:
                replies = sent.connection.receive(sent.replies, deadline, check_deadline=True)
            except BaseException as error:
                sent.connection.close()
                raise translate(error, self.config.timeout) from error
            self._put_back(sent.connection)  # whole: `receive` took as many replies as were sent
        except RemoteTimeoutError as error:  # not tried again: the time is over, and a slow server is not asked twice
            self.breaker.failure(error)
            raise
        except RemoteError:
            try:
                if sent.once:
                    raise self._lost() from None
                if not sent.reused:  # a new connection was just checked, so this is the server's failure
                    raise
                self.drop_idle()  # as dead as this one: each would cost another call a try
                replies = self._on(self.connect(), sent.data, sent.replies, deadline)
            except RemoteError as error:
                self.breaker.failure(error)
                raise
        return self._checked(replies)

    def _admit(self) -> None:
        if self._closed:
            raise unsent("this cache is closed.")
        if self._backing is not None:
            self._backing.check()  # first, because the breaker's probe must be followed by a question
        if self.breaker.failures and not self.breaker.allows():
            raise unsent(self.breaker.refusal)

    def refusal(self) -> RemoteUnavailableError | None:
        """What an exchange would raise now, because the breaker is open."""
        return unsent(self.breaker.refusal) if self.breaker.rests else None

    def _checked(self, replies: list[Any]) -> list[Any]:
        for reply in replies:
            if type(reply) is ErrorReply and str(reply).startswith(UNSERVING):  # others concern their command alone
                self.breaker.failure(f"the server refuses: {reply}")
                if str(reply).startswith(ELSEWHERE):
                    self.on_failover()
                raise RemoteUnavailableError(f"the server refuses: {reply}")
        if self.breaker.failures:
            self.breaker.success()
        return replies

    def _sends(self, connection: Connection, data: bytes) -> bool:
        try:
            connection.send(data)
            return True
        except TimeoutError as error:
            connection.close()
            let_out(error)
            raise translate(error, self.config.timeout) from error
        except OSError as error:
            connection.close()
            let_out(error)
            return False

    def _attempt(self, data: bytes, count: int, within: float, *, once: bool) -> list[Any]:
        connection = self._take_idle()
        if connection is None:
            return self._on(self.connect(), data, count, time.monotonic() + within)  # connecting has its own bound
        started_at = time.monotonic()
        try:
            return self._on(connection, data, count, started_at + within)
        except RemoteTimeoutError:
            raise  # the server may be at it still: sent again, a slow command would run twice at once
        except RemoteUnavailableError:
            if once:
                raise self._lost() from None
            self.drop_idle()  # the server went away meanwhile: the other idle ones are dead too
            spent = time.monotonic() - started_at
            return self._on(self.connect(), data, count, time.monotonic() + within - spent)  # both together

    def _lost(self) -> LostReplyError:
        self.drop_idle()
        return LostReplyError("the connection broke before the reply.")

    def _take_idle(self) -> Connection | None:
        """An idle connection of this generation, or None."""
        while True:
            try:
                connection = self._idle.pop()  # the last one used: the likeliest to be alive
            except IndexError:
                return None
            if connection.generation == self.generation:
                return connection
            connection.close()

    def _on(self, connection: Connection, data: bytes, count: int, deadline: float) -> list[Any]:
        try:
            replies = connection.exchange(data, count, deadline)
            self._put_back(connection)
            return replies
        except BaseException as error:  # also a signal handler's: its reply is still to come
            connection.close()
            with contextlib.suppress(ValueError):
                self._idle.remove(connection)  # interrupted after it was put back
            raise translate(error, self.config.timeout) from error

    def _put_back(self, connection: Connection) -> None:
        if connection.generation == self.generation and len(self._idle) < MAX_IDLE and not self._closed:
            self._idle.append(connection)
        else:
            connection.close()

    def connect(self, *, protocol: int = 2, name: str = "aikcache", timeout: float | None = None) -> Connection:
        """A new, logged-in connection to the current server. For a use other than `exchange` the caller closes it.

        Blocks for at most `connect_timeout`: name look-up, Sentinels, TLS and handshake together.
        """
        connection: Connection | None = None
        try:
            self._route.attach()  # before the deadline begins: a server's start takes longer
            deadline = time.monotonic() + self._within
            login = self._credentials.login(deadline)
            generation = self.generation  # before the address is found: a failover from here on makes it stale
            largest = self.config.max_value_bytes + MAX_EXTRA
            connection = self._route.connection(deadline, timeout or self.config.timeout, generation, largest=largest)
            asked_at = time.monotonic()
            self._connecting.add(connection)  # so that `close` can interrupt the handshake
            info = [("INFO", "server", "replication")]
            hello, replies = connection.handshake(login, protocol, name, deadline, more=info)
            self._identity.check(connection, hello, replies[0], asked_at, deadline)
        except BaseException as error:
            if connection is not None:
                connection.close()
                hint_at_cause(error, plain=bool(self._where.hosts) and not self._where.tls)
            self._route.reset()
            if isinstance(error, ConfigError):  # of an embedded server; a call with Redis away must not raise it either
                raise RemoteUnavailableError(str(error)) from error
            raise translate(error, self._within) from error
        finally:
            self._connecting.discard(connection)
        return connection

    @property
    def heartbeat(self) -> Command:
        """The command that the channel sends each second."""
        self.watch_credentials()
        return self._identity.heartbeat

    def age(self, connection: Connection | None = None) -> float:
        """Seconds since the last evidence of a majority behind the server; -inf where none is needed.

        Of the server of `connection` if given, else of the one in use.
        """
        return -inf if self._backing is None else self._backing.age(connection)

    def on_failover(self, *, switched: bool = False, announce: bool = False) -> None:
        """The server may have changed: earlier connections are not used again. `switched`: it is known to have changed.

        `announce`: announce the server again even if it is the same one, because it may have missed invalidations.
        """
        now = time.monotonic()
        if announce:
            self._identity.announce_again()
        if not switched and now - self._failover_at < FAILOVER_REST:  # what a Sentinel says is never put off
            return
        self._failover_at = now
        self.begin_generation()
        if switched:
            self.breaker.reconsider()
        self.events.on_failover(at_once=switched)

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

    def hash_tags(self) -> Sequence[str]:
        return ("",)

    def hash_tags_of(self, names: Sequence[str]) -> Sequence[str]:
        return ("",)

    def begin_generation(self) -> None:
        """Stop using earlier connections. The next new connection identifies its server."""
        self.generation += 1
        self.drop_idle()

    def drop_idle(self) -> None:
        """Close idle connections, which may be out of step or dead."""
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    def forget(self) -> None:
        """Reset after a fork, in the child. The sockets are the parent's: only the child's copies are closed."""
        self.drop_idle()
        self._connecting = set()
        self._identity.forget()
        self.breaker = Breaker(self.breaker.limit, self.breaker.reset, time.monotonic, self.events.breaker)
        self._route.forget()
        self._credentials.forget()
        if self.sentinels is not None:
            self.sentinels.forget()

    def close(self) -> None:
        self._closed = True
        self.drop_idle()
        for connection in list(self._connecting):  # do not wait for their handshakes
            connection.interrupt()
        if self.sentinels is not None:
            self.sentinels.close()
        self._route.close()
