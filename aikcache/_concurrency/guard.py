"""A lock that nothing which may come between two steps inside it can leave locked, or what it guards half changed.

A collection can start inside any critical section and run a finaliser that calls a cached function, in the thread that
holds the lock. A plain lock would hang there for ever; a re-entrant one would let the finaliser see a structure half
changed. Here the same thread coming again is told so (`held`), and what it must have done is done (`do`) when the
outer section ends. That finaliser alone may see its own invalidation late, by the length of the section.

A signal handler can raise there, or another thread set an exception. The lock is a C object that a `with` statement
enters itself, so there is no step between taking it and the block that gives it back. What the section was changing is
`broken` then, and mended (`mend`, given by who owns it) before anybody else sees it.

Under the lock runs no user code and no I/O: what a section removes is handed to `release`, and dropped afterwards.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def _nothing() -> None:
    """What is broken need not be mended."""


class Guard:
    """Mutual exclusion for short sections. Entering twice in one thread is an error: ask `held()` first, or `do`."""

    __slots__ = ("_broken", "_dead", "_later", "_lock", "mend")

    def __init__(self) -> None:
        # Re-entrant for one reason: it knows its owner without a gap, in which a finaliser or signal handler could run.
        self._lock = threading.RLock()
        self._later: deque[Callable[[], object]] = deque()
        self._dead: list[object] = []
        self._broken = False
        self.mend: Callable[[], object] = _nothing

    def held(self) -> bool:
        """True when this very thread is inside."""
        return self._lock._is_owned()  # type: ignore[attr-defined, no-any-return]

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`work(…)` inside."""
        with self._lock:
            if self._broken:
                self.mend()
            self._broken = True
            result = work(*args, **kwargs)
            while self._later:
                self._later[0]()
                self._later.popleft()  # not before: cut short, it is done again
            self._broken = False
            dead, self._dead = self._dead, []
        del dead  # here their finalisers may run: user code, so outside the lock
        if self._later:  # left by a finaliser that ran after the loop above
            self.run(_nothing)
        return result

    def after_fork(self) -> bool:
        """In the child: a new lock. True when a thread that is not here was inside: nothing can then be relied on."""
        broken = self._broken
        self._lock = threading.RLock()
        self._later.clear()
        self._broken = False
        return broken

    def release(self, thing: object) -> None:
        """Keep `thing` alive until the section has ended."""
        self._dead.append(thing)

    def do(self, work: Callable[[], object]) -> None:
        """Run `work` inside: at once, or when the section that this thread is in ends. It must bear being repeated."""
        if self.held():
            self._later.append(work)
        else:
            self.run(work)
