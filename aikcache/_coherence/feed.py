"""The ports of the invalidation channel: what a cache asks of it, whom it tells, and what it listens to.

`InvalidationFeed` is `Channel`, to one server, or `ClusterChannel`, to all primaries of a cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from aikcache._concurrency.thread import Event
from aikcache._redis.pool import Pool
from aikcache._redis.reply import Command

if TYPE_CHECKING:
    from aikcache._redis.connection import Connection


class InvalidationFeed(Protocol):
    """Where invalidations come from that other processes make."""

    live: Event
    live_since: float | None
    """Since when all is listened to (the cache's clock); None: it is not."""
    alive_at: float | None
    """When the last heartbeat was sent that has been answered."""

    @property
    def connects(self) -> int:
        """How many connections were made for listening."""

    @property
    def pushes(self) -> int:
        """How many pushes arrived."""

    def start(self) -> None:
        """See to it that it listens. Costs nothing when it does; waits for nothing."""

    def reconnect(self, *, at_once: bool, address: tuple[str, int] | None = None) -> None:
        """Another server may answer now (at `address`, on a cluster): connect anew, `at_once` without a rest."""

    def primaries_changed(self) -> None:
        """Primaries of a cluster have come or gone."""

    def forget(self) -> None:
        """After a fork, in the child: threads and connections are the parent's."""

    def close(self, wait: float = 1.0) -> None:
        """Stop listening; returns when that is done, or after `wait` seconds."""


class Listener(Protocol):
    """Whom a channel tells."""

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


class Heartbeats(Protocol):
    """One server that is listened to: what each heartbeat asks of it, and what the answer means."""

    connections: Pool
    checked: bool
    """Whether `check` is to see each answer; else any answer will do."""
    rest: float
    """Seconds after which `fast_heartbeat` is asked again."""

    @property
    def heartbeat(self) -> Command:
        """The command that is sent."""

    def check(self, reply: Any, link: Connection, age: float) -> object:
        """What was answered on `link` to a heartbeat sent `age` seconds ago. May raise `RemoteError`."""

    def fast_heartbeat(self) -> bool:
        """Whether the next heartbeat is due before its time."""

    def probe(self, number: int) -> Command | None:
        """The write that goes with a heartbeat, another one for each number; None: this server has no place for one."""
