"""Servers of a few lines: a proxy before a real one, which counts round trips and fails when told, and impostors."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import hiredis


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
    """Whose turn it is on a connection: the client's once all that it has sent has been answered.

    What it sends in one piece may arrive in several, with answers to the first in between.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked, self._answered = hiredis.Reader(), hiredis.Reader()
        self._open = 0

    def begins(self, data: bytes) -> bool:
        """Take in what the client sends; whether it begins a round trip."""
        with self._lock:
            begins = self._open <= 0 and not self._asked.has_data()
            self._open = max(self._open, 0) + _read(self._asked, data)
            return begins

    def answered(self, data: bytes) -> None:
        """Take in what the server says, before it is passed on."""
        with self._lock:
            self._open -= _read(self._answered, data)


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
    asks for tracking is the channel's and is not counted.
    """

    def __init__(self, upstream: Path) -> None:
        super().__init__(self._pass_on)
        self._upstream = upstream
        self._counting = threading.Lock()
        self.round_trips = 0

    def _pass_on(self, link: socket.socket) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(str(self._upstream))
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
                link.sendall(data)
            link.shutdown(socket.SHUT_RDWR)
