"""Which events observers get, from which cache, and what is no event."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from aikcache import Cache
from aikcache._engine.events import BreakerChange, ChannelChange, Invalidated, Load, RoundTrip
from aikcache.testing import Server, wait_until

from ._workers import PATIENCE, PATIENT

pytestmark = pytest.mark.usefixtures("unhurried")


class Recorder:
    """Keeps all events."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.round_trips = self.events.extend
        self.reads = lambda operation, all: self.events.extend(RoundTrip("get", operation, one, None) for one in all)
        self.load = self.invalidated = self.channel = self.breaker = self.closed = self.events.append
        self.flush: Callable[[], None] = lambda: None

    def all(self, kind: type[Any]) -> list[Any]:
        self.flush()
        return [details for details in list(self.events) if type(details) is kind]


def record(cache: Cache) -> Recorder:
    recorder = Recorder()
    cache.engine.events.observe(recorder)
    recorder.flush = cache.engine.events.flush
    return recorder


def test_a_local_hit_is_no_event(redis_url: str, instance: str) -> None:
    """A call that the wrapper answers causes no event."""
    with Cache(redis_url, instance=instance, **{**PATIENT, "max_staleness": 3600}) as cache:
        price = cache.cached("shop", operation="price")(lambda name: len(name))
        recorder = record(cache)
        assert cache.wait_coherent(PATIENCE)
        price("tea")
        recorder.flush()
        events = len(recorder.events)
        for _ in range(100):
            price("tea")
        assert cache.stats().local_hits >= 100
        recorder.flush()
        assert not [d for d in recorder.events[events:] if type(d) in (RoundTrip, Load)]


def test_round_trips_and_loads_are_events_with_their_operation(redis_url: str, instance: str) -> None:
    """A miss is four events: read, lease, load and store; a remote hit is one `get`."""
    with Cache(redis_url, instance=instance, local_ttl=0, **PATIENT) as cache:
        price = cache.cached("shop", operation="price")(lambda name: len(name))
        recorder = record(cache)
        assert cache.wait_coherent(PATIENCE)
        price("tea")
        trips = recorder.all(RoundTrip)
        assert {trip.command for trip in trips} >= {"get", "lease", "store"}
        assert {trip.operation for trip in trips if trip.command != "lease"} == {"shop:price"}
        assert all(trip.error is None and trip.seconds > 0 for trip in trips)
        (load,) = recorder.all(Load)
        assert (load.operation, load.error) == ("shop:price", None)
        before = len(trips)
        price("tea")
        assert [(trip.command, trip.operation) for trip in recorder.all(RoundTrip)[before:]] == [("get", "shop:price")]


def test_a_function_that_raises_is_a_load_that_failed(redis_url: str, instance: str) -> None:
    """A load's details name the class of what the function raised."""
    with Cache(redis_url, instance=instance, **PATIENT) as cache:
        recorder = record(cache)

        @cache.cached("shop", operation="price")
        def price(name: str) -> int:
            raise KeyError(name)

        with pytest.raises(KeyError):
            price("tea")
        assert [load.error for load in recorder.all(Load)] == ["KeyError"]


def test_many_loads_are_one_event_each_and_a_batch_function_is_one(redis_url: str, instance: str) -> None:
    """Each run of a function is a load: `.many` runs it for each call, a batch function for all ids at once."""
    with Cache(redis_url, instance=instance, **PATIENT) as cache:
        price = cache.cached("shop", operation="price")(lambda name: len(name))
        recorder = record(cache)

        @cache.cached_many("shop")
        def prices(names: list[str]) -> dict[str, int]:
            if "" in names:
                raise KeyError("")
            return {name: len(name) for name in names}

        assert price.many(["tea", "milk"]) == [3, 4]
        assert prices(["tea", "milk"]) == {"tea": 3, "milk": 4}
        with pytest.raises(KeyError):
            prices(["", "rice"])
        events = [(load.operation, load.error) for load in recorder.all(Load)]
        assert events == [("shop:price", None)] * 2 + [("shop:prices", None), ("shop:prices", "KeyError")]
        assert cache.stats().operations["shop:price"].loads == 2


def test_an_operation_that_is_not_known_is_other(redis_url: str, instance: str) -> None:
    """The prefix of a key by hand is named only while it has a region of its own."""
    with Cache(redis_url, instance=instance, local_ttl=0, **PATIENT) as cache:
        recorder = record(cache)
        for i in range(120):
            cache.get(f"user:{i}")
        operations = {trip.operation for trip in recorder.all(RoundTrip)}
        assert len(operations - {None, "other"}) == 100
        assert "other" in operations


def test_an_invalidation_is_an_event_where_it_is_made_and_where_it_arrives(redis_url: str, instance: str) -> None:
    """The cache that makes an invalidation has an event "out", the other one "in"."""
    with ExitStack() as stack:
        mine, other = (stack.enter_context(Cache(redis_url, instance=instance, **PATIENT)) for _ in range(2))
        assert mine.wait_coherent(PATIENCE)
        assert other.wait_coherent(PATIENCE)
        made, received = record(mine), record(other)
        mine.invalidate("shop:*")
        assert made.all(Invalidated)[0].direction == "out"
        wait_until(lambda: any(d.direction == "in" and d.what.groups for d in received.all(Invalidated)))


def test_changes_of_the_channel_and_the_breaker_are_events(own_server: Server, instance: str) -> None:
    """A server that goes away and comes back: the channel is down, the breaker opens; both have an event at their begin
    and end.
    """
    settings: Any = {**PATIENT, "breaker_failures": 2, "breaker_reset": 0.05}
    with Cache(own_server.url, instance=instance, **settings) as cache:
        recorder = record(cache)
        assert cache.wait_coherent(PATIENCE)
        own_server.kill()
        for i in range(4):
            cache.get(f"shop:price:{i}")
        wait_until(lambda: ChannelChange(False) in recorder.events)
        (opened,) = recorder.all(BreakerChange)[:1]
        assert opened.is_open
        assert opened.cause
        assert [trip.error for trip in recorder.all(RoundTrip) if trip.error]
        own_server.start()
        wait_until(lambda: cache.health().ok)
        assert BreakerChange(False, "") in recorder.events
        wait_until(lambda: recorder.events.count(ChannelChange(True)) > 1)
