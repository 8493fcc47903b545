"""The channels to all primaries of a cluster, as one: what `Channel` is to a single server.

The node that owns a name pushes its invalidation, so only all channels together vouch for local values. This process
is coherent while every primary's channel is live, until the earliest of their `trusted_until`. When a channel is new
or reconnected, nothing that was trusted before counts.

While a primary is late, or something has just changed, heartbeats come faster: calls do without Redis until it is
known who took over.

Each heartbeat asks each primary which primaries there are: `CLUSTER INFO` says whether its view has changed, and only
then is the view fetched. A slot can only move to a node that its owner knows. So an owner whose view is unchanged has
given nothing to a node that we do not listen to. That is why primaries without slots have channels, too.

Threads: each channel's own thread calls in here. A lock keeps their reports in order; no I/O is done under it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from math import inf
from typing import Any

from aikcache._coherence.channel import FAST_HEARTBEAT, FIRST_BACKOFF, HEARTBEAT, LONGEST_BACKOFF, Channel
from aikcache._coherence.feed import Listener
from aikcache._concurrency.reporter import RateLimitedReporter
from aikcache._concurrency.thread import Daemon, Event
from aikcache._redis.cluster import topology as _slots
from aikcache._redis.cluster.client import Cluster
from aikcache._redis.cluster.topology import Address, Signature
from aikcache._redis.pool import Pool
from aikcache._redis.reply import Command
from aikcache._remote.store import RedisStore
from aikcache.errors import RemoteError, RemoteUnavailableError

LOOK = 30.0
"""Seconds after which a node's view is fetched although nothing has changed."""
OVERDUE = 1.25
"""Seconds after which a primary that has not answered counts as missed."""
SELDOM = 5.0
"""Seconds between attempts to send what is pending while a primary is missed."""
AFTER_CHANGE = 2.0
"""Seconds after a change during which heartbeats are fast, and a view is fetched with each."""


class _PrimaryChannel:
    """The channel to one primary, and what it last reported."""

    heartbeat: Command = ("CLUSTER", "INFO")
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
        self._looked_at = self._fast_until = -inf
        self._sent_at = channels.clock()
        listener = channels.listener
        self.group_invalidated, self.key_invalidated = listener.group_invalidated, listener.key_invalidated
        self.glob_invalidated, self.everything_invalidated = listener.glob_invalidated, listener.everything_invalidated
        self.news, self.news_received = listener.news, listener.news_received
        self.channel = Channel(self, channels.remote, self, channels.reporter, channels.clock)

    def check(self, info: Any, *_: object) -> None:
        """Whether this node sees what it saw. May raise `RemoteError`: then it cannot be listened to."""
        signature, now = _slots.signature(info), self.channels.clock()
        before = self._signature
        # A change is heard of before it is complete: the epoch is an election's while it is held, and who lost its
        # slots is a replica a moment later. So what has changed is looked at again.
        changed = self._changing or signature != self._signature
        if changed:
            self._fast_until = now + AFTER_CHANGE
        # That a primary failed for good is no change by the numbers.
        rest = 0.0 if now < self._fast_until else HEARTBEAT if self.channels.missed() else LOOK
        if changed or now - self._looked_at >= rest:
            self._looked_at = now
            try:
                self._changing = self.channels.cluster.refresh_view(self.address)
            except RemoteError:
                if changed:
                    raise
            else:
                self._signature = signature
        if before is not None and before.own != signature.own:
            self._meet()

    def _meet(self) -> None:
        """The node was elected, or took slots. May raise `RemoteError`: the channel is then made anew.

        If it was elected, another was primary in between, whether anybody noticed or not; only a new connection tells.
        """
        if self.channels._by_address.get(self.address) is not self:
            return  # it is a primary no more
        met = self.connections.run_id
        self.connections.connect().close()
        if self.connections.run_id != met:
            raise RemoteUnavailableError("the primary was replaced, and has taken its place again")

    def probe(self, number: int) -> Command | None:
        tag = self.channels.cluster.hash_tag_on(self.address, number)
        return None if tag is None else self.channels.remote.commands.probe(tag)

    def fast_heartbeat(self) -> bool:
        """Whether what this node sees is about to change."""
        return self.channels.clock() < self._fast_until or self.channels.missed()

    def send_pending(self) -> None:
        """Rarely while a primary is missed: a thread that waits for it does not learn who takes its place."""
        now = self.channels.clock()
        if not self.channels.missed() or now - self._sent_at >= SELDOM:
            self._sent_at = now
            self.channels.listener.send_pending()

    def channel_live(self, *, emptied: bool, alive_at: float) -> None:
        if not emptied:  # new, it is not live before its first heartbeat has told what it sees
            self.refused = None
            self.channels.report(self, alive_at)

    def channel_refused(self, why: str | None) -> None:
        self.refused = why
        self.channels.report(self, self.alive_at)  # and no later

    def channel_lost(self) -> None:
        self._signature = self.refused = None
        self.channels.report(self, None)


class ClusterChannel:
    """All channels of one cache."""

    def __init__(
        self,
        cluster: Cluster,
        remote: RedisStore,
        listener: Listener,
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
        self._lock = threading.RLock()  # a collection inside it may run a finalizer that calls a cached function
        self._by_address: dict[Address, _PrimaryChannel] = {}
        self._before = [0, 0]  # connects and pushes of channels that are no more
        self._finder = Daemon(self._find, "aikcache-channels")
        self._closed = self._finder.stopping
        self._wanted = False  # whether to listen to the primaries that come

    @property
    def connects(self) -> int:
        """How many connections were made for listening."""
        return self._before[0] + sum(primary.channel.connects for primary in list(self._by_address.values()))

    @property
    def pushes(self) -> int:
        """How many pushes arrived."""
        return self._before[1] + sum(primary.channel.pushes for primary in list(self._by_address.values()))

    def missed(self) -> bool:
        """Whether a primary has not answered for longer than it takes."""
        return self.live_since is None or (self.alive_at is not None and self.clock() - self.alive_at > OVERDUE)

    def start(self) -> None:
        """See to it that all primaries are listened to. Costs nothing when they are; does not wait."""
        if not self._wanted:
            self._finder.start()

    def _find(self) -> None:
        """Until the cluster is found."""
        self._wanted = True
        backoff, closed = FIRST_BACKOFF, self._closed
        while not closed.is_set():
            try:
                self.cluster.current(time.monotonic() + self.cluster.config.timeout)
                self.primaries_changed()
                return
            except RemoteError as error:
                self.reporter.report("channel", f"the cluster is not found, and will be looked for: {error}")
            except Exception as error:  # a bug here must not end coherence for good
                self.reporter.report("channel", f"the cluster is not found: {type(error).__name__}")
            closed.wait(backoff)
            backoff = min(backoff * 2, LONGEST_BACKOFF)

    def primaries_changed(self) -> None:
        """The primaries may be others: those that came are listened to, and until then nothing is trusted."""
        if not self._wanted:
            return
        with self._lock:
            topology = self.cluster.topology
            if self._closed.is_set() or topology is None:
                return
            kept, gone, new = {}, dict(self._by_address), []
            for address in sorted(topology.primaries):
                node = self.cluster.node(address)
                primary = gone.get(address)
                if primary is not None and primary.connections is node:
                    kept[address] = gone.pop(address)
                else:
                    kept[address] = primary = _PrimaryChannel(self, address, node)
                    new.append(primary)
            self._by_address = kept
            for primary in gone.values():
                self._before = [self._before[0] + primary.channel.connects, self._before[1] + primary.channel.pushes]
            self._report_state()
        for primary in gone.values():
            primary.channel.close(0.0)
            self.cluster.drop_view(primary.address)
        for primary in new:
            primary.channel.start()

    def report(self, primary: _PrimaryChannel, alive_at: float | None) -> None:
        """A channel lives, as of a moment, or does not vouch for anything (None)."""
        topology = self.cluster.topology
        if topology is not None and topology.primaries != self._by_address.keys():  # who told us was interrupted
            self.primaries_changed()
        with self._lock:
            current = self._by_address.get(primary.address)
            if current is primary:
                primary.alive_at = alive_at
                self._report_state()
        # What is not listened to any more may still have been looked at: from there on its view would stay for ever.
        if (current is None or (current is primary and alive_at is None)) and not self._closed.is_set():
            self.cluster.drop_view(primary.address)

    def _report_state(self) -> None:
        """Under the lock: say what all channels together vouch for."""
        answered = [primary.alive_at for primary in self._by_address.values() if primary.alive_at is not None]
        if not answered or len(answered) < len(self._by_address):
            if self.live_since is not None:
                self.live_since = None
                self.live.clear()
                self.listener.channel_lost()
            return
        self.alive_at = min(answered)
        emptied = self.live_since is None
        if emptied:
            self.live_since = self.clock()
        self.listener.channel_live(emptied=emptied, alive_at=self.alive_at)
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
        """After a fork, in the child: threads and connections are the parent's."""
        for primary in list(self._by_address.values()):
            primary.channel.forget()
        self.__init__(  # type: ignore[misc]
            self.cluster, self.remote, self.listener, self.reporter, self.clock
        )

    def close(self, wait: float = HEARTBEAT) -> None:
        """End all threads; returns when they have ended, or after a while."""
        self._closed.set()
        with self._lock:
            channels = list(self._by_address.values())
        for primary in channels:
            primary.channel.close(0.0)
        deadline = time.monotonic() + wait
        for primary in channels:
            primary.channel.close(max(deadline - time.monotonic(), 0.0))
