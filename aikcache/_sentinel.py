"""Which server is the primary: asked of the Sentinels at every new connection, and heard from one of them.

Asked: the Sentinels in turn, the one that answered last first, each with its share of the time, so that dead ones (even
those that swallow packets) leave some for the living. The answer is not kept: a connection is made where the primary is
now. It may still be wrong for a moment, so the server itself is asked for its role too (`_connections`).

Believed: what has the highest configuration epoch, which each failover raises. Sentinels hear of a switch one after the
other, and one that lags would send us back to a primary that still takes itself for one.

Heard: one thread subscribes to `+switch-master` and its forerunners on one Sentinel, because an old primary may answer
for many seconds after it was replaced (trap 9). Each second it also asks that Sentinel for the primary, which shows
that the Sentinel lives and finds a switch whose message was missed. When it fails, the next one is taken. And every
few seconds another one is asked as well, in case this one is cut off from the others.

Threads: any thread asks; the watcher is a daemon started by the first question, gone after `close`, and after a fork
until the child's first question. Failure: `RemoteUnavailableError`; the watcher reports and goes on.

Source: Redis, "Guidelines for Redis clients with support for Sentinel".
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from ._dial import Dialer
from ._link import Command, Link, Refusal
from ._url import Where
from .errors import RemoteUnavailableError

Address = tuple[str, int]
Known = tuple[int, Address | None]
EVENTS = ("+switch-master", "+promoted-slave", "+failover-end", "+config-update-from")
HEARTBEAT = 1.0
SECOND_OPINION = 5.0
"""Seconds between two questions to another Sentinel than the one that is listened to."""
SILENCE = 3.0
"""Seconds without an answer after which a Sentinel is left for the next one."""
FIRST_BACKOFF, LONGEST_BACKOFF = 0.05, 1.0
SHARE = 0.7
"""How much of the time for connecting the Sentinels may take."""


class Sentinels:
    """The Sentinels of one service."""

    def __init__(self, where: Where, within: float, switched: Callable[[Address], object]) -> None:
        self.service = where.service
        self._within = within
        self._switched = switched
        self._order = list(where.hosts)  # replaced as a whole, never changed
        options = where.options
        self._login = where._replace(
            username=options.get("sentinel_username"), password=options.get("sentinel_password"), db=0
        )
        self._dialer = Dialer(options, tls=where.tls)
        self._starting = threading.Lock()  # taken without waiting: whoever finds it taken need not start a thread
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._link: Link | None = None
        self.report: Callable[[str, str], object] = lambda cause, message: None
        self._known: Known = (-1, None)  # the epoch, and who is the primary in it
        self.listening = False

    # Asked

    def primary(self, deadline: float) -> Address:
        """Where the primary is, as the first Sentinel says that is up to date; before `deadline` (monotonic)."""
        self._watch()
        order, trouble = self._order, []
        late: tuple[int, Address] | None = None
        for tried, address in enumerate(order):
            now = time.monotonic()
            try:
                found = self._ask(address, now + (deadline - now) / (len(order) - tried))
            except Exception as error:
                trouble.append(_said(address, error))
                continue
            if self._learn(*found):
                self._prefer(address)
                return found[1]
            late = found if late is None else max(late, found)
        if late is not None:  # who knew better is gone, or all of them have been set up anew
            self._known = late
            return late[1]
        raise RemoteUnavailableError(f"no Sentinel tells where {self.service!r} is: {'; '.join(trouble)}")

    def doubt(self) -> None:
        """What the first Sentinel said is not so: the next one is asked first. (Locks nothing: the order is a hint.)"""
        order = self._order
        self._order = [*order[1:], order[0]]
        self._dialer.doubt()

    def _prefer(self, address: Address) -> None:
        order = self._order
        if order[0] != address:
            self._order = [address, *(other for other in order if other != address)]

    def _ask(self, address: Address, deadline: float) -> tuple[int, Address]:
        link = self._connect(address, deadline)
        try:
            return self._told(*link.ask(self._questions(), deadline))
        finally:
            link.close()

    def _connect(self, address: Address, deadline: float) -> Link:
        link = Link(self._dialer.dial(*address, deadline), HEARTBEAT)
        try:
            link.introduce(self._login, 3, "aikcache-sentinel", deadline)
        except BaseException:
            link.close()
            raise
        return link

    def _questions(self) -> list[Command]:
        return [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service), ("SENTINEL", "MASTER", self.service)]

    def _told(self, address: Any, facts: Any) -> tuple[int, Address]:
        """The epoch and the primary, from the replies to the questions."""
        if address is None:
            raise RemoteUnavailableError(f"knows no service {self.service!r}")
        for reply in (address, facts):
            if isinstance(reply, Refusal):
                raise RemoteUnavailableError(f"refuses: {reply}")
        host, port = address
        if not isinstance(facts, dict):
            raise RemoteUnavailableError("does not speak as a Sentinel")
        # The leader of a failover names the promoted one already, in an epoch to come.
        coming = (facts[b"ip"], facts[b"port"]) != (host, port)
        return int(facts[b"config-epoch"]) + coming, (host.decode(), int(port))

    def _learn(self, epoch: int, address: Address) -> bool:
        """Whether this is not older than what is known; if it is another primary, whoever uses the last one is told."""
        known, before = self._known
        if epoch < known:
            return False
        self._known = (epoch, address)
        if before is not None and before != address:
            self._switched(address)
        return True

    # Heard

    def _watch(self) -> None:
        """See to it that the watcher runs. Costs nothing when it does."""
        if self._thread is None and not self._closed.is_set() and self._starting.acquire(blocking=False):
            try:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="aikcache-sentinel", daemon=True)
                    thread.start()
                    self._thread = thread
            except RuntimeError:  # no thread can be started any more: the interpreter is ending
                pass
            finally:
                self._starting.release()

    def _run(self) -> None:
        closed = self._closed
        backoff = FIRST_BACKOFF
        while not closed.is_set():
            address, began = self._order[0], time.monotonic()
            try:
                self._listen(address, closed)
            except Exception as error:  # a bug here must not end the watching for good
                if not closed.is_set():
                    self.report("sentinel", f"Sentinel {_said(address, error)}; the next one is asked.")
            finally:
                self.listening = False
            if time.monotonic() - began > LONGEST_BACKOFF:
                backoff = FIRST_BACKOFF
            if self._order[0] == address:
                self.doubt()
            closed.wait(backoff * random.uniform(0.5, 1.5))
            backoff = min(backoff * 2, LONGEST_BACKOFF)

    def _listen(self, address: Address, closed: threading.Event) -> None:
        link = self._connect(address, time.monotonic() + self._within)
        replies: list[Any] = []
        try:
            self._link = link
            link.send_command("SUBSCRIBE", *EVENTS)
            heard_at, next_question = time.monotonic(), 0.0
            next_opinion = heard_at + SECOND_OPINION * random.uniform(0.1, 1)
            while not closed.is_set():
                now = time.monotonic()
                if now - heard_at > SILENCE:
                    raise RemoteUnavailableError(f"silent for {now - heard_at:.1f} seconds")
                if now >= next_question:
                    for question in self._questions():
                        link.send_command(*question)
                    next_question = now + HEARTBEAT
                if now >= next_opinion:
                    next_opinion = now + SECOND_OPINION
                    self._ask_another(address)
                for message in link.poll(max(next_question - now, 0.001)):
                    heard_at = now
                    if is_push(message):
                        if self._concerns_us(message):
                            next_question = 0.0  # whatever it was, where is the primary now?
                        continue
                    replies.append(message)
                    if len(replies) == 2:
                        self._learn(*self._told(*replies))
                        self.listening = True
                        replies.clear()
        finally:
            self._link = None
            link.close()

    def _ask_another(self, than: Address) -> None:
        others = [address for address in self._order if address != than]
        if others:
            with contextlib.suppress(Exception):  # it says nothing new, or nothing at all
                self._learn(*self._ask(random.choice(others), time.monotonic() + self._within / 2))

    def _concerns_us(self, message: list[Any]) -> bool:
        return message[0] == b"message" and self.service.encode() in message[2].split()

    # Its end

    def close(self) -> None:
        """End the thread; returns when it has ended, or after a second."""
        self._closed.set()
        link, thread = self._link, self._thread
        if link is not None:
            link.interrupt()
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)

    def forget(self) -> None:
        """After a fork, in the child: the thread is the parent's, and so is its connection."""
        self._starting = threading.Lock()
        self._closed = threading.Event()
        self._thread = self._link = None
        self.listening = False
        self._dialer.forget()


def is_push(message: Any) -> bool:
    """Whether hiredis read this as a push, for which it has a list of a class of its own."""
    return isinstance(message, list) and type(message) is not list


def _said(address: Address, error: Exception) -> str:
    return f"{address[0]}:{address[1]}: {error if isinstance(error, RemoteUnavailableError) else type(error).__name__}"
