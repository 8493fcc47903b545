"""The interface to Redis for the rooms above. `Transport` is `Pool` (one server) or `Cluster`.

A transport reports what it finds out through the functions of `TransportEvents` that it was made with. They run on the
thread that found it out, possibly a caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from aikcache._concurrency.circuit_breaker import Breaker, Changed, unobserved
from aikcache._redis.reply import Command
from aikcache._settings.config import CacheConfig
from aikcache.errors import RemoteUnavailableError


class ServerIdentity(NamedTuple):
    """One run of a server as a primary, from its start or promotion to its end; `uptime` of the process in seconds."""

    id: str
    uptime: int
    mode: str = "standalone"
    """Or "cluster", "sentinel"."""


class NewServer(NamedTuple):
    """A server that was not seen before. Nothing else is sent to it until `TransportEvents.new_server` returns."""

    identity: ServerIdentity
    replaces: bool
    """Whether it replaces another server."""
    # Not `exchange`: that may need another connection, and none is made before this announcement is over.
    ask: Callable[[list[Command]], list[Any]]
    """Sends commands on its new connection and returns their replies. Raises `RemoteError`."""


class OnFailover(Protocol):
    """Called when another server may answer now. `at_once`: it is known to be there."""

    def __call__(self, *, at_once: bool, address: tuple[str, int] | None = None) -> object: ...


def _ignored(*args: object, **options: object) -> None:
    """No one listens."""


# Frozen, and given to the constructor: a transport without them could use a server that was never announced.
@dataclass(frozen=True, slots=True)
class TransportEvents:
    """The functions that a transport calls."""

    new_server: Callable[[NewServer], object] = _ignored
    """May raise `RemoteError`: the connection is then given up."""
    on_failover: OnFailover = _ignored
    """`address` names the primary of a cluster."""
    # Its invalidations are not pushed here until the channel listens to it, so nothing is trusted meanwhile.
    primaries_changed: Callable[[], object] = _ignored
    """Primaries of a cluster were added or removed. Called before anything is sent to a new one."""
    breaker: Changed = unobserved
    report: Callable[[str, str], object] = _ignored
    """Takes a cause and a message for the log."""


class Server(Protocol):
    """One server."""

    @property
    def informed(self) -> bool: ...
    def exchange(
        self, commands: Sequence[Command], within: float | None = None, *, once: bool = False
    ) -> list[Any]: ...


class Transport(Protocol):
    """Connections to the servers of a cache. Every method that sends something raises `RemoteError`."""

    config: CacheConfig

    @property
    def ordered(self) -> bool:
        """Whether the commands of one exchange are carried out in their order."""

    @property
    def breaker(self) -> Breaker:
        """The circuit breaker of the server; of several servers, an open one if there is any."""

    # On a cluster each node has a pool with generations of its own, and a failover there concerns that node alone.
    @property
    def generation(self) -> int:
        """Grows when another server may have taken over; always 0 on a cluster."""

    def exchange(self, commands: Sequence[Command], within: float | None = None, *, once: bool = False) -> list[Any]:
        """Send all commands at once and return their replies, an `ErrorReply` where one was refused.

        Blocks for at most `within` seconds (`timeout` by default), longer where it has to connect. `once`: raises
        `LostReplyError` where it would otherwise send the commands again.
        """

    def send(self, data: bytes, count: int, within: float | None = None, *, once: bool = False) -> list[Any] | None:
        """As `exchange`, for `count` commands that are packed already. None: not possible with several servers."""

    # Does nothing on a cluster: one primary's open breaker says nothing about the others.
    def refusal(self) -> RemoteUnavailableError | None:
        """What every exchange would raise now, because the breaker is open. Sends nothing."""

    def age(self) -> float:
        """Seconds since the last evidence of a majority behind the server; -inf where none is needed."""

    def parts(self) -> Iterator[Server]:
        """The servers, one by one, each of which holds a part of the data."""

    # Apart from `parts`, which may have to ask the cluster who owns what.
    def servers(self) -> Sequence[Server]:
        """The servers that are known. Sends nothing."""

    def hash_tags(self) -> Sequence[str]:
        """For each server a prefix that puts a name on it."""

    def hash_tags_of(self, names: Sequence[str]) -> Sequence[str]:
        """For each server that has one of `names` a prefix that puts a name on it."""

    def drop_idle(self) -> None:
        """Close idle connections, which may be out of step."""

    # The child's copies of the sockets are closed, and nothing is sent on them.
    def forget(self) -> None:
        """Reset after a fork, in the child: the connections are the parent's."""

    def close(self) -> None:
        """Close all connections. Nothing can be sent afterwards."""
