"""Invalidations that Redis has not heard, or may have forgotten.

Pending: what could not be sent is kept, once per group and key, in order, up to a bound beyond which it becomes
"everything" and loses nothing; with a journal it outlives the process. It is sent before anything is read again
(`settle`), so this process never takes from Redis what it has ended itself.

Forgotten: a server that has just started answers from its disk, perhaps with values that were ended after they were
saved, by processes that may be gone. The first of us to meet it ends all that it restored (`greet`). And whenever the
server behind the URL is another one than before, the last minute's invalidations are sent again; under
`failover="distrust"` all that it holds is ended as well, once for all processes.

Unheard: with `invalidate_wait` an invalidation that the primary knows, but too few of its replicas. It does not keep
this process from reading, is asked for again with each heartbeat, and is sent to a server that takes over.

Threads: pending is a dictionary changed under a guard, so that what is kept anew while it is being told is told again;
one thread at a time sends, the others do without Redis meanwhile.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from . import _sweep
from ._connections import Run
from ._guard import Guard
from ._journal import Journal
from ._link import Command
from ._patterns import EVERYTHING, Ending, joined
from ._remote import Remote
from ._trouble import Trouble
from .errors import ConfigError, RemoteError, RemoteUnavailableError

REPLAY = 60.0
"""Seconds of invalidations that are sent again to a server not met before."""
JUST_STARTED = 300
"""Uptime in seconds below which what a server holds counts as restored from disk."""
MAX_RECENT = 10_000
MOST_TAKEOVERS = 3
ALL = ("groups", EVERYTHING)
DISTRUST_MS = 30 * 86_400_000
"""How long it is known that a server's takeover was seen; whoever first comes later ends everything once more."""


class Recovery:
    """What one process must still tell, or tell again."""

    def __init__(
        self,
        remote: Remote,
        trouble: Trouble,
        clock: Callable[[], float],
        limit: int,
        journal: Journal | None,
        forget: Callable[[], object],
    ) -> None:
        self._remote = remote
        self._trouble = trouble
        self._clock = clock
        self._limit = limit
        self._journal = journal
        self._forget = forget
        config = remote.connections.config
        self._distrusts = config.failover == "distrust"
        self._replicas, self._patience = config.invalidate_wait, config.timeout / 2
        self._unheard: dict[tuple[str, str], float] = {}
        self.greetings = 0
        self._guard = Guard()
        self._sending = threading.Lock()
        self._pending: dict[tuple[str, str], float] = {}
        self._recent: deque[tuple[float, Ending]] = deque(maxlen=MAX_RECENT)
        self.replayed = 0
        if journal is not None:
            self._pending = dict.fromkeys(journal.read(), clock())

    def __len__(self) -> int:
        return len(self._pending) + len(self._unheard)

    def oldest(self) -> float | None:
        """Seconds that the oldest pending invalidation waits; None when there is none."""
        waiting = [*self._pending.values(), *self._unheard.values()]
        return self._clock() - min(waiting) if waiting else None

    def keep(self, what: Ending) -> None:
        """These could not be sent."""
        for name in what.names():
            self._add(name)

    def _add(self, name: tuple[str, str]) -> None:
        if ALL in self._pending:
            name = ALL  # told again, should it just be on its way
        elif len(self._pending) >= self._limit and name not in self._pending:
            self._trouble.report(
                "pending", f"more than {self._limit} invalidations wait for Redis; they become one of everything."
            )
            self._write(ALL)
            self._pending = {ALL: self._clock()}  # in one step: it must never be seen empty
            return
        if name not in self._pending:
            self._write(name)
        self._guard.do(lambda: self._pending.__setitem__(name, self._clock()))

    def _write(self, name: tuple[str, str]) -> None:
        """To the journal; a child of `fork` also takes over what it finds there."""
        if self._journal is not None:
            try:
                self._journal.add(name)
            except (OSError, ConfigError) as error:
                self._trouble.report("journal", f"an invalidation is kept in memory alone: {error}")
            for left in self._journal.read():
                self._pending.setdefault(left, self._clock())

    def settle(self) -> None:
        """Send what is pending. Raises `RemoteError` when it cannot be sent: Redis is then not to be read either."""
        if not self._pending:
            return
        if not self._sending.acquire(blocking=False):
            raise RemoteUnavailableError("invalidations are being replayed first.")
        try:
            for _ in range(MOST_TAKEOVERS):
                batch, met = list(self._pending.items()), self.greetings
                what = joined([name for name, _ in batch])
                _sweep.end(self._remote, what)
                if self.greetings == met:
                    break  # who was told is who is read from next
            else:
                raise RemoteUnavailableError("the server changes again and again.")
            # What was read since it was kept is from before it; its push comes as an echo, and ends nothing here.
            self._remote.stamps.forget(*what.groups)
            for name, when in batch:
                self._guard.do(lambda name=name, when=when: self._told(name, when))  # type: ignore[misc]
            self.sent(what, met)
            self.replayed += len(batch)
            self._tidy()
        finally:
            self._sending.release()

    def _tidy(self) -> None:
        """Empty the journal when nothing is to be told any more."""
        if self._journal is not None and not self._pending and not self._unheard:
            self._journal.clear()
            for name in [*self._pending, *self._unheard]:  # kept while we cleared: its line may have gone as well
                self._write(name)

    def _told(self, name: tuple[str, str], when: float) -> None:
        if self._pending.get(name) == when:
            del self._pending[name]

    def sent(self, what: Ending, greetings: int) -> None:
        """Redis has heard these; should it forget them within the minute, they are sent again.

        `greetings` as it was before they were sent. If another server was met since, it was not told of them, and who
        acknowledged them may have been the one before.
        """
        self._recent.append((self._clock(), what))  # first: from here on a greeting tells them too
        if self.greetings != greetings:
            self.keep(what)
        if self._replicas and (self._unheard or not self._acknowledged()):
            self._add_unheard(what.names())  # with some unheard already, a call does not wait for its own

    def confirm(self) -> None:
        """Ask whether the replicas have heard by now what they had not. Raises `RemoteError`."""
        if self._unheard:
            batch = list(self._unheard.items())
            if self._remote.acknowledged(self._replicas, self._patience):
                for name, when in batch:
                    if self._unheard.get(name) == when:
                        self._unheard.pop(name, None)
                self._tidy()

    def _acknowledged(self) -> bool:
        try:
            return self._remote.acknowledged(self._replicas, self._patience)
        except RemoteError:
            return False

    def _add_unheard(self, names: Iterable[tuple[str, str]]) -> None:
        for name in names:
            if len(self._unheard) >= self._limit and name not in self._unheard:
                self._unheard = {}
                name = ALL
            if name not in self._unheard:
                self._write(name)
            self._unheard[name] = self._clock()
        self._trouble.report("unheard", f"fewer than {self._replicas} replicas have heard of an invalidation.")

    def greet(self, run: Run, known: bool, ask: Callable[[list[Command]], list[Any]]) -> None:
        """Before anything is asked of a server not met before; `ask` is its new connection. May raise `RemoteError`."""
        commands: list[Command] = []
        self.greetings += known  # before `_recent` is read: see `sent`
        if self._distrusts:
            commands.append(self._remote.claim(run.id, DISTRUST_MS))
        elif run.uptime < JUST_STARTED:
            commands.append(self._remote.claim(run.id))
        if known:
            since = self._clock() - REPLAY
            names = dict.fromkeys(name for when, what in list(self._recent) if when >= since for name in what.names())
            names |= dict.fromkeys(list(self._unheard))
            if self._replicas and names:
                self._add_unheard(names)
            again = joined(list(names))
            commands += self._remote.ending(again.groups, again.keys)
            for glob in again.globs:  # a sweep takes long: it goes with what is pending, before anything is read
                self._add(("globs", glob))
        if commands:
            ask(commands)
        if known:
            self._forget()

    def after_fork(self) -> None:
        """In the child: what is pending is the parent's to send; the child's journal will be a file of its own."""
        self._guard = Guard()
        self._sending = threading.Lock()
        self._pending, self._unheard = {}, {}
        if self._journal is not None:
            self._journal.after_fork()

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
