"""Values that have aged, in one process: served stale, renewed in the background, and never after an invalidation."""

from __future__ import annotations

import contextvars
import functools
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache import Cache, ConfigError
from aikcache._codec.codec import Codec
from aikcache._concurrency import background as _background
from aikcache._concurrency import chance
from aikcache._concurrency.background import Background
from aikcache._engine import refresh
from aikcache._engine.policy import Policy
from aikcache._engine.single_flight import Flight, Flights
from aikcache.testing import FakeClock, wait_until

PATIENCE = 20.0
TTL, STALE, ERROR = 10.0, 5.0, 20.0
"""What the functions here are cached with; times between these ends name what should happen then."""
IN_STALE, IN_ERROR = 12.0, 17.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def cache(clock: FakeClock) -> Iterator[Cache]:
    with Cache(clock=clock) as made:
        yield made


class Source:
    """What a cached function reads: it counts its reads, and fails or waits on request."""

    def __init__(self) -> None:
        self.reads = 0
        self.broken = False
        self.open = threading.Event()
        self.open.set()
        self.give: Callable[[str], Any] = lambda text: text
        self.before: Callable[[], object] = lambda: None
        self._counting = threading.Lock()

    def read(self, x: str) -> Any:
        with self._counting:
            self.reads += 1
            text = f"{x}{self.reads}"
        self.before()
        assert self.open.wait(PATIENCE), "nobody opened the gate: a call waits that should not"
        if self.broken:
            raise LookupError("the source is away")
        return self.give(text)

    def wait_reads(self, count: int) -> None:
        wait_until(lambda: self.reads >= count, PATIENCE, f"{count} reads")


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    yield source
    source.open.set()


def reading(cache: Cache, source: Source, **options: Any) -> Any:
    """A cached function of the source."""

    @cache.cached("p", **{"ttl": TTL, "tags": ("t:{x}", "all"), **options})
    def f(x: str) -> Any:
        return source.read(x)

    return f


class Call:
    """A call in a thread of its own."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._result: Any = None
        self._error: BaseException | None = None

        def work() -> None:
            try:
                self._result = function(*args)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def result(self) -> Any:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "a call hangs"
        if self._error is not None:
            raise self._error
        return self._result


@dataclass
class Old:
    x: list[int]


@dataclass
class New:
    x: list[int]
    y: str


class TestStaleTtl:
    @pytest.mark.parametrize("options", [{}, {"share": True}], ids=["own", "shared"])
    @pytest.mark.parametrize("give", [str, list, lambda text: {"it": [text]}], ids=["str", "list", "dict"])
    def test_it_answers_at_once_and_renews_behind(
        self, cache: Cache, clock: FakeClock, source: Source, give: Callable[[str], Any], options: dict[str, Any]
    ) -> None:
        """A stale value is answered while the load that renews it is still under way, and the new one follows."""
        source.give = give
        f = reading(cache, source, stale_ttl=STALE, **options)
        assert f("a") == give("a1")
        clock.advance(TTL)
        source.open.clear()
        assert f("a") == give("a1")
        source.wait_reads(2)
        assert f("a") == give("a1")
        source.open.set()
        wait_until(lambda: f.peek("a") == give("a2"), PATIENCE, "the renewal")
        assert f("a") == give("a2")
        assert source.reads == 2
        assert cache.stats().stale == 2

    def test_a_stale_value_expires_after_stale_ttl(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """Once `stale_ttl` is over, the call loads for itself."""
        f = reading(cache, source, stale_ttl=STALE)
        f("a")
        clock.advance(TTL + STALE)
        assert f("a") == "a2"
        assert cache.stats().stale == 0

    def test_a_value_is_served_until_the_end_of_stale_ttl(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """Just before `stale_ttl` is over a stale value still answers."""
        f = reading(cache, source, stale_ttl=STALE)
        f("a")
        clock.advance(TTL + STALE - 0.001)
        source.open.clear()
        assert f("a") == "a1"

    def test_a_fresh_value_is_not_renewed(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """Before the end of `ttl` nothing is loaded, and nothing counts as stale."""
        f = reading(cache, source, stale_ttl=STALE)
        f("a")
        clock.advance(TTL - 0.001)
        assert f("a") == "a1"
        assert cache.engine.background._threads == 0
        assert (source.reads, cache.stats().stale) == (1, 0)

    def test_many_calls_are_one_renewal(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """However many calls a stale value answers, one load renews it, and every call is counted."""
        f = reading(cache, source, stale_ttl=STALE)
        f("a")
        clock.advance(TTL)
        source.open.clear()
        calls = [Call(lambda: [f("a") for _ in range(50)]) for _ in range(8)]
        assert {value for call in calls for value in call.result()} == {"a1"}
        source.open.set()
        wait_until(lambda: cache.stats().loads == 2, PATIENCE, "the renewal")
        stats = cache.stats()
        assert (source.reads, stats.stale, stats.loads, stats.misses) == (2, 400, 2, 1)

    def test_a_failing_renewal_is_tried_once_a_second(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """While the function fails, stale calls are answered, and a load is attempted once a second."""
        f = reading(cache, source, stale_ttl=STALE)
        f("a")
        clock.advance(TTL)
        source.broken = True
        for second in range(3):
            for _ in range(4):
                assert f("a") == "a1"
                source.wait_reads(second + 2)
                clock.advance(0.25)
        assert source.reads == 4
        wait_until(lambda: cache.stats().errors == 3, PATIENCE, "the failures to be counted")
        source.broken = False
        assert f("a") == "a1"
        wait_until(lambda: f.peek("a") == "a5", PATIENCE, "the renewal")

    def test_nothing_is_kept_of_a_ttl_of_zero(self, cache: Cache, source: Source) -> None:
        """A result that is not to be stored is never stale either."""
        f = reading(cache, source, ttl=0, stale_ttl=STALE, error_ttl=ERROR)
        assert [f("a"), f("a")] == ["a1", "a2"]
        source.broken = True
        with pytest.raises(LookupError):
            f("a")

    def test_a_value_of_another_type_is_a_miss(self, cache: Cache, clock: FakeClock) -> None:
        """A stale value that cannot be what is asked for is neither served nor fallen back to."""

        def get(give: Callable[[], object], kind: type) -> object:
            return cache.get_or_load("p:f:a", give, TTL, type=kind, stale_ttl=STALE, error_ttl=ERROR)

        def fail() -> object:
            raise LookupError("away")

        for late in (IN_STALE, IN_ERROR):
            assert get(lambda: Old([1]), Old) == Old([1])
            clock.advance(late)
            with pytest.raises(LookupError):
                get(fail, New)
            assert get(lambda: New([1], "x"), New) == New([1], "x")
            cache.clear()
        assert cache.stats().stale == 0

    def test_a_closed_cache_serves_nothing_stale(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """After `close` a call runs its function."""
        f = reading(cache, source, stale_ttl=STALE)
        f("a")
        clock.advance(TTL)
        cache.close()
        assert f("a") == "a2"


class TestErrorTtl:
    def test_a_failing_function_is_answered_for(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """When the function raises, the stale value answers, counted as stale, until `error_ttl` is over."""
        f = reading(cache, source, error_ttl=ERROR)
        f("a")
        source.broken = True
        clock.advance(TTL)
        assert f("a") == "a1"
        clock.advance(ERROR - 0.001)
        assert f("a") == "a1"
        assert cache.stats().stale == 2
        assert cache.engine.reporter.counts["stale:p:f"] == 2
        clock.advance(0.001)
        with pytest.raises(LookupError, match="the source is away"):
            f("a")

    def test_a_working_function_answers_itself(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """While the function works, `error_ttl` changes nothing."""
        f = reading(cache, source, error_ttl=ERROR)
        f("a")
        clock.advance(TTL)
        assert f("a") == "a2"
        assert cache.stats().stale == 0

    @pytest.mark.parametrize("load_timeout", [None, PATIENCE])
    def test_a_failing_source_is_asked_once_a_second(
        self, cache: Cache, clock: FakeClock, source: Source, load_timeout: float | None
    ) -> None:
        """For three seconds without a source every call is answered, with one attempt a second; then all is new."""
        f = reading(cache, source, error_ttl=ERROR, load_timeout=load_timeout)
        f("a")
        clock.advance(TTL)
        source.broken = True
        for _ in range(12):
            assert f("a") == "a1"
            clock.advance(0.25)
        assert source.reads == 1 + 3
        assert cache.stats().stale == 12
        source.broken = False
        assert f("a") == "a5"
        assert cache.stats().stale == 12

    def test_what_is_remembered_of_failures_is_bounded(
        self, cache: Cache, clock: FakeClock, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(refresh, "MAX_KEYS", 10)
        f = reading(cache, source, error_ttl=ERROR)
        keys = list(map(str, range(25)))
        values = list(map(f, keys))
        clock.advance(TTL)
        source.broken = True
        assert list(map(f, keys)) == values
        assert len(cache.engine.refresher._not_before) <= 10

    @pytest.mark.parametrize("load_timeout", [None, PATIENCE])
    def test_waiters_do_not_fail_one_after_the_other(
        self, cache: Cache, clock: FakeClock, source: Source, load_timeout: float | None
    ) -> None:
        """Those who wait for a load that fails get the stale value too, without an attempt of their own."""
        f = reading(cache, source, error_ttl=ERROR, load_timeout=load_timeout)
        f("a")
        clock.advance(TTL)
        source.broken = True
        source.open.clear()
        calls = [Call(f, "a") for _ in range(8)]
        source.wait_reads(2)
        source.open.set()
        assert [call.result() for call in calls] == ["a1"] * 8
        assert (source.reads, cache.stats().stale) == (2, 8)

    def test_a_load_that_failed_since_the_call_has_looked_is_not_tried_again(
        self, cache: Cache, clock: FakeClock, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It found a stale value and no failure; before it could lead a load, another's began and failed."""
        f = reading(cache, source, error_ttl=ERROR)
        f("a")
        clock.advance(TTL)
        source.broken = True
        join = Flights.join

        def late(flights: Flights, mine: Flight) -> Flight:
            monkeypatch.setattr(Flights, "join", join)
            assert f("a") == "a1"
            return join(flights, mine)

        monkeypatch.setattr(Flights, "join", late)
        assert f("a") == "a1"
        assert (source.reads, cache.stats().stale) == (2, 2)

    def test_who_waits_gets_no_stale_value_that_is_not_trusted_any_more(
        self, cache: Cache, clock: FakeClock, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was for the call that has found it; since then the channel has been silent for too long."""
        waiting = threading.Event()
        landed = Flight.wait

        def wait(flight: Flight, seconds: float) -> bool:
            waiting.set()
            return landed(flight, seconds)

        monkeypatch.setattr(Flight, "wait", wait)
        f = reading(cache, source, error_ttl=ERROR)
        f("a")
        clock.advance(TTL)
        cache.engine.trust_until(clock() + 1)
        source.broken = True
        source.open.clear()
        leader = Call(f, "a")
        source.wait_reads(2)
        clock.advance(cache.config.max_staleness - 1)
        other = Call(f, "a")
        assert waiting.wait(PATIENCE)
        source.open.set()
        assert leader.result() == "a1"
        with pytest.raises(LookupError):
            other.result()

    def test_who_waits_and_takes_nothing_stale_gets_none(
        self, cache: Cache, clock: FakeClock, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A call without `error_ttl` that waits for one with it does not get the stale value when that load fails."""
        waiting = threading.Event()
        landed = Flight.wait

        def wait(flight: Flight, seconds: float) -> bool:
            waiting.set()
            return landed(flight, seconds)

        monkeypatch.setattr(Flight, "wait", wait)
        f = reading(cache, source, error_ttl=ERROR)
        f("a")
        clock.advance(TTL)
        source.broken = True
        source.open.clear()
        leader = Call(f, "a")
        source.wait_reads(2)
        other = Call(cache.get_or_load, f.key("a"), lambda: "own")
        assert waiting.wait(PATIENCE)
        source.open.set()
        assert (leader.result(), other.result()) == ("a1", "own")

    def test_keyboardinterrupt_and_systemexit_are_raised(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """A stale value stands in for an `Exception` only."""
        f = reading(cache, source, error_ttl=ERROR)
        f("a")
        clock.advance(TTL)

        def stop(text: str) -> None:
            raise KeyboardInterrupt

        source.give = stop
        with pytest.raises(KeyboardInterrupt):
            f("a")

    def test_after_stale_ttl_comes_error_ttl(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """Both together: renewed behind, then only for want of a result, then gone."""
        f = reading(cache, source, stale_ttl=STALE, error_ttl=ERROR)
        f("a")
        source.broken = True
        clock.advance(TTL)
        assert f("a") == "a1"
        source.wait_reads(2)
        clock.advance(STALE)
        assert f("a") == "a1"
        assert source.reads == 3
        clock.advance(ERROR - STALE)
        with pytest.raises(LookupError):
            f("a")

    def test_a_failed_fallback_keeps_nothing(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """A stale answer does not count as a new one: it ends when it would have ended."""
        f = reading(cache, source, error_ttl=ERROR)
        f("a")
        source.broken = True
        clock.advance(TTL + ERROR - 0.5)
        assert f("a") == "a1"
        assert f.peek("a") is None
        clock.advance(0.5)
        with pytest.raises(LookupError):
            f("a")


class TestLoadTimeout:
    def test_the_stale_value_answers_and_the_load_goes_on(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """No caller waits for a load that takes too long, and its result is stored when it arrives."""
        f = reading(cache, source, error_ttl=ERROR, load_timeout=0.05)
        f("a")
        clock.advance(TTL)
        source.open.clear()
        calls = [Call(f, "a") for _ in range(4)]
        assert [call.result() for call in calls] == ["a1"] * 4
        assert cache.stats().stale == 4
        source.open.set()
        wait_until(lambda: f.peek("a") == "a2", PATIENCE, "the load")
        assert f("a") == "a2"
        assert source.reads == 2
        assert len(cache.engine.flights) == 0

    def test_a_quick_load_is_waited_for(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """A load within `load_timeout` answers with its own result."""
        f = reading(cache, source, error_ttl=ERROR, load_timeout=PATIENCE)
        f("a")
        clock.advance(TTL)
        assert f("a") == "a2"
        assert cache.stats().stale == 0

    def test_without_a_stale_value_it_waits(self, cache: Cache, source: Source) -> None:
        """The first load of a key is waited for, however long it takes."""
        f = reading(cache, source, error_ttl=ERROR, load_timeout=0.01)
        source.open.clear()
        first, second = Call(f, "a"), Call(f, "a")
        source.wait_reads(1)
        assert not source.open.wait(0.05)
        source.open.set()
        assert (first.result(), second.result()) == ("a1", "a1")

    def test_a_load_that_fails_late_is_not_repeated_at_once(
        self, cache: Cache, clock: FakeClock, source: Source
    ) -> None:
        """A load that fails when no caller waits any more is not attempted again for a second."""
        f = reading(cache, source, error_ttl=ERROR, load_timeout=0.05)
        f("a")
        clock.advance(TTL)
        source.broken = True
        source.open.clear()
        assert f("a") == "a1"
        source.open.set()
        wait_until(lambda: len(cache.engine.flights) == 0, PATIENCE, "the load to fail")
        assert f("a") == "a1"
        assert source.reads == 2
        clock.advance(1)
        assert f("a") == "a1"
        assert source.reads == 3

    def test_where_no_thread_is_to_be_had_it_loads_in_front(
        self, cache: Cache, clock: FakeClock, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the background full, the caller's own thread loads, and falls back if that fails."""
        f = reading(cache, source, error_ttl=ERROR, load_timeout=0.05)
        f("a")
        clock.advance(TTL)
        monkeypatch.setattr(_background, "MAX_QUEUE", 0)
        assert f("a") == "a2"
        clock.advance(TTL)
        source.broken = True
        assert f("a") == "a2"
        assert cache.engine.background._threads == 0


ENDINGS: dict[str, Callable[[Cache, Any], object]] = {
    "f.invalidate": lambda cache, f: f.invalidate("a"),
    "invalidate_key": lambda cache, f: cache.invalidate_key(f.key("a")),
    "prefix": lambda cache, f: cache.invalidate("p"),
    "operation": lambda cache, f: cache.invalidate("p:f:*"),
    "exact": lambda cache, f: cache.invalidate("p:f:a"),
    "glob": lambda cache, f: cache.invalidate("p:*:a*"),
    "tag": lambda cache, f: cache.invalidate_tags("t:a"),
    "cache_clear": lambda cache, f: f.cache_clear(),
    "clear": lambda cache, f: cache.clear(),
}


@pytest.fixture(params=list(ENDINGS.values()), ids=list(ENDINGS))
def ending(request: pytest.FixtureRequest) -> Callable[[Cache, Any], object]:
    """Each way to invalidate the call `f("a")`."""
    how: Callable[[Cache, Any], object] = request.param
    return how


class TestInvalidated:
    @pytest.mark.parametrize("late", [0, IN_STALE, IN_ERROR])
    def test_an_invalidated_value_is_not_served_stale(
        self, cache: Cache, clock: FakeClock, source: Source, ending: Callable[[Cache, Any], object], late: float
    ) -> None:
        """A value that was invalidated, fresh or stale, answers no call, also when the function fails."""
        f = reading(cache, source, stale_ttl=STALE, error_ttl=ERROR)
        f("a")
        clock.advance(late)
        ending(cache, f)
        clock.advance(IN_ERROR - late)
        source.broken = True
        with pytest.raises(LookupError):
            f("a")
        source.broken = False
        assert f("a") == "a3"
        assert cache.stats().stale == 0

    @pytest.mark.parametrize("load_timeout", [None, PATIENCE])
    def test_while_the_load_that_fails_is_under_way(
        self,
        cache: Cache,
        clock: FakeClock,
        source: Source,
        ending: Callable[[Cache, Any], object],
        load_timeout: float | None,
    ) -> None:
        """An invalidation during a load takes its fallback away, from the leader and from those who wait."""
        f = reading(cache, source, stale_ttl=STALE, error_ttl=ERROR, load_timeout=load_timeout)
        f("a")
        clock.advance(IN_ERROR)
        source.broken = True
        source.open.clear()
        calls = [Call(f, "a") for _ in range(3)]
        source.wait_reads(2)
        ending(cache, f)
        source.open.set()
        for call in calls:
            with pytest.raises(LookupError):
                call.result()

    def test_while_the_load_takes_too_long(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """A load that an invalidation hit and that takes too long is not answered for with what was invalidated."""
        f = reading(cache, source, error_ttl=ERROR, load_timeout=2)
        f("a")
        clock.advance(TTL)
        source.open.clear()
        leader = Call(f, "a")
        source.wait_reads(2)
        waiter = Call(f, "a")
        f.invalidate("a")
        source.wait_reads(3)  # by the one who has waited long enough
        source.open.set()
        assert {leader.result(), waiter.result()} & {"a1"} == set()

    def test_while_it_is_renewed(
        self, cache: Cache, clock: FakeClock, source: Source, ending: Callable[[Cache, Any], object]
    ) -> None:
        """The result of a renewal that an invalidation hit is kept nowhere."""
        f = reading(cache, source, stale_ttl=STALE)
        f("a")
        clock.advance(TTL)
        source.open.clear()
        assert f("a") == "a1"
        source.wait_reads(2)
        ending(cache, f)
        later = Call(f, "a")
        source.wait_reads(3)
        source.open.set()
        assert later.result() == "a3"
        wait_until(lambda: cache.stats().loads == 3, PATIENCE, "the renewal to end")
        assert f("a") == "a3"

    def test_between_a_callers_look_and_its_load(
        self, cache: Cache, clock: FakeClock, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A stale value that is invalidated after it was found, and before its load begins, is no fallback."""
        f = reading(cache, source, error_ttl=ERROR)
        f("a")
        clock.advance(TTL)
        source.broken = True
        join = Flights.join

        def late(self: Flights, mine: Flight) -> Flight:
            f.invalidate("a")
            return join(self, mine)

        monkeypatch.setattr(Flights, "join", late)
        with pytest.raises(LookupError):
            f("a")


class TestMany:
    def test_a_stale_value_answers_for_the_call_that_fails(
        self, cache: Cache, clock: FakeClock, source: Source
    ) -> None:
        """With `error_ttl`, `.many` gives the stale value of a call that fails, and new values for the others."""
        f = reading(cache, source, error_ttl=ERROR)
        assert f.many(["a", "b"]) == ["a1", "b2"]
        clock.advance(IN_STALE)

        def before() -> None:
            source.broken = source.reads == 3

        source.before = before
        assert f.many(["a", "b", "c"]) == ["a1", "b4", "c5"]
        assert (cache.stats().stale, cache.stats().loads) == (1, 4)
        source.before = lambda: None
        assert f.many(["a", "b"]) == ["a1", "b4"], "what has just failed is not tried again at once"

    def test_without_a_value_to_answer_with_the_error_is_raised_and_the_rest_is_kept(
        self, cache: Cache, clock: FakeClock, source: Source
    ) -> None:
        """A call that fails and has no stale value fails `.many`; what was loaded before it is cached."""
        f = reading(cache, source, error_ttl=ERROR)

        def before() -> None:
            source.broken = source.reads == 2

        source.before = before
        with pytest.raises(LookupError):
            f.many(["a", "b"])
        assert (f.peek("a"), f.peek("b")) == ("a1", None)
        assert len(cache.engine.flights) == 0


class TestEarlyRefresh:
    def test_it_renews_before_the_expiry(
        self, cache: Cache, clock: FakeClock, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A value whose load took a second is renewed a second or more before it expires, and no caller waits."""
        monkeypatch.setattr(chance, "random", lambda: 0.0)  # XFetch's draw at its least
        source.before = lambda: clock.advance(1)
        f = reading(cache, source, early_refresh=1)
        f("a")
        clock.advance(TTL - 1.001)
        assert f("a") == "a1"
        assert cache.engine.background._threads == 0
        clock.advance(0.001)
        source.before = lambda: None
        source.open.clear()
        assert [f("a") for _ in range(20)] == ["a1"] * 20
        source.open.set()
        wait_until(lambda: source.reads == 2 and f("a") == "a2", PATIENCE, "the renewal")
        assert (cache.stats().stale, cache.stats().misses) == (0, 1)
        clock.advance(TTL - 0.001)
        assert f("a") == "a2"

    @pytest.mark.parametrize(("beta", "cost"), [(0, 1.0), (1, 0.0)])
    def test_off_or_for_nothing_it_does_nothing(
        self, cache: Cache, clock: FakeClock, source: Source, beta: float, cost: float
    ) -> None:
        """Without `early_refresh`, and for loads that take no time, nothing is renewed before its end."""
        source.before = lambda: clock.advance(cost)
        f = reading(cache, source, early_refresh=beta)
        f("a")
        clock.advance(TTL - 0.001)
        assert f("a") == "a1"
        assert cache.engine.background._threads == 0

    @given(
        beta=st.floats(0, 100),
        cost=st.floats(-1, 1e4),
        ttl=st.floats(0.001, 1e6),
        draw=st.floats(0, 1, exclude_max=True),
    )
    def test_an_early_renewal_is_within_its_bounds(self, beta: float, cost: float, ttl: float, draw: float) -> None:
        """The draw is between a load's time (times beta) and half of `ttl`, and grows with chance."""
        policy = Policy(Codec(), early_refresh=beta)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chance, "random", lambda: draw)
            early = refresh.early(policy, cost, ttl)
        if not beta or cost <= 0:
            assert early == 0
        else:
            assert min(cost * beta, ttl / 2) <= early <= ttl / 2
            assert early == pytest.approx(min(cost * beta * (1 + -math.log(1 - draw)), ttl / 2))

    def test_a_renewal_that_fails_keeps_the_value(
        self, cache: Cache, clock: FakeClock, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When an early renewal fails, the value is served until it expires."""
        monkeypatch.setattr(chance, "random", lambda: 0.0)
        source.before = lambda: clock.advance(1)
        f = reading(cache, source, early_refresh=1)
        f("a")
        clock.advance(TTL - 1)
        source.before = lambda: None
        source.broken = True
        assert f("a") == "a1"
        wait_until(lambda: cache.stats().errors == 1, PATIENCE, "the failure")
        assert f("a") == "a1"
        clock.advance(1)
        with pytest.raises(LookupError):
            f("a")

    def test_jitter_shortens_the_ttl_and_not_the_stale_ttl(
        self, cache: Cache, clock: FakeClock, source: Source
    ) -> None:
        """`jitter` shortens `ttl` by up to its fraction, spread, and `stale_ttl` begins where that ends."""
        f = reading(cache, source, jitter=0.5, stale_ttl=STALE)
        names = [f"x{i}" for i in range(200)]
        for name in names:
            f(name)
        left = {name: f.explain(name)["local"]["seconds_left"] for name in names}
        assert TTL / 2 <= min(left.values()) < TTL * 0.6
        assert TTL * 0.9 < max(left.values()) <= TTL
        first = min(names, key=left.__getitem__)
        source.open.clear()
        clock.advance(left[first] + STALE - 0.01)
        assert f(first) == "x" + first[1:] + str(names.index(first) + 1)
        clock.advance(0.02)
        assert f.explain(first)["answer"] == "load"


class TestOtherWays:
    def test_peek_gives_only_what_is_fresh(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """`.peek`, `get` and `get_many` give nothing stale, and renew nothing."""
        f = reading(cache, source, stale_ttl=STALE, error_ttl=ERROR)
        f("a")
        assert (f.peek("a"), cache.get(f.key("a"))) == ("a1", "a1")
        clock.advance(TTL)
        assert (f.peek("a"), cache.get(f.key("a")), cache.get_many([f.key("a")])) == (None, None, {})
        assert cache.engine.background._threads == 0
        assert cache.stats().stale == 0

    def test_many_answers_stale_and_renews(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """`.many` answers what is stale at once, has each renewed once, and loads what is missing."""
        f = reading(cache, source, stale_ttl=STALE)
        assert f.many(["a", "b"]) == ["a1", "b2"]
        clock.advance(TTL)
        assert f.many(["a", "c", "b"])[::2] == ["a1", "b2"]
        source.wait_reads(5)
        wait_until(lambda: f.peek("a") and f.peek("b") and f.peek("c"), PATIENCE, "the renewals")
        assert source.reads == 5
        assert cache.stats().stale == 2

    def test_cached_many_keeps_to_its_own_ttl(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """A batch function, which has no `stale_ttl`, loads what another function holds stale."""
        f = reading(cache, source, stale_ttl=STALE)

        @cache.cached_many("p", TTL, operation="f")
        def all_of(xs: list[str]) -> dict[str, Any]:
            return {x: source.read(x) for x in xs}

        f("a")
        assert all_of(["a"]) == {"a": "a1"}
        clock.advance(TTL)
        assert all_of(["a"]) == {"a": "a2"}
        assert f("a") == "a2"

    def test_explain_tells_the_stages(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """`.explain` says what is fresh, and that a stale value answers while it may without the function failing."""
        f = reading(cache, source, stale_ttl=STALE, error_ttl=ERROR)
        f("a")
        for step, fresh, left, answer in (
            (9, True, 1, "local"), (3, False, -2, "local"), (5, False, -7, "load"),
        ):  # fmt: skip
            clock.advance(step)
            explained = f.explain("a")
            assert (explained["local"]["fresh"], explained["local"]["seconds_left"], explained["answer"]) == (
                fresh,
                left,
                answer,
            )
        assert source.reads == 1

    def test_get_or_load_ages_too(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """`get_or_load` takes the same options."""

        def get() -> Any:
            return cache.get_or_load("p:f:a", lambda: source.read("a"), TTL, stale_ttl=STALE)

        assert get() == "a1"
        clock.advance(TTL)
        assert get() == "a1"
        wait_until(lambda: get() == "a2", PATIENCE, "the renewal")
        assert source.reads == 2

    @pytest.mark.parametrize("window", [IN_STALE, IN_ERROR])
    @pytest.mark.parametrize("load_timeout", [None, PATIENCE])
    def test_a_function_that_calls_itself(
        self, cache: Cache, clock: FakeClock, window: float, load_timeout: float | None
    ) -> None:
        """A function that calls itself for the same arguments while it is renewed does not wait."""
        runs: list[int] = []

        @cache.cached("p", TTL, stale_ttl=STALE, error_ttl=ERROR, load_timeout=load_timeout)
        def f(x: str) -> str:
            runs.append(len(runs))
            return f"({f(x)})" if len(runs) == 2 else f"{x}{len(runs)}"

        f("a")
        clock.advance(window)
        call = Call(f, "a")
        assert call.result() == ("a1" if window == IN_STALE else "(a3)")
        wait_until(lambda: (f.peek("a") or "").startswith("("), PATIENCE, "the renewal")
        assert f("a") == ("(a1)" if window == IN_STALE else "(a3)")


REQUEST_ID: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")


class TestBackground:
    @pytest.mark.parametrize("window", [IN_STALE, IN_ERROR])
    def test_context_variables_are_seen(self, cache: Cache, clock: FakeClock, source: Source, window: float) -> None:
        """A load in the background runs in the context of the call that it is for."""
        seen: list[tuple[str, bool]] = []
        source.before = lambda: seen.append((REQUEST_ID.get(), threading.current_thread() is threading.main_thread()))
        f = reading(cache, source, stale_ttl=STALE, error_ttl=ERROR, load_timeout=PATIENCE)
        f("a")
        clock.advance(window)
        reset = REQUEST_ID.set("42")
        try:
            f("a")
        finally:
            REQUEST_ID.reset(reset)
        wait_until(lambda: f.peek("a") == "a2", PATIENCE, "the load")
        assert seen == [("none", True), ("42", False)]

    def test_few_threads_renew_many_keys(self, cache: Cache, clock: FakeClock, source: Source) -> None:
        """Many stale keys at once are answered at once, and renewed by a bounded number of threads."""
        f = reading(cache, source, stale_ttl=STALE)
        names = [f"x{i}." for i in range(50)]
        old = [f(name) for name in names]
        clock.advance(TTL)
        source.open.clear()
        assert [f(name) for name in names] == old
        source.wait_reads(50 + _background.MAX_THREADS)
        assert source.reads == 50 + _background.MAX_THREADS
        assert cache.engine.background._threads == _background.MAX_THREADS
        source.open.set()
        wait_until(lambda: all(f.peek(name) is not None for name in names), PATIENCE, "all renewals")
        assert source.reads == 100

    def test_the_queue_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """When enough waits already, a task is not taken, and those taken are all done, in their order."""
        monkeypatch.setattr(_background, "MAX_THREADS", 1)
        monkeypatch.setattr(_background, "MAX_QUEUE", 3)
        background, gate, began = Background(), threading.Event(), threading.Event()
        done: list[int] = []

        def first() -> None:
            began.set()
            gate.wait(PATIENCE)

        assert background.submit(first) is not None
        assert began.wait(PATIENCE)
        tasks = [background.submit(functools.partial(done.append, i)) for i in range(5)]
        assert [task is not None for task in tasks] == [True, True, True, False, False]
        gate.set()
        wait_until(lambda: len(done) == 3, PATIENCE, "the tasks")
        assert done == [0, 1, 2]
        background.close()
        assert background.submit(gate.set) is None
        wait_until(lambda: background._threads == 0, PATIENCE, "the thread to go")

    def test_threads_exit_when_idle(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Threads without work go, and come again with it."""
        monkeypatch.setattr(_background, "IDLE", 0.02)
        background = Background()
        for _ in range(2):
            task = background.submit(lambda: 7)
            assert task is not None
            assert task.wait(PATIENCE)
            assert (task.result, task.error) == (7, None)
            wait_until(lambda: background._threads == 0, PATIENCE, "the threads to go")

    def test_an_exiting_thread_leaves_no_task(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A task given at the moment at which the last thread gives up waiting is done all the same."""
        monkeypatch.setattr(_background, "IDLE", 0.0)
        background = Background()
        for i in range(3000):
            task = background.submit(lambda i=i: i)  # type: ignore[misc]
            assert task is not None
            assert task.wait(PATIENCE), f"task {i} was left"
            assert task.result == i

    def test_an_error_of_a_task_ends_no_thread(self) -> None:
        """An error, also one that would end a thread, belongs to whoever waits for the task."""
        background = Background()
        for error in (LookupError("no"), SystemExit(3)):

            def fail(error: BaseException = error) -> None:
                raise error

            task = background.submit(fail)
            assert task is not None
            assert task.wait(PATIENCE)
            assert task.error is error
        background.close()

    @pytest.mark.parametrize("load_timeout", [None, 0.05])
    def test_an_exit_waits_for_no_renewal(self, load_timeout: float | None) -> None:
        """A program that ends while a slow load is under way in the background ends promptly and says nothing."""
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", EXIT, str(load_timeout)], capture_output=True, text=True, timeout=120
        )
        assert (run.returncode, run.stdout, run.stderr) == (0, "1 1 renewing\n", "")

    def test_a_forked_child_renews_for_itself(self) -> None:
        """A child of `fork` serves what its parent held stale, and has threads of its own to renew it."""
        run = subprocess.run([sys.executable, "-W", "error", "-c", FORK], capture_output=True, text=True, timeout=120)
        assert (run.returncode, run.stdout, run.stderr) == (0, "stale 1, then 2 of the child; parent 1\n", "")


EXIT = """
import logging, sys, threading
import aikcache
from aikcache.testing import wait_until
timeout = eval(sys.argv[1])
logging.getLogger("aikcache").addHandler(logging.NullHandler())
window = {"stale_ttl": 60} if timeout is None else {"error_ttl": 60, "load_timeout": timeout}
cache, loading, never = aikcache.Cache(), threading.Event(), threading.Event()
runs = []
@cache.cached("p", 0.05, **window)
def f():
    runs.append(1)
    if len(runs) > 1:
        loading.set()
        never.wait(3600)
    return len(runs)
first = f()
wait_until(lambda: f.peek() is None)
second = f()
assert loading.wait(20)
print(first, second, "renewing")
"""

FORK = """
import os, sys
import aikcache
from aikcache.testing import wait_until
cache = aikcache.Cache()
runs = []
@cache.cached("p", 0.05, stale_ttl=60)
def f():
    runs.append(os.getpid())
    return runs.index(os.getpid()) + len(runs)
@cache.cached("q", 0.05, stale_ttl=60)
def g():
    return 0
assert f() == 1
g()
wait_until(lambda: g.peek() is None)
g()  # the parent has a background thread
wait_until(lambda: cache.engine.background._threads)
wait_until(lambda: f.peek() is None)
child = os.fork()
if child == 0:
    stale = f()
    wait_until(lambda: len(runs) == 2)
    print(f"stale {stale}, then {len(runs)} of the", "child" if runs[1] == os.getpid() else "parent", end="; ")
    sys.stdout.flush()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("parent", len(runs))
"""


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"load_timeout": 1}, "load_timeout answers with a stale value, and none is kept. Give stale_ttl or"),
            ({"load_timeout": 0, "error_ttl": 1}, "load_timeout must be greater than 0, got 0. None waits"),
            ({"load_timeout": -1, "error_ttl": 1}, "load_timeout must be between 0 and"),
            ({"load_timeout": "1", "error_ttl": 1}, "load_timeout must be seconds (a number or a timedelta), got str"),
            ({"stale_ttl": -0.1}, "stale_ttl must be between 0 and"),
            ({"stale_ttl": math.nan}, "stale_ttl must be between 0 and"),
            ({"stale_ttl": True}, "stale_ttl must be seconds (a number or a timedelta), got bool"),
            ({"stale_ttl": None}, "stale_ttl must be seconds (a number or a timedelta), got NoneType"),
            ({"error_ttl": -1}, "error_ttl must be between 0 and"),
            ({"error_ttl": math.inf}, "error_ttl must be between 0 and"),
            ({"early_refresh": -1}, "early_refresh must be XFetch's beta, from 0 (off) to 100, got -1. 1 is usual."),
            ({"early_refresh": 101}, "early_refresh must be XFetch's beta, from 0 (off) to 100, got 101."),
            ({"early_refresh": math.nan}, "early_refresh must be XFetch's beta"),
            ({"early_refresh": True}, "early_refresh must be XFetch's beta, from 0 (off) to 100, got True."),
            ({"jitter": -0.1}, "jitter must be a fraction of ttl, at least 0 and below 1, got -0.1."),
            ({"jitter": 1}, "jitter must be a fraction of ttl, at least 0 and below 1, got 1."),
        ],
    )
    def test_what_is_wrong_is_said_when_decorating(self, options: dict[str, Any], says: str) -> None:
        """A bad option raises `ConfigError` before any call, naming function, option, value and rule."""
        with Cache() as cache, pytest.raises(ConfigError) as caught:
            reading(cache, Source(), **options)
        assert says in str(caught.value)
        assert str(caught.value).startswith("@cached on reading.<locals>.f: ")
