"""A lock that a garbage collection inside it cannot deadlock on.

A collection can start inside any critical section and run a finaliser that calls a cached function, in the thread that
holds the lock. A plain lock would hang there for ever; a re-entrant one would let the finaliser see a structure half
changed. Here the same thread coming again is told so (`held`), and what it must have done is done (`do`) when the
outer section ends. That finaliser alone may see its own invalidation late, by the length of the section.

Under the lock runs no user code and no I/O: what a section removes is handed to `release`, and dropped afterwards.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType


class Guard:
    """Mutual exclusion for short sections. Entering twice in one thread is an error: ask `held()` first, or `do`."""

    __slots__ = ("_dead", "_later", "_lock")

    def __init__(self) -> None:
        # Re-entrant for one reason: it knows its owner without a gap, in which a finaliser or signal handler could run.
        self._lock = threading.RLock()
        self._later: deque[Callable[[], object]] = deque()
        self._dead: list[object] = []

    def held(self) -> bool:
        """True when this very thread is inside."""
        return self._lock._is_owned()  # type: ignore[attr-defined, no-any-return]

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._later:
            self._later.popleft()()
        dead, self._dead = self._dead, []
        self._lock.release()
        del dead  # here their finalisers may run: user code, so outside the lock
        if self._later:  # left by a finaliser that ran after the loop above
            with self:
                pass

    def after_fork(self) -> bool:
        """In the child: a new lock. True when a thread that is not here was inside: nothing can then be relied on."""
        free = self._lock.acquire(blocking=False)
        self._lock = threading.RLock()
        self._later.clear()
        return not free

    def release(self, thing: object) -> None:
        """Keep `thing` alive until the section has ended."""
        self._dead.append(thing)

    def do(self, work: Callable[[], object]) -> None:
        """Run `work` inside: at once, or when the section that this thread is in ends."""
        if self.held():
            self._later.append(work)
        else:
            with self:
                work()
