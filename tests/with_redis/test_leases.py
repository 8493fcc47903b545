"""The lease: the right to load a key and to store the result, and everything that can void it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis

from aikcache._engine.engine import Engine
from aikcache._remote.store import RedisStore
from aikcache.errors import RemoteTimeoutError
from aikcache.testing import wait_until

from . import _workers
from ._staging import Pause
from ._workers import PATIENCE, Background, Database, Shop, Spec, Worker

OpenShop = Callable[[Spec], Shop]


def leases(database: Database, spec: Spec) -> list[str]:
    return list(database.client.scan_iter(f"{spec.instance}:v1:!lease:*"))


def extend_often(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """Leases are extended as often as those of a second, and last as long as `PATIENT` ones: no rest outlasts them."""
    shared = shop.cache.engine.remote_tier
    assert shared is not None
    kept, hold = shared.leases, shared.leases._hold
    lease_ms = shared.lease_ms
    patch.setattr(kept, "seconds", 1.0)
    patch.setattr(kept, "_hold", lambda items, ms: hold(items, lease_ms if ms else 0))


def test_a_load_that_outlasts_its_lease_keeps_it(
    spec: Spec, bare: Spec, database: Database, open_shop: OpenShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease is extended for as long as the load runs, so no other call loads, and the slow load is stored."""
    slow, other = open_shop(spec), open_shop(bare)
    extend_often(monkeypatch, slow)
    database.hold("tea")
    first = Background(slow.get, "tea")
    database.wait_held("tea")
    (lease,) = leases(database, spec)
    second = Background(other.get, "tea")
    seen = [database.client.pttl(lease)]

    def extended() -> int:
        seen.append(database.client.pttl(lease))
        assert seen[-1] > 0, "the lease ended"
        return sum(after > before for before, after in itertools.pairwise(seen))

    wait_until(lambda: extended() >= 3, PATIENCE, "extensions")
    database.let_go("tea")
    assert first.result() == second.result() == "tea as it is"
    assert database.loads("tea") == 1
    assert other.get.peek("tea") == "tea as it is"
    assert leases(database, spec) == []


def test_a_batch_that_outlasts_its_leases_keeps_them(
    bare: Spec, database: Database, open_shop: OpenShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leases of all keys of a batch are extended together."""
    shop = open_shop(bare)
    extend_often(monkeypatch, shop)
    database.hold("b")
    first = Background(shop.get_all, ["a", "b", "c"])
    database.wait_held("b")
    held = leases(database, bare)
    assert len(held) == 3
    for lease in held:
        database.client.pexpire(lease, int(2 * PATIENCE * 1000))
    wait_until(lambda: all(database.client.pttl(lease) > 2 * PATIENCE * 1000 for lease in held), PATIENCE, "extensions")
    database.let_go("b")
    first.result()
    assert [shop.get.peek(name) is not None for name in "abc"] == [True] * 3
    assert leases(database, bare) == []


def test_the_lease_of_a_killed_owner_expires(
    victim: Worker, bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """When the loading process is killed, its lease expires within lease_ttl, and the next caller loads and stores."""
    shop = open_shop(bare)
    database.hold("tea")
    victim.start(_workers.get, bare.but(lease_ttl=3), "tea")
    database.wait_held("tea")
    victim.kill()
    assert all(-1 != database.client.pttl(lease) <= 3000 for lease in leases(database, bare))
    assert shop.get("tea") == "tea as it is"
    assert database.loads("tea") == 2
    assert shop.get.peek("tea") == "tea as it is"
    assert leases(database, bare) == []


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt, SystemExit])
def test_a_failing_load_gives_its_lease_up(
    error: type[BaseException], bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """A load that raises, whatever it raises, leaves no lease, so the next caller loads at once."""
    shop, other = open_shop(bare), open_shop(bare)
    numbers = iter(range(9))

    def load() -> int:
        if next(numbers) == 0:
            assert len(leases(database, bare)) == 1
            raise error
        return 1

    with pytest.raises(error):
        shop.cache.get_or_load("thing:broken:1", load)
    assert leases(database, bare) == []
    assert Background(other.cache.get_or_load, "thing:broken:1", load).result() == 1
    assert shop.cache.get("thing:broken:1") == 1


def test_a_failing_batch_gives_its_leases_up(bare: Spec, database: Database, open_shop: OpenShop) -> None:
    """A batch whose function raises leaves no lease, and what was in Redis before stays."""
    shop = open_shop(bare)
    shop.get("a")

    @shop.cache.cached_many("thing", operation="get")
    def broken(name: list[str]) -> dict[str, str]:
        assert len(leases(database, bare)) == 2
        raise LookupError(name)

    with pytest.raises(LookupError) as caught:
        broken(["b", "c"])
    assert caught.value.args == (["b", "c"],)
    assert leases(database, bare) == []
    assert shop.get.peek("a") == "a as it is"


@pytest.mark.parametrize("result", ["not kept", "not to be kept", "not encodable"])
def test_a_result_that_is_not_stored_gives_the_lease_up(
    result: str, bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """A result that is not to be cached, or cannot be, is returned and leaves neither a value nor a lease."""
    shop = open_shop(bare)
    odd = object()

    @shop.cache.cached(
        "thing", ttl=lambda result: 0 if result == "not kept" else 60, cache_if=lambda r: "to be" not in str(r)
    )
    def picky(name: str) -> object:
        return odd if result == "not encodable" else result

    assert picky("tea") == (odd if result == "not encodable" else result)
    assert leases(database, bare) == []
    assert not database.client.exists(picky.key("tea"))


def test_a_lease_under_older_stamps_is_taken_over_without_waiting(
    worker: Worker, bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """A call under newer stamps never waits for an invalidated load: it loads and stores; the other stores nothing."""
    shop = open_shop(bare)
    ends: list[Callable[[], object]] = [
        shop.cache.clear,
        lambda: shop.cache.invalidate("thing"),
        lambda: shop.cache.invalidate_tags("things"),
    ]
    for end in ends:
        database.put("tea", "old")
        database.hold("tea")
        first = worker.start(_workers.get, bare, "tea")
        database.wait_held("tea")
        database.put("tea", "new")
        end()
        assert len(leases(database, bare)) == 1
        assert Background(shop.get, "tea").result() == "new"
        assert shop.get.peek("tea") == "new"
        database.let_go("tea")
        assert first.result() == "old"
        assert shop.get.peek("tea") == "new"
        shop.get.invalidate("tea")


@pytest.mark.parametrize("life", [None, 10**9])
def test_a_lease_without_expiry_is_taken_over(
    life: int | None, bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """A lease without a TTL, or with one of days, counts as free: the value is loaded and stored at once."""
    shop = open_shop(bare.but(lease_wait=10 * PATIENCE))
    database.hold("tea")
    first = Background(shop.get, "tea")
    database.wait_held("tea")
    (lease,) = leases(database, bare)
    with redis.Redis.from_url(bare.url) as raw:
        held: Any = raw.get(lease)
        database.let_go("tea")
        first.result()
        raw.delete(shop.get.key("tea"))
        raw.set(lease, b"e" * 16 + held[16:], px=life)
    assert Background(shop.get, "tea").result() == "tea as it is"
    assert database.client.exists(shop.get.key("tea"))
    assert not database.client.exists(lease)


@pytest.mark.parametrize("by", ["set", "store", "set_many"])
def test_set_invalidates_a_running_load(
    by: str, spec: Spec, bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """A value put by hand stays: a load that was under way does not replace it, in Redis or locally."""
    loading, other = open_shop(spec), open_shop(bare)
    database.hold("tea")
    first = Background(loading.get, "tea")
    database.wait_held("tea")
    key = "thing:get:tea"
    if by == "set":
        other.cache.set(key, "by hand", tags=("thing:tea", "things"))
    elif by == "store":
        other.get.store("by hand", "tea")
    else:
        other.cache.set_many({key: "by hand"}, tags=("thing:tea", "things"))
    assert leases(database, spec) == []
    database.let_go("tea")
    assert first.result() == "tea as it is"
    assert other.get("tea") == loading.get("tea") == "by hand"
    assert database.loads("tea") == 1


def unanswered(patch: pytest.MonkeyPatch, shop: Shop, method: str, *, done: bool) -> list[tuple[Any, ...]]:
    """The next call of a method of the shop's remote tier gets no answer, though it may have been `done`."""
    remote = shop.cache.engine.remote
    real = getattr(RedisStore, method)
    calls: list[tuple[Any, ...]] = []

    def fails(this: RedisStore, *args: Any, **options: Any) -> Any:
        if this is not remote or calls:
            return real(this, *args, **options)
        calls.append(args)
        if done:
            real(this, *args, **options)
        raise RemoteTimeoutError("no answer")

    patch.setattr(RedisStore, method, fails)
    return calls


@pytest.mark.parametrize("many", [False, True])
def test_a_lease_whose_grant_was_not_answered_is_not_waited_for(
    many: bool, bare: Spec, database: Database, open_shop: OpenShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next call of this process releases the lost lease, loads and stores, and waits for no one."""
    shop = open_shop(bare.but(lease_ttl=10 * PATIENCE, lease_wait=20 * PATIENCE))
    shop.get("warm")
    unanswered(monkeypatch, shop, "acquire", done=True)

    def call() -> str:
        return shop.get_all(["tea"])["tea"] if many else shop.get("tea")

    assert call() == "tea as it is"
    assert shop.get.peek("tea") is None
    assert len(leases(database, bare)) == 1
    assert Background(call).result() == "tea as it is"
    assert database.loads("tea") == 2
    assert shop.get.peek("tea") == "tea as it is"
    assert leases(database, bare) == []


def test_a_lease_that_could_not_be_given_up_is_given_up_later(
    bare: Spec, database: Database, open_shop: OpenShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store without a reply leaves a lease; it is released long before it would expire."""
    shop = open_shop(bare.but(lease_ttl=10 * PATIENCE, lease_wait=20 * PATIENCE))
    extend_often(monkeypatch, shop)
    shop.get("warm")
    unanswered(monkeypatch, shop, "store", done=False)
    shared = shop.cache.engine.remote_tier
    assert shared is not None
    real, failures = shared.leases._hold, iter([RemoteTimeoutError("no answer")])

    def hold(items: Sequence[tuple[str, bytes]], lease_ms: int) -> None:
        for failure in failures:
            raise failure
        real(items, lease_ms)

    monkeypatch.setattr(shared.leases, "_hold", hold)
    assert shop.get("tea") == "tea as it is"
    wait_until(lambda: leases(database, bare) == [], PATIENCE, "the lease's return")
    assert next(failures, None) is None


@pytest.mark.parametrize("begun", ["before", "not carried out until after"])
def test_a_value_that_is_set_late_does_not_survive_its_invalidation(
    begun: str, bare: Spec, database: Database, open_shop: OpenShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that a server carries out late, when its sender has given up and others have gone on, changes nothing."""
    setter, other = open_shop(bare), open_shop(bare)
    key = "thing:get:tea"
    other.get("tea")
    if begun == "before":
        held = Pause(monkeypatch, setter.cache.engine.remote, "put")
        first = Background(setter.cache.set, key, "old")
        held.wait()
        other.get.invalidate("tea")
        held.let_go()
        first.result()
    else:
        sent = unanswered(monkeypatch, setter, "put", done=False)
        setter.cache.set(key, "old")
        other.get.invalidate("tea")
        remote = setter.cache.engine.remote
        assert remote is not None
        assert remote.put(*sent[0]) == [False]
    assert other.get.peek("tea") is None
    assert setter.get("tea") == other.get("tea") == "tea as it is"


def test_refresh_runs_the_function_and_replaces_the_value(
    spec: Spec, bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """A refresh loads although there is a value, and everybody gets the new one."""
    shop, other = open_shop(spec), open_shop(bare)
    database.put("tea", "old")
    assert shop.get("tea") == other.get("tea") == "old"
    database.put("tea", "new")
    assert shop.get("tea") == "old"
    assert shop.get.refresh("tea") == "new"
    assert shop.get("tea") == other.get("tea") == "new"
    assert database.loads("tea") == 2


def test_a_refresh_takes_over_a_load_under_way(spec: Spec, bare: Spec, database: Database, open_shop: OpenShop) -> None:
    """A load that was under way when a refresh began does not replace what the refresh stored."""
    loading, other = open_shop(bare), open_shop(bare)
    database.put("tea", "old")
    database.hold("tea")
    first = Background(loading.get, "tea")
    database.wait_held("tea")
    database.put("tea", "new")
    assert Background(other.get.refresh, "tea").result() == "new"
    database.let_go("tea")
    assert first.result() == "old"
    assert other.get.peek("tea") == loading.get("tea") == "new"


def test_a_caller_loads_itself_and_stores_nothing_after_lease_wait(
    worker: Worker, bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """After lease_wait a call is answered by its own load, which does not disturb the one under way."""
    shop = open_shop(bare.but(lease_wait=0.2))
    database.hold("tea")
    first = worker.start(_workers.get, bare, "tea")
    database.wait_held("tea")
    assert shop.get("tea") == "tea as it is"
    assert database.loads("tea") == 2
    assert shop.get.peek("tea") is None
    assert len(leases(database, bare)) == 1
    database.let_go("tea")
    first.result()
    assert shop.get.peek("tea") == "tea as it is"


def test_a_thread_that_has_waited_long_enough_loads_by_itself(
    bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """Within one process no call waits longer than lease_wait for another thread's load either."""
    shop = open_shop(bare.but(lease_wait=0.2))
    database.hold("tea")
    first = Background(shop.get, "tea")
    database.wait_held("tea")
    assert shop.get("tea") == "tea as it is"
    assert database.loads("tea") == 2
    database.let_go("tea")
    first.result()


def test_a_load_that_lost_its_lease_is_not_stored(
    spec: Spec, bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """A load whose lease is gone, as after an eviction or a failover, is returned and stored nowhere."""
    shop, other = open_shop(spec), open_shop(bare)
    database.hold("tea")
    first = Background(shop.get, "tea")
    database.wait_held("tea")
    database.client.delete(*leases(database, spec))
    database.let_go("tea")
    assert first.result() == "tea as it is"
    assert shop.get.peek("tea") is None
    assert other.get.peek("tea") is None
    assert shop.get("tea") == other.get("tea")
    assert database.loads("tea") == 2


def test_a_lease_is_in_the_slot_of_its_value(spec: Spec, database: Database, open_shop: OpenShop) -> None:
    """The server computes one cluster slot for a value and its lease, as scripts over both need."""
    from redis.crc import key_slot

    shop = open_shop(spec)
    found: list[str] = []

    def load() -> str:
        found.extend(leases(database, spec))
        return "x"

    shop.cache.get_or_load("thing:slot:1", load)
    assert key_slot(found[0].encode()) == key_slot(f"{spec.instance}:v1:thing:slot:1".encode())


def test_a_load_after_another_has_just_finished_is_not_repeated(
    bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """A call that waited for another process's load gets its value, and does not load."""
    first, second = open_shop(bare), open_shop(bare)
    database.hold("tea")
    one = Background(first.get, "tea")
    database.wait_held("tea")
    begun = threading.Event()

    def call() -> str:
        begun.set()
        return second.get("tea")

    two = Background(call)
    assert begun.wait(PATIENCE)
    database.let_go("tea")
    assert one.result() == two.result()
    assert database.loads("tea") == 1
    assert second.cache.stats().loads == 0


def test_two_batches_that_want_the_same_keys_in_opposite_order_do_not_block_each_other(
    bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """Batches that overlap wait for what the other loads and load the rest, each key once."""
    shops = [open_shop(bare) for _ in range(4)]
    names = [f"n{i}" for i in range(30)]
    orders = [names, names[::-1], names[10:] + names[:10], names[::2] + names[1::2]]
    line = threading.Barrier(len(shops))

    def fetch(shop: Shop, order: list[str]) -> dict[str, str]:
        line.wait(PATIENCE)
        return shop.get_all(order)

    calls = [Background(fetch, shop, order) for shop, order in zip(shops, orders, strict=True)]
    for call, order in zip(calls, orders, strict=True):
        found = call.result()
        assert found == {name: f"{name} as it is" for name in names}
        assert list(found) == order
    assert [database.loads(name) for name in names] == [1] * len(names)


def test_a_load_that_outlasts_its_cache_leaves_no_thread_behind(
    spec: Spec, database: Database, open_shop: OpenShop
) -> None:
    """After `close` no lease can be released, and no thread goes on trying."""
    shop = open_shop(spec)
    database.hold("tea")
    first = Background(shop.get, "tea")
    database.wait_held("tea")
    shared = shop.cache.engine.remote_tier
    assert shared is not None
    daemon = shared.leases._daemon
    wait_until(lambda: daemon._thread is not None, PATIENCE, "the thread")
    shop.cache.close()
    database.let_go("tea")
    assert first.result() == "tea as it is"
    wait_until(lambda: daemon._thread is None, PATIENCE, "the thread's end")


def test_a_load_that_needs_what_another_process_loads_waits_half_as_long(
    spec: Spec, database: Database, open_shop: Callable[[Spec], Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that loads a key has waiters, so it must go on before they give up: two such may wait for each other."""
    patience: list[float] = []
    real = Engine.wait_deadline

    def wait_deadline(engine: Engine) -> float:
        ends = real(engine)
        patience.append(ends - engine.clock())
        return ends

    monkeypatch.setattr(Engine, "wait_deadline", wait_deadline)
    shop = open_shop(spec.but(lease_wait=100.0))

    @shop.cache.cached("outer")
    def outer(name: str) -> str:
        return shop.get(name)

    assert outer("tea") == "tea as it is"
    whole, half = patience
    assert 50 < whole <= 100
    assert 0 < half <= 50
