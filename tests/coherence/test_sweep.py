"""Background sweeps, where an exception interrupts the caller that asks for one. No server."""

from __future__ import annotations

import threading

import pytest

from aikcache import Cache
from aikcache._coherence import sweep as _sweep
from aikcache._coherence.sweep import Sweep, Sweeper
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
