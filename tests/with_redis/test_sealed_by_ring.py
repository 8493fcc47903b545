"""Cached values that the key ring seals: rotation, revocation, and a ring that cannot be had."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
import redis

from aikcache import Cache
from aikcache.errors import ConfigError
from aikcache.sessions import KeyRing

from ._rings import make_rings_patient
from ._workers import PATIENT

MASTER = secrets.token_urlsafe(32)
DAY = 86_400.0
KEY = "shop:v1:plain:text:one"


class Shop:
    """One process: its ring, its cache and a function that counts its runs."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.cache = Cache(url, instance="shop", local_ttl=0, publish_interval=None, **PATIENT, **settings)
        self.runs = 0

        @self.cache.cached("plain", operation="text", ttl=600)
        def read(number: str) -> str:
            self.runs += 1
            return "a value in clear " + number

        self.read = read


@pytest.fixture
def opened(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Shop]]:
    make_rings_patient(monkeypatch)
    monkeypatch.setenv("AIKCACHE_MASTER_KEY", MASTER)
    monkeypatch.delenv("AIKCACHE_SESSION_URL", raising=False)
    with ExitStack() as stack:

        def make(ring: KeyRing | str = "keyring", **settings: Any) -> Shop:
            if isinstance(ring, KeyRing):
                stack.enter_context(closing(ring))
            shop = Shop(redis_url, secret=ring, **settings)
            stack.enter_context(shop.cache)
            return shop

        yield make


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def key_of(client: Any) -> str:
    """The id of the ring's key that sealed the value."""
    return str(client.get(KEY)[4:12].hex())


def test_processes_with_the_master_key_share_sealed_values(
    opened: Callable[..., Shop], client: Any, redis_url: str
) -> None:
    """The ring is made at the first store; Redis sees no value, and a ring that the application has will do too."""
    one, two = opened(), opened()
    assert client.keys() == []
    assert one.read("one") == two.read("one") == "a value in clear one"
    assert (one.runs, two.runs) == (1, 0)
    assert b"in clear" not in client.get(KEY)
    (field,) = [name for name in client.hkeys("shop:keyring") if name.startswith(b"k:")]
    assert field.decode() == f"k:{key_of(client)}"
    three = opened(KeyRing(redis_url, instance="shop"))
    assert (three.read("one"), three.runs) == ("a value in clear one", 0)
    three.cache.set("plain:text:by-hand", {"a": 1})
    assert two.cache.get("plain:text:by-hand") == {"a": 1}
    client.set(KEY, client.get(KEY)[:40] + b"\0" + client.get(KEY)[41:])
    assert (two.read("one"), two.runs) == ("a value in clear one", 1)


def test_a_value_survives_a_rotation_and_not_a_revocation(
    opened: Callable[..., Shop], client: Any, redis_url: str
) -> None:
    """Under a key that is not known here yet, or is revoked, it is a miss, and nothing worse."""
    rings = [KeyRing(redis_url, instance="shop", refresh=3600.0, metrics=None) for _ in range(2)]
    one, two = map(opened, rings)
    assert (one.read("one"), two.read("one"), two.runs) == ("a value in clear one",) * 2 + (0,)
    first = key_of(client)
    rings[0].revoke(first)  # a new key seals at once; the other process has not read it yet
    assert (one.read("one"), one.runs) == ("a value in clear one", 2)
    assert key_of(client) != first
    assert (two.read("one"), two.runs) == ("a value in clear one", 1)
    assert key_of(client) == first
    assert (one.read("one"), one.runs) == ("a value in clear one", 3)
    rings[1].refresh()
    assert (two.read("one"), two.runs) == ("a value in clear one", 1)
    assert two.cache.stats().errors > 0
    known = rings[1].keys()
    assert [info.state for info in known] == ["revoked", "active"]


def test_a_value_outlives_the_key_that_sealed_it(opened: Callable[..., Shop], client: Any, redis_url: str) -> None:
    """For as long as an expired key opens."""
    days = [0.0]
    ring = KeyRing(redis_url, instance="shop", refresh=3600.0, clock=lambda: 1_800_000_000.0 + days[0] * DAY)
    shop = opened(ring)
    shop.read("one")
    first, days[0] = key_of(client), 89.0
    ring.refresh()
    days[0] = 91.0
    assert (shop.read("one"), shop.runs) == ("a value in clear one", 1)
    shop.cache.set("plain:text:one", "new")
    assert key_of(client) != first
    days[0] = 90.0 + 31.0 + 89.0  # by now that key is gone, and its successor's successor seals
    assert shop.cache.get("plain:text:one") == "new"


def test_without_its_ring_a_cache_runs_its_functions(
    opened: Callable[..., Shop], client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another master key, and a ring on a server that is away: nothing is stored, nothing made, no caller hurt."""
    opened().read("one")
    before, ring = client.get(KEY), client.hgetall("shop:keyring")
    monkeypatch.setenv("AIKCACHE_MASTER_KEY", secrets.token_urlsafe(32))
    wrong = opened()
    monkeypatch.setenv("AIKCACHE_MASTER_KEY", MASTER)
    monkeypatch.setenv("AIKCACHE_SESSION_URL", "unix:///nobody/is/here.sock")
    away = opened()
    for shop in (wrong, away):
        assert (shop.read("one"), shop.read("one"), shop.runs) == ("a value in clear one",) * 2 + (2,)
        assert (client.get(KEY), client.hgetall("shop:keyring")) == (before, ring)
        shop.cache.set("plain:text:two", "new")  # the old value may not stay
        assert shop.cache.get("plain:text:two") is None
        assert shop.cache.stats().errors > 0


def test_a_ring_that_cannot_seal_values_is_refused(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No master key, or values that live for longer than keys open; without a server there is nothing to seal."""
    monkeypatch.delenv("AIKCACHE_MASTER_KEY", raising=False)
    with pytest.raises(ConfigError, match="AIKCACHE_MASTER_KEY"):
        Cache(redis_url, instance="shop", secret="keyring")
    with closing(KeyRing(redis_url, instance="shop", master_key=MASTER, retention=60)) as ring:
        with pytest.raises(ConfigError, match="the longest of default_ttl and ttls must not be longer than the key"):
            Cache(redis_url, instance="shop", secret=ring)
        Cache(redis_url, instance="shop", secret=ring, default_ttl=60, ttls={}).close()
    Cache(secret="keyring").close()
