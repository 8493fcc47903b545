"""Exceptions that are nobody's of those called: raised by a signal handler, or set by another thread.

A job's time limit comes so, and is no `BaseException` where it is Celery's or RQ's. What a callee raises on its own
account is caught by class (`BUGS`, and what sockets and parsers raise). Where user code runs, which may raise anything,
and where a limit may be of those classes, the traceback tells: a handler's own frame stands in it. What another thread
sets has no frame, so in user code it cannot be told from what that raises.
"""

from __future__ import annotations

import signal
import threading
from types import CodeType

BUGS = (RuntimeError, LookupError, TypeError, ValueError, AttributeError, AssertionError, ArithmeticError, MemoryError)
"""What Python raises where our own code meets what it did not expect, as a reply that no Redis would give."""


def let_out(error: BaseException) -> None:
    """Raise `error` again when a signal handler raised it. For the first line of an `except` that may catch it."""
    if threading.get_ident() != threading.main_thread().ident:  # handlers run nowhere else
        return
    codes = {_code(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    trace = error.__traceback__
    while codes and trace is not None:
        if trace.tb_frame.f_code in codes:
            raise error
        trace = trace.tb_next


def _code(handler: object) -> CodeType | None:
    """Of a function, a method, `functools.partial` of one, or an object that can be called."""
    handler = getattr(handler, "func", handler)
    handler = getattr(handler, "__func__", handler)
    if callable(handler) and not hasattr(handler, "__code__"):
        handler = type(handler).__call__
    code = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None
