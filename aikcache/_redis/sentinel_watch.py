"""Watches one Sentinel: the failovers that it publishes, and its answers about the primary every second.

The thread subscribes to `+switch-master` and the events before it. It also asks by itself: the answers show that the
Sentinel lives, reveal a switch whose message was lost, and give its opinions a date. If the Sentinel is silent, the
thread connects again.

Threads: one daemon each. Failure: it is reported, and the next attempt follows after a growing pause.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from aikcache._concurrency import chance
from aikcache._concurrency.thread import Daemon
from aikcache._redis.majority import SILENT, Address, Opinion
from aikcache._redis.reply import Command
from aikcache.errors import RemoteUnavailableError

if TYPE_CHECKING:
    from aikcache._redis.connection import Connection

EVENTS = ("+switch-master", "+promoted-slave", "+failover-end", "+config-update-from")
HEARTBEAT = 1.0
FIRST_BACKOFF, LONGEST_BACKOFF = 0.05, 1.0


class Service(Protocol):
    """The service that is watched. It receives what the Sentinel answers. `beat`: seconds between questions."""

    service: str
    within: float
    beat: float
    report: Callable[[str, str], object]

    def connect(self, address: Address, deadline: float) -> tuple[Connection, str]: ...
    def questions(self) -> list[Command]: ...
    def opinion(self, name: str, asked_at: float, replies: list[Any]) -> Opinion: ...
    def record_opinion(self, address: Address, opinion: Opinion) -> bool: ...


class Watch:
    """The listener to one Sentinel."""

    def __init__(self, sentinels: Service, address: Address) -> None:
        self.address = address
        self.listening = False
        self._sentinels = sentinels
        self._daemon = Daemon(self._run, "aikcache-sentinel")
        self._connection: Connection | None = None

    def start(self) -> None:
        """Start the thread unless it runs. Costs nothing when it does."""
        self._daemon.start()

    def stop(self) -> None:
        self._daemon.stop()
        connection = self._connection
        if connection is not None:
            connection.interrupt()

    def forget(self) -> None:
        """In the child of a fork: close its copy of the socket. The Sentinel would otherwise miss the parent's end."""
        if self._connection is not None:
            self._connection.close()

    def join(self, deadline: float) -> None:
        """Wait until the thread has ended, or until `deadline` (monotonic)."""
        self._daemon.join(max(deadline - time.monotonic(), 0))

    def _run(self) -> None:
        closed, backoff = self._daemon.stopping, FIRST_BACKOFF
        while not closed.is_set():
            started_at = time.monotonic()
            try:
                self._listen()
            except Exception as error:  # a bug here must not end the watching for good
                if not closed.is_set():
                    self._sentinels.report(
                        "sentinel", f"Sentinel {describe(self.address, error)}; it listens to the others."
                    )
            finally:
                self.listening = False
            if time.monotonic() - started_at > LONGEST_BACKOFF:
                backoff = FIRST_BACKOFF
            closed.wait(backoff * chance.uniform(0.5, 1.5))
            backoff = min(backoff * 2, LONGEST_BACKOFF)

    def _listen(self) -> None:
        sentinels = self._sentinels
        connection, name = sentinels.connect(self.address, time.monotonic() + sentinels.within)
        requested_at: deque[float] = deque()
        replies: list[Any] = []
        try:
            self._connection = connection
            connection.send_command("SUBSCRIBE", *EVENTS)
            next_question = 0.0
            while not self._daemon.stopping.is_set():
                now = time.monotonic()
                if requested_at and now - requested_at[0] > SILENT:  # whatever else it sends
                    raise RemoteUnavailableError(f"silent for {now - requested_at[0]:.1f} seconds")
                if now >= next_question:
                    requested_at.append(now)
                    for question in sentinels.questions():
                        connection.send_command(*question)
                    next_question = now + sentinels.beat
                for message in connection.poll(max(next_question - now, 0.001)):
                    if is_push(message):
                        if self._concerns_us(message):
                            next_question = 0.0  # whatever happened, ask for the primary now
                        continue
                    replies.append(message)
                    if len(replies) == len(sentinels.questions()):
                        sentinels.record_opinion(self.address, sentinels.opinion(name, requested_at.popleft(), replies))
                        self.listening = True
                        replies = []
        finally:
            self._connection = None
            connection.close()

    def _concerns_us(self, message: list[Any]) -> bool:
        return message[0] == b"message" and self._sentinels.service.encode() in message[2].split()


def is_push(message: Any) -> bool:
    """Whether hiredis parsed this as a push, for which it has its own subclass of list."""
    return isinstance(message, list) and type(message) is not list


def describe(address: Address, error: Exception) -> str:
    """An error of one Sentinel, for a log line."""
    return f"{address[0]}:{address[1]}: {error if isinstance(error, RemoteUnavailableError) else type(error).__name__}"
