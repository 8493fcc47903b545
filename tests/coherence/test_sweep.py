"""Background sweeps, where an exception interrupts the caller that asks for one. No server."""

from __future__ import annotations

import pytest

from aikcache import Cache
from aikcache._coherence.sweep import Sweep, Sweeper
from aikcache._engine import invalidation
from aikcache._keys.patterns import Invalidation

from .._interrupts import Stop, interrupt

OTHERS, MINE = "a:*b", "c:*d"


def test_a_caller_that_sweeps_by_itself_loses_no_other_request_where_it_is_interrupted() -> None:
    """At every point: what waits for a thread still waits, or was swept."""
    for point in range(1, 1000):
        swept: list[str] = []
        full = False
        sweeper = Sweeper(lambda work: None if full else work, lambda what, progress: swept.extend(what.globs))  # noqa: B023
        handle = sweeper.add(Invalidation(globs=(OTHERS,)))
        full = True
        reached, _ = interrupt(point, lambda: sweeper.add(Invalidation(globs=(MINE,))), Stop)  # noqa: B023
        left = [glob for what in sweeper.give_up() for glob in what.globs]
        assert OTHERS in left + swept
        assert handle.done
        if not reached:
            assert swept == [MINE]
            return
    pytest.fail("it does not end")


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
