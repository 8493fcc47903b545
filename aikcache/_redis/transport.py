"""How the rooms above reach Redis, whether that is one server or a cluster: `Transport` is `Pool` or `Cluster`.

What a transport finds out by itself it tells who made it, by the functions of `TransportEvents` that it was made with.
They are called on the thread that has found out, maybe a call's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from aikcache._concurrency.circuit_breaker import Breaker, Changed, unobserved
from aikcache._redis.reply import Command
from aikcache._settings.config import CacheConfig


class ServerIdentity(NamedTuple):
    """One run of a server as a primary, from its start or promotion to its end; `uptime` of the process in seconds."""

    id: str
    uptime: int


class NewServer(NamedTuple):
    """A server that has not been met before; nothing else is asked of it until `TransportEvents.new_server` returns."""

    identity: ServerIdentity
    replaces: bool
    """Whether another server was here before it."""
    ask: Callable[[list[Command]], list[Any]]
    """Sends commands on its new connection, and gives their replies. Raises `RemoteError`."""


class Moved(Protocol):
    """Is told that another server may answer now. `at_once`: it is known to be there."""

    def __call__(self, *, at_once: bool, address: tuple[str, int] | None = None) -> object: ...


def _nobody(*args: object, **options: object) -> None:
    """Nobody is told."""


@dataclass(frozen=True, slots=True)
class TransportEvents:
    """Who is told what."""

    new_server: Callable[[NewServer], object] = _nobody
    """May raise `RemoteError`: the connection is then given up."""
    moved: Moved = _nobody
    """`address` names the primary of a cluster."""
    primaries_changed: Callable[[], object] = _nobody
    """Primaries of a cluster have come or gone; told before anything is asked of those that came."""
    breaker: Changed = unobserved
    report: Callable[[str, str], object] = _nobody
    """A cause and a message for the log."""


class Server(Protocol):
    """One server."""

    @property
    def informed(self) -> bool: ...
    def exchange(
        self, commands: Sequence[Command], within: float | None = None, *, once: bool = False
    ) -> list[Any]: ...


class Transport(Protocol):
    """Connections to wherever a cache's values are. Every method that asks something raises `RemoteError`."""

    config: CacheConfig

    @property
    def ordered(self) -> bool:
        """Whether the commands of one exchange are carried out in their order."""

    @property
    def breaker(self) -> Breaker:
        """The breaker of the server; of several, one that is open, if there is one."""

    @property
    def generation(self) -> int:
        """Grows when another server may have taken over; always 0 on a cluster."""

    def exchange(self, commands: Sequence[Command], within: float | None = None, *, once: bool = False) -> list[Any]:
        """Send all commands at once and return their replies, an `ErrorReply` where one was refused.

        Blocks for `within` seconds at most (`timeout` by default), and longer where it has to connect. `once`: raises
        `LostReplyError` where it would otherwise send the same a second time.
        """

    def send(self, data: bytes, count: int, within: float | None = None, *, once: bool = False) -> list[Any] | None:
        """The same for `count` commands that are packed already. None: not possible where there are several servers."""

    def age(self) -> float:
        """Seconds since a majority is known to have stood behind the server; -inf where none has to."""

    def parts(self) -> Iterator[Server]:
        """The servers that hold a part of the data each, one by one."""

    def servers(self) -> Sequence[Server]:
        """The servers that are known, without a question."""

    def tags(self) -> Sequence[str]:
        """What a name begins with to be on each server."""

    def tags_beside(self, names: Sequence[str]) -> Sequence[str]:
        """What a name begins with to be on each server that has one of `names`."""

    def drop_kept(self) -> None:
        """Connections that are kept may be out of step: they are not used again."""

    def forget(self) -> None:
        """After a fork, in the child: the connections are the parent's."""

    def close(self) -> None:
        """Close what is open. Nothing can be asked from then on."""
