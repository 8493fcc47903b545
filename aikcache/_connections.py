"""Connections to one server, and the one place where their trouble becomes a `RemoteError`.

redis-py connects (TLS, authentication, database, unix sockets); from then on its socket is driven directly, with a
hiredis reader of our own: one send for all commands of an exchange, one deadline for the exchange as a whole, and
nothing else on the way (half the cost of `Redis.get`).

An exchange either gives a reply for every command or raises `RemoteError`; after any trouble its connection is closed,
for what is still under way on it belongs to nobody. A kept connection that turns out dead before the first reply is
tried once more on a new one: all commands sent here may be sent twice.

Threads: idle connections lie in a deque, whose ends are safe to use from all threads; a connection in use is one
thread's. After `fork` the child starts without any.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _embedded
from ._breaker import Breaker
from ._config import CacheConfig
from .errors import ConfigError, RemoteError, RemoteTimeoutError, RemoteUnavailableError

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

Command = tuple[str | bytes | int, ...]
MAX_IDLE = 64
"""Connections kept when nobody uses them; more threads than this at once connect anew."""
_MORE = object()
_BUFFER = 65536
_UNSERVING = ("LOADING", "MASTERDOWN", "NOAUTH", "WRONGPASS", "NOPERM", "BUSY", "CLUSTERDOWN", "READONLY", "ERR max")


class Refusal(Exception):
    """An error reply, as the reader hands it over; the text is the server's own and holds no value."""


class Run(NamedTuple):
    """One run of a server, from its start to its end; `uptime` in seconds."""

    id: str
    uptime: int


class Link:
    """One connection: redis-py's, its socket, and a reader."""

    __slots__ = ("_buffer", "_connection", "reader", "sock", "timeout")

    def __init__(self, connection: AbstractConnection, timeout: float) -> None:
        import hiredis

        connection.connect()  # type: ignore[no-untyped-call]
        self._connection = connection
        self.sock: socket.socket = connection._sock  # type: ignore[assignment]
        self.timeout = timeout
        self.reader = hiredis.Reader(
            protocolError=RemoteUnavailableError,
            replyError=Refusal,
            notEnoughData=_MORE,
        )
        self._buffer = bytearray(_BUFFER)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_command(self, *command: str | bytes | int) -> None:
        import hiredis

        try:
            self.sock.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]
        except OSError as error:
            raise RemoteUnavailableError(f"the connection broke: {type(error).__name__}") from error

    def poll(self, seconds: float) -> list[Any]:
        """What has arrived, waiting for it `seconds` at most; for a connection that is not asked but listens."""
        messages: list[Any] = []
        try:
            while (message := self.reader.gets()) is not _MORE:
                messages.append(message)
            if messages:
                return messages
            self.sock.settimeout(seconds)
            size = self.sock.recv_into(self._buffer)
        except TimeoutError:
            return []
        except OSError as error:
            raise RemoteUnavailableError(f"the connection broke: {type(error).__name__}") from error
        if not size:
            raise RemoteUnavailableError("the server closed the connection")
        self.reader.feed(self._buffer, 0, size)  # type: ignore[arg-type]
        while (message := self.reader.gets()) is not _MORE:
            messages.append(message)
        return messages

    def interrupt(self) -> None:
        """Make a `poll` in another thread return."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def ask(self, commands: list[Command]) -> list[Any]:
        """Replies to commands, within the connection's own timeout; for the first words on a new connection."""
        import hiredis

        self.send(b"".join(map(hiredis.pack_command, commands)))  # type: ignore[arg-type]
        return self.receive(len(commands), time.monotonic() + self.timeout)

    def receive(self, count: int, deadline: float) -> list[Any]:
        """`count` replies, all before `deadline` (monotonic seconds)."""
        replies: list[Any] = []
        gets, sock, buffer = self.reader.gets, self.sock, self._buffer
        late = shortened = False
        while len(replies) < count:
            reply = gets()
            if reply is not _MORE:
                replies.append(reply)
                continue
            if late:  # the socket's own timeout is per receive: from the second on it is what is left
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                sock.settimeout(left)
                shortened = True
            size = sock.recv_into(buffer)
            if not size:
                raise ConnectionResetError("closed by the server")
            self.reader.feed(buffer, 0, size)  # type: ignore[arg-type]
            late = True
        if shortened:
            sock.settimeout(self.timeout)
        return replies

    def close(self) -> None:
        self._connection.disconnect()  # type: ignore[no-untyped-call]


class Connections:
    """The connections of one cache to one server, behind one breaker."""

    def __init__(self, config: CacheConfig, url: str | None = None) -> None:
        self.config = config
        self.breaker = Breaker(config.breaker_failures, config.breaker_reset, time.monotonic)
        self._url = url or config.url or ""
        self._idle: deque[Link] = deque()
        self._server: _embedded.Attachment | None = None
        self._factory: Any = None
        self._closed = False
        self.run_id: str | None = None
        self.greet: Callable[[Run, bool, Callable[[list[Command]], list[Any]]], None] | None = None

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send all commands at once and return their replies, a `Refusal` where the server answered with an error.

        Blocks for `timeout` seconds at most, and `connect_timeout` more when it has to connect. Raises
        `RemoteTimeoutError` or `RemoteUnavailableError`; whether anything was done is then not known.
        """
        import hiredis

        if self._closed:
            raise RemoteUnavailableError("this cache is closed.")
        if not self.breaker.allows():
            raise RemoteUnavailableError("the server has failed repeatedly; the breaker is open.")
        data = b"".join(map(hiredis.pack_command, commands))  # type: ignore[arg-type]
        try:
            replies = self._attempt(data, len(commands))
        except RemoteError:
            self.breaker.failure()
            raise
        for reply in replies:
            if type(reply) is Refusal and str(reply).startswith(_UNSERVING):
                self.breaker.failure()
                raise RemoteUnavailableError(f"the server refuses: {reply}")
        self.breaker.success()
        return replies

    def _attempt(self, data: bytes, count: int) -> list[Any]:
        try:
            link = self._idle.pop()
        except IndexError:
            return self._on(self.connect(), data, count)
        try:
            return self._on(link, data, count)
        except RemoteTimeoutError:
            raise
        except RemoteUnavailableError:
            self._drop_idle()  # the server went away while they lay here: the others are dead as well
            return self._on(self.connect(), data, count)

    def _on(self, link: Link, data: bytes, count: int) -> list[Any]:
        deadline = time.monotonic() + self.config.timeout
        try:
            link.send(data)
            replies = link.receive(count, deadline)
        except BaseException as error:
            link.close()
            raise self._translate(error) from error
        if len(self._idle) < MAX_IDLE and not self._closed:
            self._idle.append(link)
        else:
            link.close()
        return replies

    def _translate(self, error: BaseException) -> BaseException:
        if isinstance(error, RemoteError) or not isinstance(error, Exception):
            return error
        from redis.exceptions import TimeoutError as RedisTimeoutError

        if isinstance(error, (TimeoutError, RedisTimeoutError)):
            return RemoteTimeoutError(f"Redis did not answer within {self.config.timeout:g} seconds.")
        return RemoteUnavailableError(f"Redis cannot be used: {type(error).__name__}: {error}")

    def connect(self, *, protocol: int = 2, name: str = "aikcache", timeout: float | None = None) -> Link:
        """A new connection, authenticated; for a use other than `exchange` the caller closes it."""
        try:
            if self._factory is None:
                self._factory = self._make_factory()
            timeout = timeout or self.config.timeout
            link = Link(self._factory(protocol=protocol, client_name=name, socket_timeout=timeout), timeout)
        except ConfigError:
            raise
        except Exception as error:  # redis-py's, the resolver's, the embedded server's: all mean "no server"
            self._factory = None  # an embedded server that has died is started anew
            raise self._translate(error) from error
        try:
            self._meet(link)
        except BaseException as error:
            link.close()
            raise self._translate(error) from error
        return link

    def _meet(self, link: Link) -> None:
        """Who is this? A server not met before is greeted before anything is asked of it."""
        (reply,) = link.ask([("INFO", "server")])
        if not isinstance(reply, bytes):  # refused by an ACL: its restarts then go unnoticed
            return
        told = dict(line.split(":", 1) for line in reply.decode("utf-8", "replace").splitlines() if ":" in line)
        run = Run(told.get("run_id", ""), int(told.get("uptime_in_seconds", "0")))
        if run.id != self.run_id:
            if self.greet is not None:
                self.greet(run, self.run_id is not None, link.ask)
            self.run_id = run.id

    def _make_factory(self) -> Any:
        from redis.connection import Connection, parse_url

        url = self._url
        if url.startswith("embedded://"):
            server = _embedded.attach(url.removeprefix("embedded://") or None)
            gone, self._server = self._server, server  # the channel's thread may be here as well: one is held
            if gone is not None:
                gone.close()
            if self._closed:
                server.close()
            url = f"unix://{self._server.socket}"
        options: dict[str, Any] = dict(parse_url(url))  # type: ignore[no-untyped-call]
        kind = options.pop("connection_class", Connection)
        options.setdefault("socket_connect_timeout", self.config.connect_timeout)

        def make(**extra: Any) -> AbstractConnection:
            connection: AbstractConnection = kind(**{**options, **extra})
            return connection

        return make

    def _drop_idle(self) -> None:
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    def forget(self) -> None:
        """After a fork, in the child: the sockets are the parent's."""
        self._idle = deque()
        self.breaker = Breaker(self.config.breaker_failures, self.config.breaker_reset, time.monotonic)

    def close(self) -> None:
        self._closed = True
        self._drop_idle()
        if self._server is not None:
            self._server.close()
