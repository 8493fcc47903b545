"""Exceptions where a signal handler could raise them.

CPython runs signal handlers, and raises what another thread has set, when a Python function begins, when a call has
returned, and when a loop jumps back. The first two can be met one by one, by a profile function that raises; all of
them at random, by a timer. Finalisers run where a collection does.
"""

from __future__ import annotations

import inspect
import logging
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from types import FrameType


class Stop(BaseException):
    """As Ctrl-C."""


class Limit(Exception):
    """A job's time limit, as those of Celery and RQ: no BaseException."""


class Late(TimeoutError):
    """One that looks like trouble with a socket."""


_CALLBACKS = frozenset({"__del__", "_remove", "remove", "__call__"})
"""Finalisers and weak references' callbacks: whatever is raised in there, the interpreter reports and drops."""

_LOGGING = logging.__file__
"""A handler of the standard library reports whatever its `emit` runs into, and drops it."""


def dropped(frame: FrameType | None) -> bool:
    """Whether what is raised there is reported and dropped, by the interpreter or by what runs the tests."""
    while frame is not None:
        if frame.f_code.co_name in _CALLBACKS and "weakref" in frame.f_code.co_filename + frame.f_code.co_name:
            return True
        if frame.f_code.co_filename == _LOGGING:
            return True
        if frame.f_code.co_name in ("__del__", "gc_callback", "unraisable_hook"):  # of Hypothesis, of pytest
            return True
        frame = frame.f_back
    return False


def interrupt(point: int, work: Callable[[], object], kind: type[BaseException]) -> tuple[bool, BaseException | None]:
    """Work, with an exception at the n-th point from here; whether there are as many, and what came out."""
    left = point

    def handler(number: int, frame: FrameType | None) -> None:
        raise kind(f"point {point}")

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        # (A generator that is thrown into, as when it is dropped half used, is told of as a call, and is none.)
        begins = event == "call" and not frame.f_code.co_flags & inspect.CO_GENERATOR
        if (begins or event == "c_return") and not dropped(frame):
            left -= 1
            if left == 0:
                sys.setprofile(None)
                handler(signal.SIGALRM, frame)

    before = signal.signal(signal.SIGALRM, handler)  # for who wants to know whether it was a handler that raised
    sys.setprofile(profile)
    try:
        work()
    except kind as error:
        return left <= 0, error
    finally:
        sys.setprofile(None)
        signal.signal(signal.SIGALRM, before)
    return left <= 0, None


class Storm:
    """Interrupts of the main thread by a timer, each in the middle of one of `works`."""

    def __init__(self, seed: int, longest: float) -> None:
        self.random = random.Random(seed)
        self.longest = longest
        self.raised = 0
        self.swallowed: list[str] = []

    def once(self, name: str, work: Callable[[], object], kind: type[BaseException]) -> None:
        """Work, with one exception of `kind` after a random time, if the work takes that long."""
        armed = raised = seen = False
        where = ""

        def handler(number: int, frame: FrameType | None) -> None:
            nonlocal raised, where
            if armed and not dropped(frame):
                raised = True
                where = " < ".join(f"{at.name}:{at.lineno}" for at in reversed(traceback.extract_stack(frame)[-8:]))
                raise kind("interrupted")

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, self.random.uniform(2e-6, self.longest))
        try:
            armed = True
            work()
            armed = False
        except kind:
            armed, seen = False, True
        finally:
            armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        self.raised += raised
        if raised and not seen:
            self.swallowed.append(f"{kind.__name__} in {name}, at {where}")

    def run(self, works: dict[str, Callable[[], object]], kinds: Sequence[type[BaseException]], count: int) -> None:
        """Until `count` exceptions were raised."""
        names = list(works)
        while self.raised < count:
            name = self.random.choice(names)
            self.once(name, works[name], self.random.choice(kinds))


def in_threads(work: Callable[[], object], count: int = 1, seconds: float = 300.0) -> None:
    """Run `work` in `count` threads, raise what one of them raises, and fail when one hangs."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), "a thread hangs"
    if failed:
        raise failed[0]


class Finaliser:
    """Garbage that only a collection finds, and that calls `work` when it does."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.work = work
        self.myself = self

    def __del__(self) -> None:
        self.work()
