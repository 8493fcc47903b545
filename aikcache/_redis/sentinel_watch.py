"""One Sentinel, listened to: what it publishes of a failover, and what it says of the primary every second.

Its thread subscribes to `+switch-master` and its forerunners, and asks by itself as well, which shows that the Sentinel
lives, finds a switch whose message was missed, and dates what it says. A Sentinel that is silent is connected to anew.

Threads: one daemon each. Failure: it is reported, and tried again after a pause that grows.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from aikcache._concurrency.chance import chance
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
    """Whose primary is asked for, and who learns what was said. `beat`: seconds between questions."""

    service: str
    within: float
    beat: float
    report: Callable[[str, str], object]

    def connect(self, address: Address, deadline: float) -> tuple[Connection, str]: ...
    def questions(self) -> list[Command]: ...
    def told(self, name: str, asked_at: float, replies: list[Any]) -> Opinion: ...
    def learn(self, asked: Address, opinion: Opinion) -> bool: ...


class Watch:
    """The listener to one Sentinel."""

    def __init__(self, sentinels: Service, address: Address) -> None:
        self.address = address
        self.listening = False
        self._sentinels = sentinels
        self._daemon = Daemon(self._run, "aikcache-sentinel")
        self._link: Connection | None = None

    def start(self) -> None:
        """See to it that its thread runs. Costs nothing when it does."""
        self._daemon.start()

    def stop(self) -> None:
        self._daemon.stop()
        link = self._link
        if link is not None:
            link.interrupt()

    def join(self, deadline: float) -> None:
        """Wait for the end, until `deadline` (monotonic)."""
        self._daemon.join(max(deadline - time.monotonic(), 0))

    def _run(self) -> None:
        closed, backoff = self._daemon.stopping, FIRST_BACKOFF
        while not closed.is_set():
            began = time.monotonic()
            try:
                self._listen()
            except Exception as error:  # a bug here must not end the watching for good
                if not closed.is_set():
                    self._sentinels.report(
                        "sentinel", f"Sentinel {said(self.address, error)}; it listens to the others."
                    )
            finally:
                self.listening = False
            if time.monotonic() - began > LONGEST_BACKOFF:
                backoff = FIRST_BACKOFF
            closed.wait(backoff * chance.uniform(0.5, 1.5))
            backoff = min(backoff * 2, LONGEST_BACKOFF)

    def _listen(self) -> None:
        sentinels = self._sentinels
        link, name = sentinels.connect(self.address, time.monotonic() + sentinels.within)
        asked: deque[float] = deque()
        replies: list[Any] = []
        try:
            self._link = link
            link.send_command("SUBSCRIBE", *EVENTS)
            heard_at, next_question = time.monotonic(), 0.0
            while not self._daemon.stopping.is_set():
                now = time.monotonic()
                if now - heard_at > SILENT:
                    raise RemoteUnavailableError(f"silent for {now - heard_at:.1f} seconds")
                if now >= next_question:
                    asked.append(now)
                    for question in sentinels.questions():
                        link.send_command(*question)
                    next_question = now + sentinels.beat
                for message in link.poll(max(next_question - now, 0.001)):
                    heard_at = now
                    if is_push(message):
                        if self._concerns_us(message):
                            next_question = 0.0  # whatever it was, where is the primary now?
                        continue
                    replies.append(message)
                    if len(replies) == len(sentinels.questions()):
                        sentinels.learn(self.address, sentinels.told(name, asked.popleft(), replies))
                        self.listening = True
                        replies = []
        finally:
            self._link = None
            link.close()

    def _concerns_us(self, message: list[Any]) -> bool:
        return message[0] == b"message" and self._sentinels.service.encode() in message[2].split()


def is_push(message: Any) -> bool:
    """Whether hiredis read this as a push, for which it has a list of a class of its own."""
    return isinstance(message, list) and type(message) is not list


def said(address: Address, error: Exception) -> str:
    """An error of one Sentinel, for people."""
    return f"{address[0]}:{address[1]}: {error if isinstance(error, RemoteUnavailableError) else type(error).__name__}"
