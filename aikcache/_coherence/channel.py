"""The invalidation channel: Redis pushes to this process what other processes have invalidated.

One connection uses RESP3 broadcast tracking on the key space's `~` prefix. Redis pushes the name of every stamp and
invalidation marker that is written, evicted, expired or flushed, and nothing else, so fills and leases cause no
traffic. The names that invalidate are `~stamp:GROUP`, `~key:{KEY}:WRITER` and `~glob:WRITER:GLOB`. A flush invalidates
everything.

A push about a stamp that this process is writing itself (`Stamps.expect`) is compared with the stamp's value first. If
it is the value written here, the push is ignored. Markers carry their writer's name instead.

Heartbeats: one a second. Pushes and replies share the connection, so a reply proves that every push before it was
handled. A heartbeat also carries a write that changes nothing, because a server that would refuse an invalidation
pushes none. Local values are trusted until `max_staleness` after the last heartbeat was *sent* whose write was
accepted (`_redis/trust`), or after the last evidence of a majority behind the server, if that is earlier
(`_redis/majority`). While writes are refused, heartbeats are faster.

Threads: one daemon thread, started by the first call that needs Redis. It changes the cache only through `Engine`,
under its guard. After `fork` the child has none until its own first call.

Source: Redis, "Client-side caching in Redis", broadcasting mode.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from aikcache._coherence.feed import Heartbeats, Listener
from aikcache._concurrency import chance
from aikcache._concurrency.reporter import RateLimitedReporter
from aikcache._concurrency.thread import Daemon, Event
from aikcache._keys.globs import MOST_GLOBS
from aikcache._redis.majority import Address
from aikcache._redis.reply import Command, ErrorReply
from aikcache._redis.sentinel_watch import is_push
from aikcache._remote.store import RedisStore
from aikcache.errors import RemoteError, RemoteTimeoutError, RemoteUnavailableError

if TYPE_CHECKING:
    from aikcache._redis.connection import Connection

HEARTBEAT = 1.0
SILENCE = 3.0
"""Seconds without a reply after which the connection is closed and made again."""
FAST_HEARTBEAT = 0.25
"""Seconds between heartbeats while a change is expected."""
FIRST_BACKOFF, LONGEST_BACKOFF = 0.02, 1.0
LONGEST_NAME = 1 << 14
"""Bytes of a pushed name: all of aikcache's are shorter."""
_ELSEWHERE = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
"""Replies to a write that do not say whether this server would accept one: its slot is, or is moving, elsewhere."""


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
        self.failure: str | None = None
        self.unsubscribed: str | None = None
        self.connects = 0
        self.pushes = 0
        self._remote = remote
        self._server = server
        self._connections = server.connections
        self._redirected = 0
        self._write_error: str | None = None  # of the last write; "" if it is a redirection
        self._looked_at = -inf
        self._stamps = remote.stamps
        self._listener = listener
        self._reporter = reporter
        self._clock = clock
        self._daemon = Daemon(self._run, "aikcache-channel")
        self.start = self._daemon.start  # called at every read from Redis, so without a wrapper
        self._wake = Event()  # set: no pause before the next connection
        self._giving_up = False  # the connection is to be replaced by a new one
        self._connection: Connection | None = None
        self._on_replies: deque[Callable[[Any], object]] = deque()  # handlers of the replies that are to come
        self._pinged: deque[float] = deque()

    def forget(self) -> None:
        """Reset after a fork, in the child: thread and connection are the parent's.

        The child's copy of the socket is closed: the server would otherwise go on writing when the parent is gone.
        """
        if self._connection is not None:
            self._connection.close()
        self.__init__(  # type: ignore[misc]
            self._server, self._remote, self._listener, self._reporter, self._clock
        )

    def close(self, wait: float = 1.0) -> None:
        """Stop the thread. Returns when it has ended, or after `wait` seconds."""
        self._daemon.stop()
        self._wake.set()
        connection = self._connection
        if connection is not None:
            connection.interrupt()
        self._daemon.join(wait)

    def reconnect(self, *, at_once: bool, address: Address | None = None) -> None:
        """The server may have changed: make a new connection. `at_once`: without a pause."""
        connection, mine = self._connection, self._daemon.is_current()
        if mine and connection is None:  # the channel itself found the change, with the connection that it is making
            return
        # First: a connection that is being made is then given up as soon as it is there. The channel's own thread also
        # connects to send what is pending; it gives its connection up when it has done so.
        self._giving_up = True
        if connection is not None and not mine:
            connection.interrupt()
        if at_once:
            self._wake.set()

    def primaries_changed(self) -> None:
        """Nothing to do: there is one primary."""

    # The thread

    def _run(self) -> None:
        backoff, closed = FIRST_BACKOFF, self._daemon.stopping
        while not closed.is_set():
            started = self._clock()
            try:
                self._connect_and_listen()
            except (RemoteError, OSError) as error:
                self.failure = str(error)
                if not closed.is_set() and not self._giving_up:
                    self._reporter.report(
                        "channel", f"the invalidation channel is down and will be reconnected: {error}"
                    )
            except Exception as error:  # a bug here must not stop the channel for good
                if closed.is_set():
                    return
                self.failure = type(error).__name__
                self._reporter.report("channel", f"the invalidation channel failed: {self.failure}")
            finally:
                self._lost()
            if self._clock() - started > LONGEST_BACKOFF:
                backoff = FIRST_BACKOFF
            self._wake.wait(backoff * chance.uniform(0.5, 1.5))
            backoff = FIRST_BACKOFF if self._wake.is_set() else min(backoff * 2, LONGEST_BACKOFF)
            if not closed.is_set():
                self._wake.clear()

    def _connect_and_listen(self) -> None:
        self._giving_up = False
        connection = self._connections.connect(protocol=3, name="aikcache-channel", timeout=HEARTBEAT)
        try:
            self._connection = connection
            self._on_replies.clear()
            self._pinged.clear()
            started_at = self._clock()
            deadline = started_at + self._connections.config.connect_timeout
            probe = self._server.probe(self._redirected)
            track: Command = ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._remote.keyspace.pushed)
            subscribe: Command = ("SUBSCRIBE", self._remote.keyspace.news)
            # No push comes before the reply to the last command.
            connection.send_commands([*([] if probe is None else [probe]), track, subscribe])
            *probed, reply = connection.receive(1 if probe is None else 2, deadline)
            if isinstance(reply, Exception):
                raise RemoteUnavailableError(f"the server refuses tracking: {reply}")
            self._probed(*probed or (None,))
            self._on_replies.append(self._subscribed)
            # Subscribe first, then empty, because earlier pushes were missed: an invalidation in between is pushed.
            self.live_since = self.alive_at = started_at
            self.connects += 1
            # A server that refuses writes is listened to, but gives no trust.
            confirmed_at = min(started_at, self._confirmed_at(connection)) if self._write_error is None else -inf
            self._listener.channel_live(emptied=True, alive_at=confirmed_at)
            self._report_write_error(connection, connected=True)
            self.failure = None
            self._listener.send_pending()
            self.live.set()
            self._listen(connection)
        finally:
            self._connection = None
            connection.close()

    def _lost(self) -> None:
        if self.live_since is not None:
            self.live_since = None
            self.live.clear()
            self._listener.channel_lost()

    def _listen(self, connection: Connection) -> None:
        pinged = -inf
        while not self._daemon.stopping.is_set() and not self._giving_up:
            now = self._clock()
            if self._needs_heartbeat(now - pinged):
                self._beat(connection, now)
                pinged = now
            if self.alive_at is not None and now - self.alive_at > max(SILENCE, HEARTBEAT * 2):
                raise RemoteTimeoutError(f"no answer for {now - self.alive_at:.1f} seconds")
            rest = self._server.rest if self._write_error is None else FAST_HEARTBEAT
            for message in connection.poll(max(min(pinged + HEARTBEAT - now, rest), 0.001)):
                self._handle(connection, message)

    def _needs_heartbeat(self, since: float) -> bool:
        """Whether to send a heartbeat, `since` seconds after the last one."""
        if since >= HEARTBEAT or self._pinged:  # no fast one while another is unanswered
            return since >= HEARTBEAT
        return since >= FAST_HEARTBEAT and (self._write_error is not None or self._server.fast_heartbeat())

    def _beat(self, connection: Connection, now: float) -> None:
        probe = self._server.probe(self._redirected)
        if probe is None:  # a node without slots cannot refuse a write
            self._write_error = None
        else:
            self._on_replies.append(self._probed)
        self._pinged.append(now)  # before it is sent: trust counts from the question on, not from the reply
        self._on_replies.append(partial(self._answered, connection))
        heartbeat = self._server.heartbeat
        # The write first: `_answered` needs the reply to this heartbeat's own write.
        connection.send_commands([heartbeat] if probe is None else [probe, heartbeat])

    def _handle(self, connection: Connection, message: Any) -> None:
        if is_push(message):
            self._pushed(connection, message)
        elif self._on_replies:
            self._on_replies.popleft()(message)
        elif isinstance(message, Exception):
            raise RemoteUnavailableError(f"the server refuses: {message}")

    def _pushed(self, connection: Connection, message: list[Any]) -> None:
        if message[0] == b"message":
            self._listener.news_received(message[-1])
        elif message[0] == b"subscribe":  # a reply like any other
            self._on_replies.popleft()(message)
        if len(message) != 2 or message[0] != b"invalidate":
            return
        self.pushes += 1
        if message[1] is None:
            self._listener.everything_invalidated()
            return
        prefix = len(self._remote.keyspace.pushed)
        if sum(name.startswith(b"glob:", prefix) for name in message[1]) > MOST_GLOBS:
            self._listener.everything_invalidated()  # each glob would be compared with every local key
            return
        for name in message[1]:
            if len(name) > LONGEST_NAME:  # not one of aikcache's
                self._listener.everything_invalidated()
                return
            kind, _, rest = name[prefix:].decode("utf-8", "surrogateescape").partition(":")
            if kind == "stamp" and self._stamps.expected(rest):
                self._on_replies.append(partial(self._compared, rest))
                connection.send_command("GET", name)
            else:
                self._invalidated(kind, rest)

    def _invalidated(self, kind: str, rest: str) -> None:
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
        """Handle a stamp's value after a push of it, or an error (it is on another node now)."""
        if not self._stamps.is_unchanged(group, stamp):
            self._listener.group_invalidated(group)

    def _subscribed(self, reply: Any) -> None:
        self.unsubscribed = str(reply) if isinstance(reply, Exception) else None
        if self.unsubscribed is not None:
            self._reporter.report("news", f"invalidations that the server refuses will arrive here late: {reply}")

    def _published(self, reply: Any) -> None:
        if isinstance(reply, Exception):
            self._reporter.report("news", f"an invalidation that was refused cannot be published: {reply}")

    def _probed(self, reply: Any) -> None:
        """Handle the reply to a heartbeat's write."""
        self._write_error = None
        if isinstance(reply, ErrorReply):
            self._write_error = str(reply)
            if self._write_error in _ELSEWHERE:
                self._write_error = ""
                self._redirected += 1

    def _answered(self, connection: Connection, reply: Any) -> None:
        """Handle the reply to a heartbeat."""
        refusing = self._write_error and not self._server.checked  # MISCONF refuses a PING too
        if isinstance(reply, Exception) and not refusing:
            raise RemoteUnavailableError(f"the server refuses: {reply}")
        if self._server.checked:
            self._server.check(reply, connection, self._clock() - self._pinged[0])
        self.alive_at = self._pinged.popleft()
        if self._write_error is None:
            self._listener.channel_live(emptied=False, alive_at=min(self.alive_at, self._confirmed_at(connection)))
        else:
            self._report_write_error(connection)
            if self._write_error == "READONLY" and self.alive_at - self._looked_at >= SILENCE:
                self._looked_at = self.alive_at
                self._look_for_primary()
        self._listener.send_pending()

    def _look_for_primary(self) -> None:
        """A replica answers, and the name in the URL may lead to its successor by now. No call connects meanwhile."""
        before = self._connections.run_id
        with contextlib.suppress(RemoteError):
            self._connections.connect().close()
        if self._connections.run_id != before:
            raise RemoteUnavailableError("another server has taken its place")

    def _report_write_error(self, connection: Connection, *, connected: bool = False) -> None:
        """The server refuses writes: report it, and publish the invalidations that it did not get.

        A redirection does not show that the server refuses writes, so it ends an earlier report.
        """
        if self._write_error is not None:
            self._listener.channel_refused(self._write_error or None)
        if self._write_error:
            for message in self._listener.news(connected=connected):
                self._on_replies.append(self._published)
                connection.send_command("PUBLISH", self._remote.keyspace.news, message)

    def _confirmed_at(self, connection: Connection) -> float:
        """The time of the last evidence of a majority behind this connection's server."""
        return self._clock() - self._connections.age(connection)
