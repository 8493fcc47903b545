"""Reports each exchange with Redis: its duration, its subject, and the error it raised.

What the circuit breaker refuses is no exchange: it took no time of Redis, and would hide that Redis is slow.

Threads: any. An exception from outside (a signal handler's) is no reply of Redis, and is not reported.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from time import perf_counter
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from aikcache._concurrency import spans
from aikcache._redis.failures import rest
from aikcache._redis.transport import Transport
from aikcache.errors import RemoteError

Report = Callable[[str, Any, float, str | None], object]
"""Takes the kind of command, its subject (see `round_trip`), seconds, and the class of the error."""


class Reporting(Protocol):
    """An object whose exchanges are reported."""

    @property
    def report(self) -> Report | None: ...
    @property
    def connections(self) -> Transport: ...


S = TypeVar("S", bound=Reporting)
P = ParamSpec("P")
T = TypeVar("T")


def round_trip(
    command: str, *, several: str | None = None, keyed: bool = True
) -> Callable[[Callable[Concatenate[S, P], T]], Callable[Concatenate[S, P], T]]:
    """Report the calls of a method that is one exchange.

    `keyed`: its first argument is the subject, a key or several; `several` is the command's name for more than one.
    """

    def decorate(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
        @functools.wraps(method)
        def observed(store: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
            about: Any = args[0] if keyed else None
            name = several if several is not None and len(about) > 1 else command
            if spans.active is not None:
                rest(store.connections)
                with spans.active.exchange(name, len(about) if type(about) is list or type(about) is tuple else 1):
                    return reported(store, name, about, *args, **kwargs)
            return reported(store, name, about, *args, **kwargs)

        def reported(store: S, name: str, about: Any, *args: P.args, **kwargs: P.kwargs) -> T:
            report = store.report
            if report is None:
                return method(store, *args, **kwargs)
            started = perf_counter()
            try:
                answer = method(store, *args, **kwargs)
            except RemoteError as error:
                if error.sent:
                    report(name, about, perf_counter() - started, type(error).__name__)
                raise
            report(name, about, perf_counter() - started, None)
            return answer

        return observed

    return decorate
