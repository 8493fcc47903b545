"""The channel: how this process hears, at once, of what others have ended.

One connection with RESP3 broadcast tracking on the key space's `~` prefix: Redis pushes the name of every stamp and
mark that is written, evicted, expired or flushed, and of nothing else, so fills and leases make no traffic. Names that
end something: `~stamp:GROUP`, `~key:{KEY}:WRITER`, `~glob:WRITER:GLOB`; a flush arrives as "everything".

A push about a stamp that this process is itself writing (`Stamps.expect`) is checked against the stamp's value before
anything is dropped: if it is the one written here, it says nothing new. Marks carry their writer's name instead.

Alive: a PING each second. Pushes and replies share one connection, so a PONG proves that whatever was pushed before it
has been handled; what is held is trusted until `max_staleness` after the last answered PING was *sent*. Emptied on
every (re)connection, because what happened before it is not known.

Threads: one daemon thread, started by the first call that needs Redis; all that it does to the cache it does through
`Tiers`, under its guard. After `fork` the child has none until its own first call.

Source: Redis, "Client-side caching in Redis", broadcasting mode.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, Protocol

from ._connections import Connections
from ._link import Command, Link
from ._remote import Remote
from ._trouble import Trouble
from .errors import RemoteError, RemoteTimeoutError, RemoteUnavailableError

HEARTBEAT = 1.0
SILENCE = 3.0
"""Seconds without an answer after which a connection is given up and made anew."""
HASTE = 0.25
"""Seconds between heartbeats for whoever is in a hurry: it waits for something to change."""
FIRST_BACKOFF, LONGEST_BACKOFF = 0.02, 1.0


class Listener(Protocol):
    """What a channel tells."""

    def group_ended(self, group: str) -> None: ...
    def key_ended(self, key: str) -> None: ...
    def glob_ended(self, glob: str) -> None: ...
    def everything_ended(self) -> None: ...
    def channel_live(self, *, emptied: bool, alive_at: float) -> None: ...
    def channel_lost(self) -> None: ...
    def settle(self) -> None: ...


class Channel:
    """The channel of one cache to one server."""

    def __init__(
        self,
        remote: Remote,
        listener: Listener,
        trouble: Trouble,
        clock: Callable[[], float] = time.monotonic,
        *,
        connections: Connections | None = None,
        heartbeat: Command = ("PING",),
        check: Callable[[Any], object] | None = None,
        hurries: Callable[[], bool] | None = None,
    ) -> None:
        """`connections`: to one of several servers; `check` is given what each heartbeat was answered.

        `hurries`: asked every `HASTE` seconds whether the next heartbeat is due already.
        """
        self.live = threading.Event()
        self.live_since: float | None = None
        self.alive_at: float | None = None
        self.connects = 0
        self.pushes = 0
        self._remote = remote
        self._connections = connections or remote.server
        self._heartbeat = heartbeat
        self._check = check
        self._hurries = hurries
        self._stamps = remote.stamps
        self._listener = listener
        self._trouble = trouble
        self._clock = clock
        self._closed = threading.Event()
        self._wake = threading.Event()  # set: no rest before the next connection
        self._left = False  # the connection is to be given up for a new one
        self._starting = threading.Lock()  # taken without waiting: whoever finds it taken need not start a thread
        self._thread: threading.Thread | None = None
        self._link: Link | None = None
        self._asked: deque[str | None] = deque()  # what replies are to come: of a PING (None) or a stamp's GET
        self._pinged: deque[float] = deque()

    def start(self) -> None:
        """See to it that the thread runs. Costs nothing when it does."""
        if self._thread is None and not self._closed.is_set() and self._starting.acquire(blocking=False):
            try:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="aikcache-channel", daemon=True)
                    thread.start()
                    self._thread = thread
            except RuntimeError:  # no thread can be started any more: the interpreter is ending
                pass
            finally:
                self._starting.release()

    def forget(self) -> None:
        """After a fork, in the child: the thread is the parent's, and so is the connection.

        Our copy is closed: kept open, it would let the server go on writing when the parent is gone.
        """
        if self._link is not None:
            self._link.close()
        self.__init__(  # type: ignore[misc]
            self._remote,
            self._listener,
            self._trouble,
            self._clock,
            connections=self._connections,
            heartbeat=self._heartbeat,
            check=self._check,
            hurries=self._hurries,
        )

    def close(self, wait: float = 1.0) -> None:
        """End the thread; returns when it has ended, or after `wait` seconds."""
        self._closed.set()
        self._wake.set()
        link, thread = self._link, self._thread
        if link is not None:
            link.interrupt()
        if thread is not None and thread is not threading.current_thread():
            thread.join(wait)

    def reconnect(self, at_once: bool) -> None:
        """The server may be another now: give this connection up, and make a new one, `at_once` without a rest."""
        if threading.current_thread() is self._thread:  # it has found out itself, by connecting
            return
        self._left = True
        link = self._link
        if link is not None:
            link.interrupt()
        if at_once:
            self._wake.set()

    # The thread

    def _run(self) -> None:
        backoff = FIRST_BACKOFF
        while not self._closed.is_set():
            started = self._clock()
            try:
                self._connect_and_listen()
            except (RemoteError, OSError) as error:
                if not self._closed.is_set() and not self._left:
                    self._trouble.report("channel", f"the invalidation channel is down, and will be made anew: {error}")
            except Exception as error:  # a bug here must not end coherence for good
                if self._closed.is_set():
                    return
                self._trouble.report("channel", f"the invalidation channel failed: {type(error).__name__}: {error}")
            finally:
                self._lost()
            if self._clock() - started > LONGEST_BACKOFF:
                backoff = FIRST_BACKOFF
            self._wake.wait(backoff * random.uniform(0.5, 1.5))
            backoff = FIRST_BACKOFF if self._wake.is_set() else min(backoff * 2, LONGEST_BACKOFF)
            if not self._closed.is_set():
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
            link.send_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._remote.space.pushed)
            (reply,) = link.receive(1, deadline)
            if isinstance(reply, Exception):
                raise RemoteUnavailableError(f"the server refuses tracking: {reply}")
            # Subscribed first, emptied then: what ends in between is pushed.
            self.live_since = self.alive_at = began
            self.connects += 1
            self._listener.channel_live(emptied=True, alive_at=began)
            self._listener.settle()
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

    def _listen(self, link: Link) -> None:
        pinged = -inf
        rest = HEARTBEAT if self._hurries is None else HASTE
        while not self._closed.is_set() and not self._left:
            now = self._clock()
            if self._is_due(now - pinged):
                self._pinged.append(now)
                self._asked.append(None)
                link.send_command(*self._heartbeat)
                pinged = now
            if self.alive_at is not None and now - self.alive_at > max(SILENCE, HEARTBEAT * 2):
                raise RemoteTimeoutError(f"no answer for {now - self.alive_at:.1f} seconds")
            for message in link.poll(max(min(pinged + HEARTBEAT - now, rest), 0.001)):
                self._handle(link, message)

    def _is_due(self, since: float) -> bool:
        """Whether to send a heartbeat, `since` seconds after the last."""
        if since >= HEARTBEAT or self._hurries is None:
            return since >= HEARTBEAT
        return since >= HASTE and not self._pinged and self._hurries()

    def _handle(self, link: Link, message: Any) -> None:
        if isinstance(message, Exception) and not (self._asked and self._asked[0]):
            raise RemoteUnavailableError(f"the server refuses: {message}")
        if is_push(message):
            self._pushed(link, message)
        else:
            self._replied(message)

    def _pushed(self, link: Link, message: list[Any]) -> None:
        if len(message) != 2 or message[0] != b"invalidate":
            return
        self.pushes += 1
        if message[1] is None:
            self._listener.everything_ended()
            return
        lead = len(self._remote.space.pushed)
        for name in message[1]:
            kind, _, rest = name[lead:].decode("utf-8", "surrogateescape").partition(":")
            if kind == "stamp" and self._stamps.expected(rest):
                self._asked.append(rest)
                link.send_command("GET", name)
            else:
                self._ended(kind, rest)

    def _ended(self, kind: str, rest: str) -> None:
        if kind == "stamp":
            self._listener.group_ended(rest)
        elif kind == "key":
            key, _, writer = rest.rpartition(":")
            if writer != self._remote.writer:
                self._listener.key_ended(key[1:-1])  # without the braces of the hash tag
        elif kind == "glob":
            writer, _, glob = rest.partition(":")
            if writer != self._remote.writer:
                self._listener.glob_ended(glob)

    def _replied(self, reply: Any) -> None:
        group = self._asked.popleft() if self._asked else None
        if group is not None:
            if not self._stamps.settle(group, reply):  # nor when it is refused: the stamp is on another node now
                self._listener.group_ended(group)
            return
        if self._pinged:
            if self._check is not None:
                self._check(reply)
            self.alive_at = self._pinged.popleft()
            self._listener.channel_live(emptied=False, alive_at=self.alive_at)
            self._listener.settle()


def is_push(message: Any) -> bool:
    """Whether hiredis read this as a push: a list of a class of its own, while PONG and stamps are bytes."""
    return isinstance(message, list)
