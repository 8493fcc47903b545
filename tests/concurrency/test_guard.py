"""The guard: mutual exclusion that a finaliser, a signal handler or a fork at any point inside cannot hang."""

from __future__ import annotations

import gc
import threading

import pytest

from aikcache._concurrency.guard import Guard

from .._interrupts import Finaliser, in_threads, interrupt

COUNT = 2000


def test_sections_of_threads_exclude_each_other() -> None:
    """No two threads are inside at once."""
    guard = Guard()
    barrier = threading.Barrier(4)
    inside: list[int] = []
    seen: list[int] = []

    def section() -> None:
        inside.append(1)
        seen.append(len(inside))
        inside.pop()

    def enter() -> None:
        barrier.wait()
        for _ in range(200):
            guard.run(section)

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {1}
    assert len(seen) == 800


def test_held_is_true_only_in_the_thread_that_holds_the_guard() -> None:
    """A thread outside a section is outside, also while another thread is inside."""
    guard = Guard()
    answers = []

    def section() -> None:
        assert guard.held()
        thread = threading.Thread(target=lambda: answers.append(guard.held()))
        thread.start()
        thread.join()

    guard.run(section)
    assert answers == [False]
    assert not guard.held()


def test_work_inside_waits_for_the_end_of_the_section() -> None:
    """What is asked for inside a section is done at its end, in order, still under the lock."""
    guard = Guard()
    done: list[tuple[str, bool]] = []

    def two() -> None:
        done.append(("two", guard.held()))
        guard.do(lambda: done.append(("three", guard.held())))

    def section() -> None:
        guard.do(lambda: done.append(("one", guard.held())))
        guard.do(two)
        assert done == []

    guard.run(section)
    assert done == [("one", True), ("two", True), ("three", True)]


def test_work_outside_is_done_at_once() -> None:
    """Outside a section the work runs before `do` returns."""
    guard = Guard()
    done = []
    guard.do(lambda: done.append(guard.held()))
    assert done == [True]


def test_values_are_released_after_the_section() -> None:
    """The finaliser of a thing that a section removed runs after the section."""
    guard = Guard()
    seen: list[bool] = []

    def section() -> None:
        guard.release(Finaliser(lambda: seen.append(guard.held())))
        guard._dead[0].myself = None  # type: ignore[attr-defined]  # so that it dies with its last reference
        assert seen == []

    guard.run(section)
    assert seen == [False]


def test_an_error_releases_the_guard() -> None:
    """A section that raises is over, and its error is passed on."""
    guard = Guard()
    with pytest.raises(ValueError, match="invalid literal"):
        guard.run(int, "no")
    assert not guard.held()
    in_threads(lambda: guard.do(lambda: None))


def test_a_collection_at_any_point_of_a_section_neither_hangs_nor_loses_work() -> None:
    """Wherever in a section garbage is collected, what its finaliser asks for is done when the section has ended."""
    guard = Guard()
    done: list[int] = []
    ran: list[int] = []

    def finalise() -> None:
        ran.append(1)
        guard.do(lambda: done.append(1))

    def sweep() -> None:
        thresholds = gc.get_threshold()
        gc.collect()
        gc.freeze()  # the rest of the process is not looked at each time
        try:
            for at in range(1, 60):  # the collection comes at the at-th allocation from here
                gc.collect()
                ran.clear()
                done.clear()
                Finaliser(finalise)
                gc.set_threshold(at)
                guard.run(guard.release, [])
                gc.set_threshold(0)
                assert done == ran, at
        finally:
            gc.set_threshold(*thresholds)
            gc.unfreeze()

    in_threads(sweep)


def test_an_exception_at_any_point_of_a_section_leaves_nothing_locked() -> None:
    """Wherever a signal handler raises in a section, other threads enter the next one, after a repair.

    What was to be done at the section's end is done in the next at the latest.
    """
    guard = Guard()
    state = [0, 0]  # equal outside
    late: list[int] = []

    def repair() -> None:
        state[:] = [0, 0]

    def section() -> None:
        state[0] += 1
        guard.do(lambda: late.append(1))
        guard.release([])
        state[1] += 1

    guard.repair = repair
    seen: list[bool] = []
    for point in range(1, 100):
        late.clear()
        reached, _ = interrupt(point, lambda: guard.do(section), KeyboardInterrupt)
        asked = bool(guard._later) or bool(late)
        in_threads(lambda: guard.do(lambda: seen.append(state[0] == state[1])))
        assert bool(late) == asked, point
        if not reached:
            break
    assert point > 5
    assert all(seen)
