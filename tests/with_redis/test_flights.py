"""Loads that run while something is invalidated, replaced or written: who may still join them, and what they leave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from aikcache import Cache
from aikcache._local import tier
from aikcache._redis.reply import ErrorReply
from aikcache.errors import RemoteUnavailableError
from aikcache.testing import Server, wait_until
from aikcache.testing.proxy import Proxy
from tests._interrupts import Stop

from ._staging import Pause, pair
from ._workers import PATIENCE, PATIENT, Background, connect

pytestmark = pytest.mark.usefixtures("unhurried")

OLD, NEW = "old", "new"
OpenCache = Callable[..., Cache]


@pytest.fixture
def open_cache(redis_url: str, instance: str) -> Iterator[OpenCache]:
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(Cache(redis_url, instance=instance, **{**PATIENT, **settings}))


@pytest.mark.parametrize("by_key", [True, False])
def test_a_flight_that_reads_a_value_with_tags_is_not_joined_when_they_are_invalidated(
    by_key: bool, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the call names none of them: they are the value's, which another hand has stored."""
    cache = open_cache()
    connect(cache)
    shelf = {"box": NEW}
    plain: Any = cache.cached("thing", operation="get")(lambda name: shelf[name])

    def load() -> Any:
        return cache.get_or_load("thing:get:box", lambda: shelf["box"]) if by_key else plain("box")

    cache.set("thing:get:box", OLD, tags=("things",))
    judging = Pause(monkeypatch, cache.engine.remote_tier, "current", after=True)
    first = Background(load)
    judging.wait()
    cache.invalidate_tags("things")
    second = Background(load)
    wait_until(lambda: second.done or bool(cache.engine.flights._waiting), PATIENCE, "the second call")
    judging.let_go()
    assert first.result() in (OLD, NEW)  # it began before
    assert second.result() == load() == NEW


def test_a_strong_call_joins_no_flight_that_goes_by_what_was_read_before_it(
    open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader has read its stamps before its flight begins. What another process stores under them meanwhile, and is
    invalidated before the flight begins, is not given to a call that begins then.
    """
    here, there = pair(lambda: open_cache(consistency="strong"))
    shelf = {"box": OLD, "cup": OLD}
    get = here.cached("thing", operation="get")(lambda name: shelf[name])
    get_there = there.cached("thing", operation="get")(lambda name: shelf[name])
    assert get("cup") == get_there("cup") == OLD
    beginning = Pause(monkeypatch, here.engine, "wait_deadline")
    leader = Background(get, "box")
    beginning.wait()  # it has read the stamps
    assert get_there("box") == OLD
    shelf["box"] = NEW
    there.invalidate("thing:get")
    leading = Pause(monkeypatch, here.engine.remote, "acquire")
    joining = Pause(monkeypatch, here.engine.flights, "join")
    later = Background(get, "box")
    joining.wait()  # it began before the flight
    beginning.let_go()
    leading.wait()
    joining.let_go()
    wait_until(lambda: bool(here.engine.flights._waiting), PATIENCE, "the later call")
    leading.let_go()
    assert leader.result() in (OLD, NEW)
    assert later.result() == NEW


@pytest.mark.parametrize(("shared", "running"), [(False, "load"), (True, "load"), (True, "read")])
def test_a_refresh_is_not_overwritten_by_what_began_before_it(
    shared: bool, running: str, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load, or a read from Redis, that began earlier leaves the refreshed value where it is."""
    cache = open_cache() if shared else Cache(instance="alone")
    began, go = threading.Event(), threading.Event()
    shelf = {"value": OLD}

    @cache.cached("thing", operation="get", ttl=600)
    def get(name: str) -> str:
        value = shelf["value"]
        if running == "load" and not began.is_set():
            began.set()
            assert go.wait(PATIENCE)
        return value

    if shared:
        connect(cache)
    if running == "read":
        assert get("box") == OLD
        cache.engine.local.drop_group("thing:get")
        filing = Pause(monkeypatch, cache.engine.local, "fill")
        earlier, let_go = Background(get, "box"), filing.let_go
        filing.wait()
    else:
        earlier, let_go = Background(get, "box"), go.set
        assert began.wait(PATIENCE)
    shelf["value"] = NEW
    assert get.refresh("box") == NEW
    let_go()
    assert earlier.result() == OLD  # it began before
    assert get("box") == NEW
    cache.close()


def test_a_refresh_keeps_no_other_key_out_of_the_local_tier() -> None:
    """A load of another key of the operation, under way meanwhile, is kept."""
    with Cache(instance="alone") as cache:
        began, go = threading.Event(), threading.Event()
        loads: list[str] = []

        @cache.cached("thing", operation="get", ttl=600)
        def get(name: str) -> str:
            loads.append(name)
            if name == "cup":
                began.set()
                assert go.wait(PATIENCE)
            return name

        other = Background(get, "cup")
        assert began.wait(PATIENCE)
        get.refresh("box")
        go.set()
        assert other.result() == get("cup") == "cup"
        assert loads == ["cup", "box"]


def test_more_renewed_keys_than_are_remembered_refuse_all_that_was_requested_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Too much is refused, nothing old is kept."""
    monkeypatch.setattr(tier, "MAX_RENEWED", 3)
    with Cache(instance="alone") as cache:
        began, go = threading.Event(), threading.Event()
        shelf = {"value": OLD}

        @cache.cached("thing", operation="get", ttl=600)
        def get(name: str) -> str:
            value = shelf["value"]
            if name == "box" and not began.is_set():
                began.set()
                assert go.wait(PATIENCE)
            return value

        earlier = Background(get, "box")
        assert began.wait(PATIENCE)
        shelf["value"] = NEW
        assert get.refresh("box") == NEW
        for number in range(10):
            assert get.refresh(f"cup{number}") == NEW
        go.set()
        assert earlier.result() == OLD
        assert get("box") == NEW


def test_a_batch_is_kept_if_more_are_renewed_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, and what another function loads that was called later."""
    monkeypatch.setattr(tier, "MAX_RENEWED", 3)
    with Cache(instance="alone") as cache:
        runs: list[int] = []
        numbers = list(range(10))

        @cache.cached_many("thing", operation="get", ttl=600)
        def get(many: list[int]) -> dict[int, int]:
            runs.extend(many)
            return {number: number for number in many}

        with cache.refreshing():
            assert get(numbers) == get(numbers)
        get(numbers)
        assert runs == numbers
        with cache.refreshing():
            get([*numbers, 10])
        get([*numbers, 10])
        assert runs == [*numbers, *numbers, 10]


def test_what_is_read_after_many_renewals_is_kept(open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: a read is dated by the last heartbeat, and more may be renewed since than are remembered."""
    monkeypatch.setattr(tier, "MAX_RENEWED", 3)
    cache = open_cache()
    get = cache.cached("thing", operation="get", ttl=600)(lambda number: number)
    other = cache.cached("other", operation="get", ttl=600)(lambda: NEW)
    connect(cache)
    assert other() == NEW
    for number in range(10):
        get.refresh(number)
        cache.engine.local.drop_group("other:get")
        reads = cache.stats().remote_hits
        assert [other(), other()] == [NEW, NEW]
        assert cache.stats().remote_hits == reads + 1


def test_of_two_batches_that_overlap_neither_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if more keys are renewed than are remembered: it is not known which result is newer."""
    monkeypatch.setattr(tier, "MAX_RENEWED", 3)
    with Cache(instance="alone") as cache:
        began, go = threading.Event(), threading.Event()
        shelf = {"value": OLD}

        @cache.cached_many("thing", operation="get", ttl=600)
        def get(many: list[int]) -> dict[int, str]:
            value = shelf["value"]
            if value == OLD:
                began.set()
                assert go.wait(PATIENCE)
            return dict.fromkeys(many, value)

        def renew() -> dict[int, str]:
            with cache.refreshing():
                return get(list(range(10)))

        earlier = Background(renew)
        assert began.wait(PATIENCE)
        shelf["value"] = NEW
        assert set(renew().values()) == {NEW}
        go.set()
        assert set(earlier.result().values()) == {OLD}
        assert set(get(list(range(10))).values()) == {NEW}


def test_what_a_refresh_brings_is_not_kept_beside_what_it_replaces() -> None:
    """Where the new value is larger than the local tier may be, the old one goes all the same."""
    with Cache(instance="alone", local_max_bytes=10_000) as cache:
        shelf = {"value": OLD}
        get = cache.cached("thing", operation="get", ttl=600)(lambda name: shelf["value"])
        assert get("box") == OLD
        shelf["value"] = NEW * 100_000
        get.refresh("box")
        assert get("box") == NEW * 100_000


@pytest.mark.parametrize("shared", [False, True])
def test_a_refresh_replaces_the_value_here_also_if_others_of_its_operation_were_invalidated_meanwhile(
    shared: bool, open_cache: OpenCache
) -> None:
    """Its own value is not filed then, and the older one must not stay."""
    cache = open_cache() if shared else Cache(instance="alone")
    shelf = {"value": OLD}

    @cache.cached("thing", operation="get", ttl=600)
    def get(name: str) -> str:
        if shelf["value"] == NEW:
            get.invalidate("cup")
        return shelf["value"]

    if shared:
        connect(cache)
    assert get("box") == get("box") == OLD
    shelf["value"] = NEW
    assert get.refresh("box") == get("box") == NEW
    cache.close()


def test_of_two_refreshes_at_once_neither_process_keeps_what_was_before(
    open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one whose value Redis refuses, because the other's came between, reads the other's."""
    here, there = pair(open_cache)
    shelf = {"value": OLD}
    get, get_there = (
        cache.cached("thing", operation="get", ttl=600)(lambda name: shelf["value"]) for cache in (here, there)
    )
    assert get("box") == get_there("box") == OLD
    storing = Pause(monkeypatch, here.engine.filler, "_store")
    shelf["value"] = NEW
    first = Background(get.refresh, "box")
    storing.wait()
    shelf["value"] = "newest"
    assert get_there.refresh("box") == "newest"
    storing.let_go()
    assert first.result() == NEW
    assert get("box") == get_there("box") == "newest"


def test_a_copy_that_was_read_during_a_refresh_does_not_outlive_it(open_cache: OpenCache) -> None:
    """Not even if the result cannot be filed, because another key of the operation was invalidated meanwhile."""
    cache = open_cache()
    began, go = threading.Event(), threading.Event()
    shelf = {"value": OLD}

    @cache.cached("thing", operation="get", ttl=600)
    def get(name: str) -> str:
        if shelf["value"] == NEW:
            began.set()
            assert go.wait(PATIENCE)
        return shelf["value"]

    connect(cache)
    assert get("box") == OLD
    cache.engine.local.drop_group("thing:get")
    shelf["value"] = NEW
    refresh = Background(get.refresh, "box")
    assert began.wait(PATIENCE)
    get.invalidate("cup")
    heartbeat = cache.engine.stamps.trusted_until
    wait_until(lambda: cache.engine.stamps.trusted_until > heartbeat, PATIENCE, "a heartbeat")
    assert get("box") == get("box") == OLD  # from Redis, as of that heartbeat
    go.set()
    assert refresh.result() == get("box") == NEW


@pytest.mark.parametrize("later", ["ends", "fails"])
def test_what_two_overlapping_refreshes_leave_is_not_older_than_either(
    later: str, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is held up before it takes the lease, or loses it to one that fails."""
    here, there = pair(open_cache)
    shelf = {"value": OLD}

    def load(name: str) -> str:
        if shelf["value"] == "none":
            raise ZeroDivisionError
        return shelf["value"]

    get, get_there = (cache.cached("thing", operation="get", ttl=600)(load) for cache in (here, there))
    assert get("box") == get_there("box") == OLD
    shelf["value"] = NEW
    method = (here.engine.remote_tier, "take_leases") if later == "ends" else (here.engine.filler, "_store")
    held_up = Pause(monkeypatch, *method)
    first = Background(get.refresh, "box")
    held_up.wait()
    if later == "ends":
        assert get.refresh("box") == NEW
        shelf["value"] = "newest"
    else:
        shelf["value"] = "none"
        with pytest.raises(ZeroDivisionError):
            get_there.refresh("box")
        shelf["value"] = NEW
    held_up.let_go()
    assert first.result() == shelf["value"]
    assert get("box") == shelf["value"]
    wait_until(lambda: get_there("box") == shelf["value"], PATIENCE, "the push")


def test_no_copy_outlives_a_refresh_whose_result_is_not_kept_here(
    open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key's own function keeps nothing locally, or the refresh is interrupted when Redis has its value."""
    cache = open_cache()
    shelf = {"value": OLD}
    get = cache.cached("thing", operation="get", ttl=600, local_ttl=0)(lambda name: shelf["value"])
    connect(cache)

    def look() -> str:
        return cache.get_or_load("thing:get:box", lambda: "loaded", ttl=600)

    def interrupted(*given: object) -> None:
        raise Stop

    assert get("box") == look() == OLD
    shelf["value"] = NEW
    assert get.refresh("box") == look() == NEW
    shelf["value"] = "newest"
    with monkeypatch.context() as patch:
        patch.setattr(cache.engine.filler, "wrote", interrupted)
        with pytest.raises(Stop):
            get.refresh("box")
    assert look() == "newest"


def test_a_refresh_that_redis_took_first_is_not_filed_over_a_later_one(
    open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread pauses between Redis's reply and the local tier."""
    cache = open_cache()
    shelf = {"value": OLD}
    get = cache.cached("thing", operation="get", ttl=600)(lambda name: shelf["value"])
    connect(cache)
    assert get("box") == OLD
    filing = Pause(monkeypatch, cache.engine.filler, "fill_locally")
    shelf["value"] = NEW
    first = Background(get.refresh, "box")
    filing.wait()
    shelf["value"] = "newest"
    assert get.refresh("box") == get("box") == "newest"
    filing.let_go()
    assert first.result() == NEW
    assert get("box") == "newest"


def test_a_push_that_is_refused_the_second_time_is_not_taken_for_sent(
    open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that has lost its scripts is asked again, and may be full by then."""
    remote = open_cache().engine.remote
    assert remote is not None
    replies = iter([[ErrorReply("NOSCRIPT"), b"OK", 1], [1, ErrorReply("OOM"), 0]])
    monkeypatch.setattr(type(remote.connections), "exchange", lambda *args, **kwargs: next(replies))
    with pytest.raises(RemoteUnavailableError, match="OOM"):
        remote.put([("test:v1:a:b:c", b"token", b"frame", 1000)])


def test_a_push_is_no_script_that_a_server_may_have_lost(
    open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands between says so, it counts as refused."""
    remote = open_cache().engine.remote
    assert remote is not None
    replies = [1, ErrorReply("NOSCRIPT"), 0]
    monkeypatch.setattr(type(remote.connections), "exchange", lambda *args, **kwargs: list(replies))
    with pytest.raises(RemoteUnavailableError, match="NOSCRIPT"):
        remote.put([("test:v1:a:b:c", b"token", b"frame", 1000)])


def test_a_refresh_reaches_other_processes(open_cache: OpenCache, redis_url: str) -> None:
    """Also if the server has lost its scripts, so that the value is stored by a second exchange."""
    here, there = pair(open_cache)
    shelf = {"value": OLD}
    get, get_there = (
        cache.cached("thing", operation="get", ttl=600)(lambda name: shelf["value"]) for cache in (here, there)
    )
    for number in range(2):
        shelf["value"] = OLD
        assert get.refresh("box") == OLD
        key = there.space.full("thing:get:box")
        wait_until(
            lambda: get_there("box") == OLD and there.engine.local.peek(key) is not None,  # noqa: B023
            PATIENCE,
            "its copy",
        )
        shelf["value"] = NEW
        if number:
            with redis.Redis.from_url(redis_url) as raw:
                raw.script_flush()
        assert get.refresh("box") == NEW
        wait_until(lambda: get_there("box") == NEW, PATIENCE, "the push")


def test_strong_calls_whose_values_were_stored_meanwhile_are_read_together(
    own_server: Server, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One round trip for all, not one for each."""
    names = [str(number) for number in range(100)]
    with Proxy(own_server.socket) as proxy:
        here = Cache(proxy.url, instance=instance, consistency="strong", **PATIENT)
        there = Cache(own_server.url, instance=instance, consistency="strong", **PATIENT)
        with here, there:
            get: Any = here.cached("thing", operation="get")(lambda name: name)
            get_there: Any = there.cached("thing", operation="get")(lambda name: name)
            connect(here)
            connect(there)
            get("first")
            leasing = Pause(monkeypatch, here.engine.remote, "acquire")
            call = Background(get.many, names)
            leasing.wait()
            assert get_there.many(names) == names
            before = proxy.round_trips
            leasing.let_go()
            assert call.result() == names
            assert proxy.round_trips - before <= 4
