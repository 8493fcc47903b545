"""Servers of a few lines, for tests: a proxy before a real one, which fails as networks do, and impostors.

    with Server() as server, FaultyProxy(server) as network:
        aikcache.configure(network.url, instance="test")
        network.stall()                      # also latency(0.2), slice(1), reset(), cut()
        ...
        network.heal()

Each connection has threads of its own, which end with the proxy. Any thread may stage a fault.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import hiredis

from aikcache._embedded.server import Server

__all__ = ["FaultyProxy", "Impostor", "Proxy", "Turn"]
_RESET = b"\1\0\0\0\0\0\0\0"
"""SO_LINGER with no time: a close that resets."""


class Impostor:
    """Listens on a TCP port and gives each connection to `serve`, in a thread."""

    def __init__(self, serve: Callable[[socket.socket], object], port: int = 0) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", port), backlog=200)
        self._links: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.accepted = 0
        self._threads.append(threading.Thread(target=self._accept, daemon=True))

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._links.append(link)
            thread = threading.Thread(target=self._run, args=(link,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, link: socket.socket) -> None:
        with link, contextlib.suppress(OSError):
            self._serve(link)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(5)
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def cut(self) -> None:
        """Cut all connections."""
        for link in self._links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        self._links.clear()


class Turn:
    """Counts round trips of a connection: one begins when a client sends and all earlier requests are answered.

    What it sends in one piece may arrive in several, with answers to the first in between.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests, self._replies = hiredis.Reader(), hiredis.Reader()
        self._open = 0

    def begins(self, data: bytes) -> bool:
        """Note what the client sends; returns whether it begins a round trip."""
        with self._lock:
            begins = self._open <= 0 and not self._requests.has_data()
            self._open = max(self._open, 0) + _read(self._requests, data)
            return begins

    def answered(self, data: bytes) -> None:
        """Note what the server sends, before it is passed on."""
        with self._lock:
            self._open -= _read(self._replies, data)


def _read(reader: hiredis.Reader, data: bytes) -> int:
    """How many messages are whole now."""
    reader.feed(data)
    count = 0
    while reader.gets() is not False:
        count += 1
    return count


class Proxy(Impostor):
    """Passes everything on to the server at a unix socket.

    `round_trips` counts how often a client sent after it had been answered (or for the first time). A connection that
    asks for tracking is the channel's and is not counted. `upstream` may be changed, for connections from then on.
    """

    def __init__(self, upstream: Path) -> None:
        super().__init__(self._pass_on)
        self.upstream = upstream
        self._counting = threading.Lock()
        self.round_trips = 0

    def _pass_on(self, link: socket.socket) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(str(self.upstream))
            self._links.append(server)
            turn = Turn()
            back = threading.Thread(target=self._back, args=(server, link, turn), daemon=True)
            back.start()
            mine = 0
            channel = False
            with contextlib.suppress(OSError):
                while data := link.recv(1 << 16):
                    if turn.begins(data) and not channel:
                        mine += 1
                        with self._counting:
                            self.round_trips += 1
                    if b"TRACKING" in data and not channel:
                        channel = True
                        with self._counting:
                            self.round_trips -= mine
                    server.sendall(data)
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            back.join(5)

    def _back(self, server: socket.socket, link: socket.socket, turn: Turn) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                turn.answered(data)
                self.pass_back(link, data)
            link.shutdown(socket.SHUT_RDWR)

    def pass_back(self, link: socket.socket, data: bytes) -> None:
        """Give a client what the server has said."""
        link.sendall(data)


class FaultyProxy(Proxy):
    """A network between a cache and its server. A test stages its faults, one at a time."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.socket)
        self._healthy = threading.Event()
        self._healthy.set()
        self._wait: float | None = 0.0
        self._size = 0
        self._resets = False

    def latency(self, seconds: float) -> None:
        """Each answer comes so many seconds later."""
        self._fail(wait=seconds)

    def stall(self) -> None:
        """Connections stay open, and new ones are accepted; no answer comes. What was said is delivered by `heal`."""
        self._fail(wait=None)

    def slice(self, size: int = 1) -> None:
        """Answers come in pieces of so many bytes."""
        self._fail(size=size)

    def reset(self) -> None:
        """Each connection is reset in the middle of the next answer."""
        self._fail(resets=True)

    def heal(self) -> None:
        """All is passed on again; connections that were cut or reset stay so."""
        self._wait, self._size, self._resets = 0.0, 0, False
        self._healthy.set()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.heal()
        super().__exit__(kind, error, tb)

    def _fail(self, wait: float | None = 0.0, *, size: int = 0, resets: bool = False) -> None:
        self.heal()
        self._wait, self._size, self._resets = wait, size, resets
        self._healthy.clear()

    def pass_back(self, link: socket.socket, data: bytes) -> None:
        """Pass the data on, or do what the fault says."""
        if self._healthy.is_set():
            return super().pass_back(link, data)
        if self._resets:
            link.sendall(data[: len(data) // 2])
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            link.shutdown(socket.SHUT_RDWR)
        elif self._size:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(data), self._size):
                link.sendall(data[start : start + self._size])
        else:
            self._healthy.wait(self._wait)  # until it heals, at the latest
            super().pass_back(link, data)
        return None
