"""However many call at once, the function runs once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from aikcache.testing import wait_until

from . import _workers
from ._workers import PATIENCE, PATIENT, Background, Database, Shop, Spec, Worker, connect, in_threads

pytestmark = pytest.mark.usefixtures("unhurried")

THREADS = 16
OpenShop = Callable[[Spec], Shop]


def test_a_cold_key_called_by_128_threads_in_8_processes_is_loaded_once(
    workers: list[Worker], spec: Spec, database: Database
) -> None:
    """128 calls of a cold key in 8 processes, all of them waiting when the load ends, run the function once."""
    database.hold("tea")
    calls = [worker.start(_workers.rush, spec, "tea", THREADS, len(workers)) for worker in workers]
    database.wait_held("tea")
    wait_until(lambda: database.begun("tea") == THREADS * len(workers), PATIENCE, "all calls")
    database.let_go("tea")
    assert [value for call in calls for value in call.result()] == ["tea as it is"] * THREADS * len(workers)
    assert database.loads("tea") == 1


def test_a_load_that_ends_while_others_ask_is_still_the_only_one(
    workers: list[Worker], bare: Spec, database: Database
) -> None:
    """Calls that come at any moment of a short load, before, during or after it, do not run the function again."""
    for name in ("oolong", "mate", "rooibos"):
        calls = [worker.start(_workers.rush, bare, name, THREADS, len(workers)) for worker in workers]
        for call in calls:
            assert set(call.result()) == {f"{name} as it is"}
        assert database.loads(name) == 1


def test_a_leader_killed_while_loading_costs_one_more_load(
    workers: list[Worker], victim: Worker, spec: Spec, database: Database
) -> None:
    """When the loading process is killed its lease expires, and one other loads while the others still wait."""
    others = workers[:7]
    database.hold("tea")
    victim.start(_workers.get, spec, "tea")
    database.wait_held("tea")
    calls = [worker.start(_workers.rush, spec, "tea", THREADS, len(others)) for worker in others]
    wait_until(lambda: database.begun("tea") == THREADS * len(others), PATIENCE, "all calls")
    assert database.loads("tea") == 1
    victim.kill()
    (lease,) = database.client.scan_iter(f"{spec.instance}:v1:!lease:*")
    assert 0 < database.client.pttl(lease) <= PATIENT["lease_wait"] * 1000 / 2  # so others still wait when it ends
    database.client.pexpire(lease, 1)
    assert [value for call in calls for value in call.result()] == ["tea as it is"] * THREADS * len(others)
    assert database.loads("tea") == 2


def test_threads_that_wait_for_a_load_are_counted_as_joined(
    spec: Spec, database: Database, open_shop: OpenShop
) -> None:
    """In one process one call of many loads, and each of the others is counted once, as joined or as a hit."""
    shop = open_shop(spec)
    connect(shop.cache)
    database.hold("tea")
    begun = threading.Semaphore(0)
    values = []

    def call() -> None:
        begun.release()
        values.append(shop.get("tea"))

    calls = Background(in_threads, call, THREADS)
    database.wait_held("tea")
    for _ in range(THREADS):
        assert begun.acquire(timeout=PATIENCE)
    database.let_go("tea")
    calls.result()
    assert values == ["tea as it is"] * THREADS
    stats = shop.cache.stats().operations["thing:get"]
    assert (stats.loads, stats.misses, stats.remote_hits) == (1, 1, 0)
    assert stats.joined + stats.local_hits == THREADS - 1


def test_a_failing_load_fails_for_its_caller_alone(spec: Spec, open_shop: OpenShop) -> None:
    """Everybody who waited for a load that raised runs the function himself and gets his own exception."""
    shop = open_shop(spec)
    numbers = iter(range(THREADS))
    raised = []

    @shop.cache.cached("thing")
    def broken(name: str) -> str:
        raise LookupError(next(numbers))

    line = threading.Barrier(THREADS)

    def call() -> None:
        line.wait(PATIENCE)
        with pytest.raises(LookupError) as caught:
            broken("tea")
        raised.append(caught.value.args[0])

    in_threads(call, THREADS)
    assert sorted(raised) == list(range(THREADS))


@pytest.mark.parametrize("when", ["at any time", "while the channel comes"])
def test_a_function_that_calls_itself_for_the_same_key_goes_straight_through(
    when: str, spec: Spec, open_shop: OpenShop
) -> None:
    """A load that asks for its own key runs the function again instead of waiting for itself."""
    shop = open_shop(spec)
    if when == "at any time":
        connect(shop.cache)
    depth = 0

    @shop.cache.cached("thing")
    def nested(name: str) -> int:
        nonlocal depth
        depth += 1
        wait_until(lambda: shop.cache.stats().coherent, PATIENCE, "the channel")
        return depth if depth == 3 else nested(name)

    assert Background(nested, "tea").result() == 3
    assert nested.peek("tea") == 3
