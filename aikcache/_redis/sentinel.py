"""Which server is the primary: asked of the Sentinels at every new connection, and heard from all of them.

Asked: the Sentinels in turn, the one that answered last first, each with its share of the time, so that dead ones (even
those that swallow packets) leave some for the living. The answer is not kept: a connection is made where the primary is
now. It may still be wrong for a moment, so the server itself is asked for its role too (`_redis/pool`).

Believed: what has the highest configuration epoch, which each failover raises. Sentinels hear of a switch one after the
other, and one that lags would send us back to a primary that still takes itself for one.

Heard: each Sentinel that the URL names is listened to (`_redis/sentinel_watch`), because an old primary may answer for
many seconds after it was replaced, and one Sentinel may be cut off from the others together with it. What they say, and
as of when, is the evidence of a majority (`_redis/majority`).

Threads: any thread asks; the watchers are daemons started by the first question, gone after `close`, and after a fork
until the child's first question. Failure: `RemoteUnavailableError`; a watcher reports and goes on.

Source: Redis, "Guidelines for Redis clients with support for Sentinel".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aikcache._concurrency.outside import let_out
from aikcache._redis.connector import Connector
from aikcache._redis.majority import Address, Majority, Opinion
from aikcache._redis.reply import TROUBLE, Command, ErrorReply
from aikcache._redis.sentinel_watch import HEARTBEAT, Watch, said
from aikcache._settings import url
from aikcache._settings.url import Where
from aikcache.errors import RemoteError, RemoteUnavailableError

if TYPE_CHECKING:
    from aikcache._redis.connection import Connection

Known = tuple[int, Address | None]
SHARE = 0.7
"""How much of the time for connecting the Sentinels may take."""


_LAST_EPOCH = 2**64 - 1
_MOST = 10_000
"""Other Sentinels, or replicas, of one primary."""
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
        self._order = list(where.hosts)  # replaced as a whole, never changed
        options = where.options
        self._login = where._replace(
            username=options.get("sentinel_username"), password=where.secrets.get("sentinel_password"), db=0, own=None
        )
        self._dialer = Connector(self._login)
        self._watches = self._make_watches()
        self.closed = False
        self._known: Known = (-1, None)  # the epoch, and who is the primary in it

    # Asked

    def primary(self, deadline: float) -> Address:
        """Where the primary is, as the first Sentinel says that is up to date; before `deadline` (monotonic).

        Where it was last, if no Sentinel answers.
        """
        self._watch()
        order, trouble = self._order, []
        late: tuple[int, Address] | None = None
        for tried, address in enumerate(order):
            now = time.monotonic()
            try:
                found = self._ask(address, now + (deadline - now) / (len(order) - tried))
            except (RemoteError, *TROUBLE) as error:
                let_out(error)
                trouble.append(said(address, error))
                continue
            if self.learn(address, found):
                self._prefer(address)
                return found.primary
            known = found.epoch, found.primary
            late = known if late is None else max(late, known)
        if late is not None:  # who knew better is gone, or all of them have been set up anew
            self._known = late
            return late[1]
        if self._known[1] is not None:
            # All are away, or were set up anew. Where it was last it may still be: whoever connects there checks its
            # role, and seeks a majority behind it.
            return self._known[1]
        raise RemoteUnavailableError(f"no Sentinel tells where {self.service!r} is: {'; '.join(trouble)}")

    def reset_route(self) -> None:
        """What the first Sentinel said is not so: the next one is asked first. (Locks nothing: the order is a hint.)"""
        order = self._order
        self._order = [*order[1:], order[0]]
        self._dialer.reset_route()

    def _prefer(self, address: Address) -> None:
        order = self._order
        if order[0] != address:
            self._order = [address, *(other for other in order if other != address)]

    def _ask(self, address: Address, deadline: float) -> Opinion:
        asked_at = time.monotonic()
        link, name = self.connect(address, deadline)
        try:
            return self.told(name, asked_at, link.ask(self.questions(), deadline))
        finally:
            link.close()

    def connect(self, address: Address, deadline: float) -> tuple[Connection, str]:
        """A connection to a Sentinel, and its name among them."""
        link = self._dialer.connection(self._dialer.dial(*address, deadline), HEARTBEAT)
        try:
            who: list[Command] = [("SENTINEL", "MYID")]
            _, (name,) = link.handshake(self._login, 3, "aikcache-sentinel", deadline, more=who)
        except BaseException:
            link.close()
            raise
        named = isinstance(name, bytes) and name[:_LONGEST_NAME].decode("utf-8", "replace")
        return link, named or f"{address[0]}:{address[1]}"

    def questions(self) -> list[Command]:
        """What each Sentinel is asked."""
        service = self.service
        return [
            ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service),
            ("SENTINEL", "MASTER", service),
            ("SENTINEL", "CKQUORUM", service),
            ("INFO", "sentinel"),
        ]

    def told(self, name: str, asked_at: float, replies: list[Any]) -> Opinion:
        """What a Sentinel's replies to the questions say."""
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
        """What they say. Whatever is no number, or no address, raises something."""
        (host, port), facts, quorum, info = replies
        primary = url.told(host, port, otherwise=("", 0))
        if not primary[0]:
            raise ValueError("no address")
        # The leader of a failover names the promoted one already, in an epoch to come.
        coming = (facts[b"ip"], facts[b"port"]) != (host, port)
        reaches: bool | None = None
        # One whose clock jumped, or that was starved, sees nothing for a while, and goes on saying what it saw (TILT).
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

    def learn(self, asked: Address, opinion: Opinion) -> bool:
        """Whether this is not older than what is known; if it is another primary, whoever uses the last one is told."""
        self.majority.heard(asked, opinion)
        known, before = self._known
        if opinion.epoch < known:
            return False
        if before is not None and before != opinion.primary:
            self._switched(opinion.primary)
        self._known = (opinion.epoch, opinion.primary)  # not before: who was interrupted tells again
        return True

    def vouched_at(self) -> float:
        """As of when a majority stood behind the primary that is known (monotonic seconds); -inf: not yet."""
        return self.majority.vouched_at(self._known[1])

    # Heard

    @property
    def listening(self) -> bool:
        """Whether any Sentinel is listened to."""
        return any(watch.listening for watch in self._watches)

    def _watch(self) -> None:
        """See to it that the watchers run. Costs nothing when they do."""
        for watch in self._watches:
            watch.start()

    def _make_watches(self) -> list[Watch]:
        return [Watch(self, address) for address in dict.fromkeys(self._order)]

    # Its end

    def close(self) -> None:
        """End the threads; returns when they have ended, or after a second."""
        self.closed = True
        for watch in self._watches:
            watch.stop()
        deadline = time.monotonic() + 1.0
        for watch in self._watches:
            watch.join(deadline)

    def forget(self) -> None:
        """After a fork, in the child: the threads are the parent's, and so are their connections."""
        self._watches = self._make_watches()
        self._dialer.forget()


def _count(told: bytes, most: int) -> int:
    """A number that a Sentinel says. Raises `ValueError` when it is none, or too large."""
    if not told.isdigit() or len(told) > 20 or int(told) > most:
        raise ValueError("no number")
    return int(told)
