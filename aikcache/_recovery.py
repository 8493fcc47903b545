"""Invalidations that Redis has not heard, or may have forgotten.

Pending: what could not be sent is kept, once per group and key, in order, up to a bound beyond which it becomes
"everything" and loses nothing; with a journal it outlives the process. It is sent before anything is read again
(`settle`), so this process never takes from Redis what it has ended itself.

Forgotten: a server that has just started answers from its disk, perhaps with values that were ended after they were
saved, by processes that may be gone. The first of us to meet it ends all that it restored (`greet`). And whenever the
server behind the URL is another one than before, the last minute's invalidations are sent again.

Threads: pending is a dictionary used by its own atomic steps; one thread at a time sends, the others do without Redis
meanwhile.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from . import _sweep
from ._connections import Command, Run
from ._journal import Journal
from ._patterns import EVERYTHING, Ending, joined
from ._remote import Remote
from ._trouble import Trouble
from .errors import RemoteUnavailableError

REPLAY = 60.0
"""Seconds of invalidations that are sent again to a server not met before."""
JUST_STARTED = 300
"""Uptime in seconds below which what a server holds counts as restored from disk."""
MAX_RECENT = 10_000


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
        self._sending = threading.Lock()
        self._pending: dict[tuple[str, str], float] = {}
        self._recent: deque[tuple[float, Ending]] = deque(maxlen=MAX_RECENT)
        self.replayed = 0
        if journal is not None:
            for name in journal.read():
                self._add(name)

    def __len__(self) -> int:
        return len(self._pending)

    def oldest(self) -> float | None:
        """Seconds that the oldest pending invalidation waits; None when there is none."""
        waiting = list(self._pending.values())
        return self._clock() - min(waiting) if waiting else None

    def keep(self, what: Ending) -> None:
        """These could not be sent."""
        for name in what.names():
            self._add(name)
            if self._journal is not None:
                self._journal.add(name)

    def _add(self, name: tuple[str, str]) -> None:
        if len(self._pending) >= self._limit and name not in self._pending:
            self._pending = {}
            name = ("groups", EVERYTHING)
            self._trouble.report(
                "pending", f"more than {self._limit} invalidations wait for Redis; they become one of everything."
            )
        self._pending.pop(name, None)  # the last comes last
        self._pending[name] = self._clock()

    def settle(self) -> None:
        """Send what is pending. Raises `RemoteError` when it cannot be sent: Redis is then not to be read either."""
        if not self._pending:
            return
        if not self._sending.acquire(blocking=False):
            raise RemoteUnavailableError("invalidations are being replayed first.")
        try:
            batch = list(self._pending.items())
            _sweep.end(self._remote, joined([name for name, _ in batch]))
            for name, when in batch:
                if self._pending.get(name) == when:
                    self._pending.pop(name, None)
            self.replayed += len(batch)
            if self._journal is not None and not self._pending:
                self._journal.clear()
        finally:
            self._sending.release()

    def sent(self, what: Ending) -> None:
        """Redis has heard these; should it forget them within the minute, they are sent again."""
        self._recent.append((self._clock(), what))

    def greet(self, run: Run, known: bool, ask: Callable[[list[Command]], list[Any]]) -> None:
        """Before anything is asked of a server not met before; `ask` is its new connection. May raise `RemoteError`."""
        commands: list[Command] = []
        if run.uptime < JUST_STARTED:
            commands.append(self._remote.claim(run.id))
        if known:
            since = self._clock() - REPLAY
            names = dict.fromkeys(name for when, what in list(self._recent) if when >= since for name in what.names())
            again = joined(list(names))
            commands += self._remote.ending(again.groups, again.keys)
            for glob in again.globs:  # a sweep takes long: it goes with what is pending, before anything is read
                self._add(("globs", glob))
        if commands:
            ask(commands)
        self._forget()

    def after_fork(self) -> None:
        """In the child: what is pending is the parent's to send, and its journal the parent's too."""
        self._sending = threading.Lock()
        self._pending = {}
        self._journal = None

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
