"""Daemon threads: one at a time, ended on request, absent after a fork until they are needed."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from aikcache._concurrency.thread import Daemon, Event

PATIENCE = 60.0


def test_many_starts_start_one_thread() -> None:
    """Threads that start it at once get one thread; stopped, it does not start again."""
    inside: list[threading.Thread] = []
    entered = Event()

    def work() -> None:
        inside.append(threading.current_thread())
        entered.set()
        daemon.stopping.wait()

    daemon = Daemon(work, "test-daemon")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: daemon.start(), range(8)))
    assert entered.wait(PATIENCE)
    assert not daemon.is_current()
    daemon.stop()
    daemon.join(PATIENCE)
    daemon.start()
    assert len(inside) == 1
    assert not inside[0].is_alive()


def test_it_starts_again_when_its_work_is_done() -> None:
    """Work that returns is started anew by who needs it next."""
    ran = Event()
    daemon = Daemon(ran.set, "test-daemon")
    for _ in range(2):
        ran.clear()
        deadline = time.monotonic() + PATIENCE
        while not ran.wait(0.01) and time.monotonic() < deadline:  # the last round may not have returned yet
            daemon.start()
        assert ran.is_set()


def test_what_is_asked_of_a_thread_that_is_ending_is_done() -> None:
    """Its work has found nothing to do and returns; what comes at that moment is found by another thread."""
    waiting, done = ["first"], Event()

    def work() -> None:
        if waiting.pop() == "second":
            done.set()
        else:
            waiting.append("second")
            daemon.start()  # the thread is still there

    daemon = Daemon(work, "test-daemon", lambda: waiting)
    daemon.start()
    assert done.wait(PATIENCE)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_after_a_fork_it_is_started_by_the_child_alone() -> None:
    """A child of `fork` has no thread before it starts one; of a daemon that was stopped it has none at all."""
    ran, wrong = Event(), Event()
    daemon, stopped = Daemon(ran.set, "test-daemon"), Daemon(wrong.set, "test-daemon")
    stopped.stop()
    child = os.fork()
    if not child:
        code = 1
        try:
            stopped.start()
            daemon.start()
            code = 0 if ran.wait(PATIENCE) and not wrong.is_set() else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not ran.is_set()
