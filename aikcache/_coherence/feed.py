"""The interfaces of the invalidation channel: towards the cache, its listener, and the servers.

`InvalidationFeed` is `Channel` (one server) or `ClusterChannel` (all primaries of a cluster).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from aikcache._concurrency.thread import Event
from aikcache._redis.pool import Pool
from aikcache._redis.reply import Command

if TYPE_CHECKING:
    from aikcache._redis.connection import Connection


class InvalidationFeed(Protocol):
    """Receives the invalidations of other processes."""

    live: Event
    live_since: float | None
    """Since when all servers are listened to (the cache's clock); None: they are not."""
    alive_at: float | None
    """When the last answered heartbeat was sent."""

    @property
    def failure(self) -> str | None:
        """Why the last attempt to listen failed; None: it did not."""

    @property
    def unsubscribed(self) -> str | None:
        """How SUBSCRIBE was refused, so that invalidations which a server does not write are received late; None: it
        was not."""

    @property
    def connects(self) -> int:
        """The number of connections made for listening."""

    @property
    def pushes(self) -> int:
        """The number of pushes received."""

    def start(self) -> None:
        """Start listening. Costs nothing if it has started; does not wait."""

    def reconnect(self, *, at_once: bool, address: tuple[str, int] | None = None) -> None:
        """Another server may answer now (at `address`, on a cluster): connect again. `at_once`: without a pause."""

    def primaries_changed(self) -> None:
        """Primaries of a cluster were added or removed."""

    def forget(self) -> None:
        """Reset after a fork, in the child: threads and connections are the parent's."""

    def close(self, wait: float = 1.0) -> None:
        """Stop listening. Returns when that is done, or after `wait` seconds."""


class Listener(Protocol):
    """Receives a channel's events."""

    def group_invalidated(self, group: str) -> None: ...
    def key_invalidated(self, key: str) -> None: ...
    def glob_invalidated(self, glob: str) -> None: ...
    def everything_invalidated(self) -> None: ...
    def channel_live(self, *, emptied: bool, alive_at: float) -> None: ...
    def channel_refused(self, why: str | None) -> None: ...
    def news(self, *, connected: bool = False) -> list[bytes]: ...
    def news_received(self, message: object) -> None: ...
    def channel_lost(self) -> None: ...
    def send_pending(self) -> None: ...


class DeferringListener(Listener, Protocol):
    """A listener whose callers may hold a lock."""

    later: Callable[[Callable[[], object]], object]
    """Gets what calls log handlers and observers, which is user code. As it is at first, it calls it at once."""


class Heartbeats(Protocol):
    """One server that is listened to: its heartbeat command, and the meaning of the reply."""

    connections: Pool
    checked: bool
    """Whether `check` must see each reply; else any reply is accepted."""
    rest: float
    """Seconds between two calls of `fast_heartbeat`."""

    @property
    def heartbeat(self) -> Command:
        """The command to send."""

    def check(self, reply: Any, connection: Connection, age: float) -> object:
        """Evaluate the reply on `connection` to a heartbeat sent `age` seconds ago. May raise `RemoteError`."""

    def fast_heartbeat(self) -> bool:
        """Whether to send the next heartbeat early."""

    def probe(self, number: int) -> Command | None:
        """The write that goes with a heartbeat, a different one for each number; None: this server owns no slot for
        one.
        """
