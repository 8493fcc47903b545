"""Threads and events that an exception which comes from outside cannot leave locked.

A signal handler may raise between any two steps of the thread that it interrupts, and another thread may set an
exception there. `threading.Event` takes and gives its lock in Python code, with steps in between, and `Thread.start`
waits for such an event: what comes there leaves the lock locked, and whoever then sets the event, or the new thread,
waits for ever. Here every lock is taken, or given, by one call into C, and nobody waits long without looking again.

Threads: any. After `fork` an event that is used across threads must be made anew.
"""

from __future__ import annotations

import _thread
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable

AGAIN = 0.5
"""Seconds after which who waits looks again by itself: who woke it may have been interrupted before."""


def start(work: Callable[..., object], name: str, *args: object) -> threading.Thread:
    """Run `work(*args)` in a daemon thread. Raises `RuntimeError` when none can be started: the interpreter ends.

    Interrupted, it may have started it all the same.
    """
    thread = threading.Thread(target=work, args=args, name=name, daemon=True)
    starting = threading.Lock()
    starting.acquire()
    _thread.start_new_thread(_start, (thread, starting))  # from a thread that nothing interrupts
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
        self._waiting: deque[_thread.LockType] = deque()  # each held by who waits, and given by who sets

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        while self._waiting:
            with contextlib.suppress(IndexError, RuntimeError):  # another has woken it
                self._waiting.popleft().release()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, `timeout` seconds at most. False: it has not been."""
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
            with contextlib.suppress(ValueError):  # it has been taken out and woken
                self._waiting.remove(mine)
        return True
