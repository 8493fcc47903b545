"""What Redis may hold, lose or be given by others: stamps, scripts, frames, seals."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from operator import gt
from pathlib import Path

import pytest
import redis

from aikcache import Cache
from aikcache.errors import RemoteError
from aikcache.testing import Server, wait_until

from ._workers import PATIENCE, PATIENT, Database, Shop, Spec, connect

OpenShop = Callable[[Spec], Shop]
DAY = 86_400


def but_for_the_channel(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged, without the line that says the channel was cut."""
    return [message for message in caplog.messages if "channel" not in message]


def stamp(spec: Spec, group: str) -> str:
    return f"{spec.instance}:v1:~stamp:{group}"


# Stamps


@pytest.mark.parametrize("group", ["*", "thing", "thing:get", "#thing:tea", "#things"])
def test_a_deleted_stamp_invalidates_all_that_was_under_it(
    group: str, bare: Spec, raw: redis.Redis, database: Database, open_shop: OpenShop
) -> None:
    """When a group's stamp is gone, whatever the group, older values are misses and the next load is a hit again."""
    shop, other = open_shop(bare), open_shop(bare)
    shop.get("tea")
    assert other.get.peek("tea") == "tea as it is"
    assert raw.delete(stamp(bare, group)) == 1
    wait_until(lambda: other.get.peek("tea") is None, PATIENCE, "the push")
    wait_until(lambda: shop.get.peek("tea") is None, PATIENCE, "the push")
    assert shop.get("tea") == other.get("tea") == "tea as it is"
    assert database.loads("tea") == 2


@pytest.mark.parametrize("tag", ["made-of:tea", "known:tea"])
def test_a_deleted_stamp_of_a_tag_of_the_result_invalidates_its_value(
    tag: str, bare: Spec, raw: redis.Redis, database: Database, open_shop: OpenShop
) -> None:
    """The stamps of tags made from the result are as binding as the others."""
    shop = open_shop(bare)
    shop.described("tea")
    assert shop.described.peek("tea") == "tea as it is"
    assert raw.delete(stamp(bare, "#" + tag)) == 1
    wait_until(lambda: shop.described.peek("tea") is None, PATIENCE, "the push")
    shop.described("tea")
    assert shop.described.peek("tea") == "tea as it is"
    assert database.loads("tea") == 2


def test_a_stamp_that_comes_back_does_not_bring_old_values_back(
    bare: Spec, raw: redis.Redis, database: Database, open_shop: OpenShop
) -> None:
    """After a stamp was lost and created again, a value stored under the lost one stays a miss."""
    shop = open_shop(bare)
    shop.get("tea")
    shop.get("mate")
    raw.delete(stamp(bare, "thing"))
    wait_until(lambda: shop.get.peek("tea") is None, PATIENCE, "the push")
    shop.get("tea")
    assert raw.exists(stamp(bare, "thing"))
    assert raw.exists(shop.get.key("mate"))
    assert shop.get.peek("mate") is None


def test_flushall_is_survived(
    bare: Spec, raw: redis.Redis, database: Database, open_shop: OpenShop, caplog: pytest.LogCaptureFixture
) -> None:
    """After FLUSHALL everything is loaded again and shared again, without an error."""
    shop, other = open_shop(bare), open_shop(bare)
    caches = (shop.cache, other.cache)
    for cache in caches:
        connect(cache)
    shop.get("tea")
    pushes = [cache.stats().pushes for cache in caches]
    raw.flushall()

    def shared() -> bool:
        assert shop.get("tea") == other.get("tea") == "tea as it is"
        return shop.get.peek("tea") is not None

    wait_until(shared, PATIENCE, "a value under the new stamps")
    wait_until(lambda: all(map(gt, [cache.stats().pushes for cache in caches], pushes)), PATIENCE, "the push")
    assert shop.get("tea") == other.get("tea")
    loads = database.loads("tea")
    assert shop.get("tea") == other.get("tea")
    assert database.loads("tea") == loads
    assert shop.cache.stats().errors == other.cache.stats().errors == 0
    assert but_for_the_channel(caplog) == []


def test_flushall_during_a_load_leaves_nothing_of_it(
    bare: Spec, raw: redis.Redis, database: Database, open_shop: OpenShop
) -> None:
    """A load that FLUSHALL overtook is not stored, for its lease and stamps are gone."""
    shop = open_shop(bare)

    @shop.cache.cached("thing")
    def flushing(n: int) -> int:
        raw.flushall()
        return n

    assert flushing(1) == 1
    assert flushing.peek(1) is None


def test_evicted_stamps_invalidate_what_was_under_them(own_server: Server, instance: str) -> None:
    """On a full server that evicts at random, a value that outlived its stamp is a miss."""
    with (
        redis.Redis.from_url(own_server.url) as client,
        closing(Shop(Spec(own_server.url, instance).but(**PATIENT, local_ttl=0))) as shop,
    ):
        names = [f"n{i}" for i in range(200)]
        groups = [stamp(Spec("", instance), group) for group in ("*", "thing", "thing:get", "#things")]
        survivors: list[str] = []
        while not survivors:
            client.config_set("maxmemory", 0)
            client.flushall()
            shop.get_all(names)
            client.config_set("maxmemory-policy", "allkeys-random")
            client.config_set("maxmemory", client.info("memory")["used_memory"] + 200_000)
            filler = 0
            while client.exists(*groups) == len(groups):
                client.set(f"filler:{filler}", b"x" * 10_000)
                filler += 1
            survivors = [name for name in names if client.exists(shop.get.key(name))]
        client.config_set("maxmemory", 0)
        assert client.info("stats")["evicted_keys"] > 0
        wait_until(lambda: not any(map(shop.get.peek, survivors)), PATIENCE, "the push")


@pytest.mark.parametrize("how", ["a call", "a batch", "set", "a tag of the result", "a ttl made from the result"])
def test_the_stamp_of_a_tag_outlives_what_is_stored_under_it(
    how: str, bare: Spec, raw: redis.Redis, open_shop: OpenShop
) -> None:
    """A tag's stamp is kept at least as long as the entries under it, also when the tag was just invalidated."""
    cache = open_shop(bare).cache
    ttl = 3 * DAY
    cache.invalidate_tags("t:1")
    assert 0 < raw.pttl(stamp(bare, "#t:1")) <= DAY * 1000

    @cache.cached("thing", ttl, tags=("t:{n}",))
    def one(n: int) -> int:
        return n

    @cache.cached("thing", ttl, operation="late", tags=lambda result, n: (f"t:{result}",))
    def late(n: int) -> int:
        return n

    @cache.cached("thing", lambda result: ttl, operation="varying", tags=("t:{n}",))
    def varying(n: int) -> int:
        return n

    @cache.cached_many("thing", ttl, operation="one", tags=("t:{ids}",))
    def many(ids: list[int]) -> dict[int, int]:
        return {n: n for n in ids}

    if how == "a call":
        key, _ = one.key(1), one(1)
    elif how == "a batch":
        key, _ = one.key(1), many([1, 2])
    elif how == "set":
        key = cache.key("thing", "put", 1)
        cache.set(key, 1, ttl, tags=("t:1",))
    elif how == "a tag of the result":
        key, _ = late.key(1), late(1)
    else:
        key, _ = varying.key(1), varying(1)
    assert ttl * 1000 - 60_000 < raw.pttl(key) <= ttl * 1000
    assert raw.pttl(stamp(bare, "#t:1")) >= raw.pttl(key)


def test_the_stamps_of_prefixes_and_operations_live_a_day(bare: Spec, raw: redis.Redis, open_shop: OpenShop) -> None:
    """The stamps of everything, a prefix and an operation are kept for a day, read or invalidated."""
    shop = open_shop(bare)
    shop.get("tea")
    ends: list[Callable[[], object]] = [
        lambda: None,
        shop.cache.clear,
        lambda: shop.cache.invalidate("thing", "thing:get"),
    ]
    for end in ends:
        end()
        shop.get("tea")
        for group in ("*", "thing", "thing:get"):
            assert DAY * 1000 - 60_000 < raw.pttl(stamp(bare, group)) <= DAY * 1000


def test_a_short_lived_entry_does_not_shorten_its_tags_stamp(bare: Spec, raw: redis.Redis, open_shop: OpenShop) -> None:
    """A stamp that long-lived entries need is not cut short by a short-lived one under the same tag."""
    cache = open_shop(bare).cache
    cache.set("thing:put:1", 1, 3 * DAY, tags=("t",))
    cache.set("thing:put:2", 2, 5, tags=("t",))
    assert raw.pttl(stamp(bare, "#t")) > 3 * DAY * 1000
    assert cache.get("thing:put:1") == 1


# Scripts


def test_script_flush_is_survived(
    bare: Spec, raw: redis.Redis, database: Database, open_shop: OpenShop, caplog: pytest.LogCaptureFixture
) -> None:
    """When the server forgets its scripts, calls store and share as before, without an error or a log line."""
    shop, other = open_shop(bare), open_shop(bare)
    shop.get("tea")
    raw.script_flush()
    shop.get("mate")
    raw.script_flush()
    shop.get_all(["a", "b", "c"])
    assert other.get_all(["tea", "mate", "a", "b", "c"]).keys() == {"tea", "mate", "a", "b", "c"}
    assert [database.loads(name) for name in ("tea", "mate", "a")] == [1, 1, 1]
    assert shop.cache.stats().errors == 0
    assert but_for_the_channel(caplog) == []


def test_script_flush_during_a_load_does_not_lose_its_result(bare: Spec, raw: redis.Redis, open_shop: OpenShop) -> None:
    """A result is stored although the server forgot the storing script while the function ran."""
    shop = open_shop(bare)

    @shop.cache.cached("thing")
    def flushing(n: int) -> int:
        raw.script_flush()
        return n

    assert flushing(1) == 1
    assert flushing.peek(1) == 1


def test_a_restarted_server_is_used_again_without_an_error(
    own_server: Server, instance: str, caplog: pytest.LogCaptureFixture
) -> None:
    """After a restart between two calls the next one connects, sends its scripts again, and stores."""
    with closing(Shop(Spec(own_server.url, instance).but(**PATIENT, local_ttl=0))) as shop:
        shop.get("tea")
        own_server.restart()
        assert shop.get("tea") == "tea as it is"
        assert shop.get.peek("tea") == "tea as it is"
        assert shop.cache.stats().errors == 0
    assert but_for_the_channel(caplog) == []


def test_connections_that_the_server_killed_are_replaced_without_an_error(
    bare: Spec, raw: redis.Redis, database: Database, open_shop: OpenShop, caplog: pytest.LogCaptureFixture
) -> None:
    """CLIENT KILL between two calls, as an idle timeout would, is not felt by the next call."""
    shop = open_shop(bare)
    shop.get("tea")
    for _ in range(3):
        raw.client_kill_filter(_type="normal", skipme=True)
        assert shop.get("tea") == "tea as it is"
    assert database.loads("tea") == 1
    assert shop.cache.stats().errors == 0
    assert but_for_the_channel(caplog) == []


# What stands under our keys


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


FOREIGN: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: b"",
    "another program's value": lambda data: b'{"a": 1}',
    "a pickle": lambda data: b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",
    "a cut frame": cut,
    "a frame without its end": lambda data: data[:-1],
    "a frame with more behind it": lambda data: data + b"x",
    "a flipped bit in the header": lambda data: data[:10] + bytes([data[10] ^ 1]) + data[11:],
    "a flipped bit in the value": lambda data: data[:-6] + bytes([data[-6] ^ 64]) + data[-5:],
    "a frame of a newer wire version": lambda data: data[:2] + bytes([data[2] + 1]) + data[3:],
    "a frame with unknown flags": lambda data: data[:3] + bytes([data[3] | 128]) + data[4:],
    "megabytes of zeros": lambda data: bytes(20 * 2**20),
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("secret", [None, "a secret of this test, of 32 bytes"])
def test_bytes_that_are_no_frame_are_a_miss_and_are_overwritten(
    what: str, secret: str | None, bare: Spec, raw: redis.Redis, database: Database, open_shop: OpenShop
) -> None:
    """Whatever bytes stand under a key, the call is answered by the function and its result replaces them."""
    shop, other = open_shop(bare.but(secret=secret)), open_shop(bare.but(secret=secret))
    shop.get("tea")
    key = shop.get.key("tea")
    good = raw.get(key)
    assert isinstance(good, bytes)
    raw.set(key, FOREIGN[what](good), px=60_000)
    assert shop.get("tea") == other.get("tea") == "tea as it is"
    assert database.loads("tea") == 2
    assert shop.cache.stats().errors == 1
    assert other.cache.stats().errors == 0


def test_the_frame_of_another_key_is_a_miss(
    bare: Spec, raw: redis.Redis, database: Database, open_shop: OpenShop
) -> None:
    """A frame found under a key that is not its own, as after a mix-up of replies, is never served."""
    shop, other = open_shop(bare), open_shop(bare)
    shop.get("tea")
    shop.get("mate")
    raw.copy(shop.get.key("mate"), shop.get.key("tea"), replace=True)
    assert shop.get("tea") == "tea as it is"
    assert other.get("tea") == "tea as it is"
    assert database.loads("tea") == 2


def test_a_frame_of_another_instance_or_version_is_a_miss(
    spec: Spec, bare: Spec, raw: redis.Redis, open_shop: OpenShop
) -> None:
    """Caches of another instance or version share nothing, not even a frame that was copied over."""
    shop, other = open_shop(bare), open_shop(bare.but(version="v2"))
    third = open_shop(bare._replace(instance=bare.instance + "x"))
    shop.get("tea")
    for foreign in (other, third):
        assert foreign.get.peek("tea") is None
        raw.copy(shop.get.key("tea"), foreign.get.key("tea"))
        assert foreign.get.peek("tea") is None


@pytest.mark.parametrize("what", ["value", "lease", "stamp"])
def test_a_key_of_another_type_does_not_get_in_the_way(
    what: str, bare: Spec, raw: redis.Redis, open_shop: OpenShop
) -> None:
    """A list where a value, a lease or a stamp should be is overwritten."""
    shop = open_shop(bare)
    key = shop.get.key("tea")
    place = {"value": key, "lease": f"{bare.instance}:v1:!lease:{{{key}}}", "stamp": stamp(bare, "thing")}[what]
    raw.lpush(place, "x")
    assert shop.get("tea") == "tea as it is"
    assert shop.get("tea") == "tea as it is"
    assert shop.cache.stats().errors == 0
    assert shop.cache.stats().loads == 1
    assert not shop.cache.health().breaker_open


@pytest.mark.parametrize("what", ["value", "lease", "stamp"])
def test_an_invalidation_clears_a_key_of_another_type_away(
    what: str, bare: Spec, raw: redis.Redis, database: Database, open_shop: OpenShop
) -> None:
    """What is in the way of a value, a lease or a stamp goes with the next invalidation, and caching works again."""
    shop = open_shop(bare)
    key = shop.get.key("tea")
    place = {"value": key, "lease": f"{bare.instance}:v1:!lease:{{{key}}}", "stamp": stamp(bare, "thing")}[what]
    raw.lpush(place, "x")
    shop.get.invalidate("tea")
    shop.cache.invalidate("thing")
    assert shop.get("tea") == shop.get("tea") == "tea as it is"
    assert database.loads("tea") == 1


def test_a_value_of_another_type_is_overwritten(
    bare: Spec, raw: redis.Redis, database: Database, open_shop: OpenShop
) -> None:
    """A list where a value should be is a miss, and is overwritten by the next load."""
    shop = open_shop(bare)
    raw.lpush(shop.get.key("tea"), "x")
    assert shop.get("tea") == shop.get("tea") == "tea as it is"
    assert database.loads("tea") == 1


def test_a_list_beside_the_values_does_not_spoil_a_batch(
    bare: Spec, raw: redis.Redis, database: Database, open_shop: OpenShop
) -> None:
    """A batch with one key of another type is answered in full."""
    shop = open_shop(bare)
    shop.get("mate")
    raw.lpush(shop.get.key("tea"), "x")
    assert shop.get_all(["tea", "mate", "cola"]) == {n: f"{n} as it is" for n in ("tea", "mate", "cola")}


def test_a_lease_key_without_ttl_is_taken_over(bare: Spec, raw: redis.Redis, open_shop: OpenShop) -> None:
    """A lease whose expiry was removed prevents no load and no store."""
    shop = open_shop(bare.but(lease_wait=PATIENCE))
    key = shop.cache.space.full("thing:put:1")
    leases: list[bytes] = []
    lease = f"{bare.instance}:v1:!lease:{{{key}}}"

    def load() -> str:
        held = raw.get(lease)
        assert isinstance(held, bytes)
        leases.append(held)
        return f"run {len(leases)}"

    assert shop.cache.get_or_load("thing:put:1", load) == "run 1"
    raw.set(lease, leases[0])
    raw.delete(key)
    assert shop.cache.get_or_load("thing:put:1", load) == "run 2"
    assert len(leases) == 2
    assert shop.cache.get("thing:put:1") == "run 2"
    assert raw.get(lease) is None


# Seals


def test_with_a_secret_no_byte_of_a_value_is_readable_in_redis(
    bare: Spec, raw: redis.Redis, open_shop: OpenShop
) -> None:
    """With a secret neither value nor tags stand in Redis in clear, short or long enough to be compressed or not."""
    sealed = bare.but(secret="a secret of this test, of 32 bytes", compress_min_bytes=10_000)
    shop, other = open_shop(sealed), open_shop(sealed)
    for key, size in (("thing:put:short", 1), ("thing:put:long", 200), ("thing:put:longest", 2000)):
        value = ["needle-in-the-value"] * size
        shop.cache.set(key, value, tags=("needle-tag",))
        stored = raw.get(shop.cache.space.full(key))
        assert isinstance(stored, bytes)
        assert b"needle" not in stored
        assert other.cache.get(key) == value
    plain = open_shop(bare)
    plain.cache.set("thing:put:plain", ["needle-in-the-value"])
    assert b"needle" in (raw.get(plain.cache.space.full("thing:put:plain")) or b"")


@pytest.mark.parametrize(("writer", "reader"), [("one", "two"), ("one", None), (None, "two")])
def test_another_secret_or_none_is_a_miss(
    writer: str | None, reader: str | None, bare: Spec, database: Database, open_shop: OpenShop
) -> None:
    """A cache reads only what was sealed with its own secret, and one without a secret reads nothing sealed."""
    secrets = {name: f"the secret of 32 bytes, number {name}" if name else None for name in (writer, reader)}
    first, second = open_shop(bare.but(secret=secrets[writer])), open_shop(bare.but(secret=secrets[reader]))
    first.get("tea")
    assert second.get.peek("tea") is None
    assert second.get("tea") == "tea as it is"
    assert database.loads("tea") == 2
    assert second.get.peek("tea") == "tea as it is"
    assert first.get.peek("tea") is None


def test_a_sealed_value_whose_ttl_was_removed_is_a_miss(spec: Spec, raw: redis.Redis, open_shop: OpenShop) -> None:
    """A value kept in Redis for longer than it was sealed for is loaded again."""
    sealed = spec.but(secret="a secret of this test, of 32 bytes")
    for change in (raw.persist, lambda key: raw.pexpire(key, DAY * 1000)):
        shop = open_shop(sealed)
        shop.cache.set("thing:put:1", "value")
        key = shop.cache.space.full("thing:put:1")
        assert open_shop(sealed).cache.get("thing:put:1") == "value"
        assert change(key)
        assert open_shop(sealed).cache.get("thing:put:1") is None
        assert open_shop(sealed).cache.get_or_load("thing:put:1", lambda: "anew") == "anew"
        assert 0 < raw.pttl(key) < DAY * 1000


def test_an_exchange_of_secrets_loses_nothing(bare: Spec, raw: redis.Redis, open_shop: OpenShop) -> None:
    """Neighbours in a rolling deploy read each other; the first with the new secret writes what the old cannot read."""
    first, second = "the secret of 32 bytes that was: one", "the secret of 32 bytes to come: two"
    shops = [open_shop(bare.but(secret=secret)) for secret in (first, [first, second], [second, first], second)]
    for i, j in ((0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)):
        shops[i].cache.set("thing:put:1", [i, j])
        assert shops[j].cache.get("thing:put:1") == [i, j]
    shops[2].cache.set("thing:put:1", "new")
    assert shops[0].cache.get("thing:put:1") is None


def test_a_tampered_seal_is_a_miss_wherever_it_was_touched(bare: Spec, raw: redis.Redis, open_shop: OpenShop) -> None:
    """A sealed frame with any one byte changed is not served."""
    shop = open_shop(bare.but(secret="a secret of this test, of 32 bytes"))
    shop.cache.set("thing:put:1", "value")
    key = shop.cache.space.full("thing:put:1")
    good = raw.get(key)
    assert isinstance(good, bytes)
    assert shop.cache.get("thing:put:1") == "value"
    for at in range(len(good)):
        raw.set(key, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], px=60_000)
        assert shop.cache.get("thing:put:1") is None, at
    raw.set(key, good, px=60_000)
    assert shop.cache.get("thing:put:1") == "value"


# What is left in Redis


def test_nothing_without_a_ttl_is_left_in_redis(
    bare: Spec, raw: redis.Redis, database: Database, open_shop: OpenShop
) -> None:
    """Whatever was done, nothing stays without an expiry, and no lease stays at all."""
    shop = open_shop(bare)
    shop.get("a")
    shop.described("a")
    shop.get_all(["b", "c"])
    shop.get.refresh("a")
    shop.cache.set("thing:put:1", 1)
    shop.update("a", "x")
    shop.cache.invalidate_tags("things", "unknown")
    shop.cache.invalidate("thing:get:*b*", "search")
    shop.cache.clear()
    prefix = f"{bare.instance}:v1:".encode()
    keys = list(raw.scan_iter(prefix + b"*"))
    assert {key for key in raw.scan_iter("*") if not key.startswith((prefix, b"db:"))} == set()
    assert [key for key in keys if b"!lease" in key] == []
    assert [key for key in keys if raw.pttl(key) == -1] == []


# The password


def test_a_password_in_the_url_is_used(binary: Path, instance: str) -> None:
    """A server that asks for a password serves a cache whose URL has it, odd characters included."""
    password = "p@ss:w/rd%?#é"
    with Server(binary=binary, port=0, password=password) as server:
        with (
            Cache(server.url, instance=instance, local_ttl=0, **PATIENT) as cache,
            Cache(server.url, instance=instance, **PATIENT) as other,
        ):
            cache.ping()
            cache.set("thing:put:1", 1)
            assert other.get("thing:put:1") == 1
        with Cache(f"redis://127.0.0.1:{server.port}/0", instance=instance, **PATIENT) as stranger:
            with pytest.raises(RemoteError, match=r"NOAUTH|Authentication"):
                stranger.ping()
            assert stranger.get_or_load("thing:put:1", lambda: 2) == 2


def test_no_password_stands_in_a_message(binary: Path, instance: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the log, nor an error, nor a repr shows the password when it is refused."""
    caplog.set_level(logging.DEBUG)
    with Server(binary=binary, port=0, password="right") as server:
        url = f"redis://:verysecret@127.0.0.1:{server.port}/0"
        with Cache(url, instance=instance) as cache:
            assert cache.get_or_load("thing:put:1", lambda: 2) == 2
            with pytest.raises(RemoteError) as caught:
                cache.ping()
            said = f"{caplog.text} {caught.value} {cache!r} {cache.config!r} {cache.health()}"
    assert caplog.records
    assert "verysecret" not in said
