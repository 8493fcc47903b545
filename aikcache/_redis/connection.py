"""One redis-py connection, driven directly, with a deadline for each exchange as a whole.

It uses redis-py's connection and parser (`wire.py`), but not its pools and clients: these have no deadline for an
exchange and no generations. It does not use `send_packed_command` and `read_response` either. They take two
microseconds more for a GET, raise some error replies, and wrap the system's errors, which may lose an exception of a
signal handler. The handshake is one round trip instead of five. A process that does not connect does not load redis-py.

Threads: one thread at a time uses a connection; other threads may call only `interrupt`. Failure: `OSError` and
`RemoteError`. After either one, close the connection: a late reply would be taken for another command's.
"""

from __future__ import annotations

import _socket
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from aikcache._compiled import fast
from aikcache._concurrency.outside import let_out
from aikcache._redis.reply import Command, ErrorReply, pack
from aikcache._redis.wire import RedisError, Wire, unwrapped
from aikcache._settings.secret import Secret
from aikcache._settings.url import Where
from aikcache.errors import RemoteUnavailableError

_LONG = 16384
"""Bytes that fit into any socket's buffer: sending no more does not block while nothing else is being sent."""
_LONGEST_PUSH = 1 << 23
"""Bytes of one pushed message. The names that aikcache writes are short; all that are pushed at once fit."""


class _Listening:
    """What a parser receives from, over a socket that is listened to. Python waits in one call and receives in another,
    and in a process that never rests a thread may wait for the interpreter after each of them.
    """

    __slots__ = ("_sock", "settimeout")

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self.settimeout = sock, sock.settimeout

    def recv_into(self, buffer: bytearray) -> int:
        size: int = fast.receive(self._sock.fileno(), self._sock.gettimeout(), buffer)  # type: ignore[union-attr]
        return size


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
        """Send commands on a connection that listens. Their replies come from `poll`."""
        try:  # here, because no `Pool` translates for a connection that listens
            self.send(pack(commands))
        except OSError as error:
            let_out(error)
            raise RemoteUnavailableError(f"the connection broke: {type(error).__name__}") from error

    def send(self, data: bytes | memoryview) -> None:
        """Send packed commands. `receive` returns their replies. Raises `OSError`."""
        self.sock.sendall(data)

    def poll(self, seconds: float) -> list[Any]:
        """Return what has arrived, after waiting at most `seconds`. For a connection that listens."""
        try:
            if messages := self._parser.drain():
                return messages  # type: ignore[no-any-return]
            self._parser.check_deadline = False  # no exchange, so no deadline: heartbeats show whether it lives
            self.sock.settimeout(seconds)
            # Sockets of TLS and gevent receive by their own means.
            if fast is not None and getattr(type(self.sock), "recv_into", None) is _socket.socket.recv_into:
                self._parser._sock = _Listening(self.sock)
            self._parser.read_from_socket()
            if messages := self._parser.drain():
                self._parser.received = 0  # the bound is for one message, not for all that are ever pushed
            elif self._parser.received > _LONGEST_PUSH:
                raise RemoteUnavailableError(f"the server pushes more than {_LONGEST_PUSH} bytes in one message.")
            return messages  # type: ignore[no-any-return]
        except TimeoutError:
            return []
        except ConnectionResetError as error:
            raise RemoteUnavailableError("the server closed the connection") from error
        except OSError as error:
            raise RemoteUnavailableError(f"the connection broke: {type(error).__name__}") from error
        except RedisError as error:
            raise unwrapped(error) from None

    def interrupt(self) -> None:
        """Make another thread that waits for the server stop waiting."""
        try:  # not SSLSocket.shutdown, which would drop TLS while the other thread uses it
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        except OSError as error:
            let_out(error)

    def ask(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """Send commands and return their replies before `deadline`. An error is returned as an `ErrorReply`."""
        return self._ask(Secret(pack(commands)), len(commands), deadline)

    def _ask(self, data: Secret[bytes], count: int, deadline: float) -> list[Any]:
        self.sock.settimeout(max(deadline - time.monotonic(), 0.001))
        self.send(memoryview(data.reveal()))  # a view: its repr in redis-py's and TLS's frames shows nothing
        replies = self.receive(count, deadline, check_deadline=True)
        self.sock.settimeout(self.timeout)
        return replies

    def exchange(self, data: bytes, count: int, deadline: float) -> list[Any]:
        """Send packed commands and return their `count` replies, before `deadline` (monotonic seconds)."""
        # Setting a socket's timeout is a system call, so it is done only where the usual one would be too long.
        left = deadline - time.monotonic()
        shortened = left < self.timeout * 0.9  # an earlier attempt has used some of the time
        if shortened:
            self.sock.settimeout(max(left, 0.001))
        self.sock.sendall(data)  # may block for long if it exceeds the buffers: then the rest is checked
        replies = self.receive(count, deadline, check_deadline=shortened or len(data) > _LONG)
        if shortened:
            self.sock.settimeout(self.timeout)
        return replies

    def receive(self, count: int, deadline: float, *, check_deadline: bool = False) -> list[Any]:
        """Return `count` replies before `deadline`. `check_deadline`: the socket's timeout may be too long."""
        parser = self._parser
        parser.deadline, parser.check_deadline, parser.received = deadline, check_deadline, 0
        try:
            replies: list[Any] = parser.read(count)
        except RedisError as error:
            raise unwrapped(error) from None
        if parser.shortened:  # not after an error: then the caller closes the connection
            parser.shortened = False
            self.sock.settimeout(self.timeout)
        return replies

    def handshake(
        self, where: Where, protocol: int, name: str, deadline: float, *, more: Sequence[Command] = ()
    ) -> tuple[dict[str, Any], list[Any]]:
        """Send the first commands, in one round trip. Return the replies to HELLO and `more`. Raises `RemoteError`."""
        if where.own is not None and where.own.hook is not None:
            self._call(where, deadline)
        select: list[Command] = [("SELECT", str(where.db))] if where.db else []
        first = Secret(_hello(where, protocol, name).reveal() + pack([*select, *more]))
        hello, *replies = self._ask(first, 1 + len(select) + len(more), deadline)
        for reply in (hello, *replies[: len(select)]):
            if isinstance(reply, ErrorReply):
                raise RemoteUnavailableError(f"the server refuses: {reply}")
        if isinstance(hello, list):  # the old protocol has no maps
            hello = dict(zip(hello[::2], hello[1::2], strict=False))
        if not isinstance(hello, dict):
            raise RemoteUnavailableError("what answers there is not Redis 6 or later")
        return {_text(name): value for name, value in hello.items()}, replies[len(select) :]

    def _call(self, where: Where, deadline: float) -> None:
        """Call the application's `redis_connect_func`. It gets a connection that could log in by itself."""
        wire, parser = self._wire, self._parser
        wire.username, wire.password = where.username, where.password and where.password.reveal()
        self.sock.settimeout(max(deadline - time.monotonic(), 0.001))
        parser.deadline, parser.check_deadline, parser.received = deadline, True, 0
        try:
            where.own.hook(wire)  # type: ignore[union-attr]
        except Exception as error:  # the application's code may raise anything; a signal handler's goes on
            let_out(error)
            raise unwrapped(error) from None

    def close(self) -> None:
        try:
            self.sock.close()
        except OSError as error:
            let_out(error)


def _hello(where: Where, protocol: int, name: str) -> Secret[bytes]:
    """HELLO with the login, packed. Nothing else holds the password in clear, and nothing raises meanwhile."""
    hello: Command = ("HELLO", str(protocol))
    if where.password is not None:
        return Secret(pack([(*hello, "AUTH", where.username or "default", where.password.reveal(), "SETNAME", name)]))
    return Secret(pack([(*hello, "SETNAME", name)]))


def _text(name: object) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
