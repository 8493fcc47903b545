"""A lock for short sections that survives interruptions: it is never left locked, nor its data half changed.

A garbage collection can start inside any critical section and run a finaliser that calls a cached function, in the
thread that holds the lock. A plain lock would hang there for ever; a re-entrant one would let the finaliser see a
structure half changed. Here the thread that enters again can find out (`held`), and work that it must do is done (`do`)
when the outer section ends. Only that finaliser may see its own invalidation late, by the length of the section.

A signal handler can raise there, or another thread set an exception. The lock is a C object that a `with` statement
enters itself, so there is no step between taking it and the block that releases it. What the section was changing is
then `broken`, and is repaired (`repair`, set by its owner) before any other caller sees it.

No user code and no I/O runs under the lock: an object that a section removes is passed to `release`, and dropped
afterwards.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def _nothing() -> None:
    """For owners whose data needs no repair."""


class Guard:
    """Mutual exclusion for short sections. Entering twice in one thread is an error: check `held()` first, or use
    `do`.
    """

    __slots__ = ("_broken", "_dead", "_later", "_lock", "repair")

    def __init__(self) -> None:
        # Re-entrant only because it then knows its owner without a gap in which a finaliser or handler could run.
        self._lock = threading.RLock()
        self._later: deque[Callable[[], object]] = deque()
        self._dead: list[object] = []
        self._broken = False
        self.repair: Callable[[], object] = _nothing

    def held(self) -> bool:
        """Whether this thread is inside."""
        return self._lock._is_owned()  # type: ignore[attr-defined, no-any-return]

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(…)` inside."""
        with self._lock:
            if self._broken:
                self.repair()
            self._broken = True
            result = work(*args, **kwargs)
            while self._later:
                self._later[0]()
                self._later.popleft()  # last, so that interrupted work is repeated
            self._broken = False
            dead, self._dead = self._dead, []
        del dead  # their finalisers run here: user code, so outside the lock
        if self._later:  # left by a finaliser that ran after the loop above
            self.run(_nothing)
        return result

    def after_fork(self) -> bool:
        """Make a new lock in the child. True if a thread that does not exist here was inside: the data cannot be
        relied on.
        """
        broken = self._broken
        self._lock = threading.RLock()
        self._later.clear()
        self._broken = False
        return broken

    def release(self, thing: object) -> None:
        """Keep `thing` alive until the section has ended."""
        self._dead.append(thing)

    def do(self, work: Callable[[], object]) -> None:
        """Run `work` inside: at once, or when this thread's current section ends. It must be safe to repeat."""
        if self.held():
            self._later.append(work)
        else:
            self.run(work)
