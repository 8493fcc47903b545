"""A load that began before an invalidation leaves nothing behind, in any process.

Every test stages the same race: a load reads the old value and is held up; the value changes and is invalidated; the
load finishes. Its own caller may get the old value, because it called before. No later call may.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import pytest

from aikcache._engine.single_flight import Flight
from aikcache.testing import wait_until

from . import _workers
from ._workers import PATIENCE, Background, Database, Shop, Spec, Worker, connect

pytestmark = pytest.mark.usefixtures("unhurried")

OpenShop = Callable[[Spec], Shop]
NAME = "box"
OLD, NEW = "old one", "new one"

GET_WAYS: dict[str, Callable[[Shop], object]] = {
    "the call": lambda shop: shop.get.invalidate(NAME),
    "the key": lambda shop: shop.cache.invalidate_key(f"thing:get:{NAME}"),
    "a pattern that is a key": lambda shop: shop.cache.invalidate("thing:get:{name}", name=NAME),
    "the operation": lambda shop: shop.cache.invalidate("thing:get:*"),
    "the prefix": lambda shop: shop.cache.invalidate("thing"),
    "a tag": lambda shop: shop.cache.invalidate_tags(f"thing:{NAME}"),
    "a tag among many": lambda shop: shop.cache.invalidate_tags("other", "things", "more"),
    "clear": lambda shop: shop.cache.clear(),
    "cache_clear": lambda shop: shop.get.cache_clear(),
    "a glob": lambda shop: shop.cache.invalidate("thing:get:*x*"),
    "a glob over operations": lambda shop: shop.cache.invalidate("thing:*:b?x"),
    "a decorated write": lambda shop: shop.update(NAME, NEW),
}
DESCRIBED_WAYS: dict[str, Callable[[Shop], object]] = {
    "the call": lambda shop: shop.described.invalidate(NAME),
    "the operation": lambda shop: shop.cache.invalidate("thing:described"),
    "a tag that the old result named": lambda shop: shop.cache.invalidate_tags("made-of:old"),
    "a tag from the arguments": lambda shop: shop.cache.invalidate_tags(f"known:{NAME}"),
    "clear": lambda shop: shop.cache.clear(),
    "a glob": lambda shop: shop.cache.invalidate("*:described:*x*"),
}
ISSUERS = ("the loading cache", "another cache", "another process")
CASES = [("get", way) for way in GET_WAYS] + [("described", way) for way in DESCRIBED_WAYS]


def end_by(shop: Shop, function: str, way: str) -> None:
    ways = GET_WAYS if function == "get" else DESCRIBED_WAYS
    ways[way](shop)


def ask(shop: Shop, function: str) -> str:
    return shop.get(NAME) if function == "get" else shop.described(NAME)


def peek(shop: Shop, function: str) -> str | None:
    found: str | None = shop.get.peek(NAME) if function == "get" else shop.described.peek(NAME)
    return found


def overtake(
    loading: Shop, function: str, way: str, issuer: str, here: Shop, there: Worker, bare: Spec, database: Database
) -> None:
    """Stage the race: `loading` loads, `issuer` invalidates meanwhile, and the load has finished."""
    database.put(NAME, OLD)
    database.hold(NAME)
    first = Background(ask, loading, function)
    database.wait_held(NAME)
    database.put(NAME, NEW)
    if issuer == "the loading cache":
        end_by(loading, function, way)
    elif issuer == "another cache":
        end_by(here, function, way)
    else:
        there.run(_workers.run, bare, end_by, function, way)
    database.let_go(NAME)
    assert first.result() == OLD


@pytest.mark.parametrize("issuer", ISSUERS)
@pytest.mark.parametrize(("function", "way"), CASES)
def test_a_load_that_an_invalidation_overtook_leaves_nothing_in_redis(
    function: str,
    way: str,
    issuer: str,
    worker: Worker,
    spec: Spec,
    bare: Spec,
    database: Database,
    open_shop: OpenShop,
) -> None:
    """Whatever is invalidated, and by which process, Redis serves no call the value of a load that was running."""
    loading, other = open_shop(spec), open_shop(bare)
    overtake(loading, function, way, issuer, other, worker, bare, database)
    assert peek(other, function) is None
    assert ask(other, function) == NEW
    assert worker.run(_workers.run, bare, ask, function) == NEW
    assert database.loads(NAME) == 2


@pytest.mark.parametrize(("function", "way"), CASES)
def test_a_load_that_its_own_cache_invalidated_leaves_nothing_in_the_local_tier(
    function: str, way: str, worker: Worker, spec: Spec, bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """Whatever is invalidated by the cache that is loading, its local tier does not keep the value of that load."""
    loading, other = open_shop(spec), open_shop(bare)
    overtake(loading, function, way, "the loading cache", other, worker, bare, database)
    assert peek(loading, function) is None
    assert ask(loading, function) == NEW
    assert database.loads(NAME) == 2


@pytest.mark.parametrize("issuer", ISSUERS[1:])
@pytest.mark.parametrize(("function", "way"), CASES)
def test_a_load_that_another_cache_invalidated_leaves_nothing_in_the_local_tier(
    function: str,
    way: str,
    issuer: str,
    worker: Worker,
    spec: Spec,
    bare: Spec,
    database: Database,
    open_shop: OpenShop,
) -> None:
    """Whatever another cache invalidates, the loading cache's local tier drops or refuses the old value at once."""
    loading, other = open_shop(spec), open_shop(bare)
    overtake(loading, function, way, issuer, other, worker, bare, database)
    wait_until(lambda: peek(loading, function) is None, PATIENCE, "the push")
    assert ask(loading, function) == NEW
    assert database.loads(NAME) == 2


@pytest.mark.parametrize(("function", "way"), CASES)
def test_a_call_after_an_invalidation_gets_a_new_load(
    function: str, way: str, worker: Worker, spec: Spec, bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """A call after an invalidation, here or elsewhere, gets a new load while the old one still runs."""
    loading, other = open_shop(spec), open_shop(bare)
    database.put(NAME, OLD)
    database.hold(NAME)
    first = Background(ask, loading, function)
    database.wait_held(NAME)
    database.put(NAME, NEW)
    end_by(loading, function, way)

    assert Background(ask, loading, function).result() == NEW
    assert Background(ask, other, function).result() == NEW
    assert worker.run(_workers.run, bare, ask, function) == NEW
    assert database.loads(NAME) == 2  # the old one, and one new one for all three

    database.let_go(NAME)
    assert first.result() == OLD
    assert peek(loading, function) == peek(other, function) == NEW
    assert ask(loading, function) == NEW
    assert database.loads(NAME) == 2


@pytest.mark.parametrize(("function", "way"), CASES)
def test_a_load_in_another_process_that_an_invalidation_here_overtook_is_not_served_there(
    function: str, way: str, worker: Worker, spec: Spec, bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """A load in another process that an invalidation here overtook is served neither from Redis nor from over there."""
    here = open_shop(bare)
    database.put(NAME, OLD)
    database.hold(NAME)
    first = worker.start(_workers.run, spec, ask, function)
    database.wait_held(NAME)
    database.put(NAME, NEW)
    end_by(here, function, way)
    database.let_go(NAME)
    assert first.result() == OLD
    assert peek(here, function) is None
    wait_until(lambda: worker.run(_workers.run, spec, peek, function) is None, PATIENCE, "the push")
    assert ask(here, function) == NEW
    assert worker.run(_workers.run, spec, ask, function) == NEW
    assert database.loads(NAME) == 2


@pytest.mark.parametrize("way", ["the key", "the operation", "a tag", "clear", "a glob"])
def test_a_batch_that_an_invalidation_overtook_stores_none_of_what_it_touched(
    way: str, bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """A running batch stores what an invalidation did not cover, and nothing that it did."""
    loading, other = open_shop(bare), open_shop(bare)
    database.put(NAME, OLD)
    database.hold(NAME)
    first = Background(loading.get_all, ["cup", NAME, "tin"])
    database.wait_held(NAME)
    database.put(NAME, NEW)
    end_by(other, "get", way)
    database.let_go(NAME)
    assert first.result() == {"cup": "cup as it is", NAME: OLD, "tin": "tin as it is"}
    assert other.get.peek(NAME) is None
    wait_until(lambda: loading.get.peek(NAME) is None, PATIENCE, "the push")
    others_kept = way in ("the key", "a tag", "a glob")
    assert [other.get.peek(name) is not None for name in ("cup", "tin")] == [others_kept] * 2
    assert other.get(NAME) == loading.get(NAME) == NEW


@pytest.mark.parametrize("way", ["the call", "the prefix", "a tag", "a glob"])
def test_a_refresh_that_an_invalidation_overtook_is_not_stored(
    way: str, bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """A refresh under way is undone by an invalidation like any load."""
    loading, other = open_shop(bare), open_shop(bare)
    database.put(NAME, OLD)
    database.hold(NAME)
    refreshing = Background(loading.get.refresh, NAME)
    database.wait_held(NAME)
    database.put(NAME, NEW)
    end_by(other, "get", way)
    database.let_go(NAME)
    assert refreshing.result() == OLD
    assert other.get.peek(NAME) is None
    wait_until(lambda: loading.get.peek(NAME) is None, PATIENCE, "the push")
    assert loading.get(NAME) == other.get(NAME) == NEW


def test_a_waiter_from_before_an_invalidation_may_share_the_old_load(
    spec: Spec, database: Database, open_shop: OpenShop
) -> None:
    """Calls that waited for a load before it was overtaken are answered by it; calls that came after are not."""
    shop = open_shop(spec)
    database.put(NAME, OLD)
    database.hold(NAME)
    begun = threading.Event()

    def wait_for_it() -> str:
        begun.set()
        return shop.get(NAME)

    first = Background(shop.get, NAME)
    database.wait_held(NAME)
    second = Background(wait_for_it)
    assert begun.wait(PATIENCE)
    database.put(NAME, NEW)
    shop.get.invalidate(NAME)
    third = Background(shop.get, NAME)
    assert third.result() == NEW
    database.let_go(NAME)
    assert first.result() == OLD
    assert second.result() in (OLD, NEW)
    assert shop.get(NAME) == NEW


def test_an_invalidation_inside_a_load_of_the_same_key_is_not_lost(spec: Spec, bare: Spec, open_shop: OpenShop) -> None:
    """A function that invalidates its own key while it runs is not cached by that run."""
    shop, other = open_shop(spec), open_shop(bare)
    runs = []

    @shop.cache.cached("thing")
    def unsure(name: str) -> int:
        runs.append(name)
        if len(runs) == 1:
            shop.cache.invalidate_key("thing:unsure:box")
        return len(runs)

    assert unsure(NAME) == 1
    assert other.cache.get("thing:unsure:box") is None
    assert unsure(NAME) == unsure(NAME) == 2


def test_a_stale_value_read_before_an_invalidation_answers_no_later_call(
    spec: Spec, database: Database, open_shop: OpenShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call delayed while its tags are created does not give the invalidated value to those that share its load."""
    shop = open_shop(spec.but(local_ttl=0))
    user, gate, waiting = User(), Gate(), Gate()
    real = Flight.wait

    def wait(flight: Flight, seconds: float) -> bool:
        waiting.arrived.set()
        return real(flight, seconds)

    @shop.cache.cached("user", ttl=0.2, error_ttl=60, key=lambda user: (user.id,), tags=("team:{user.team}",))
    def get(user: User) -> str:
        if failing is not None:
            failing.hold()
            raise LookupError
        return OLD

    failing: Gate | None = None
    connect(shop.cache)
    assert get(user) == get(user) == OLD
    wait_until(lambda: database.client.pttl(get.key(user)) < 60_000, PATIENCE, "the value to be stale")
    failing, user.gate = Gate(), gate
    monkeypatch.setattr(Flight, "wait", wait)
    first = Background(get, user)
    gate.wait()
    user.gate = None
    get.invalidate(user)
    gate.go.set()
    failing.wait()
    second = Background(get, user)
    waiting.wait()
    failing.go.set()
    with pytest.raises(LookupError):
        second.result()
    with contextlib.suppress(LookupError):  # it asked before: it may have either
        assert first.result() == OLD


class Gate:
    """Where a thread stops until it may go on."""

    def __init__(self) -> None:
        self.arrived, self.go = threading.Event(), threading.Event()

    def hold(self) -> None:
        self.arrived.set()
        assert self.go.wait(PATIENCE)

    def wait(self) -> None:
        assert self.arrived.wait(PATIENCE), "nobody came"


class User:
    """A row with a lazy attribute."""

    id = 1
    gate: Gate | None = None

    @property
    def team(self) -> str:
        if self.gate is not None:
            self.gate.hold()
        return "a"


def test_a_value_stored_before_an_invalidation_is_gone_everywhere(
    workers: list[Worker], spec: Spec, database: Database
) -> None:
    """After an invalidation its own process answers with new values at once, the others as soon as they receive it."""
    first, second, third = workers[:3]

    def all_say(value: str) -> bool:
        return {worker.run(_workers.get, spec, NAME) for worker in (first, second, third)} == {value}

    for way in GET_WAYS:
        database.put(NAME, OLD)
        first.run(_workers.run, spec, end_by, "get", "clear")
        wait_until(lambda: all_say(OLD), PATIENCE, "the push")
        database.put(NAME, NEW)
        second.run(_workers.run, spec, end_by, "get", way)
        assert second.run(_workers.get, spec, NAME) == NEW, way
        wait_until(lambda: all_say(NEW), PATIENCE, f"the push of {way}")


def test_under_many_concurrent_writes_and_reads_no_old_value_stays(
    workers: list[Worker], spec: Spec, database: Database
) -> None:
    """One process that writes without pause reads its own writes; other readers receive each; the last one stays."""
    calls = [worker.start(_workers.run, spec, storm, number) for number, worker in enumerate(workers[:4])]
    for call in calls:
        call.result(6 * PATIENCE)
    last = database.client.get(database.at("value", NAME))
    assert last == str(TURNS - 1)
    for worker in workers[:4]:
        wait_until(lambda worker=worker: worker.run(_workers.get, spec, NAME) == last, PATIENCE)  # type: ignore[misc]


TURNS = 60


def storm(shop: Shop, number: int) -> None:
    """Process 0 writes, counting up; the others read."""
    client = shop.database.client
    if number == 0:
        for turn in range(TURNS):
            shop.update(NAME, f"{turn}")
            client.set(shop.database.at("ended", NAME), f"{turn}")
            assert shop.get(NAME) == f"{turn}"
        return
    ended = -1

    def received() -> bool:
        return ended == -1 or int(shop.get(NAME)) >= ended

    while ended < TURNS - 1:
        ended = int(client.get(shop.database.at("ended", NAME)) or "-1")
        wait_until(received, 3 * PATIENCE, "the push")


def test_the_race_of_two_loads_is_won_by_the_newer(
    spec: Spec, bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """Of an overtaken load and its successor, finishing in either order, only the successor's value stays."""
    for successor_first in (True, False):
        older, newer = open_shop(spec), open_shop(bare)
        older.cache.clear()
        wait_until(lambda newer=newer: newer.get.peek(NAME) is None, PATIENCE, "the push")  # type: ignore[misc]
        database.put(NAME, OLD)
        database.hold(NAME)
        first = Background(older.get, NAME)
        database.wait_held(NAME)
        database.put(NAME, NEW)
        newer.get.invalidate(NAME)
        if successor_first:
            assert newer.get(NAME) == NEW
            database.let_go(NAME)
            assert first.result() == OLD
        else:
            database.hold(NAME)
            second = Background(newer.get, NAME)
            database.wait_held(NAME)
            database.let_go(NAME)  # whoever of the two comes first to the gate
            database.let_go(NAME)
            assert first.result() == OLD
            assert second.result() == NEW
        assert newer.get.peek(NAME) == NEW
        assert older.get(NAME) == NEW
        wait_until(lambda: database.client.llen(database.at("go", NAME)) == 0, PATIENCE, "the gate")
