"""The invalidation channel: Redis pushes to this process what others have invalidated.

One connection uses RESP3 broadcast tracking on the key space's `~` prefix. Redis pushes the name of every stamp and
invalidation marker that is written, evicted, expired or flushed, and nothing else, so fills and leases make no
traffic. The names that invalidate are `~stamp:GROUP`, `~key:{KEY}:WRITER` and `~glob:WRITER:GLOB`. A flush is
"everything".

A push about a stamp that this process is writing itself (`Stamps.expect`) is compared with the stamp's value first. If
it is the one written here, it is no news. Markers carry their writer's name instead.

Heartbeats: one a second. Pushes and replies share the connection, so an answer proves that every push before it was
handled. A heartbeat also carries a write that changes nothing, because a server that would refuse an invalidation
pushes none. Local values are trusted until `max_staleness` after the last heartbeat was *sent* whose write was
accepted (`_redis/trust`), or after a majority was last known to stand behind the server, if that was earlier
(`_redis/majority`). While writes are refused, heartbeats come faster. Each (re)connection empties the local tier: what
happened before it is not known.

Threads: one daemon thread, started by the first call that needs Redis. It changes the cache only through `Engine`,
under its guard. After `fork` the child has none until its own first call.

Source: Redis, "Client-side caching in Redis", broadcasting mode.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from aikcache._coherence.feed import Heartbeats, Listener
from aikcache._concurrency.chance import chance
from aikcache._concurrency.reporter import RateLimitedReporter
from aikcache._concurrency.thread import Daemon, Event
from aikcache._keys.globs import MOST_GLOBS
from aikcache._redis.majority import Address
from aikcache._redis.pool import Pool
from aikcache._redis.reply import Command, ErrorReply
from aikcache._remote.store import RedisStore
from aikcache.errors import RemoteError, RemoteTimeoutError, RemoteUnavailableError

if TYPE_CHECKING:
    from aikcache._redis.connection import Connection

HEARTBEAT = 1.0
SILENCE = 3.0
"""Seconds without an answer after which a connection is given up and made anew."""
FAST_HEARTBEAT = 0.25
"""Seconds between heartbeats for whoever is in a hurry: it waits for something to change."""
FIRST_BACKOFF, LONGEST_BACKOFF = 0.02, 1.0
LONGEST_NAME = 1 << 14
"""Bytes of a name that is pushed: all of ours are shorter."""
_ELSEWHERE = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
"""Answers to a write that do not say whether this server would accept one: its slot is elsewhere, or on its way."""


class OneServer:
    """The heartbeats of a single server, and of the primary behind Sentinel."""

    rest = HEARTBEAT

    def __init__(self, connections: Pool, remote: RedisStore) -> None:
        self.connections = connections
        self.checked = connections.sentinels is not None
        self.check = connections.check_heartbeat
        self._probe = remote.commands.probe

    @property
    def heartbeat(self) -> Command:
        return self.connections.heartbeat

    def fast_heartbeat(self) -> bool:
        return False

    def probe(self, number: int) -> Command | None:
        return self._probe()


class Channel:
    """The channel of one cache to one server."""

    def __init__(
        self,
        server: Heartbeats,
        remote: RedisStore,
        listener: Listener,
        reporter: RateLimitedReporter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.live = Event()
        self.live_since: float | None = None
        self.alive_at: float | None = None
        self.connects = 0
        self.pushes = 0
        self._remote = remote
        self._server = server
        self._connections = server.connections
        self._redirected = 0
        self._refusal: str | None = None  # of the last write, "" when it said nothing
        self._stamps = remote.stamps
        self._listener = listener
        self._reporter = reporter
        self._clock = clock
        self._daemon = Daemon(self._run, "aikcache-channel")
        self.start = self._daemon.start  # at every read from Redis, so without a call in between
        self._wake = Event()  # set: no rest before the next connection
        self._left = False  # the connection is to be given up for a new one
        self._link: Connection | None = None
        self._asked: deque[Callable[[Any], object]] = deque()  # what to do with the replies that are to come
        self._pinged: deque[float] = deque()

    def forget(self) -> None:
        """After a fork, in the child: the thread is the parent's, and so is the connection.

        Our copy is closed: kept open, it would let the server go on writing when the parent is gone.
        """
        if self._link is not None:
            self._link.close()
        self.__init__(  # type: ignore[misc]
            self._server, self._remote, self._listener, self._reporter, self._clock
        )

    def close(self, wait: float = 1.0) -> None:
        """End the thread; returns when it has ended, or after `wait` seconds."""
        self._daemon.stop()
        self._wake.set()
        link = self._link
        if link is not None:
            link.interrupt()
        self._daemon.join(wait)

    def reconnect(self, *, at_once: bool, address: Address | None = None) -> None:
        """The server may be another now: give this connection up, and make a new one, `at_once` without a rest."""
        if self._daemon.is_current():  # it has found out itself, by connecting
            return
        self._left = True
        link = self._link
        if link is not None:
            link.interrupt()
        if at_once:
            self._wake.set()

    def primaries_changed(self) -> None:
        """There is one."""

    # The thread

    def _run(self) -> None:
        backoff, closed = FIRST_BACKOFF, self._daemon.stopping
        while not closed.is_set():
            started = self._clock()
            try:
                self._connect_and_listen()
            except (RemoteError, OSError) as error:
                if not closed.is_set() and not self._left:
                    self._reporter.report(
                        "channel", f"the invalidation channel is down and will be reconnected: {error}"
                    )
            except Exception as error:  # a bug here must not end coherence for good
                if closed.is_set():
                    return
                self._reporter.report("channel", f"the invalidation channel failed: {type(error).__name__}")
            finally:
                self._lost()
            if self._clock() - started > LONGEST_BACKOFF:
                backoff = FIRST_BACKOFF
            self._wake.wait(backoff * chance.uniform(0.5, 1.5))
            backoff = FIRST_BACKOFF if self._wake.is_set() else min(backoff * 2, LONGEST_BACKOFF)
            if not closed.is_set():
                self._wake.clear()

    def _connect_and_listen(self) -> None:
        self._left = False
        link = self._connections.connect(protocol=3, name="aikcache-channel", timeout=HEARTBEAT)
        try:
            self._link = link
            self._asked.clear()
            self._pinged.clear()
            began = self._clock()
            deadline = began + self._connections.config.connect_timeout
            probe = self._server.probe(self._redirected)
            track: Command = ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._remote.keyspace.pushed)
            hear: Command = ("SUBSCRIBE", self._remote.keyspace.news)
            link.send_commands([*([] if probe is None else [probe]), track, hear])  # no push comes before the last
            *probed, reply = link.receive(1 if probe is None else 2, deadline)
            if isinstance(reply, Exception):
                raise RemoteUnavailableError(f"the server refuses tracking: {reply}")
            self._probed(*probed or (None,))
            self._asked.append(self._subscribed)
            # Subscribed first, emptied then: what ends in between is pushed.
            self.live_since = self.alive_at = began
            self.connects += 1
            confirmed_at = min(began, self._confirmed_at(link)) if self._refusal is None else -inf
            self._listener.channel_live(emptied=True, alive_at=confirmed_at)
            self._report_refusal(link, connected=True)
            self._listener.send_pending()
            self.live.set()
            self._listen(link)
        finally:
            self._link = None
            link.close()

    def _lost(self) -> None:
        if self.live_since is not None:
            self.live_since = None
            self.live.clear()
            self._listener.channel_lost()

    def _listen(self, link: Connection) -> None:
        pinged = -inf
        while not self._daemon.stopping.is_set() and not self._left:
            now = self._clock()
            if self._is_due(now - pinged):
                self._beat(link, now)
                pinged = now
            if self.alive_at is not None and now - self.alive_at > max(SILENCE, HEARTBEAT * 2):
                raise RemoteTimeoutError(f"no answer for {now - self.alive_at:.1f} seconds")
            rest = self._server.rest if self._refusal is None else FAST_HEARTBEAT
            for message in link.poll(max(min(pinged + HEARTBEAT - now, rest), 0.001)):
                self._handle(link, message)

    def _is_due(self, since: float) -> bool:
        """Whether to send a heartbeat, `since` seconds after the last."""
        if since >= HEARTBEAT or self._pinged:
            return since >= HEARTBEAT
        return since >= FAST_HEARTBEAT and (self._refusal is not None or self._server.fast_heartbeat())

    def _beat(self, link: Connection, now: float) -> None:
        probe = self._server.probe(self._redirected)
        if probe is None:  # a node that has no slots can refuse nothing, whatever it refused before
            self._refusal = None
        else:
            self._asked.append(self._probed)
        self._pinged.append(now)
        self._asked.append(partial(self._answered, link))
        heartbeat = self._server.heartbeat
        link.send_commands([heartbeat] if probe is None else [probe, heartbeat])

    def _handle(self, link: Connection, message: Any) -> None:
        if is_push(message):
            self._pushed(link, message)
        elif self._asked:
            self._asked.popleft()(message)
        elif isinstance(message, Exception):
            raise RemoteUnavailableError(f"the server refuses: {message}")

    def _pushed(self, link: Connection, message: list[Any]) -> None:
        if message[0] == b"message":
            self._listener.news_received(message[-1])
        elif message[0] == b"subscribe":  # an answer like any other
            self._asked.popleft()(message)
        if len(message) != 2 or message[0] != b"invalidate":
            return
        self.pushes += 1
        if message[1] is None:
            self._listener.everything_invalidated()
            return
        lead = len(self._remote.keyspace.pushed)
        if sum(name.startswith(b"glob:", lead) for name in message[1]) > MOST_GLOBS:
            self._listener.everything_invalidated()  # each would be compared with every local key
            return
        for name in message[1]:
            if len(name) > LONGEST_NAME:  # none of ours
                self._listener.everything_invalidated()
                return
            kind, _, rest = name[lead:].decode("utf-8", "surrogateescape").partition(":")
            if kind == "stamp" and self._stamps.expected(rest):
                self._asked.append(partial(self._compared, rest))
                link.send_command("GET", name)
            else:
                self._ended(kind, rest)

    def _ended(self, kind: str, rest: str) -> None:
        if kind == "stamp":
            self._listener.group_invalidated(rest)
        elif kind == "key":
            key, _, writer = rest.rpartition(":")
            if writer != self._remote.writer:
                self._listener.key_invalidated(key[1:-1])  # without the braces of the hash tag
        elif kind == "glob":
            writer, _, glob = rest.partition(":")
            if writer != self._remote.writer:
                self._listener.glob_invalidated(glob)

    def _compared(self, group: str, stamp: Any) -> None:
        """A stamp, as it stands after a push of it; or that it cannot be read: it is on another node now."""
        if not self._stamps.is_unchanged(group, stamp):
            self._listener.group_invalidated(group)

    def _subscribed(self, reply: Any) -> None:
        if isinstance(reply, Exception):
            self._reporter.report("news", f"invalidations that the server refuses will arrive here late: {reply}")

    def _published(self, reply: Any) -> None:
        if isinstance(reply, Exception):
            self._reporter.report("news", f"an invalidation that was refused cannot be published: {reply}")

    def _probed(self, reply: Any) -> None:
        """What the write was answered that goes with a heartbeat."""
        self._refusal = None
        if isinstance(reply, ErrorReply):
            self._refusal = str(reply)
            if self._refusal in _ELSEWHERE:
                self._refusal = ""
                self._redirected += 1

    def _answered(self, link: Connection, reply: Any) -> None:
        """What a heartbeat was answered."""
        refusing = self._refusal and not self._server.checked  # MISCONF refuses a PING, too
        if isinstance(reply, Exception) and not refusing:
            raise RemoteUnavailableError(f"the server refuses: {reply}")
        if self._server.checked:
            self._server.check(reply, link, self._clock() - self._pinged[0])
        self.alive_at = self._pinged.popleft()
        if self._refusal is None:
            self._listener.channel_live(emptied=False, alive_at=min(self.alive_at, self._confirmed_at(link)))
        else:
            self._report_refusal(link)
        self._listener.send_pending()

    def _report_refusal(self, link: Connection, *, connected: bool = False) -> None:
        """The server refuses writes: say so here, and publish what it was not told.

        Where it only says that another node has the slot, it is not known to refuse any longer.
        """
        if self._refusal is not None:
            self._listener.channel_refused(self._refusal or None)
        if self._refusal:
            for message in self._listener.news(connected=connected):
                self._asked.append(self._published)
                link.send_command("PUBLISH", self._remote.keyspace.news, message)

    def _confirmed_at(self, link: Connection) -> float:
        """Until when what is at the other end counts."""
        return self._clock() - self._connections.age(link)


def is_push(message: Any) -> bool:
    """Whether hiredis read this as a push: a list of a class of its own, while PONG and stamps are bytes."""
    return isinstance(message, list) and type(message) is not list
