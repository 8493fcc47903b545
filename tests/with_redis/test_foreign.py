"""Foreign values at our names: too large, or of another type. The first read removes them."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
import redis

from aikcache import Cache
from aikcache._engine.call import Attempt
from aikcache.testing import Server, wait_until
from aikcache.testing.proxy import Proxy, Turn

from ._workers import PATIENCE, Database, Shop, Spec

OpenShop = Callable[[Spec], Shop]
HUGE = 40 * 2**20


def sent(raw: redis.Redis) -> int:
    """Bytes that the server has sent so far."""
    count: int = raw.info("stats")["total_net_output_bytes"]
    return count


def test_a_huge_value_at_a_key_is_not_waited_for_and_is_replaced(
    bare: Spec, raw: redis.Redis, database: Database, open_shop: OpenShop
) -> None:
    """A value that nothing of ours can be is given up when its length is read, and the result replaces it."""
    shop = open_shop(bare)
    key = shop.get.key("tea")
    raw.set(key, b"x" * HUGE)
    before = sent(raw)
    assert shop.get("tea") == "tea as it is"
    assert sent(raw) - before < HUGE / 4
    assert 0 < raw.strlen(key) < 1000
    assert open_shop(bare).get("tea") == "tea as it is"
    assert database.loads("tea") == 1


def test_a_huge_value_goes_also_where_nothing_is_stored(bare: Spec, raw: redis.Redis, open_shop: OpenShop) -> None:
    """When the result is not to be cached, the huge value at its key is gone all the same."""
    cache = open_shop(bare).cache

    @cache.cached("thing", cache_if=lambda result: False)
    def never(n: int) -> int:
        return n

    raw.set(never.key(1), b"x" * HUGE)
    assert never(1) == 1
    assert not raw.exists(never.key(1))


def test_a_huge_value_that_arrives_while_a_lease_is_waited_for_counts_as_none(
    bare: Spec, raw: redis.Redis, open_shop: OpenShop
) -> None:
    """Asking for a lease is not answered with what cannot be ours."""
    shop = open_shop(bare)
    shared = shop.cache.engine.remote_tier
    assert shared is not None
    attempt = Attempt(shop.cache._call("thing:got:1", shop.cache._policy, lambda: None), 0.0)
    shared.read([attempt])
    shared.ensure(attempt)
    raw.set(attempt.key, b"x" * HUGE)
    assert shared.ask_leases([attempt]) == [None]


class SlowProxy(Proxy):
    """Passes answers on at so many bytes a second that a huge one takes longer than an operation may."""

    def _back(self, server: socket.socket, link: socket.socket, turn: Turn) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                turn.answered(data)
                link.sendall(data)
                if len(data) > 10_000:
                    time.sleep(0.005)
            link.shutdown(socket.SHUT_RDWR)


def test_a_huge_value_is_removed_when_the_batch_it_is_in_times_out(
    redis_server: Server, bare: Spec, raw: redis.Redis, open_shop: OpenShop
) -> None:
    """A batch that times out because of what stands under one of its keys removes that, and the next one is whole."""
    with SlowProxy(redis_server.socket) as proxy:
        shop = open_shop(bare.but(timeout=1.0)._replace(url=proxy.url, database=bare.url))
        shop.get("mate")
        key = shop.get.key("tea")
        raw.set(key, b"x" * HUGE)

        def length() -> int:
            assert shop.get.many(["mate", "tea"]) == ["mate as it is", "tea as it is"]
            return int(raw.strlen(key))

        # A machine that stalls for a second costs a batch one more attempt.
        wait_until(lambda: length() < 1000, PATIENCE, "the removal")
        wait_until(lambda: 0 < length() < 1000, PATIENCE, "the value in its place")


@pytest.mark.parametrize("what", ["list", "hash", "too long", "too short"])
@pytest.mark.parametrize("group", ["*", "thing", "thing:get", "#thing:tea"])
def test_a_stamp_that_is_none_is_replaced(
    group: str, what: str, bare: Spec, raw: redis.Redis, database: Database, open_shop: OpenShop,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Whatever stands where a stamp belongs, the next load puts a stamp there, and is shared."""
    shop = open_shop(bare)
    name = f"{bare.instance}:v1:~stamp:{group}"
    if what == "list":
        raw.lpush(name, "x")
    elif what == "hash":
        raw.hset(name, "x", "y")
    else:
        raw.set(name, b"x" * (100_000 if what == "too long" else 3))
    with caplog.at_level(logging.WARNING, "aikcache"):
        assert shop.get("tea") == "tea as it is"
    assert not [line for line in caplog.messages if "refuses" in line]
    assert raw.strlen(name) == 8
    assert open_shop(bare).get("tea") == "tea as it is"
    assert database.loads("tea") == 1


def test_something_else_where_a_lease_belongs_does_not_get_in_the_way(
    bare: Spec, raw: redis.Redis, database: Database, open_shop: OpenShop
) -> None:
    """A list in a lease's place is overwritten, before a load and during one."""
    shop = open_shop(bare)
    lease = f"{bare.instance}:v1:!lease:{{{shop.get.key('tea')}}}"
    raw.lpush(lease, "x")
    assert shop.get("tea") == "tea as it is"
    assert shop.get("tea") == "tea as it is"
    assert database.loads("tea") == 1

    @shop.cache.cached("thing")
    def disturbed(n: int) -> int:
        name = f"{bare.instance}:v1:!lease:{{{disturbed.key(n)}}}"
        raw.delete(name)
        raw.lpush(name, "x")
        return n

    assert disturbed(1) == 1
    assert shop.cache.stats().operations["thing:disturbed"].errors == 0


def test_a_stamp_of_another_type_does_not_stop_a_cache_by_hand(
    bare: Spec, raw: redis.Redis, open_shop: OpenShop
) -> None:
    """`set` heals a stamp as a call does."""
    cache: Cache = open_shop(bare).cache
    raw.lpush(f"{bare.instance}:v1:~stamp:thing", "x")
    cache.set("thing:put:1", 1)
    assert cache.get("thing:put:1") == 1
