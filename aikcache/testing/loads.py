"""How often a cached function runs."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aikcache._decorators.cached_function import CALL


@contextmanager
def assert_loads(fn: Callable[..., Any], n: int) -> Iterator[None]:
    """Asserts that a cached function runs `n` times in this process in a block, whoever calls it; `n` is 0 for hits.

    A run counts when it begins, also one that fails, in another thread, or past the cache; `bypass`, which is the
    function itself, is not counted. What a block raises is not changed.

    Raises:
        AssertionError: it ran more or less often.
        TypeError: it is no cached function.
    """
    __tracebackhide__ = True  # pytest shows the block, not this
    call = getattr(fn, CALL, None)
    if call is None:
        name = getattr(fn, "__qualname__", type(fn).__name__)
        raise TypeError(f"assert_loads counts a function that is decorated with cached or cached_many, got {name}.")
    function, counting, runs = call.fn, threading.Lock(), [0]

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        with counting:
            runs[0] += 1
        return function(*args, **kwargs)

    call.fn = counted
    try:
        yield
    finally:
        call.fn = function
    if runs[0] != n:
        raise AssertionError(f"{function.__qualname__} ran {_times(runs[0])}, not {_times(n)}.")


def _times(count: int) -> str:
    return {0: "never", 1: "once"}.get(count, f"{count} times")
