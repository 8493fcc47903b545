"""The channels to all primaries of a cluster, with the interface of one `Channel`.

The node that owns a name pushes its invalidation, so local values are trusted only while all channels are live. This
process is coherent until the earliest of their `trusted_until`. When a channel is new or reconnected, values from
before are not trusted any more.

While a primary is late, or something has just changed, heartbeats are faster: calls do without Redis until it is
known which primary took over.

Each heartbeat asks each primary for the primaries that it sees: `CLUSTER INFO` shows whether its view has changed, and
only then is the view fetched. A slot can move only to a node that its owner knows. So an owner whose view is unchanged
has given no slot to a node without a channel. That is why primaries without slots have channels too.

Threads: each channel's own thread calls in here. A lock keeps their reports in order; no I/O is done under it, and no
log handler or observer is called.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

from aikcache._coherence.channel import FAST_HEARTBEAT, FIRST_BACKOFF, HEARTBEAT, LONGEST_BACKOFF, Channel
from aikcache._coherence.feed import DeferringListener
from aikcache._concurrency.reporter import RateLimitedReporter
from aikcache._concurrency.thread import Daemon, Event
from aikcache._redis.cluster import topology as _slots
from aikcache._redis.cluster.client import Cluster
from aikcache._redis.cluster.topology import Address, Signature
from aikcache._redis.pool import Pool
from aikcache._redis.reply import Command
from aikcache._remote.store import RedisStore
from aikcache.errors import RemoteError, RemoteUnavailableError

VIEW_AGE = 30.0
"""Seconds after which a node's view is fetched even if nothing has changed."""
OVERDUE = 1.25
"""Seconds without a reply after which a primary counts as missed."""
SELDOM = 5.0
"""Seconds between attempts to send pending invalidations while a primary is missed."""
AFTER_CHANGE = 2.0
"""Seconds after a change during which heartbeats are fast, and a view is fetched with each."""


class _PrimaryChannel:
    """The channel to one primary, and its last report."""

    checked = True
    rest = FAST_HEARTBEAT

    def __init__(self, channels: ClusterChannel, address: Address, connections: Pool) -> None:
        self.channels = channels
        self.address = address
        self.connections = connections
        self.alive_at: float | None = None
        self.refused: str | None = None
        self._signature: Signature | None = None
        self._changing = False
        self._viewed_at = self._fast_until = -inf
        self._sent_at = channels.clock()
        listener = channels.listener
        self.group_invalidated, self.key_invalidated = listener.group_invalidated, listener.key_invalidated
        self.glob_invalidated, self.everything_invalidated = listener.glob_invalidated, listener.everything_invalidated
        self.news, self.news_received = listener.news, listener.news_received
        self.channel = Channel(self, channels.remote, self, channels.reporter, channels.clock)

    @property
    def heartbeat(self) -> Command:
        self.connections.watch_credentials()
        return ("CLUSTER", "INFO")

    def check(self, info: Any, _: object, age: float) -> None:
        """Check whether this node's view, `age` seconds ago, had changed. May raise `RemoteError`: then it cannot be
        listened to.
        """
        signature, now = _slots.signature(info), self.channels.clock()
        before = self._signature
        # A change is visible before it is complete: an election raises the epoch while it runs, and a node that lost
        # its slots becomes a replica a moment later. So a view that has changed is fetched again.
        changed = self._changing or signature != self._signature
        if changed:
            self._fast_until = now + AFTER_CHANGE
        # A primary that failed for good does not change the numbers.
        rest = 0.0 if now < self._fast_until else HEARTBEAT if self.channels.missed() else VIEW_AGE
        if changed or now - self._viewed_at >= rest:
            self._viewed_at = now
            try:
                self._changing = self.channels.cluster.refresh_view(self.address)
            except RemoteError:
                if changed:
                    raise
            else:
                self._signature = signature
        if before is not None and before.own != signature.own:
            self._check_takeover()
        self.channels.cluster.quorum.record(self.address, time.monotonic() - age)

    def _check_takeover(self) -> None:
        """The node was elected, or took slots. May raise `RemoteError`: the channel then reconnects.

        If it was elected, another node was primary in between, noticed or not; only a new connection shows that.
        """
        if self.channels._by_address.get(self.address) is not self:
            return  # it is no longer a primary
        before = self.connections.run_id
        self.connections.connect().close()
        if self.connections.run_id != before:
            raise RemoteUnavailableError("the primary was replaced, and has taken its place again")

    def probe(self, number: int) -> Command | None:
        tag = self.channels.cluster.hash_tag_on(self.address, number)
        return None if tag is None else self.channels.remote.commands.probe(tag)

    def fast_heartbeat(self) -> bool:
        """Whether this node's view is about to change."""
        return self.channels.clock() < self._fast_until or self.channels.missed()

    def send_pending(self) -> None:
        """Send pending invalidations; rarely while a primary is missed, because this thread could not learn of its
        successor.
        """
        now = self.channels.clock()
        if not self.channels.missed() or now - self._sent_at >= SELDOM:
            self._sent_at = now
            self.channels.listener.send_pending()

    def channel_live(self, *, emptied: bool, alive_at: float) -> None:
        if not emptied:  # a new channel is live only after its first heartbeat, which shows the view
            self.refused = None
            self.channels.report(self, alive_at)

    def channel_refused(self, why: str | None) -> None:
        self.refused = why
        self.channels.report(self, self.alive_at)  # the trust is not extended

    def channel_lost(self) -> None:
        self._signature = self.refused = None
        self.channels.report(self, None)


class ClusterChannel:
    """All channels of one cache."""

    def __init__(
        self,
        cluster: Cluster,
        remote: RedisStore,
        listener: DeferringListener,
        reporter: RateLimitedReporter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cluster = cluster
        self.remote = remote
        self.listener = listener
        self.reporter = reporter
        self.clock = clock
        self.live = Event()
        self.live_since: float | None = None
        self.alive_at: float | None = None
        self._failure: str | None = None
        self._lock = threading.RLock()  # reentrant: a finalizer inside may call a cached function
        self._by_address: dict[Address, _PrimaryChannel] = {}
        self._before = [0, 0]  # connects and pushes of former channels
        self._finder = Daemon(self._find, "aikcache-channels")
        self._closed = self._finder.stopping
        self._wanted = False  # whether to listen to new primaries
        self._former: list[_PrimaryChannel] = []  # to be closed
        self._settled = False  # whether all channels were started, and the former ones closed
        self._reports: deque[Callable[[], object]] = deque()  # to be made when the lock is released
        self._reporting = threading.RLock()
        listener.later = self._reports.append

    @property
    def failure(self) -> str | None:
        """Why the last attempt to listen to one of the primaries failed, or to find the cluster."""
        failures = (primary.channel.failure for primary in list(self._by_address.values()))
        return next(filter(None, failures), self._failure)

    @property
    def unsubscribed(self) -> str | None:
        """How one of the primaries refused SUBSCRIBE; None: none did."""
        refusals = (primary.channel.unsubscribed for primary in list(self._by_address.values()))
        return next(filter(None, refusals), None)

    @property
    def connects(self) -> int:
        """The number of connections made for listening."""
        return self._before[0] + sum(primary.channel.connects for primary in list(self._by_address.values()))

    @property
    def pushes(self) -> int:
        """The number of pushes received."""
        return self._before[1] + sum(primary.channel.pushes for primary in list(self._by_address.values()))

    def missed(self) -> bool:
        """Whether a primary's reply is overdue."""
        return self.live_since is None or (self.alive_at is not None and self.clock() - self.alive_at > OVERDUE)

    def start(self) -> None:
        """Start listening to all primaries. Costs nothing if it has started; does not wait."""
        if not self._settled:  # not started, or a caller was interrupted in `primaries_changed`
            self._finder.start()

    def _find(self) -> None:
        """Try until the cluster is found."""
        self._wanted = True
        backoff, closed = FIRST_BACKOFF, self._closed
        while not closed.is_set():
            try:
                self.cluster.current(time.monotonic() + self.cluster.config.timeout)
                self.primaries_changed()
                self._failure = None
                return
            except RemoteError as error:
                self._failure = str(error)
                self.reporter.report("channel", f"the cluster is not found, and will be looked for: {error}")
            except Exception as error:  # a bug here must not stop the channels for good
                self.reporter.report("channel", f"the cluster is not found: {type(error).__name__}")
            closed.wait(backoff)
            backoff = min(backoff * 2, LONGEST_BACKOFF)

    def primaries_changed(self) -> None:
        """The primaries may have changed: listen to new ones. Until then nothing is trusted."""
        if not self._wanted:
            return
        with self._lock:
            topology = self.cluster.topology
            if self._closed.is_set() or topology is None:
                return
            kept, gone = {}, dict(self._by_address)
            for address in sorted(topology.primaries):
                node = self.cluster.node(address)
                primary = gone.get(address)
                if primary is not None and primary.connections is node:
                    kept[address] = gone.pop(address)
                else:
                    kept[address] = _PrimaryChannel(self, address, node)
            self._settled = False
            self._former += gone.values()
            self._by_address = kept
            former = [primary for primary in self._former if kept.get(primary.address) is not primary]
            for primary in gone.values():
                self._before = [self._before[0] + primary.channel.connects, self._before[1] + primary.channel.pushes]
            self._report_state()
        self._make_reports()
        for primary in former:
            primary.channel.close(0.0)
            self.cluster.drop_view(primary.address)
        for primary in kept.values():
            primary.channel.start()
        with self._lock:
            if self._by_address is kept:  # else the later call settles what is left
                self._former, self._settled = [], True

    def report(self, primary: _PrimaryChannel, alive_at: float | None) -> None:
        """A channel reports that it was alive at a time, or that it is not trusted (None)."""
        topology = self.cluster.topology
        if topology is not None and topology.primaries != self._by_address.keys():  # the earlier call was interrupted
            self.primaries_changed()
        with self._lock:
            current = self._by_address.get(primary.address)
            if current is primary:
                primary.alive_at = alive_at
                self._report_state()
        self._make_reports()
        # A former primary's view may just have been stored; without this it would stay for ever.
        if (current is None or (current is primary and alive_at is None)) and not self._closed.is_set():
            self.cluster.drop_view(primary.address)

    def _make_reports(self) -> None:
        """Log what was reported, in order, unless this is a finalizer's call, inside a section of this thread's.

        One thread does it for all.
        """
        if self._lock._is_owned() or self._reporting._is_owned():  # type: ignore[attr-defined]
            return
        while self._reports:
            try:
                if not self._reporting.acquire(blocking=False):
                    return
                while self._reports:
                    self._reports.popleft()()
            finally:
                try:  # noqa: SIM105  # one call into C, and nothing before it: else the lock might stay taken
                    self._reporting.release()
                except RuntimeError:  # it was not taken
                    pass

    def _report_state(self) -> None:
        """Under the lock: report until when all channels together are trusted."""
        answered = [primary.alive_at for primary in self._by_address.values() if primary.alive_at is not None]
        if not answered or len(answered) < len(self._by_address):
            if self.live_since is not None:
                self.live_since = None
                self.live.clear()
                self.listener.channel_lost()
            return
        self.alive_at = min(answered)
        emptied = self.live_since is None
        self.listener.channel_live(emptied=emptied, alive_at=self.alive_at)
        if emptied:
            self.live_since = self.clock()  # last, so that an interrupted report is repeated and empties
        refused = next((primary.refused for primary in self._by_address.values() if primary.refused is not None), None)
        if refused is not None:
            self.listener.channel_refused(refused)
        self.live.set()

    def reconnect(self, *, at_once: bool, address: Address | None = None) -> None:
        """Another server may answer at `address`."""
        primary = None if address is None else self._by_address.get(address)
        if primary is not None:
            primary.channel.reconnect(at_once=at_once)

    def forget(self) -> None:
        """Reset after a fork, in the child: threads and connections are the parent's."""
        for primary in [*self._former, *self._by_address.values()]:
            primary.channel.forget()
        self.__init__(  # type: ignore[misc]
            self.cluster, self.remote, self.listener, self.reporter, self.clock
        )

    def close(self, wait: float = HEARTBEAT) -> None:
        """Stop all threads. Returns when they have ended, or after `wait` seconds."""
        self._closed.set()
        with self._lock:
            channels = [*self._former, *self._by_address.values()]
        for primary in channels:
            primary.channel.close(0.0)
        deadline = time.monotonic() + wait
        for primary in channels:
            primary.channel.close(max(deadline - time.monotonic(), 0.0))
