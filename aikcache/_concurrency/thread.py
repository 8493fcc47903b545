"""Threads and events that an exception from outside cannot leave locked.

A signal handler may raise between any two steps of the thread that it interrupts, and another thread may set an
exception there. `threading.Event` takes and releases its lock in Python code, with steps in between, and `Thread.start`
waits for such an event. An exception there leaves the lock locked, and the thread that then sets the event, or the new
thread, waits for ever. Here every lock is taken, or released, by one call into C, and no wait is long without another
check.

`Daemon` is a thread that lives as long as its owner, and the one place that handles a fork and the interpreter's end
for such threads.

Threads: any. After `fork` an event that is used across threads must be made again.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from math import inf

AGAIN = 0.5
"""Seconds after which a waiter checks again by itself: the thread that woke it may have been interrupted before."""
STARTING = 1.0
"""Seconds after which a thread that has not begun is started again: its starter may have been interrupted."""


def start(work: Callable[..., object], name: str, *args: object) -> threading.Thread:
    """Run `work(*args)` in a daemon thread. Raises `RuntimeError` if none can be started: the interpreter is ending.

    If interrupted, it may have started the thread all the same.
    """
    thread = threading.Thread(target=work, args=args, name=name, daemon=True)
    starting = threading.Lock()
    starting.acquire()
    _thread.start_new_thread(_start, (thread, starting))  # started from a thread that nothing interrupts
    if starting.acquire(timeout=AGAIN) and thread.ident is None:
        raise RuntimeError("no thread can be started")
    return thread


def _start(thread: threading.Thread, starting: _thread.LockType) -> None:
    try:
        with contextlib.suppress(RuntimeError):
            thread.start()
    finally:
        starting.release()


class Event:
    """`threading.Event`, for callers that may be interrupted."""

    __slots__ = ("_set", "_waiting")

    def __init__(self) -> None:
        self._set = False
        self._waiting: deque[_thread.LockType] = deque()  # one for each waiter, released by `set`

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        while self._waiting:
            with contextlib.suppress(IndexError, RuntimeError):  # another thread has released it
                self._waiting.popleft().release()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, at most `timeout` seconds. False: it is not set."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self._set:
            left = AGAIN if until is None else min(until - time.monotonic(), AGAIN)
            if left <= 0:
                return False
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
            if not self._set:
                mine.acquire(timeout=left)
            with contextlib.suppress(ValueError):  # `set` has removed it
                self._waiting.remove(mine)
        return True


class Daemon:
    """A thread that runs `work` from the first `start` on, and ends with the process; one at a time.

    `work` checks `stopping` between its steps. When it returns, the next `start` runs it again. In the child of a fork
    there is no thread, and the next `start` makes one; a daemon that was stopped stays stopped.

    `wanted`, for `work` that returns when there is none: whether there is some after all. (A `start` that found the
    thread ending has done nothing.)
    """

    __slots__ = (
        "__weakref__", "_entering", "_failed", "_name", "_start_after", "_thread", "_wanted", "_work", "stopping",
    )  # fmt: skip

    def __init__(self, work: Callable[[], object], name: str, wanted: Callable[[], object] = lambda: False) -> None:
        self._work = work
        self._name = name
        self._wanted = wanted
        self.stopping = Event()
        self._reset()
        _daemons.add(self)

    def _reset(self) -> None:
        self._entering = threading.Lock()
        self._start_after = -inf  # so that not every caller starts a thread while the first begins
        self._failed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread unless it runs. Costs nothing when it does."""
        if self._thread is None and not self.stopping.is_set() and (now := time.monotonic()) >= self._start_after:
            self._start_after = now + STARTING
            try:
                start(self._run, self._name)
                self._failed = False
            except RuntimeError:  # too many threads, or the interpreter is ending
                self._failed = True

    def available(self) -> bool:
        """Whether there is a thread, or will be at once. Ask after `start`."""
        return self._thread is not None or not (self._failed or self.stopping.is_set())

    def stop(self) -> None:
        """Stop it for good. Does not wait."""
        self.stopping.set()

    def join(self, wait: float) -> None:
        """Wait for its end, at most `wait` seconds; not from the thread itself."""
        thread = self._thread
        if thread is not None and not self.is_current():
            thread.join(wait)

    def is_current(self) -> bool:
        """Whether the caller is this thread."""
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        with self._entering:  # if two were started, one stays
            if self._thread is not None:
                return
            self._thread = threading.current_thread()
        try:
            self._work()
        finally:
            self._start_after, self._thread = -inf, None
            if self._wanted():
                self.start()

    def after_fork(self) -> None:
        """Reset in the child: the thread is the parent's, and locks that it held stay locked."""
        stopped, self.stopping = self.stopping.is_set(), Event()
        if stopped:
            self.stopping.set()
        self._reset()


_daemons: weakref.WeakSet[Daemon] = weakref.WeakSet()


def _after_fork() -> None:
    for daemon in list(_daemons):
        daemon.after_fork()


os.register_at_fork(after_in_child=_after_fork)
