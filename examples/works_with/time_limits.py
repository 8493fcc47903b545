"""Celery and RQ: a task with a time limit that is inside a cached function when it comes.

Celery's worker raises `SoftTimeLimitExceeded` from a handler of SIGUSR1, RQ's raises `JobTimeoutException` from one of
SIGALRM. Both are exceptions that a signal handler raises, and they reach the task from any point of a call. Nothing is
left behind: no lock, no lease that others would wait for. The limit counts for the caller alone: the stale value that
`error_ttl` keeps for a function that fails does not answer instead.

Run: python examples/works_with/time_limits.py [redis://localhost:6379/0]   (a private server without an argument)
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from aikcache import Cache
from aikcache.testing import Server


class SoftTimeLimitExceeded(Exception):
    """As `billiard.exceptions` has it."""


class JobTimeoutException(Exception):
    """As `rq.timeouts` has it."""


def soft_time_limit() -> None:
    """What Celery's pool does to a worker at the end of `soft_time_limit`."""
    os.kill(os.getpid(), signal.SIGUSR1)


def death_penalty() -> None:
    """What RQ has the system do at the end of `job_timeout`."""
    signal.setitimer(signal.ITIMER_REAL, 0.001)


def installed(number: signal.Signals, error: type[Exception]) -> None:
    def handler(signum: int, frame: object) -> None:
        raise error(f"{number.name} came")

    signal.signal(number, handler)


def main(url: str) -> None:
    installed(signal.SIGUSR1, SoftTimeLimitExceeded)
    installed(signal.SIGALRM, JobTimeoutException)
    with Cache(url, instance="time-limits", timeout=20, connect_timeout=20, lease_wait=120) as cache:
        cache.clear()
        limits: list[Callable[[], None]] = []

        @cache.cached("report", ttl=300, error_ttl=3600)
        def report(number: int) -> str:
            if limits:
                limits.pop()()
                while True:  # one long sleep would not be woken by a signal that comes just before it
                    time.sleep(0.01)
            return f"report {number}"

        for limit in (soft_time_limit, death_penalty):
            limits.append(limit)
            try:
                report(1)
            except (SoftTimeLimitExceeded, JobTimeoutException) as error:
                print(type(error).__name__, "-", error)
            print(report(1))  # the next task waits for nobody
            report.invalidate(1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with Server() as server:
            main(server.url)

# It prints:
#   SoftTimeLimitExceeded - SIGUSR1 came
#   report 1
#   JobTimeoutException - SIGALRM came
#   report 1
