"""One connection: a socket, a hiredis reader, and deadlines that hold for an exchange as a whole.

A socket's own timeout is per receive, so a server that drips bytes could hold a call for ever; from the second receive
on it is set to what is left. The first words (HELLO with the login, SELECT, who are you) are one round trip.

Threads: a link is one thread's at a time; only `interrupt` is for others. Failure: `OSError` and `RemoteError`; after
either the link is of no use, for what is still under way on it belongs to nobody.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence
from typing import Any

import hiredis

from ._url import Where
from .errors import RemoteUnavailableError

Command = tuple[str | bytes | int, ...]
_MORE = object()
_BUFFER = 65536
_LONG = 16384
"""Bytes that fit into any socket's buffer: sending no more than these does not block, with nothing else under way."""


class Refusal(Exception):
    """An error reply, as the reader hands it over; the text is the server's own and holds no value."""


class Link:
    """One connection."""

    __slots__ = ("_buffer", "generation", "reader", "sock", "timeout")

    def __init__(self, sock: socket.socket, timeout: float, generation: int = 0) -> None:
        self.sock = sock
        self.timeout = timeout
        self.generation = generation
        self.reader = hiredis.Reader(
            protocolError=RemoteUnavailableError,
            replyError=Refusal,
            notEnoughData=_MORE,
        )
        self._buffer = bytearray(_BUFFER)

    def send_command(self, *command: str | bytes | int) -> None:
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
        """Make another thread that waits for the server stop waiting."""
        with contextlib.suppress(OSError):  # not SSLSocket's own, which takes the TLS away under the other thread
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def ask(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """Replies to commands, all before `deadline`; a `Refusal` is a reply."""
        self.sock.settimeout(max(deadline - time.monotonic(), 0.001))
        self.sock.sendall(b"".join(map(hiredis.pack_command, commands)))  # type: ignore[arg-type]
        replies = self.receive(len(commands), deadline, late=True)
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
        replies: list[Any] = []
        gets, sock, buffer = self.reader.gets, self.sock, self._buffer
        shortened = False
        while len(replies) < count:
            reply = gets()
            if reply is not _MORE:
                replies.append(reply)
                continue
            if late:  # from the second receive on the socket's timeout is what is left
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

    def introduce(
        self, where: Where, protocol: int, name: str, deadline: float, *, more: Sequence[Command] = ()
    ) -> tuple[dict[str, Any], list[Any]]:
        """The first words: what HELLO tells, and the replies to `more`, in one round trip. Raises `RemoteError`."""
        hello: Command = ("HELLO", protocol)
        if where.password is not None:
            hello += ("AUTH", where.username or "default", where.password)
        commands: list[Command] = [(*hello, "SETNAME", name)]
        if where.db:
            commands.append(("SELECT", where.db))
        told, *replies = self.ask([*commands, *more], deadline)
        for reply in (told, *replies[: len(commands) - 1]):
            if isinstance(reply, Refusal):
                raise RemoteUnavailableError(f"the server refuses: {reply}")
        if isinstance(told, list):  # the old protocol has no maps
            told = dict(zip(told[::2], told[1::2], strict=False))
        if not isinstance(told, dict):
            raise RemoteUnavailableError("what answers there is not Redis 6 or later")
        return {_text(name): value for name, value in told.items()}, replies[len(commands) - 1 :]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()


def _text(name: object) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
