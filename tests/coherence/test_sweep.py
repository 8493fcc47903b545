"""Background sweeps, where an exception interrupts the caller that asks for one. No server."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest

from aikcache import Cache
from aikcache._coherence import sweep as _sweep
from aikcache._coherence.sweep import Sweep, Sweeper
from aikcache._concurrency import thread
from aikcache._concurrency.background import MAX_THREADS
from aikcache._engine import invalidation
from aikcache._keys.patterns import Invalidation
from aikcache.testing import wait_until

from .._interrupts import Stop, interrupt

PATIENCE = 60
OTHERS, MINE = "a:*b", "c:*d"


def test_no_request_is_lost_where_its_caller_is_interrupted() -> None:
    """At every point: what was asked for is swept by the thread."""
    for point in range(1, 1000):
        swept: list[str] = []
        sweeper = Sweeper(lambda what, progress: swept.extend(what.globs), lambda: True)  # noqa: B023
        handle = sweeper.add(Invalidation(globs=(OTHERS,)))
        reached, _ = interrupt(point, lambda: sweeper.add(Invalidation(globs=(MINE,))), Stop)  # noqa: B023
        assert handle.wait(PATIENCE)
        wait_until(lambda: not len(sweeper), PATIENCE, "the thread")  # noqa: B023
        assert OTHERS in swept
        sweeper.stop()
        if not reached:
            assert MINE in swept
            return
    pytest.fail("it does not end")


def test_failed_attempts_to_sweep_what_is_pending_are_not_repeated_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is asked for meanwhile: each read asks."""
    monkeypatch.setattr(_sweep, "PAUSE", PATIENCE)
    attempts: list[str] = []
    tried = threading.Event()

    def attempt() -> bool:
        attempts.append("failed")
        sweeper.replay()
        tried.set()
        return False

    sweeper = Sweeper(lambda what, progress: None, attempt)
    sweeper.replay()
    assert tried.wait(PATIENCE)
    for _ in range(1000):
        sweeper.replay()
    sweeper.stop()
    sweeper._daemon.join(PATIENCE)
    assert attempts == ["failed"]


def test_one_that_is_closed_sweeps_in_the_caller() -> None:
    """Its thread has ended."""
    swept: list[str] = []
    sweeper = Sweeper(lambda what, progress: swept.extend(what.globs), lambda: True)
    sweeper.stop()
    assert sweeper.add(Invalidation(globs=(MINE,))).done
    assert (swept, len(sweeper)) == ([MINE], 0)


def test_functions_that_hang_in_the_background_hold_up_no_sweep() -> None:
    """Renewals have threads of their own."""
    go = threading.Event()
    with Cache(instance="test") as cache:
        try:
            hanging = [cache.engine.background.submit(lambda: go.wait(PATIENCE)) for _ in range(2 * MAX_THREADS)]
            assert None not in hanging
            handle = cache.invalidate(MINE, background=True)
            assert handle is not None
            assert handle.wait(PATIENCE)
            assert not go.is_set()
        finally:
            go.set()


def test_an_interrupted_background_invalidation_is_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As any other interrupted invalidation: the data may have been changed already."""

    def interrupted(*given: object) -> None:
        raise Stop

    added: list[Invalidation] = []

    def add(what: Invalidation) -> Sweep:
        added.append(what)
        return Sweep()

    with Cache(instance="test") as cache:
        with monkeypatch.context() as patch:
            patch.setattr(invalidation, "invalidate_locally", interrupted)
            patch.setattr(cache.engine.sweeper, "add", add)
            with pytest.raises(Stop):
                cache.invalidate(MINE, background=True)
        assert added == [Invalidation(globs=(MINE,))]


def test_what_is_pending_is_swept_between_requests() -> None:
    """However many come: until it is swept, no call reads from Redis."""
    begun, replayed = threading.Event(), threading.Event()

    def sweep(what: Invalidation, progress: Sweep) -> None:
        begun.set()
        if not replayed.is_set():
            sweeper.add(what)  # another one, before this one is done

    sweeper = Sweeper(sweep, lambda: replayed.set() or True)  # type: ignore[func-returns-value]
    sweeper.add(Invalidation(globs=(MINE,)))
    assert begun.wait(PATIENCE)
    sweeper.replay()
    assert replayed.wait(PATIENCE)
    sweeper.stop()


def test_where_no_thread_can_be_started_the_caller_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of processes is reached, or the interpreter is ending."""

    def refuse(*given: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(thread, "start", refuse)
    swept: list[str] = []
    sweeper = Sweeper(lambda what, progress: swept.extend(what.globs), lambda: True)
    for glob in (MINE, OTHERS):
        assert sweeper.add(Invalidation(globs=(glob,))).done
    assert (swept, len(sweeper)) == ([MINE, OTHERS], 0)


def test_two_that_sweep_one_request_at_once_both_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that had no thread sweeps by itself; a thread that can be started then finds its request, and more."""

    def refuse(*given: object) -> None:
        raise RuntimeError("can't start new thread")

    swept: list[str] = []
    sweeping, go = threading.Event(), threading.Event()

    def work(what: Invalidation, progress: Sweep) -> None:
        if threading.current_thread() is caller:
            sweeping.set()
            assert go.wait(PATIENCE)
        swept.extend(what.globs)

    sweeper = Sweeper(work, lambda: True)
    caller = threading.Thread(target=lambda: sweeper.add(Invalidation(globs=(OTHERS,))))
    with monkeypatch.context() as patch:
        patch.setattr(thread, "start", refuse)
        caller.start()
        assert sweeping.wait(PATIENCE)
    monkeypatch.setattr(thread, "STARTING", 0.0)
    sweeper._daemon._start_after = 0.0
    handle = sweeper.add(Invalidation(globs=(MINE,)))
    assert handle.wait(PATIENCE)
    go.set()
    caller.join(PATIENCE)
    sweeper.stop()
    assert MINE in swept


def test_what_is_added_after_the_stop_is_swept_by_its_caller() -> None:
    """Also while the thread is in its last sweep."""
    swept: list[str] = []
    sweeping, go = threading.Event(), threading.Event()

    def work(what: Invalidation, progress: Sweep) -> None:
        if OTHERS in what.globs:
            sweeping.set()
            assert go.wait(PATIENCE)
        swept.extend(what.globs)

    sweeper = Sweeper(work, lambda: True)
    sweeper.add(Invalidation(globs=(OTHERS,)))
    assert sweeping.wait(PATIENCE)
    sweeper.stop()
    sweeper.give_up()
    handle = sweeper.add(Invalidation(globs=(MINE,)))
    assert handle.done
    assert swept == [MINE]
    go.set()


def test_a_request_waits_before_a_thread_is_started_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting one takes long and may be interrupted; a heartbeat starts one then."""

    def interrupted(*given: object) -> None:
        raise Stop

    swept: list[str] = []
    sweeper = Sweeper(lambda what, progress: swept.extend(what.globs), lambda: True)
    with monkeypatch.context() as patch:
        patch.setattr(thread, "start", interrupted)
        with pytest.raises(Stop):
            sweeper.add(Invalidation(globs=(MINE,)))
    monkeypatch.setattr(thread, "STARTING", 0.0)
    sweeper._daemon._start_after = 0.0
    sweeper.look()
    wait_until(lambda: swept == [MINE], PATIENCE, "the thread")
    sweeper.stop()


def test_a_sweep_runs_in_the_context_of_its_request() -> None:
    """So spans and log lines of it belong to the request."""
    seen: list[str] = []
    request: ContextVar[str] = ContextVar("request", default="none")
    sweeper = Sweeper(lambda what, progress: seen.append(request.get()), lambda: True)
    token = request.set("mine")
    try:
        assert sweeper.add(Invalidation(globs=(MINE,))).wait(PATIENCE)
    finally:
        request.reset(token)
        sweeper.stop()
    assert seen == ["mine"]
