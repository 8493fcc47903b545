"""Strong reads: none returns what any process had invalidated before the read began."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from aikcache import Cache
from aikcache._engine.invalidation import InvalidationListener
from aikcache._engine.single_flight import Flight
from aikcache.testing import Server, wait_until
from aikcache.testing.cluster import ClusterTopology
from aikcache.testing.proxy import Proxy
from aikcache.testing.sentinel import Topology

from ._staging import Pause
from ._workers import PATIENCE, PATIENT, Background, Worker, in_threads

pytestmark = pytest.mark.usefixtures("unhurried")

STRONG: dict[str, Any] = {**PATIENT, "consistency": "strong"}


class Shop:
    """Three cached functions of one record, in a cache that may be deaf: it then receives pushes too late."""

    def __init__(self, cache: Cache, shelf: dict[str, str]) -> None:
        self.cache = cache

        @cache.cached("shop", tags=("good:{name}", "goods"))
        def price(name: str) -> str:
            return shelf[name]

        @cache.cached("shop", tags=lambda result, name: (f"good:{name}", "goods"))
        def label(name: str) -> str:
            return shelf[name]

        @cache.cached("shop")
        def plain(name: str) -> str:
            return shelf[name]

        @cache.cached_many("shop", operation="all", tags=("good:{names}", "goods"))
        def all_of(names: list[str]) -> dict[str, str]:
            return {name: shelf[name] for name in names}

        self.calls: dict[str, Callable[[], Any]] = {
            "price": lambda: price("tea"),
            "label": lambda: label("tea"),
            "plain": lambda: plain("tea"),
            "many": lambda: price.many(["tea"])[0],
            "plain many": lambda: plain.many(["tea"])[0],
            "batch": lambda: all_of(["tea"])["tea"],
            "peek": lambda: price.peek("tea", default=shelf["tea"]),
            "get": lambda: cache.get(price.key("tea"), shelf["tea"]),
            "get_many": lambda: cache.get_many([price.key("tea")]).get(price.key("tea"), shelf["tea"]),
            "get_or_load": lambda: cache.get_or_load("shop:other:tea", lambda: shelf["tea"], tags=("goods",)),
            "explain": lambda: {"remote": "old", "load": "new"}[price.explain("tea")["answer"]],
        }
        self.ways: dict[str, Callable[[], object]] = {
            "key": lambda: cache.invalidate_key(*(f"shop:{of}:tea" for of in OPERATIONS)),
            "prefix": lambda: cache.invalidate("shop"),
            "glob": lambda: cache.invalidate("shop:*:t*"),
            "clear": cache.clear,
            "tag": lambda: cache.invalidate_tags("goods"),
        }  # fmt: skip


OPERATIONS = ("price", "label", "plain", "all", "other")
WAYS = ("key", "prefix", "glob", "clear", "tag")
CALLS = ("price", "label", "plain", "many", "plain many", "batch", "peek", "get", "get_many", "get_or_load", "explain")


def deafen(cache: Cache, patch: pytest.MonkeyPatch) -> None:
    """What is pushed to `cache` from here on is not handled, while its heartbeat goes on being answered."""
    for name in ("group_invalidated", "key_invalidated", "glob_invalidated"):
        real = getattr(InvalidationListener, name)

        def wait_for_push(hearing: InvalidationListener, what: str, real: Callable[..., object] = real) -> None:
            if hearing._owner is not cache.engine:
                real(hearing, what)

        patch.setattr(InvalidationListener, name, wait_for_push)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def coherent(opened: ExitStack, url: str, instance: str, **settings: Any) -> Cache:
    cache = opened.enter_context(Cache(url, instance=instance, **settings))
    cache.get("nothing:at:all")
    wait_until(lambda: cache.stats().coherent, PATIENCE, "the channel")
    return cache


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("local_ttl", [0, 60])
def test_a_strong_read_sees_an_invalidation_before_its_push_arrives(
    redis_url: str, instance: str, opened: ExitStack, monkeypatch: pytest.MonkeyPatch, way: str, local_ttl: float
) -> None:
    """A reader asked right after another cache's invalidation returned sees it, whatever it had received before."""
    shelf = {"tea": "old"}
    reader = Shop(coherent(opened, redis_url, instance, local_ttl=local_ttl, **STRONG), shelf)
    writer = Shop(coherent(opened, redis_url, instance, **PATIENT), shelf)
    deafen(reader.cache, monkeypatch)
    see_all_ended(reader, writer, shelf, way)


def see_all_ended(reader: Shop, writer: Shop, shelf: dict[str, str], way: str) -> None:
    for call in CALLS:
        if way == "tag" and call.startswith("plain"):
            continue
        shelf["tea"] = "old"
        writer.ways["clear"]()
        assert reader.calls["price"]() == "old"  # which those that load nothing read
        assert reader.calls[call]() == "old"
        assert reader.calls[call]() == "old"
        shelf["tea"] = "new"
        writer.ways[way]()
        assert reader.calls[call]() == "new", call


@pytest.mark.parametrize("kind", [ClusterTopology, Topology])
def test_the_same_holds_on_a_cluster_and_behind_sentinel(
    binary: Path, kind: type[ClusterTopology] | type[Topology], opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value and its groups' stamps may be on several nodes, which know no common order."""
    shelf = {"tea": "old"}
    topology: ClusterTopology | Topology = kind(binary=binary)
    opened.enter_context(topology)
    url = topology.url
    reader = Shop(coherent(opened, url, "test", **STRONG), shelf)
    writer = Shop(coherent(opened, url, "test", **PATIENT), shelf)
    deafen(reader.cache, monkeypatch)
    for way in WAYS:
        see_all_ended(reader, writer, shelf, way)


@pytest.mark.parametrize("way", WAYS)
def test_a_strong_reader_in_another_process_sees_what_has_just_returned(
    redis_url: str, instance: str, opened: ExitStack, worker: Worker, way: str
) -> None:
    """Asked in the moment in which the writer returned, another process answers with what is true."""
    cache = coherent(opened, redis_url, instance, **PATIENT)
    writer = Shop(cache, {"tea": "-1"})
    for number in range(40):
        worker.run(_put, redis_url, instance, str(number - 1))
        assert worker.run(_read, redis_url, instance, str(number - 1)) == str(number - 1)
        worker.run(_put, redis_url, instance, str(number))
        writer.ways[way]()
        assert worker.run(_read, redis_url, instance, str(number)) == str(number)


_there: dict[str, tuple[Shop, dict[str, str]]] = {}


def _put(url: str, instance: str, value: str) -> None:
    if instance not in _there:
        shelf: dict[str, str] = {}
        _there[instance] = Shop(Cache(url, instance=instance, **STRONG), shelf), shelf
    _there[instance][1]["tea"] = value


def _read(url: str, instance: str, expected: str) -> str:
    return str(_there[instance][0].calls["price"]())


def test_a_wrapper_of_a_strong_cache_finds_nothing_that_a_bounded_call_holds(
    redis_url: str, instance: str, opened: ExitStack
) -> None:
    """Strong and bounded calls of one key share what Redis holds, and nothing that is held here."""
    cache = coherent(opened, redis_url, instance, **PATIENT)
    other = coherent(opened, redis_url, instance, **PATIENT)
    runs: list[str] = []

    @cache.cached("p", consistency="strong")
    def f(*args: str) -> int:
        runs.append("f")
        return len(runs)

    assert f("x") == 1
    key = f.key("x")
    bounded = cache.get_or_load(key, lambda: 0, consistency="bounded")
    assert bounded == 1  # from Redis, and held here from now on
    assert cache.stats().local_entries == 1
    assert f("x") == 1
    before = cache.stats().remote_hits
    assert f("x") == 1
    assert cache.stats().remote_hits == before + 1
    other.invalidate_key(key)
    assert f("x") == 2


def test_a_strong_hit_takes_one_round_trip(proxy: Proxy, instance: str, opened: ExitStack, redis_url: str) -> None:
    """Value and stamps come together; those of tags that only the result names take one more."""
    shop = Shop(coherent(opened, proxy.url, instance, **STRONG), {"tea": "x"})
    expected = {"price": 1, "plain": 1, "label": 2, "plain many": 1, "many": 2, "batch": 2, "get": 2, "get_or_load": 2}
    for call, trips in expected.items():
        shop.calls[call]()
        before = proxy.round_trips
        shop.calls[call]()
        assert proxy.round_trips - before <= trips, call


def test_with_redis_away_the_function_runs_and_its_result_is_kept_nowhere(
    own_server: Server, instance: str, opened: ExitStack
) -> None:
    """A value that cannot be proved current is given to its caller alone."""
    cache = coherent(opened, own_server.url, instance, **STRONG)
    runs: list[int] = []

    @cache.cached("p", local_ttl=None)
    def f(x: int) -> int:
        runs.append(x)
        return len(runs)

    assert [f(1), f(1)] == [1, 1]
    own_server.kill()
    assert [f(1), f(1), f(1)] == [2, 3, 4]
    assert cache.stats().local_entries == 0


def test_a_stampede_is_one_load(redis_url: str, instance: str, opened: ExitStack) -> None:
    """Many threads of two caches that ask for one key at once run the function once."""
    one, other = (coherent(opened, redis_url, instance, **STRONG) for _ in range(2))
    runs: list[str] = []
    line = threading.Barrier(16)
    go = threading.Event()

    def load(x: str) -> int:
        runs.append(x)
        assert go.wait(PATIENCE)
        return len(runs)

    functions = [cache.cached("p")(load) for cache in (one, other)]
    values: list[int] = []
    turns = iter(functions * 8)

    def call() -> None:
        f = next(turns)
        line.wait(PATIENCE)
        values.append(f("x"))

    def let_go() -> None:
        wait_until(lambda: bool(runs), PATIENCE, "a load")
        go.set()

    Background(let_go)
    in_threads(call, 16)
    assert values == [1] * 16
    assert runs == ["x"]


def test_a_strong_call_is_not_handed_what_a_flight_began_to_load_before_it(
    redis_url: str, instance: str, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that finds a load under way waits for it, and then asks for itself: it may have been invalidated
    elsewhere.
    """
    cache = coherent(opened, redis_url, instance, **STRONG)
    other = coherent(opened, redis_url, instance, **PATIENT)
    shelf = {"x": "old"}
    began, go = threading.Event(), threading.Event()

    @cache.cached("p")
    def f(x: str) -> str:
        value = shelf[x]
        if value == "old":
            began.set()
            assert go.wait(PATIENCE)
        return value

    deafen(cache, monkeypatch)
    first = Background(f, "x")
    assert began.wait(PATIENCE)
    shelf["x"] = "new"
    other.invalidate_key(f.key("x"))
    waits = Pause(monkeypatch, cache.engine.flights, "join", after=True)
    second = Background(f, "x")
    waits.wait()
    waits.let_go()
    go.set()
    assert second.result() == "new"
    assert first.result() == "old"


def test_calls_that_wait_share_a_flight_that_began_after_them(
    own_server: Server, instance: str, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Redis down, callers that wait for one load share the next: not each runs the function in its turn."""
    cache = coherent(opened, own_server.url, instance, **STRONG)
    own_server.kill()
    runs: list[int] = []
    waits: list[object] = []
    real = Flight.wait

    def wait(flight: Flight, seconds: float) -> bool:
        waits.append(flight)
        return real(flight, seconds)

    monkeypatch.setattr(Flight, "wait", wait)

    @cache.cached("p")
    def f(x: int) -> int:
        runs.append(x)
        waiting = 7 if len(runs) == 1 else 7 + 6
        wait_until(lambda: len(waits) >= waiting, PATIENCE, "the others to wait")
        return len(runs)

    calls = [Background(f, 1) for _ in range(8)]
    assert sorted(call.result() for call in calls) == [1, *[2] * 7]


def test_what_arrives_while_a_strong_call_waits_is_judged_by_stamps_asked_for_after_it_began(
    redis_url: str, instance: str, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load elsewhere that began before an invalidation is not waited for, and its value not taken."""
    cache = coherent(opened, redis_url, instance, **STRONG)
    other = coherent(opened, redis_url, instance, **PATIENT)
    shelf = {"x": "old"}
    began, go = threading.Event(), threading.Event()

    def slow(x: str) -> str:
        value = shelf[x]
        began.set()
        assert go.wait(PATIENCE)
        return value

    there, here = other.cached("p", operation="f")(slow), cache.cached("p", operation="f")(lambda x: shelf[x])
    first = Background(there, "x")
    assert began.wait(PATIENCE)
    shelf["x"] = "new"
    deafen(other, monkeypatch)
    other.invalidate("p")
    assert here("x") == "new"  # the doomed lease was taken over
    go.set()
    assert first.result() == "old"
    assert here("x") == "new"


def test_a_value_that_has_aged_answers_and_one_that_was_invalidated_does_not(
    redis_url: str, instance: str, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`stale_ttl` and `error_ttl` are about age: what they let answer has been proved current."""
    cache = coherent(opened, redis_url, instance, **STRONG)
    other = coherent(opened, redis_url, instance, **PATIENT)
    shelf: dict[str, str] = {"x": "old"}

    @cache.cached("p", ttl=0.001, error_ttl=600)
    def f(x: str) -> str:
        return shelf[x]

    assert f("x") == "old"
    del shelf["x"]
    deafen(cache, monkeypatch)
    wait_until(lambda: not cache.engine.refresher.resting(f.key("x")), PATIENCE, "rest")
    assert f("x") == "old"
    other.invalidate_key(f.key("x"))
    with pytest.raises(KeyError):
        f("x")
