"""One connection of redis-py's, driven directly, with deadlines that hold for an exchange as a whole.

Of redis-py it takes the connection and its parser (`wire.py`); not its pools and clients, which have no deadline over
an exchange and no generations. `send_packed_command` and `read_response` are not used: they take two microseconds more
for a GET, raise some error replies, and wrap the system's errors, where an exception of a signal handler may be lost.
The handshake is one round trip instead of five. A process that does not connect does not load redis-py.

Threads: one thread at a time uses a connection; only `interrupt` is for others. Failure: `OSError` and `RemoteError`.
After either the connection must not be used again, because a late reply would be taken for another command's.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from aikcache._concurrency.outside import let_out
from aikcache._redis.reply import Command, ErrorReply, pack
from aikcache._redis.wire import RedisError, Wire, unwrapped
from aikcache._settings.secret import Secret
from aikcache._settings.url import Where
from aikcache.errors import RemoteUnavailableError

_LONG = 16384
"""Bytes that fit into any socket's buffer: sending no more than these does not block, with nothing else under way."""
_LONGEST_PUSH = 1 << 23
"""Bytes of a message that nobody has asked for. The names that we write are short; all that are pushed at once fit."""


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
        except RedisError as error:
            raise unwrapped(error) from None

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
        except RedisError as error:
            raise unwrapped(error) from None
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
            raise unwrapped(error) from None

    def close(self) -> None:
        try:
            self.sock.close()
        except OSError as error:
            let_out(error)


def _hello(where: Where, protocol: int, name: str) -> Secret[bytes]:
    """HELLO with the login, packed: nothing else holds the password in clear, and nothing raises meanwhile."""
    hello: Command = ("HELLO", str(protocol))
    if where.password is not None:
        return Secret(pack([(*hello, "AUTH", where.username or "default", where.password.reveal(), "SETNAME", name)]))
    return Secret(pack([(*hello, "SETNAME", name)]))


def _text(name: object) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
