"""The default cache: decorated before it exists, made when first needed, replaced at any time."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import aikcache
from aikcache import Cache, CacheConfig, ConfigError, _default
from aikcache._default import Default
from aikcache._default_cache import DefaultCache


@pytest.fixture
def default(monkeypatch: pytest.MonkeyPatch) -> Iterator[Default]:
    """A default cache of this test's own, without an environment."""
    for name in [name for name in os.environ if name.startswith("AIKCACHE_")]:
        monkeypatch.delenv(name)
    made = Default()
    monkeypatch.setattr(_default, "default", made)
    yield made
    made.configure().close()


def counting(default: Default) -> tuple[Any, list[int]]:
    runs: list[int] = []

    @default.cached("p", tags=("t",))
    def f(x: int) -> int:
        runs.append(x)
        return x

    return f, runs


def test_the_modules_decorators_act_on_the_default_cache() -> None:
    """`aikcache.cached` and `aikcache.default_cache()` mean the same cache, which is local without a URL."""

    @aikcache.cached("test_default")
    def f(x: int) -> int:
        return x

    assert f(1) == f(1) == 1
    assert f.key(1) == aikcache.default_cache().key("test_default", "f", 1)
    assert aikcache.default_cache().stats().operations["test_default:f"].hits == 1
    aikcache.default_cache().invalidate("test_default")
    assert f.peek(1) is None


def test_decorating_makes_no_cache(default: Default) -> None:
    """A module may decorate before anything is configured; the first call looks the cache up."""
    f, runs = counting(default)
    assert default._made is None
    made = aikcache.configure(instance="shop")
    assert f(1) == f(1) == 1
    assert f.key(1) == "shop:v1:p:f:1"
    assert runs == [1]
    assert made is aikcache.default_cache()
    assert made.stats().operations["p:f"].hits == 1


def test_without_configure_the_environment_decides(default: Default, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache that is made at the first call is the environment's."""
    monkeypatch.setenv("AIKCACHE_INSTANCE", "fromenv")
    f, _ = counting(default)
    assert f.key(1) == "fromenv:v1:p:f:1"


def test_a_mistake_in_the_environment_costs_no_call(
    default: Default, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Decorated calls run their functions and report it once; asking for the cache itself raises."""
    monkeypatch.setenv("AIKCACHE_TIMEOUT", "soon")
    f, runs = counting(default)

    @default.invalidates("p")
    def change() -> str:
        return "done"

    assert (f(1), f(1), f.peek(1), change()) == (1, 1, None, "done")
    (record,) = caplog.records
    assert record.getMessage().endswith("nothing is invalidated: AIKCACHE_TIMEOUT must be of type float.")
    for _ in range(2):
        with pytest.raises(ConfigError, match="AIKCACHE_TIMEOUT must be of type float"):
            aikcache.default_cache()
    assert f(1) == 1
    monkeypatch.setenv("AIKCACHE_TIMEOUT", "1")
    made = aikcache.default_cache()
    assert f(1) == f(1) == 1
    assert (len(runs), made.stats().hits, len(caplog.records)) == (4, 1, 1)


def test_the_same_cache_every_time(default: Default) -> None:
    """The default cache is made once, by however many threads."""
    barrier = threading.Barrier(8)

    def get() -> Cache:
        barrier.wait(20)
        return aikcache.default_cache()

    with ThreadPoolExecutor(8) as pool:
        assert len({id(found.result(20)) for found in [pool.submit(get) for _ in range(8)]}) == 1


def test_configure_replaces_and_closes(default: Default) -> None:
    """After `configure` decorated functions meet the new cache, with nothing of the old one and fresh counts."""
    f, runs = counting(default)
    old = aikcache.configure(instance="one")
    f(1)
    f(1)
    new = aikcache.configure(instance="two")
    assert f(1) == f(1) == 1
    assert f.key(1) == "two:v1:p:f:1"
    assert runs == [1, 1]
    assert new.stats().operations["p:f"].hits == new.stats().operations["p:f"].misses == 1
    assert old.stats().local_entries == 0
    with pytest.raises(aikcache.RemoteUnavailableError, match="this cache is closed"):
        old.ping()


def test_a_refused_configuration_changes_nothing(default: Default) -> None:
    """When a setting breaks a rule, the default cache stays what it was."""
    f, runs = counting(default)
    made = aikcache.configure()
    f(1)
    with pytest.raises(ConfigError):
        aikcache.configure(timeout=-1)
    assert aikcache.default_cache() is made
    f(1)
    assert runs == [1]


def test_invalidations_also_reach_the_new_cache(default: Default) -> None:
    """`@invalidates` of the default cache acts on the one there is at the call."""
    f, _ = counting(default)

    @default.invalidates("p", tags=("t",))
    def change() -> str:
        return "done"

    for _ in range(2):
        aikcache.configure()
        f(1)
        assert change() == "done"
        assert f.peek(1) is None


def test_a_load_that_began_under_the_old_cache_is_not_kept_in_the_new(default: Default) -> None:
    """What is under way when the cache is replaced answers its caller and is forgotten."""
    inside, go = threading.Event(), threading.Event()

    @default.cached("p")
    def f(x: int) -> str:
        if not inside.is_set():
            inside.set()
            assert go.wait(20)
            return "old"
        return "new"

    aikcache.configure()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(f, 1)
        assert inside.wait(20)
        aikcache.configure()
        go.set()
        assert call.result(20) == "old"
    assert f.peek(1) is None
    assert f(1) == "new"


def test_first_calls_of_many_threads_are_all_counted(default: Default) -> None:
    """Counts are exact from the very first call, however many threads make it at once."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            for _ in range(60):
                f, _ = counting(Default())
                barrier = threading.Barrier(8)

                def call(f: Callable[[int], int] = f, barrier: threading.Barrier = barrier) -> None:
                    barrier.wait(20)
                    f(1)

                for done in [pool.submit(call) for _ in range(8)]:
                    done.result(20)
                info = f.cache_info()
                assert info.hits + info.misses == 8
    finally:
        sys.setswitchinterval(interval)


def test_a_finaliser_may_make_the_default_cache(default: Default, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cached function called while the default cache is being made, in the same thread, does not hang."""
    f, _ = counting(default)
    seen: list[int] = []
    build = DefaultCache.from_env

    def from_env(*args: Any, **kwargs: Any) -> Cache:
        if not seen:
            seen.append(0)
            seen.append(f(7))
        return build(*args, **kwargs)

    monkeypatch.setattr(DefaultCache, "from_env", from_env)
    thread = threading.Thread(target=lambda: seen.append(f(1)), daemon=True)
    thread.start()
    thread.join(20)
    assert seen == [0, 7, 1]
    assert f.peek(7) == 7


def test_closing_is_idempotent_and_functions_go_on(default: Default) -> None:
    """After the default cache is closed, calls run their functions."""
    f, runs = counting(default)
    made = aikcache.configure()
    f(1)
    made.close()
    made.close()
    assert [f(1), f(1)] == [1, 1]
    assert runs == [1, 1, 1]


WAYS: dict[str, Callable[[Cache], object]] = {
    "pattern": lambda cache: cache.invalidate("p"),
    "field": lambda cache: cache.invalidate("p:f:{x}", x=1),
    "key": lambda cache: cache.invalidate_key(cache.key("p", "f", 1)),
    "tag": lambda cache: cache.invalidate_tags("t"),
    "everything": lambda cache: cache.clear(),
    "sweep": lambda cache: cache.invalidate("p:*:1", background=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_cache_that_was_replaced_invalidates_in_the_one_in_its_place(default: Default, way: str) -> None:
    """An application that keeps what `configure` returned does not leave old values, whoever configures again."""
    f, runs = counting(default)
    old = aikcache.configure(instance="one")
    aikcache.configure(instance="two")
    f(1)
    WAYS[way](old)
    assert f(1) == 1
    assert runs == [1, 1]


def test_what_a_cache_that_was_replaced_has_decorated_is_cached_in_the_one_in_its_place(default: Default) -> None:
    """Also a batch function, and after a third one has come."""
    old = aikcache.configure(instance="one")
    runs: list[int] = []

    @old.cached("p")
    def f(x: int) -> int:
        runs.append(x)
        return x

    @old.cached_many("q")
    def g(ids: list[int]) -> dict[int, int]:
        runs.extend(ids)
        return {x: x for x in ids}

    f(1)
    for instance in ("two", "three"):
        runs.clear()
        new = aikcache.configure(instance=instance)
        assert (f(1), f(1), g([1]), g([1]), runs) == (1, 1, {1: 1}, {1: 1}, [1, 1])
        assert f.key(1) == f"{instance}:v1:p:f:1"
        assert new.stats().operations["p:f"].hits == 1
        new.invalidate("p")
        assert f.peek(1) is None
    aikcache.default_cache().close()
    assert (f(1), f(1), runs) == (1, 1, [1, 1, 1, 1])


def test_blocks_of_a_cache_that_was_replaced_count_for_the_one_in_its_place(default: Default) -> None:
    """Also one that was open when `configure` was called."""
    f, runs = counting(default)
    old = aikcache.configure(instance="one")
    f(1)
    with old.deferred():
        f.invalidate(1)
        aikcache.configure(instance="two")
        f(1)
    f(1)
    assert runs == [1, 1, 1]
    with old.deferred():
        f.invalidate(1)
        assert f(1) == 1  # the invalidation waits, so this is not kept
    assert f(1) == 1
    with old.refreshing():
        f(1)
    assert runs == [1, 1, 1, 1, 1, 1]


def test_a_function_called_while_its_cache_is_replaced_is_the_new_ones(
    default: Default, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it keeps in the new cache while the old one closes stays, and its wrapper answers hits by itself."""
    f, runs = counting(default)
    old = aikcache.configure(instance="one")
    f(1)
    close = old.engine.background.close
    monkeypatch.setattr(old.engine.background, "close", lambda: (f(2), close()))
    new = aikcache.configure(instance="two")
    assert f(2) == f(2) == 2
    assert runs == [1, 2]
    assert old.stats().misses == 1
    assert (new.stats().hits, new.stats().misses) == (2, 1)
    old.clear()
    old.engine.trust_until(0.0)  # as its channel may do, until that has ended
    assert f(2) == f(2) == 2
    assert runs == [1, 2, 2]  # `clear` on the old one: see above
    (entry,) = f._aikcache_call.region.table.values()
    assert (entry.hits, f(2), entry.hits) == (1, 2, 2)


def test_a_cache_is_a_context_manager() -> None:
    """Leaving the block closes the cache."""
    with Cache() as cache:
        cache.set("k", 1)
        assert cache.get("k") == 1
    assert cache.get("k") is None
    assert isinstance(cache.config, CacheConfig)
