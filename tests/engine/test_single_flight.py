"""Races in one process: one load at a time, nothing stale written back, exact counts, user code or a fork anywhere."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import aikcache
from aikcache import Cache
from aikcache._engine.single_flight import LANDED, Flight, Flights
from aikcache.testing import wait_until

from .._interrupts import Finaliser, in_threads

THREADS = 16
PACKAGE = str(Path(aikcache.__file__).parent)


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache(lease_wait=20) as made:
        yield made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(THREADS) as made:
        yield made


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads are switched as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


class Staged:
    """A function whose first run stops in the middle until it is released; `value` is what it read at its start."""

    def __init__(self) -> None:
        self.value: Any = "old"
        self.runs = 0
        self.inside = threading.Event()
        self.go = threading.Event()
        self.fails = False

    def __call__(self, *_: Any) -> Any:
        self.runs += 1
        value, fails = self.value, self.fails
        if not self.inside.is_set():
            self.inside.set()
            assert self.go.wait(20)
        if fails:
            raise LookupError("the leader fails")
        return [value]


def together(pool: ThreadPoolExecutor, count: int, work: Callable[[], Any]) -> list[Future[Any]]:
    """`count` threads that begin `work` at once."""
    barrier = threading.Barrier(count)

    def run() -> Any:
        barrier.wait(20)
        return work()

    return [pool.submit(run) for _ in range(count)]


def waiting(cache: Cache, before: int = 0) -> Callable[[], bool]:
    """Whether more than `before` threads wait for a flight."""
    return lambda: len(cache.engine.flights._waiting) > before


class TestOneLoad:
    def test_sixteen_threads_run_the_function_once(self, cache: Cache, pool: ThreadPoolExecutor) -> None:
        """All callers that miss one key at once get the result of one run, each its own copy."""
        staged = Staged()

        @cache.cached("p")
        def f(x: int) -> list[str]:
            result: list[str] = staged(x)
            return result

        calls = together(pool, THREADS, lambda: f(1))
        wait_until(waiting(cache, THREADS - 2), what="fifteen threads to wait")
        staged.go.set()
        results = [call.result(20) for call in calls]
        assert results == [["old"]] * THREADS
        assert len(set(map(id, results))) == THREADS
        assert staged.runs == 1
        stats = cache.stats().operations["p:f"]
        assert (stats.misses, stats.joined, stats.loads) == (1, THREADS - 1, 1)

    def test_a_load_that_finished_meanwhile_is_not_repeated(
        self, cache: Cache, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A thread that looked before another's load landed, and leads after it, finds the value and runs nothing."""
        runs = []

        @cache.cached("p")
        def f(x: int) -> int:
            runs.append(x)
            return x

        looked, landed = threading.Event(), threading.Event()
        join = Flights.join
        slow: list[int] = []

        def staged_join(self: Flights, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() in slow:
                looked.set()
                assert landed.wait(20)
            return join(self, *args, **kwargs)

        monkeypatch.setattr(Flights, "join", staged_join)

        def late() -> int:
            slow.append(threading.get_ident())
            return f(1)

        call = pool.submit(late)
        assert looked.wait(20)
        assert f(1) == 1
        landed.set()
        assert call.result(20) == 1
        assert runs == [1]
        stats = cache.stats().operations["p:f"]
        assert (stats.hits, stats.misses) == (1, 1)

    def test_different_keys_do_not_wait_for_each_other(self, cache: Cache, pool: ThreadPoolExecutor) -> None:
        """A running load delays no call for another key, cached or not."""
        staged = Staged()

        @cache.cached("p")
        def f(x: int) -> list[str]:
            result: list[str] = staged(x) if x == 1 else [str(x)]
            return result

        call = pool.submit(f, 1)
        assert staged.inside.wait(20)
        assert [f(2), f(2), f(3)] == [["2"], ["2"], ["3"]]
        cache.invalidate("q")
        staged.go.set()
        assert call.result(20) == ["old"]

    def test_waiters_of_a_failing_leader_go_on_by_themselves(self, cache: Cache, pool: ThreadPoolExecutor) -> None:
        """The leader's caller gets the exception; one of the waiters runs the function, and all get its result."""
        staged = Staged()
        staged.fails = True

        @cache.cached("p")
        def f(x: int) -> list[str]:
            result: list[str] = staged(x)
            return result

        leader = pool.submit(f, 1)
        assert staged.inside.wait(20)
        staged.fails, staged.value = False, "new"
        followers = together(pool, 5, lambda: f(1))
        wait_until(waiting(cache, 4), what="five threads to wait")
        staged.go.set()
        with pytest.raises(LookupError, match="the leader fails"):
            leader.result(20)
        assert [follower.result(20) for follower in followers] == [["new"]] * 5
        assert staged.runs == 2

    def test_a_wait_ends_by_itself(self, pool: ThreadPoolExecutor) -> None:
        """After `lease_wait` a waiter runs the function itself, without the cache."""
        staged = Staged()
        cache = Cache(lease_wait=0.05)

        @cache.cached("p")
        def f(x: int) -> list[str]:
            result: list[str] = staged(x)
            return result

        leader = pool.submit(f, 1)
        assert staged.inside.wait(20)
        staged.value = "mine"
        assert f(1) == ["mine"]
        staged.go.set()
        assert leader.result(20) == ["old"]

    def test_two_functions_that_wait_for_each_other_do_not_deadlock(self, pool: ThreadPoolExecutor) -> None:
        """Two loads that each need the other's key finish after the bounded wait, with the right results."""
        cache = Cache(lease_wait=0.1)
        barrier = threading.Barrier(2)
        local = threading.local()

        @cache.cached("p")
        def f(x: int) -> int:
            if not getattr(local, "inside", False):
                local.inside = True
                barrier.wait(20)
                assert f(3 - x) == 3 - x
            return x

        calls = [pool.submit(f, 1), pool.submit(f, 2)]
        assert [call.result(20) for call in calls] == [1, 2]

    def test_what_cannot_be_shared_is_run_by_each(self, cache: Cache, pool: ThreadPoolExecutor) -> None:
        """A result that cannot be kept is not given to waiters: each gets its own."""

        class Unstorable:
            pass

        inside, go = threading.Event(), threading.Event()

        @cache.cached("p")
        def f(x: int) -> object:
            if not inside.is_set():
                inside.set()
                go.wait(20)
            return Unstorable()

        calls = [pool.submit(f, 1)]
        assert inside.wait(20)
        calls += together(pool, 3, lambda: f(1))
        wait_until(waiting(cache, 2), what="three threads to wait")
        go.set()
        assert len({id(call.result(20)) for call in calls}) == 4


ENDINGS: dict[str, Callable[[Any, Cache], object]] = {
    "key": lambda f, cache: f.invalidate(1),
    "invalidate_key": lambda f, cache: cache.invalidate_key("p:f:1"),
    "pattern of a key": lambda f, cache: cache.invalidate("p:f:{x}", x=1),
    "operation": lambda f, cache: cache.invalidate("p:f"),
    "prefix": lambda f, cache: cache.invalidate("p:*"),
    "everything": lambda f, cache: cache.invalidate("*"),
    "glob": lambda f, cache: cache.invalidate("p:*:1"),
    "tag": lambda f, cache: cache.invalidate_tags("t:1"),
    "tag of the result": lambda f, cache: cache.invalidate_tags("late:old"),
    "clear": lambda f, cache: cache.clear(),
    "cache_clear": lambda f, cache: f.cache_clear(),
    "store": lambda f, cache: f.store(["stored"], 1),
    "set": lambda f, cache: cache.set("p:f:1", ["stored"]),
}


class TestNoStaleWriteBack:
    @pytest.mark.parametrize("way", ENDINGS)
    def test_an_invalidated_load_is_neither_stored_nor_given_to_later_callers(
        self, cache: Cache, pool: ThreadPoolExecutor, way: str
    ) -> None:
        """After an invalidation returned, an earlier load answers only its own caller and those that already waited."""
        staged = Staged()
        options: dict[str, Any] = {"tags": ("t:{x}",)}
        if way == "tag of the result":
            options["tags"] = lambda result, x: [f"late:{result[0]}"]

        @cache.cached("p", **options)
        def f(x: int) -> list[str]:
            result: list[str] = staged(x)
            return result

        leader = pool.submit(f, 1)
        assert staged.inside.wait(20)
        follower = pool.submit(f, 1)
        wait_until(waiting(cache), what="the follower to wait")
        staged.value = "new"
        ENDINGS[way](f, cache)
        expected = ["stored"] if way in ("store", "set") else ["new"]
        assert f(1) == expected  # while the old load still runs
        staged.go.set()
        assert leader.result(20) == follower.result(20) == ["old"]
        assert f(1) == expected
        assert f.peek(1) == expected

    @pytest.mark.parametrize("way", ["q", "p:g", "tag", "p:f:2"])
    def test_an_invalidation_of_another_key_hides_no_flight(
        self, cache: Cache, pool: ThreadPoolExecutor, way: str
    ) -> None:
        """Later callers still join a load that no invalidation concerned."""
        staged = Staged()

        @cache.cached("p", tags=("t:{x}",))
        def f(x: int) -> list[str]:
            result: list[str] = staged(x)
            return result

        leader = pool.submit(f, 1)
        assert staged.inside.wait(20)
        if way == "tag":
            cache.invalidate_tags("t:2")
        else:
            cache.invalidate(way)
        follower = pool.submit(f, 1)
        wait_until(waiting(cache), what="the follower to wait")
        staged.go.set()
        assert leader.result(20) == follower.result(20) == ["old"]
        assert staged.runs == 1

    def test_an_invalidated_refresh_is_not_stored(self, cache: Cache, pool: ThreadPoolExecutor) -> None:
        """What `.refresh` read before an invalidation is returned and not cached."""
        staged = Staged()

        @cache.cached("p")
        def f(x: int) -> list[str]:
            result: list[str] = staged(x)
            return result

        refresh = pool.submit(f.refresh, 1)
        assert staged.inside.wait(20)
        cache.invalidate("p")
        staged.go.set()
        assert refresh.result(20) == ["old"]
        assert f.peek(1) is None

    def test_a_load_under_way_when_the_cache_closes_is_answered_and_not_kept(
        self, cache: Cache, pool: ThreadPoolExecutor
    ) -> None:
        """`close` does not disturb running calls."""
        staged = Staged()

        @cache.cached("p")
        def f(x: int) -> list[str]:
            result: list[str] = staged(x)
            return result

        call = pool.submit(f, 1)
        assert staged.inside.wait(20)
        cache.close()
        staged.go.set()
        assert call.result(20) == ["old"]
        assert f.cache_info().currsize == 0

    def test_readers_never_see_what_was_invalidated(
        self, cache: Cache, pool: ThreadPoolExecutor, switching: None
    ) -> None:
        """While a writer changes and invalidates, no later reader gets an older version."""
        version = 0
        stop = threading.Event()

        @cache.cached("p", tags=("t",))
        def f(x: int) -> int:
            return version

        def read() -> int:
            stale = 0
            while not stop.is_set():
                at_least = published[0]
                stale += f(1) < at_least
            return stale

        published = [0]
        readers = [pool.submit(read) for _ in range(4)]
        invalidations = (
            lambda: f.invalidate(1),
            lambda: cache.invalidate("p"),
            lambda: cache.invalidate_tags("t"),
            cache.clear,
        )
        for step in range(400):
            version += 1
            invalidations[step % len(invalidations)]()
            published[0] = version
        stop.set()
        assert [reader.result(20) for reader in readers] == [0] * 4


class TestCounts:
    def test_every_call_is_counted_once(self, pool: ThreadPoolExecutor, switching: None) -> None:
        """Under eight threads that hit, miss, evict and invalidate, hits and misses add up to the calls, exactly."""
        cache = Cache(local_max_entries=20)
        runs: list[int] = []
        calls = 3000

        @cache.cached("p", tags=("t:{x}",))
        def f(x: int) -> tuple[int, ...]:
            runs.append(x)
            return (x,)

        @cache.cached("q")
        def g(x: int) -> list[int]:
            return [x]

        def work() -> None:
            for step in range(calls):
                f(step % 31)
                g(step % 7)
                if step % 100 == 99:
                    f.invalidate(step % 31)
                    cache.invalidate_tags("t:3")
                    cache.invalidate("q")

        for done in together(pool, 8, work):
            done.result(300)
        stats = cache.stats().operations
        assert stats["p:f"].hits + stats["p:f"].misses == 8 * calls
        assert stats["p:f"].misses == stats["p:f"].loads == len(runs)
        assert stats["q:g"].hits + stats["q:g"].misses == 8 * calls
        totals = cache.stats()
        assert totals.hits + totals.misses == 16 * calls
        assert 0 < totals.hit_rate < 1


class TestAnywhere:
    """User code that the interpreter runs in the middle of the cache's own: finalisers, signal handlers, traces."""

    def everything(self, cache: Cache) -> tuple[Callable[[], None], Callable[[], None]]:
        """Work that takes every path of the local tier, and the calls that a finaliser may make."""

        @cache.cached("p", tags=("t:{x}",))
        def f(x: int) -> list[int]:
            return [x]

        @cache.cached("p")
        def g(x: int) -> int:
            return x

        def work() -> None:
            for x in range(3):
                assert f(x) == [x]
                assert g(x) == x
            assert f.many([1, 7]) == [[1], [7]]
            f.store([0], 9)
            f.invalidate(1)
            cache.invalidate_tags("t:2")
            cache.invalidate("p:f", "p:*:2")
            f.explain(1)
            cache.stats()

        def inside() -> None:
            assert f(1) == [1]
            assert g(100) == 100
            f.peek(1)
            f.explain(1)
            f.invalidate(0)
            cache.invalidate("p:g")
            cache.stats()

        return work, inside

    def test_a_call_from_any_point_inside_does_not_hang(self) -> None:
        """A cached function called at any single call or return within the package comes through."""
        cache = Cache(local_max_entries=4, lease_wait=0.01)
        work, inside = self.everything(cache)

        def once(point: int) -> bool:
            """Work, with the cache used at the n-th event inside the package; false when there are fewer."""
            left = point

            def trace(frame: Any, event: str, _: object) -> None:
                nonlocal left
                if frame.f_code.co_filename.startswith((PACKAGE, "<aikcache")):
                    left -= 1
                    if left == 0:
                        sys.setprofile(None)
                        inside()

            sys.setprofile(trace)
            try:
                work()
            finally:
                sys.setprofile(None)
            return left <= 0

        points = 0

        def sweep() -> None:
            nonlocal points
            while once(points + 1):
                points += 3  # each kind of section is entered many times, so a third of the points meets all of them

        in_threads(sweep)
        assert points > 500
        assert not cache.engine.guard.held()

    def test_an_invalidation_by_a_finaliser_is_never_lost(self) -> None:
        """Wherever in a fill garbage is collected, what its finaliser invalidates is gone once the call returned."""
        cache = Cache(local_max_entries=4)
        values = {"victim": 0}

        @cache.cached("p")
        def f(name: str) -> int:
            return values.get(name, 0)

        ran: list[int] = []

        def finalise() -> None:
            values["victim"] += 1
            f.invalidate("victim")
            ran.append(1)

        def sweep() -> None:
            thresholds = gc.get_threshold()
            collected = 0
            gc.collect()
            gc.freeze()  # the rest of the process is not looked at each time
            try:
                for at in range(1, 120):  # the collection comes at the at-th allocation of the call
                    f("victim")
                    gc.collect()
                    ran.clear()
                    Finaliser(finalise)
                    gc.set_threshold(at)
                    f(f"other{at}")
                    gc.set_threshold(0)
                    collected += len(ran)
                    assert f("victim") == values["victim"], at
            finally:
                gc.set_threshold(*thresholds)
                gc.unfreeze()
            assert collected > 10

        in_threads(sweep)


def in_child(work: Callable[[], bool]) -> int:
    """The exit status of a forked child that runs `work`: 0 when it gave True, 14 when an alarm had to end it."""
    pid = os.fork()
    if pid == 0:
        import signal

        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            status = 0 if work() else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
class TestFork:
    def test_a_child_does_not_wait_for_a_load_of_its_parent(self, cache: Cache, pool: ThreadPoolExecutor) -> None:
        """Forked while another thread loads a key, the child loads it itself, at once."""
        staged = Staged()

        @cache.cached("p")
        def f(x: int) -> list[str]:
            result: list[str] = staged(x)
            return result

        call = pool.submit(f, 1)
        assert staged.inside.wait(20)
        staged.value = "child"
        assert in_child(lambda: f(1) == ["child"] and f(1) == ["child"] and staged.runs == 2) == 0
        staged.go.set()
        assert call.result(20) == ["old"]
        assert f(1) == ["old"]

    def test_a_child_keeps_what_was_cached(self, cache: Cache) -> None:
        """What was cached before the fork is cached in the child, and what the child does stays there."""
        runs = []

        @cache.cached("p")
        def f(x: int) -> int:
            runs.append(x)
            return x

        def child() -> bool:
            f(1)
            kept = runs == [1]
            f.invalidate(1)
            f(1)
            return kept and runs == [1, 1]

        f(1)
        assert in_child(child) == 0
        assert f.peek(1) == 1

    def test_a_child_forked_within_a_section_of_another_thread_goes_on(
        self, cache: Cache, pool: ThreadPoolExecutor
    ) -> None:
        """Forked while another thread changes the local tier, the child fills, hits and invalidates all the same."""

        @cache.cached("p")
        def f(x: int) -> int:
            return x

        for x in range(5):
            f(x)
        inside, go = threading.Event(), threading.Event()

        def hold() -> None:
            inside.set()
            go.wait(20)

        def child() -> bool:
            found = [f(x) for x in range(10)] == list(range(10))
            f.invalidate(1)
            cache.clear()
            again = [f(x) for x in range(10)] == list(range(10))
            return found and again and f.cache_info().currsize == 10

        holder = pool.submit(cache.engine.guard.run, hold)
        assert inside.wait(20)
        try:
            assert in_child(child) == 0
        finally:
            go.set()
            holder.result(20)
        assert [f(x) for x in range(5)] == list(range(5))


def test_two_threads_that_load_what_the_other_needs_do_not_wait_for_each_other(pool: ThreadPoolExecutor) -> None:
    """A load that can only land after its waiter has gone on is not waited for: the waiter runs the function."""
    line = threading.Barrier(2)
    with Cache(lease_wait=600) as cache:

        @cache.cached_many("p", operation="a")
        def a(ids: list[int]) -> dict[int, int]:
            if len(ids) > 1:
                line.wait(20)
            return {i: b([5])[5] if i == 1 else i for i in ids}

        @cache.cached_many("p", operation="b")
        def b(ids: list[int]) -> dict[int, int]:
            if len(ids) > 1:
                line.wait(20)
            return {i: a([2])[2] if i == 6 else i for i in ids}

        one, other = pool.submit(a, [1, 2]), pool.submit(b, [5, 6])
        assert (one.result(20), other.result(20)) == ({1: 5, 2: 2}, {5: 5, 6: 2})


def test_a_cycle_of_waiting_threads_is_detected_and_a_chain_is_waited_for() -> None:
    """A thread that would wait for itself through others does not; other cycles and landed loads delay no thread."""
    flights = Flights()
    leads = threading.Lock()
    mine, first, second, third = (Flight(key, [], 0.0, leads) for key in ("mine", "first", "second", "third"))
    first.thread, second.thread, third.thread = 1, 2, 3
    flights._waiting = {1: second, 2: mine, 3: third}
    with leads:
        assert flights._waits_for(mine.thread, first)
        assert not flights._waits_for(99, third)
        flights.done(second, LANDED)
        assert not flights._waits_for(mine.thread, first)
        assert not flights.wait(first, 0)
    assert flights._waiting.keys() == {1, 2, 3}
