"""The channel: what it receives and what it does not, and how it is cut, reconnected and closed."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import redis

from aikcache import Cache
from aikcache._coherence import channel
from aikcache._keys.patterns import Invalidation
from aikcache.testing import Server, wait_until
from aikcache.testing.proxy import Proxy

from . import _workers
from ._staging import Listener, kill_channel, pair, wait_for_push
from ._workers import PATIENCE, PATIENT, Shop, Spec, Worker, connect

pytestmark = pytest.mark.usefixtures("unhurried")

OLD, NEW = "old", "new"
OpenCache = Callable[..., Cache]
OpenShop = Callable[[Spec], Shop]


@pytest.fixture
def open_cache(redis_url: str, instance: str) -> Iterator[OpenCache]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Cache(redis_url, instance=instance, **PATIENT))


class Source:
    """A value, read by functions of the same name in several caches."""

    def __init__(self) -> None:
        self.value = OLD
        self.loads = 0

    def bind(self, cache: Cache, tags: tuple[str, ...] = ("things",)) -> Callable[[str], str]:
        @cache.cached("thing", operation="get", tags=tags)
        def get(name: str) -> str:
            self.loads += 1
            return self.value

        return get


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("aikcache-channel")}


@pytest.fixture
def started() -> Callable[[], int]:
    """How many channels' threads run that have been started since; those of earlier tests may still be ending."""
    before = threads()
    return lambda: len(threads() - before)


# What is pushed


def test_fills_and_leases_make_no_traffic(redis_server: Server, open_cache: OpenCache, instance: str) -> None:
    """When the stamps are there, any number of loads, stores and reads of others pushes nothing."""
    here, there = pair(open_cache)
    get, get_there = Source().bind(here), Source().bind(there)
    get("first")
    wait_for_push(here, there)
    with Listener(redis_server, f"{instance}:v1:~") as listener:
        pushes = here.stats().pushes
        for number in range(50):
            get(f"box{number}")
            get_there(f"box{number}")
        assert listener.pushes() == []
        assert here.stats().pushes == pushes
        there.invalidate("thing")
        there.invalidate_key("thing:get:box1")
        assert len(listener.pushes()) >= 2


@pytest.mark.parametrize(
    "end",
    [
        lambda cache: cache.invalidate_key("thing:get:box"),
        lambda cache: cache.invalidate("thing:get"),
        lambda cache: cache.invalidate("thing"),
        lambda cache: cache.invalidate_tags("things"),
        lambda cache: cache.invalidate("*:get:b*x"),
        lambda cache: cache.clear(),
        lambda cache: cache.set("thing:get:box", NEW),
    ],
    ids=["key", "operation", "prefix", "tag", "glob", "everything", "set"],
)
def test_invalidations_of_another_process_arrive(open_cache: OpenCache, end: Callable[[Cache], object]) -> None:
    """What another cache invalidates or sets is soon gone here: it was pushed, because `local_ttl` is longer."""
    here, there = pair(open_cache)
    source = Source()
    get = source.bind(here)
    assert get("box") == OLD
    source.value = NEW
    end(there)
    wait_until(lambda: get("box") == NEW, PATIENCE, "the push")


def test_what_was_not_invalidated_stays_cached(open_cache: OpenCache) -> None:
    """Invalidating one key, group or tag leaves the others cached."""
    here, there = pair(open_cache)
    source = Source()
    get, other = source.bind(here), source.bind(here, tags=())
    assert get("box") == other("cup") == OLD
    there.invalidate("nothing")
    there.invalidate_tags("nothing")
    there.invalidate_key("thing:get:tin")
    wait_for_push(here, there)
    loads = source.loads
    assert get("box") == other("cup") == OLD
    assert here.engine.local.peek(here.space.full("thing:get:box")) is not None
    assert source.loads == loads


# What only Redis does


@pytest.mark.parametrize("how", ["FLUSHALL", "FLUSHDB"])
def test_a_flush_invalidates_everything(how: str, open_cache: OpenCache, raw: redis.Redis) -> None:
    """When Redis is flushed no local value and no cached stamp counts any more."""
    here, there = pair(open_cache)
    source = Source()
    get, get_there = source.bind(here), source.bind(there)
    assert get("box") == get_there("box") == OLD
    source.value = NEW
    raw.flushall() if how == "FLUSHALL" else raw.flushdb()
    wait_until(lambda: get("box") == NEW, PATIENCE, "the flush")
    wait_until(lambda: get_there("box") == NEW, PATIENCE, "the flush")
    assert source.loads == 2


@pytest.mark.parametrize("group", ["*", "thing", "thing:get", "#things"])
def test_deleting_a_stamp_invalidates_what_is_under_it(group: str, open_cache: OpenCache, raw: redis.Redis) -> None:
    """A missing stamp invalidates what was stored under it, in both tiers: an invalidation may have been missed."""
    here, there = pair(open_cache)
    source = Source()
    get, get_there = source.bind(here), source.bind(there)
    assert get("box") == get_there("box") == OLD
    source.value = NEW
    assert raw.delete(here.space.stamp(group)) == 1
    wait_until(lambda: get("box") == NEW, PATIENCE, "the push")
    wait_until(lambda: get_there("box") == NEW, PATIENCE, "the push")
    assert source.loads == 2


def test_evicting_stamps_invalidates_what_is_under_them(own_server: Server, instance: str) -> None:
    """A server short of memory that evicts stamps makes misses, never old values."""
    with ExitStack() as stack:
        here, there = pair(lambda: stack.enter_context(Cache(own_server.url, instance=instance, **PATIENT)))
        source = Source()
        get, get_there = source.bind(here), source.bind(there)
        assert get("box") == OLD
        client = stack.enter_context(redis.Redis.from_url(own_server.url))
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 2**20)
        filler = 0
        while client.exists(here.space.stamp("thing:get")) or client.exists(here.space.stamp("#things")):
            client.set(f"filler{filler}", "x" * 10_000)
            filler += 1
            assert filler < 20_000
        source.value = NEW
        wait_until(lambda: get("box") == NEW, PATIENCE, "the push")
        wait_until(lambda: get_there("box") == NEW, PATIENCE, "the push")


# Cut and made anew


def test_a_killed_channel_reconnects_and_empties_the_local_tier(open_cache: OpenCache, redis_url: str) -> None:
    """After its connection was killed the channel is soon back, without old values, and receives again."""
    here, there = pair(open_cache)
    source = Source()
    get = source.bind(here)
    assert get("box") == OLD
    for value in ("first", "second"):
        connects = kill_channel(here, redis_url)
        wait_until(lambda connects=connects: here.stats().channel_connects > connects, PATIENCE, "the channel")  # type: ignore[misc]
        wait_until(lambda: here.stats().coherent and there.stats().coherent, PATIENCE, "coherence")
        wait_for_push(here, there)
        assert len(here.engine.local) == 0 or here.engine.local.peek(here.space.full("thing:get:box")) is None
        get("box")
        source.value = value
        there.invalidate("thing")
        wait_until(lambda value=value: get("box") == value, PATIENCE, "the push")  # type: ignore[misc]


def test_a_server_that_stops_answering_is_noticed(own_server: Server, instance: str) -> None:
    """A hung server makes the cache incoherent after `max_staleness` at most, and coherent again when it answers."""
    with Cache(own_server.url, instance=instance, max_staleness=0.3) as cache:
        connect(cache)
        wait_until(lambda: cache.stats().coherent_for is not None, PATIENCE, "the channel")
        own_server.pause()
        try:
            wait_until(lambda: not cache.stats().coherent, PATIENCE, "`trusted_until` to pass")
        finally:
            own_server.resume()
        wait_until(lambda: cache.stats().coherent, PATIENCE, "coherence")


def test_a_process_that_was_stopped_serves_nothing_old(spec: Spec, victim: Worker, open_shop: OpenShop) -> None:
    """A process stopped and continued answers its first call with nothing older than `max_staleness`."""
    spec = spec.but(max_staleness=0.3)
    here = open_shop(spec)
    connect(here.cache)
    here.database.put("box", OLD)
    victim.run(_workers.run, spec, connect_shop)
    assert [victim.run(_workers.get, spec, "box") for _ in range(3)] == [OLD] * 3
    victim.signal(signal.SIGSTOP)
    try:
        here.database.put("box", NEW)
        here.get.invalidate("box")
        over = time.monotonic() + 0.5
        first = victim.start(_workers.get, spec, "box")  # waits in the pipe until the process goes on
        wait_until(lambda: time.monotonic() > over, what="`trusted_until` to pass")
    finally:
        victim.signal(signal.SIGCONT)
    assert first.result() == NEW


def connect_shop(shop: Shop) -> None:
    connect(shop.cache)


def test_a_server_that_restarts_empty_makes_no_old_value(own_server: Server, instance: str) -> None:
    """After a restart without data, earlier values are gone, and others' invalidations arrive again."""
    with ExitStack() as stack:
        here, there = pair(lambda: stack.enter_context(Cache(own_server.url, instance=instance, breaker_reset=0.1)))
        source = Source()
        get, get_there = source.bind(here), source.bind(there)
        assert get("box") == get_there("box") == OLD
        own_server.kill()
        source.value = NEW
        own_server.start()
        wait_until(lambda: here.stats().channel_connects > 1 and there.stats().channel_connects > 1, PATIENCE)
        wait_until(lambda: get("box") == NEW and get_there("box") == NEW, PATIENCE, "the new value")
        source.value = "newer"
        there.invalidate_tags("things")
        wait_until(lambda: get("box") == "newer", PATIENCE, "the push")


# The thread


def test_without_a_url_there_is_no_channel(started: Callable[[], int]) -> None:
    """A cache of this process alone is always coherent, and starts no thread."""
    with Cache() as cache:
        get = Source().bind(cache)
        assert get("box") == OLD
        cache.invalidate_tags("things")
        stats = cache.stats()
        assert stats.coherent
        assert (stats.pushes, stats.channel_connects, stats.pending_invalidations) == (0, 0, 0)
        assert cache.wait_coherent(0)
        assert started() == 0


def test_a_cache_that_is_not_used_starts_no_thread(redis_url: str, instance: str, started: Callable[[], int]) -> None:
    """Making a cache and decorating starts nothing; the first call does."""
    with Cache(redis_url, instance=instance, **PATIENT) as cache:
        get = Source().bind(cache)
        assert started() == 0
        get("box")
        wait_until(lambda: started() == 1, PATIENCE, "the thread")


def test_close_stops_the_thread(
    redis_url: str, instance: str, started: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`close` stops the channel's thread, which does not wait for its next heartbeat, and nothing starts it again."""
    monkeypatch.setattr(channel, "HEARTBEAT", 600)
    cache = Cache(redis_url, instance=instance, **PATIENT)
    get = Source().bind(cache)
    connect(cache)
    assert started() == 1
    cache.close()
    wait_until(lambda: started() == 0, PATIENCE, "the end of the thread")
    assert get("box") == OLD
    cache.invalidate("thing")
    assert started() == 0


def test_an_unreferenced_cache_is_closed(redis_url: str, instance: str, started: Callable[[], int]) -> None:
    """A cache dropped without `close` is collected, functions and all, and its thread ends."""
    cache = Cache(redis_url, instance=instance, **PATIENT)
    get = Source().bind(cache)
    connect(cache)
    get("box")
    gone = weakref.ref(cache)
    del cache, get

    def collected() -> bool:
        gc.collect()
        return gone() is None

    wait_until(collected, PATIENCE, "the collection")  # the thread may be holding it at the moment
    wait_until(lambda: started() == 0, PATIENCE, "the end of the thread")


def test_the_interpreter_exits_silently_with_a_live_channel(redis_url: str, instance: str) -> None:
    """A script that uses a cache and simply ends does so at once and silently."""
    script = f"""
from aikcache import Cache
cache = Cache({redis_url!r}, instance={instance!r}, timeout=20, connect_timeout=20)
@cache.cached("thing")
def get(name: str) -> str:
    return name
get("box")
assert cache.wait_coherent({PATIENCE})
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=3 * PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_channel_that_finds_another_server_while_it_sends_listens_to_that(
    own_server: Server, redis_server: Server, redis_url: str, instance: str
) -> None:
    """A name or a proxy leads to another server, and the old one lives: what the channel's own thread sends, by another
    connection, is what finds out.
    """
    with (
        Proxy(own_server.socket) as proxy,
        Cache(proxy.url, instance=instance, **PATIENT) as here,
        Cache(redis_url, instance=instance, **PATIENT) as there,
    ):
        source = Source()
        get, recovery = source.bind(here), here.engine.recovery
        connect(here)
        connect(there)
        assert get("box") == OLD
        assert recovery is not None
        proxy.upstream = redis_server.socket  # for new connections
        here.engine.remote.connections.drop_idle()  # type: ignore[union-attr]
        recovery.add(Invalidation(keys=(here.space.full("thing:get:other"),)))
        wait_until(lambda: not recovery.pending, PATIENCE, "the replay")
        wait_until(lambda: here.stats().channel_connects == 2, PATIENCE, "the channel")
        wait_until(lambda: here.stats().coherent, PATIENCE, "the channel")
        assert get("box") == OLD
        source.value = NEW
        there.invalidate("thing")
        wait_until(lambda: get("box") == NEW, PATIENCE, "the push")
