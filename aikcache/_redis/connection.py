"""One connection of redis-py's, driven directly, with deadlines that hold for an exchange as a whole.

Of redis-py it takes the connection and its parser; not its pools and clients, which have no deadline over an exchange
and no generations. Whoever connects imports it (`connector.py`); who does not, does not load redis-py.

redis-py's timeout is per receive, so a server that drips bytes could hold a call for ever. From the second receive on
the timeout is set to what is left (`_Parser`). redis-py connects again by itself when it sends on a closed connection,
past any deadline and to another server than the one that was checked; `Wire` never does. `send_packed_command` and
`read_response` are not used: they take two microseconds more for a GET, raise some error replies, and wrap the system's
errors, where an exception of a signal handler may be lost. The handshake is one round trip instead of five.

Threads: one thread at a time uses a connection; only `interrupt` is for others. Failure: `OSError` and `RemoteError`.
After either the connection must not be used again, because a late reply would be taken for another command's.
"""

from __future__ import annotations

import inspect
import socket
import sys
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, NoReturn

from hiredis import PushNotification
from redis import exceptions
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.connection import AbstractConnection, DefaultParser
from redis.event import EventDispatcher

from aikcache._concurrency.outside import let_out
from aikcache._redis.reply import Command, ErrorReply, TooLargeError, pack
from aikcache._settings.secret import Secret
from aikcache._settings.url import Own, Where
from aikcache.errors import RemoteError, RemoteUnavailableError

_BUFFER = 65536
_MUCH = 1 << 20
"""Bytes received in vain after which it is the reply that is too large, not the server that is silent."""
_LONG = 16384
"""Bytes that fit into any socket's buffer: sending no more than these does not block, with nothing else under way."""
_AGGREGATES = b"*~>"
_MOST = 1 << 22
"""Elements of the longest array that is received. Room for all that it says is made at its first bytes, and giving that
back takes a second for each hundred million."""
_LONGEST_PUSH = 1 << 23
"""Bytes of a message that nobody has asked for. The names that we write are short; all that are pushed at once fit."""
_NOTHING = object.__hash__
"""A finalizer in C, instead of redis-py's: an exception that a signal handler raises in one in Python is lost."""


class _Parser(DefaultParser):  # type: ignore[misc, valid-type]
    """redis-py's parser over hiredis, which asks the exchange's deadline before each receive but the first."""

    __del__ = _NOTHING

    def __init__(self, socket_read_size: int) -> None:
        super().__init__(socket_read_size)
        self.pubsub_push_handler_func = None  # a bound method, which would keep parser and socket in a cycle
        self.largest = sys.maxsize
        self.deadline = inf
        self.late = False  # whether the socket's own timeout may be longer than what is left
        self.shortened = False  # whether the socket's timeout is what was left
        self.received = self.size = 0  # bytes of this exchange, and of its last receive

    @staticmethod
    def parse_error(response: str) -> ErrorReply:
        return ErrorReply(response)

    def handle_push_response(self, response: Any, **kwargs: Any) -> None:
        raise RemoteUnavailableError("the server pushes what nobody has asked for.")

    def read(self, count: int) -> list[Any]:
        """So many replies. (redis-py's own `read_response` takes a microsecond more for each.)"""
        replies: list[Any] = []
        gets = self._reader.gets
        while count:
            self.read_from_socket()
            while (reply := gets()) is not NOT_ENOUGH_DATA:
                if type(reply) is PushNotification:
                    self.handle_push_response(reply)
                replies.append(reply)
                if len(replies) == count:
                    return replies
        return replies

    def read_from_socket(self, timeout: object = None, raise_on_timeout: bool = True) -> bool:
        """Receive once, and feed the reader. redis-py's arguments mean nothing here. Raises `OSError`."""
        if self.late:
            if self.received and self.received == self.size:
                self._refuse_huge()
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise _overdue(self.received)
            self._sock.settimeout(left)
            self.shortened = True
        try:
            self.size = size = self._sock.recv_into(self._buffer)
        except TimeoutError as error:
            let_out(error)
            raise _overdue(self.received) from None
        if not size:
            raise ConnectionResetError("closed by the server")
        if self._buffer[0] in _AGGREGATES:  # never in a variable: a traceback that shows those would show it
            self._refuse_many()
        self._reader.feed(self._buffer, 0, size)
        self.received += size
        self.late = True
        return True

    def drain(self) -> list[Any]:  # pushes too
        return list(iter(self._reader.gets, NOT_ENOUGH_DATA))

    def _refuse_huge(self) -> None:
        """After the first receive, which did not bring a whole reply: a string says at its beginning how long it is."""
        length, end, _ = bytes(self._buffer[:24]).partition(b"\r\n")
        if end and length[:1] == b"$" and length[1:].isdigit() and int(length[1:]) >= self.largest:
            raise TooLargeError(f"a value of {length[1:].decode()} bytes is larger than anything that is stored.")

    def _refuse_many(self) -> None:
        length = bytes(self._buffer[1:24]).partition(b"\r\n")[0]
        if length.isdigit() and int(length) > _MOST:
            raise RemoteUnavailableError(f"the server speaks of more than {_MOST} elements in one reply.")


def _attach(wire: Any) -> None:
    """Instead of redis-py's handshake, which takes a round trip and a whole timeout for each of its steps."""
    wire._parser.on_connect(wire)


_KNOWN = inspect.signature(AbstractConnection.__init__).parameters
_OURS: dict[str, Any] = {
    "parser_class": _Parser,
    "socket_read_size": _BUFFER,
    "protocol": 3,
    "redis_connect_func": _attach,
    "event_dispatcher": EventDispatcher(),  # one for all, instead of one for each connection
    **({"driver_info": None} if "driver_info" in _KNOWN else {}),  # the version of redis-py is read from disk for it
}
"""What every connection is made with. What is not named is off by itself: retries, health checks, decoding, maintenance
notifications."""


class Wire(AbstractConnection):
    """redis-py's connection, over a socket that `Connector` has connected. It never connects by itself."""

    __del__ = _NOTHING
    host, port = "the server", 0

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(**_OURS)
        self._sock: Any = sock
        _attach(self)

    def _connect(self) -> NoReturn:
        raise RemoteUnavailableError("the connection is closed.")

    def repr_pieces(self) -> list[tuple[str, object]]:
        return []

    def _host_error(self) -> str:
        return self.host


class _Once:
    """Before a connection class of the application's: it connects once."""

    __del__ = _NOTHING
    _connected = False

    def _connect(self) -> Any:
        if self._connected:
            raise RemoteUnavailableError("the connection is closed.")
        self._connected = True
        return super()._connect()  # type: ignore[misc]


def own(given: Own | None) -> Callable[..., Wire] | None:
    """What makes connections of a class of the application's, each connected within its `left` seconds; None: ours.

    How long a name's look-up may take is that class's affair.
    """
    if given is None or given.kind is None:
        return None
    kind = type(given.kind.__name__, (_Once, given.kind), {})

    def connected(left: float, **address: Any) -> Wire:
        try:
            times = {"socket_timeout": left, "socket_connect_timeout": left}
            made = kind(**{**given.arguments.reveal(), **address, **_OURS, **times})
            made.connect()
        except Exception as error:  # the application's code may raise anything; a signal handler's goes on
            let_out(error)
            raise _unwrapped(error) from None
        return made  # type: ignore[no-any-return]

    return connected


class Connection:
    """One connection. No reply to a question for one value is `largest` bytes or longer."""

    __slots__ = ("_parser", "_wire", "generation", "primary", "sock", "timeout")

    def __init__(self, wire: Wire, timeout: float, generation: int = 0, *, largest: int = sys.maxsize) -> None:
        self.sock: Any = wire._sock
        self.timeout = timeout
        self.generation = generation
        self.primary: tuple[str, int] | None = None  # as the Sentinels named it
        self._wire: Any = wire
        self._parser: Any = wire._parser
        self._parser.largest = largest

    def send_command(self, *command: str | bytes) -> None:
        self.send_commands([command])

    def send_commands(self, commands: Sequence[Command]) -> None:
        """Send some at once, for a connection that listens: their replies come with what `poll` gives."""
        try:
            self.send(pack(commands))
        except OSError as error:
            let_out(error)
            raise RemoteUnavailableError(f"the connection broke: {type(error).__name__}") from error

    def send(self, data: bytes | memoryview) -> None:
        """Send packed commands, whose replies `receive` gives. Raises `OSError`."""
        self.sock.sendall(data)

    def poll(self, seconds: float) -> list[Any]:
        """What has arrived, waiting for it `seconds` at most; for a connection that is not asked but listens."""
        try:
            if messages := self._parser.drain():
                return messages  # type: ignore[no-any-return]
            self._parser.late = False
            self.sock.settimeout(seconds)
            self._parser.read_from_socket()
            if messages := self._parser.drain():
                self._parser.received = 0
            elif self._parser.received > _LONGEST_PUSH:
                raise RemoteUnavailableError(f"the server pushes more than {_LONGEST_PUSH} bytes in one message.")
            return messages  # type: ignore[no-any-return]
        except TimeoutError:
            return []
        except ConnectionResetError as error:
            raise RemoteUnavailableError("the server closed the connection") from error
        except OSError as error:
            raise RemoteUnavailableError(f"the connection broke: {type(error).__name__}") from error
        except exceptions.RedisError as error:
            raise _unwrapped(error) from None

    def interrupt(self) -> None:
        """Make another thread that waits for the server stop waiting."""
        try:  # not SSLSocket's own, which takes the TLS away under the other thread
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        except OSError as error:
            let_out(error)

    def ask(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """Replies to commands, all before `deadline`; a `ErrorReply` is a reply."""
        return self._ask(Secret(pack(commands)), len(commands), deadline)

    def _ask(self, data: Secret[bytes], count: int, deadline: float) -> list[Any]:
        self.sock.settimeout(max(deadline - time.monotonic(), 0.001))
        self.send(memoryview(data.reveal()))  # a view, which shows nothing: redis-py and TLS send from frames of Python
        replies = self.receive(count, deadline, late=True)
        self.sock.settimeout(self.timeout)
        return replies

    def exchange(self, data: bytes, count: int, deadline: float) -> list[Any]:
        """Send packed commands and return their `count` replies, before `deadline` (monotonic seconds)."""
        left = deadline - time.monotonic()
        late = left < self.timeout * 0.9  # something was tried before, and took its share
        if late:
            self.sock.settimeout(max(left, 0.001))
        self.sock.sendall(data)
        replies = self.receive(count, deadline, late=late or len(data) > _LONG)
        if late:
            self.sock.settimeout(self.timeout)
        return replies

    def receive(self, count: int, deadline: float, *, late: bool = False) -> list[Any]:
        """`count` replies, all before `deadline`. `late`: the socket's own timeout may be longer than what is left."""
        parser = self._parser
        parser.deadline, parser.late, parser.received = deadline, late, 0
        try:
            replies: list[Any] = parser.read(count)
        except exceptions.RedisError as error:
            raise _unwrapped(error) from None
        if parser.shortened:
            parser.shortened = False
            self.sock.settimeout(self.timeout)
        return replies

    def handshake(
        self, where: Where, protocol: int, name: str, deadline: float, *, more: Sequence[Command] = ()
    ) -> tuple[dict[str, Any], list[Any]]:
        """The first words: what HELLO tells, and the replies to `more`, in one round trip. Raises `RemoteError`."""
        if where.own is not None and where.own.hook is not None:
            self._call(where, deadline)
        select: list[Command] = [("SELECT", str(where.db))] if where.db else []
        first = Secret(_hello(where, protocol, name).reveal() + pack([*select, *more]))
        told, *replies = self._ask(first, 1 + len(select) + len(more), deadline)
        for reply in (told, *replies[: len(select)]):
            if isinstance(reply, ErrorReply):
                raise RemoteUnavailableError(f"the server refuses: {reply}")
        if isinstance(told, list):  # the old protocol has no maps
            told = dict(zip(told[::2], told[1::2], strict=False))
        if not isinstance(told, dict):
            raise RemoteUnavailableError("what answers there is not Redis 6 or later")
        return {_text(name): value for name, value in told.items()}, replies[len(select) :]

    def _call(self, where: Where, deadline: float) -> None:
        """The application's `redis_connect_func`, on a connection that could log in by itself."""
        wire, parser = self._wire, self._parser
        wire.username, wire.password = where.username, where.password and where.password.reveal()
        self.sock.settimeout(max(deadline - time.monotonic(), 0.001))
        parser.deadline, parser.late, parser.received = deadline, True, 0
        try:
            where.own.hook(wire)  # type: ignore[union-attr]
        except Exception as error:  # the application's code may raise anything; a signal handler's goes on
            let_out(error)
            raise _unwrapped(error) from None

    def close(self) -> None:
        try:
            self.sock.close()
        except OSError as error:
            let_out(error)


def _unwrapped(error: Exception) -> Exception:
    """What redis-py has wrapped: the system's own error, where it is one, for its class says what happened.

    Of other errors their class: what they say may be what a server said.
    """
    inner = error.__context__
    if isinstance(error, OSError | RemoteError):
        return error
    if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError) and isinstance(inner, OSError):
        return inner
    text = str(error) if isinstance(error, exceptions.InvalidResponse) else type(error).__name__
    return RemoteUnavailableError(text)


def _hello(where: Where, protocol: int, name: str) -> Secret[bytes]:
    """HELLO with the login, packed: nothing else holds the password in clear, and nothing raises meanwhile."""
    hello: Command = ("HELLO", str(protocol))
    if where.password is not None:
        return Secret(pack([(*hello, "AUTH", where.username or "default", where.password.reveal(), "SETNAME", name)]))
    return Secret(pack([(*hello, "SETNAME", name)]))


def _overdue(received: int) -> Exception:
    return TimeoutError() if received < _MUCH else TooLargeError("a reply was too long to arrive in time.")


def _text(name: object) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
