"""redis-py's connection and its hiredis parser, adapted. Only this module imports redis-py (and `client.py`).

redis-py's timeout is per receive, so a server that sends byte by byte could block a call for ever. From the second
receive on, `_Parser` sets the timeout to the time that is left. redis-py reconnects by itself when it sends on a closed
connection, past any deadline and to a server that was not checked. `Wire` never does.

Threads: one thread at a time uses a connection. Failure: `OSError` and `RemoteError`.
"""

from __future__ import annotations

import inspect
import socket
import sys
import time
from collections.abc import Callable
from math import inf
from typing import Any, NoReturn

from hiredis import PushNotification
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.connection import AbstractConnection, DefaultParser
from redis.event import EventDispatcher
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from aikcache._concurrency.outside import let_out
from aikcache._redis.reply import ErrorReply, TooLargeError
from aikcache._settings.url import Own
from aikcache.errors import RemoteError, RemoteUnavailableError

__all__ = ["RedisError", "Wire", "own", "unwrapped"]

_BUFFER = 65536
_MUCH = 1 << 20
"""If more bytes than this arrived before the deadline, the reply was too large, not the server silent."""
_AGGREGATES = b"*~>"
_MOST = 1 << 22
"""Elements of the longest array that is received: the reader allocates all of it at its header, and takes a second to
free each hundred million elements.
"""
_NOTHING = object.__hash__
"""A finalizer in C. redis-py's is Python code, in which an exception of a signal handler would be lost."""


class _Parser(DefaultParser):  # type: ignore[misc, valid-type]
    """redis-py's hiredis parser, which checks the exchange's deadline before each receive but the first."""

    __del__ = _NOTHING

    def __init__(self, socket_read_size: int) -> None:
        super().__init__(socket_read_size)
        self.pubsub_push_handler_func = None  # a bound method would make a cycle of parser and socket
        self.largest = sys.maxsize
        self.deadline = inf
        self.check_deadline = False  # whether the socket's timeout may be longer than the time left
        self.shortened = False  # whether the socket's timeout was set to the time left
        self.received = self.size = 0  # bytes of this exchange, and of its last receive

    @staticmethod
    def parse_error(response: str) -> ErrorReply:
        return ErrorReply(response)

    def handle_push_response(self, response: Any, **kwargs: Any) -> None:
        raise RemoteUnavailableError("the server pushes what nobody has asked for.")

    def read(self, count: int) -> list[Any]:
        """Receive `count` replies. (redis-py's own `read_response` takes a microsecond more for each.)"""
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
        """Receive once and feed the reader. redis-py's arguments are ignored. Raises `OSError`."""
        if self.check_deadline:
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
        if self._buffer[0] in _AGGREGATES:  # not in a local variable, which a traceback may show
            self._refuse_many()
        self._reader.feed(self._buffer, 0, size)
        self.received += size
        self.check_deadline = True
        return True

    def drain(self) -> list[Any]:  # pushes too
        return list(iter(self._reader.gets, NOT_ENOUGH_DATA))

    def _refuse_huge(self) -> None:
        """Called if the first receive did not bring a whole reply: the header of a string gives its length."""
        length, end, _ = bytes(self._buffer[:24]).partition(b"\r\n")
        if end and length[:1] == b"$" and length[1:].isdigit() and int(length[1:]) >= self.largest:
            raise TooLargeError(f"a value of {length[1:].decode()} bytes is larger than anything that is stored.")

    def _refuse_many(self) -> None:
        length = bytes(self._buffer[1:24]).partition(b"\r\n")[0]
        if length.isdigit() and int(length) > _MOST:
            raise RemoteUnavailableError(f"the server speaks of more than {_MOST} elements in one reply.")


def _attach(wire: Any) -> None:
    """Replaces redis-py's handshake, which takes a round trip and a whole timeout for each step."""
    wire._parser.on_connect(wire)


_KNOWN = inspect.signature(AbstractConnection.__init__).parameters
_OURS: dict[str, Any] = {
    "parser_class": _Parser,
    "socket_read_size": _BUFFER,
    "protocol": 3,
    "redis_connect_func": _attach,
    "event_dispatcher": EventDispatcher(),  # shared, instead of one for each connection
    **({"driver_info": None} if "driver_info" in _KNOWN else {}),  # the default reads redis-py's version from disk
}
"""Arguments of every connection. All others are off by default: retries, health checks, decoding, maintenance
notifications.
"""


class Wire(AbstractConnection):
    """redis-py's connection over a socket that `Connector` has connected. It never connects by itself."""

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
    """Mixed into the application's connection class, so that it connects only once."""

    __del__ = _NOTHING
    _connected = False

    def _connect(self) -> Any:
        if self._connected:
            raise RemoteUnavailableError("the connection is closed.")
        self._connected = True
        return super()._connect()  # type: ignore[misc]


def own(given: Own | None) -> Callable[..., Wire] | None:
    """Return a factory for connections of the application's class, each connected within `left` seconds; None: no
    class.

    The application's class decides how long a name look-up may take.
    """
    if given is None or given.kind is None:
        return None
    kind = type(given.kind.__name__, (_Once, given.kind), {})

    def connected(left: float, **address: Any) -> Wire:
        try:
            times = {"socket_timeout": left, "socket_connect_timeout": left}
            made = kind(**{**given.arguments.reveal(), **address, **_OURS, **times})
            made.connect()
        except Exception as error:  # the application's code may raise anything; a signal handler's error goes on
            let_out(error)
            raise unwrapped(error) from None
        return made  # type: ignore[no-any-return]

    return connected


def unwrapped(error: Exception) -> Exception:
    """The system's own error, where redis-py has wrapped one, because its class says what happened.

    Other errors are reported by their class, because their text may quote the server.
    """
    inner = error.__context__
    if isinstance(error, OSError | RemoteError):
        return error
    if isinstance(error, RedisConnectionError | RedisTimeoutError) and isinstance(inner, OSError):
        return inner
    text = str(error) if isinstance(error, InvalidResponse) else type(error).__name__
    return RemoteUnavailableError(text)


def _overdue(received: int) -> Exception:
    return TimeoutError() if received < _MUCH else TooLargeError("a reply was too long to arrive in time.")
