"""Exceptions from outside the called code: raised by a signal handler, or set by another thread.

A job's time limit arrives this way, and is no `BaseException` in Celery or RQ. What a callee raises itself is caught by
class (`BUGS`, and the exceptions of sockets and parsers). Where user code runs, which may raise anything, and where a
limit may have one of those classes, the traceback decides: it contains the handler's frame. An exception set by another
thread has no such frame, so in user code it cannot be distinguished from the user code's own.
"""

from __future__ import annotations

import signal
import threading
from types import CodeType

_PACKAGE = __file__.rpartition("_concurrency")[0]
BUGS = (RuntimeError, LookupError, TypeError, ValueError, AttributeError, AssertionError, ArithmeticError, MemoryError)
"""What Python raises where aikcache's code meets something unexpected, such as a reply that Redis never gives."""


def let_out(error: BaseException) -> None:
    """Raise `error` again if a signal handler raised it. For the first line of an `except` that may catch it."""
    if threading.get_ident() != threading.main_thread().ident:  # handlers run nowhere else
        return
    others: set[CodeType] = set()
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(_PACKAGE):
            others.add(code)
        trace = trace.tb_next
    if others and not others.isdisjoint(_code(signal.getsignal(number)) for number in signal.valid_signals()):
        raise error


def _code(handler: object) -> CodeType | None:
    """The code of a function, a method, `functools.partial` of one, or a callable object."""
    handler = getattr(handler, "func", handler)
    handler = getattr(handler, "__func__", handler)
    if callable(handler) and not hasattr(handler, "__code__"):
        handler = type(handler).__call__
    code = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None
