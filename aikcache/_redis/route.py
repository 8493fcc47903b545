"""Finds the server: at a fixed address, through Sentinels, or an embedded one that this process starts.

Threads: any. Failure: `OSError` and `RemoteError`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aikcache._redis.connector import Connector
from aikcache._redis.majority import Address
from aikcache._redis.sentinel import SHARE, Sentinels
from aikcache._settings import url
from aikcache._settings.config import CacheConfig
from aikcache._settings.secret import hidden

if TYPE_CHECKING:
    from aikcache._embedded.attach import Attachment
    from aikcache._redis.connection import Connection
    from aikcache._redis.wire import Wire


class Route:
    """The way to one server."""

    def __init__(self, config: CacheConfig, where: url.Where, sentinels: Sentinels | None) -> None:
        self.where = where
        self._config = config
        self._sentinels = sentinels
        self._connector = Connector(where)
        self._embedded = url.scheme(hidden(config.url or "")) == "embedded"
        if self._embedded:
            from aikcache._embedded import attach  # now, before any deadline, thread or fork

            self._attach = attach.attach
        self._server: Attachment | None = None
        self._attached = False
        self._closed = False

    def connection(self, deadline: float, timeout: float, generation: int, *, largest: int) -> Connection:
        """A connection made before `deadline` (monotonic), before the handshake."""
        wire, primary = self._connect(deadline)
        connection = self._connector.connection(wire, timeout, generation, largest=largest)
        connection.primary = primary
        return connection

    def attach(self) -> None:
        """Start or find the embedded server, if the URL asks for one. Blocks for as long as its start takes."""
        if not self._embedded or self._attached:
            return
        path = hidden(self._config.url or "").reveal().removeprefix("embedded://")
        server = self._attach(path or None)
        gone, self._server = self._server, server  # the channel's thread may run this too: keep one
        self._attached = True
        if gone is not None:
            gone.close()
        if self._closed:
            server.close()

    def _connect(self, deadline: float) -> tuple[Wire, Address | None]:
        if self._server is not None:
            wire = self._connector.connect_unix(self._server.socket, deadline)
            self._server.check_peer(wire._sock)
            return wire, None
        if self.where.path:
            return self._connector.connect_unix(self.where.path, deadline), None
        host, port = self.where.hosts[0]
        if self._sentinels is not None:
            now = time.monotonic()
            host, port = self._sentinels.primary(now + (deadline - now) * SHARE)
        return self._connector.connect(host, port, deadline), (host, port)

    def reset(self) -> None:
        """After a failure to connect, discard what is cached about the route."""
        self._connector.reset_route()
        if self._sentinels is not None:
            self._sentinels.reset_route()
        self._attached = False  # an embedded server that has died is started again

    def forget(self) -> None:
        """Reset after a fork, in the child."""
        self._connector.forget()

    def close(self) -> None:
        self._closed = True
        if self._server is not None:
            self._server.close()
