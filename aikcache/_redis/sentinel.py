"""Finds the primary: Sentinels are asked at every new connection, and all of them are watched in between.

Asking: the Sentinels in turn, starting with the last one that answered. Each gets a share of the time, so that dead
ones (even those that drop packets) leave some for the others. The answer is not cached: each connection goes to the
current primary. The answer may be wrong for a moment, so the server itself is asked for its role (`_redis/identity`).

Choosing: the answer with the highest configuration epoch counts, because each failover raises it. Sentinels learn of a
switch one after the other, and one that lags would name the old primary, which may still act as one.

Watching: each Sentinel in the URL is listened to (`_redis/sentinel_watch`), because an old primary may answer for many
seconds after it was replaced, and one Sentinel may be cut off together with it. The Sentinels' dated answers are the
evidence of a majority (`_redis/majority`).

Threads: any thread asks. The watchers are daemon threads. The first question starts them; they end after `close`, and
after a fork until the child's first question. Failure: `RemoteUnavailableError`; a watcher reports and goes on.

Source: Redis, "Guidelines for Redis clients with support for Sentinel".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aikcache._concurrency.outside import let_out
from aikcache._redis.connector import Connector
from aikcache._redis.failures import LOGIN
from aikcache._redis.majority import Address, Majority, Opinion
from aikcache._redis.reply import IO_ERRORS, Command, ErrorReply
from aikcache._redis.sentinel_watch import HEARTBEAT, Watch, describe
from aikcache._settings import url
from aikcache._settings.url import Where
from aikcache.errors import RemoteError, RemoteUnavailableError

if TYPE_CHECKING:
    from aikcache._redis.connection import Connection

EpochAndPrimary = tuple[int, Address | None]
SHARE = 0.7
"""The part of the connect time that the Sentinels may use."""


_LAST_EPOCH = 2**64 - 1
_MOST = 10_000
"""Other Sentinels, or replicas, of one primary."""
_LOGIN = "Look at sentinel_username and sentinel_password in the URL"
_LONGEST_NAME = 100


class Sentinels:
    """The Sentinels of one service."""

    def __init__(
        self,
        where: Where,
        within: float,
        switched: Callable[[Address], object],
        beat: float = HEARTBEAT,
        report: Callable[[str, str], object] = lambda cause, message: None,
    ) -> None:
        """`within`: seconds for a connection. `beat`: seconds between two questions to the same Sentinel."""
        self.service = where.service
        self.within = within
        self.beat = beat
        self.majority = Majority()
        self._switched = switched
        self.report = report
        self._order = list(where.hosts)  # replaced as a whole, never modified
        options = where.options
        self._login = where._replace(
            username=options.get("sentinel_username"), password=where.secrets.get("sentinel_password"), db=0, own=None
        )
        self._connector = Connector(self._login)
        self._watches = self._make_watches()
        self.closed = False
        self._known: EpochAndPrimary = (-1, None)  # the latest epoch, and its primary

    # Asking

    def primary(self, deadline: float) -> Address:
        """The primary's address, from the first Sentinel that is up to date, before `deadline` (monotonic seconds).

        If no Sentinel answers, the last known address.
        """
        self._watch()
        order, errors = self._order, []
        outdated: tuple[int, Address] | None = None
        for tried, address in enumerate(order):
            now = time.monotonic()
            try:
                found = self._ask(address, now + (deadline - now) / (len(order) - tried))
            except (RemoteError, *IO_ERRORS) as error:
                let_out(error)
                errors.append(describe(address, error))
                continue
            if self.record_opinion(address, found):
                self._prefer(address)
                return found.primary
            known = found.epoch, found.primary
            outdated = known if outdated is None else max(outdated, known)
        if outdated is not None:  # the up-to-date ones are gone, or all were set up again
            self._known = outdated
            return outdated[1]
        if self._known[1] is not None:
            # All are away, or were set up again. The primary may still be there: the caller checks its role, and waits
            # for a majority behind it.
            return self._known[1]
        why = "; ".join(errors)
        hint = f". {_LOGIN}" if any(word in why for word in LOGIN) else ""
        raise RemoteUnavailableError(f"no Sentinel tells where {self.service!r} is: {why}{hint}")

    def reset_route(self) -> None:
        """The first Sentinel's answer was wrong: ask the next one first. (No lock: the order is a hint.)"""
        order = self._order
        self._order = [*order[1:], order[0]]
        self._connector.reset_route()

    def _prefer(self, address: Address) -> None:
        order = self._order
        if order[0] != address:
            self._order = [address, *(other for other in order if other != address)]

    def _ask(self, address: Address, deadline: float) -> Opinion:
        asked_at = time.monotonic()
        connection, name = self.connect(address, deadline)
        try:
            return self.opinion(name, asked_at, connection.ask(self.questions(), deadline))
        finally:
            connection.close()

    def connect(self, address: Address, deadline: float) -> tuple[Connection, str]:
        """A connection to a Sentinel, and its id."""
        connection = self._connector.connection(self._connector.connect(*address, deadline), HEARTBEAT)
        try:
            identify: list[Command] = [("SENTINEL", "MYID")]
            _, (name,) = connection.handshake(self._login, 3, "aikcache-sentinel", deadline, more=identify)
        except BaseException:
            connection.close()
            raise
        named = isinstance(name, bytes) and name[:_LONGEST_NAME].decode("utf-8", "replace")
        return connection, named or f"{address[0]}:{address[1]}"

    def questions(self) -> list[Command]:
        """The commands that each Sentinel is sent."""
        service = self.service
        return [
            ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service),
            ("SENTINEL", "MASTER", service),
            ("SENTINEL", "CKQUORUM", service),
            ("INFO", "sentinel"),
        ]

    def opinion(self, name: str, asked_at: float, replies: list[Any]) -> Opinion:
        """Parse a Sentinel's replies to the questions."""
        address, facts, *_ = replies
        if address is None:
            raise RemoteUnavailableError(f"knows no service {self.service!r}")
        for reply in (address, facts):
            if isinstance(reply, ErrorReply):
                raise RemoteUnavailableError(f"refuses: {reply}")
        if not isinstance(facts, dict):
            raise RemoteUnavailableError("does not speak as a Sentinel")
        try:
            return self._opinion(name, asked_at, replies)
        except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError):
            raise RemoteUnavailableError("says what cannot be") from None

    def _opinion(self, name: str, asked_at: float, replies: list[Any]) -> Opinion:
        """The same. A reply that is no number, or no address, raises an exception."""
        (host, port), facts, quorum, info = replies
        primary = url.announced(host, port, otherwise=("", 0))
        if not primary[0]:
            raise ValueError("no address")
        # The leader of a failover already names the new primary, which belongs to the next epoch.
        coming = (facts[b"ip"], facts[b"port"]) != (host, port)
        reaches: bool | None = None
        # In TILT mode (its clock jumped, or it was starved) a Sentinel repeats what it saw before.
        if isinstance(info, bytes) and b"sentinel_tilt:0" in info:
            reaches = True if isinstance(quorum, bytes) else False if str(quorum).startswith("NOQUORUM") else None
        return Opinion(
            asked_at=asked_at,
            sentinel=name,
            epoch=_count(facts[b"config-epoch"], _LAST_EPOCH) + coming,
            primary=primary,
            sentinels=_count(facts.get(b"num-other-sentinels", b"0"), _MOST) + 1,
            replicas=_count(facts.get(b"num-slaves", b"0"), _MOST),
            reaches=reaches,
        )

    def record_opinion(self, address: Address, opinion: Opinion) -> bool:
        """Whether the opinion is not older than what is known. If it names another primary, the pool is informed."""
        self.majority.record_opinion(address, opinion)
        known, before = self._known
        if opinion.epoch < known:
            return False
        if before is not None and before != opinion.primary:
            self._switched(opinion.primary)
        self._known = (opinion.epoch, opinion.primary)  # last, so that an interrupted report is repeated
        return True

    def confirmed_at(self) -> float:
        """The latest time (monotonic seconds) at which a majority stood behind the known primary; -inf: never."""
        return self.majority.confirmed_at(self._known[1])

    # Watching

    @property
    def listening(self) -> bool:
        """Whether any Sentinel is listened to."""
        return any(watch.listening for watch in self._watches)

    def _watch(self) -> None:
        """Start the watchers unless they run. Costs nothing when they do."""
        for watch in self._watches:
            watch.start()

    def _make_watches(self) -> list[Watch]:
        return [Watch(self, address) for address in dict.fromkeys(self._order)]

    # Closing

    def close(self) -> None:
        """Stop the threads. Returns when they have ended, or after a second."""
        self.closed = True
        for watch in self._watches:
            watch.stop()
        deadline = time.monotonic() + 1.0
        for watch in self._watches:
            watch.join(deadline)

    def forget(self) -> None:
        """Reset after a fork, in the child: threads and connections are the parent's."""
        for watch in self._watches:
            watch.forget()
        self._watches = self._make_watches()
        self._connector.forget()


def _count(number: bytes, most: int) -> int:
    """A number in a Sentinel's reply. Raises `ValueError` when it is none, or too large."""
    if not number.isdigit() or len(number) > 20 or int(number) > most:
        raise ValueError("no number")
    return int(number)
