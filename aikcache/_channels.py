"""The channels to all primaries of a cluster, as one: what `Channel` is to a single server.

An invalidation is pushed by the node that owns what it writes, so only all channels together vouch for what is held:
coherent while every primary's is live, and until the least of their horizons. When one comes or is made anew, nothing
that was believed before counts.

While a primary is late, or something has just changed, heartbeats are hastened: calls go without Redis until somebody
sees who took over.

Which primaries there are is asked of each of them, with every heartbeat: `CLUSTER INFO` says whether its view has
changed, and only then is the view fetched. A slot can only move to a node that the slot's owner knows; so an owner that
was answered for without a change in its view has not let go of anything to a node that is not listened to. That is why
primaries without slots have channels, too.

Threads: each channel's own, which call in here; a lock keeps what they say in order, and no I/O is done under it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from math import inf
from typing import Any

from . import _slots
from ._channel import FIRST_BACKOFF, HEARTBEAT, LONGEST_BACKOFF, Channel, Listener
from ._cluster import Cluster
from ._connections import Connections
from ._remote import Remote
from ._slots import Address, Signature
from ._trouble import Trouble
from .errors import RemoteError

LOOK = 30.0
"""Seconds after which a view is fetched although nothing told of a change."""
LATE = 1.25
"""Seconds after which a primary that has not answered is missed."""
SELDOM = 5.0
"""Seconds between tries to tell what is pending while a primary is missed."""
UNSETTLED = 2.0
"""Seconds after a change for which heartbeats come in haste, and a view is fetched with each."""


class _Ear:
    """One primary's channel, and what it says."""

    def __init__(self, channels: Channels, address: Address, node: Connections) -> None:
        self.channels = channels
        self.address = address
        self.node = node
        self.alive_at: float | None = None
        self._signature: Signature | None = None
        self._changing = False
        self._looked_at = self._unsettled_until = -inf
        self._settled_at = channels.clock()
        tell = channels.listener
        self.group_ended, self.key_ended, self.glob_ended = tell.group_ended, tell.key_ended, tell.glob_ended
        self.everything_ended = tell.everything_ended
        self.channel = Channel(
            channels.remote,
            self,
            channels.trouble,
            channels.clock,
            connections=node,
            heartbeat=("CLUSTER", "INFO"),
            check=self._check,
            hurries=self._hurries,
        )
        node.on_move = self.channel.reconnect

    def _check(self, info: Any) -> None:
        """Whether this node sees what it saw. May raise `RemoteError`: then it cannot be listened to."""
        signature, now = _slots.signature(info), self.channels.clock()
        # A change is heard of before it is complete: the epoch is an election's while it is held, and who lost its
        # slots is a replica a moment later. So what has changed is looked at again.
        changed = self._changing or signature != self._signature
        if changed:
            self._unsettled_until = now + UNSETTLED
        # That a primary failed for good is no change by the numbers.
        rest = 0.0 if now < self._unsettled_until else HEARTBEAT if self.channels.missed() else LOOK
        if changed or now - self._looked_at >= rest:
            self._looked_at = now
            try:
                self._changing = self.channels.cluster.look(self.address)
            except RemoteError:
                if changed:
                    raise
            else:
                self._signature = signature

    def _hurries(self) -> bool:
        """Whether what this node sees is about to change."""
        return self.channels.clock() < self._unsettled_until or self.channels.missed()

    def settle(self) -> None:
        """Seldom while a primary is missed: whoever waits for it does not hear of who takes its place."""
        now = self.channels.clock()
        if not self.channels.missed() or now - self._settled_at >= SELDOM:
            self._settled_at = now
            self.channels.listener.settle()

    def channel_live(self, *, emptied: bool, alive_at: float) -> None:
        if not emptied:  # new, it is not live before its first heartbeat has told what it sees
            self.channels.heard(self, alive_at)

    def channel_lost(self) -> None:
        self._signature = None
        self.channels.heard(self, None)


class Channels:
    """All channels of one cache."""

    def __init__(
        self,
        cluster: Cluster,
        remote: Remote,
        listener: Listener,
        trouble: Trouble,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cluster = cluster
        self.remote = remote
        self.listener = listener
        self.trouble = trouble
        self.clock = clock
        self.live = threading.Event()
        self.live_since: float | None = None
        self.alive_at: float | None = None
        self._lock = threading.RLock()  # a collection inside it may run a finalizer that calls a cached function
        self._ears: dict[Address, _Ear] = {}
        self._before = [0, 0]  # connects and pushes of channels that are no more
        self._closed = threading.Event()
        self._starting = threading.Lock()
        self._started = False
        cluster.on_change = self._changed

    @property
    def connects(self) -> int:
        """How many connections were made for listening."""
        return self._before[0] + sum(ear.channel.connects for ear in list(self._ears.values()))

    @property
    def pushes(self) -> int:
        """How many pushes arrived."""
        return self._before[1] + sum(ear.channel.pushes for ear in list(self._ears.values()))

    def missed(self) -> bool:
        """Whether a primary has not answered for longer than it takes."""
        return self.live_since is None or (self.alive_at is not None and self.clock() - self.alive_at > LATE)

    def start(self) -> None:
        """See to it that all primaries are listened to. Costs nothing when they are; does not wait."""
        if self._started or self._closed.is_set() or not self._starting.acquire(blocking=False):
            return
        try:
            if not self._started:
                self._started = True
                threading.Thread(target=self._find, name="aikcache-channels", daemon=True).start()
        except RuntimeError:  # no thread can be started any more: the interpreter is ending
            pass
        finally:
            self._starting.release()

    def _find(self) -> None:
        """Until the cluster is found."""
        backoff, closed = FIRST_BACKOFF, self._closed
        while not closed.is_set():
            try:
                self.cluster.known(time.monotonic() + self.cluster.config.timeout)
                self._changed()
                return
            except RemoteError as error:
                self.trouble.report("channel", f"the cluster is not found, and will be looked for: {error}")
            closed.wait(backoff)
            backoff = min(backoff * 2, LONGEST_BACKOFF)

    def _changed(self) -> None:
        """The primaries may be others: those that came are listened to, and until then nothing is trusted."""
        if not self._started:
            return
        with self._lock:
            topology = self.cluster.topology
            if self._closed.is_set() or topology is None:
                return
            kept, gone, new = {}, dict(self._ears), []
            for address in sorted(topology.primaries):
                node = self.cluster.node(address)
                ear = gone.get(address)
                if ear is not None and ear.node is node:
                    kept[address] = gone.pop(address)
                else:
                    kept[address] = ear = _Ear(self, address, node)
                    new.append(ear)
            self._ears = kept
            for ear in gone.values():
                self._before = [self._before[0] + ear.channel.connects, self._before[1] + ear.channel.pushes]
            self._settle_state()
        for ear in gone.values():
            ear.channel.close(0.0)
            self.cluster.overlook(ear.address)
        for ear in new:
            ear.channel.start()

    def heard(self, ear: _Ear, alive_at: float | None) -> None:
        """A channel lives, as of a moment, or no more (None)."""
        with self._lock:
            current = self._ears.get(ear.address)
            if current is ear:
                ear.alive_at = alive_at
                self._settle_state()
        # What is not listened to any more may still have been looked at: from there on its view would stay for ever.
        if (current is None or (current is ear and alive_at is None)) and not self._closed.is_set():
            self.cluster.overlook(ear.address)

    def _settle_state(self) -> None:
        """Under the lock: say what all channels together vouch for."""
        heard = [ear.alive_at for ear in self._ears.values() if ear.alive_at is not None]
        if not heard or len(heard) < len(self._ears):
            if self.live_since is not None:
                self.live_since = None
                self.live.clear()
                self.listener.channel_lost()
            return
        self.alive_at = min(heard)
        emptied = self.live_since is None
        if emptied:
            self.live_since = self.clock()
        self.listener.channel_live(emptied=emptied, alive_at=self.alive_at)
        self.live.set()

    def reconnect(self, at_once: bool) -> None:
        """A single server's; here each channel is told by its own connections."""

    def forget(self) -> None:
        """After a fork, in the child: threads and connections are the parent's."""
        for ear in list(self._ears.values()):
            ear.channel.forget()
        self.__init__(  # type: ignore[misc]
            self.cluster, self.remote, self.listener, self.trouble, self.clock
        )

    def close(self, wait: float = HEARTBEAT) -> None:
        """End all threads; returns when they have ended, or after a while."""
        self._closed.set()
        with self._lock:
            ears = list(self._ears.values())
        for ear in ears:
            ear.channel.close(0.0)
        deadline = time.monotonic() + wait
        for ear in ears:
            ear.channel.close(max(deadline - time.monotonic(), 0.0))
