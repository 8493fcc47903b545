"""Another server takes over and lacks what was written last: what this process has replaced does not come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aikcache import Cache
from aikcache._coherence import pending
from aikcache.testing import Server, wait_until
from aikcache.testing.proxy import Proxy

from ._staging import Pause
from ._workers import PATIENCE, PATIENT, connect

OLD, NEW = "old", "new"


class Shelf:
    """A value that is read by a function, which fails for one name."""

    def __init__(self, cache: Cache) -> None:
        self.value, self.broken = OLD, ""
        self.get: Any = cache.cached("thing", operation="get")(lambda name: self._read(name))

    def _read(self, name: str) -> str:
        if name == self.broken:
            raise LookupError(name)
        return self.value


WAYS: dict[str, Callable[[Cache, Shelf], object]] = {
    "set": lambda cache, shelf: cache.set("thing:get:box", NEW),
    "set_many": lambda cache, shelf: cache.set_many({"thing:get:box": NEW, "thing:get:cup": NEW}),
    "store": lambda cache, shelf: shelf.get.store(NEW, "box"),
    "refresh": lambda cache, shelf: shelf.get.refresh("box"),
    "invalidate": lambda cache, shelf: cache.invalidate_key("thing:get:box"),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_was_replaced_shortly_before_a_failover_does_not_come_back(
    way: str, own_server: Server, redis_server: Server, redis_url: str, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server that takes over has the value that was there before: it is sent the invalidation again."""
    monkeypatch.setattr(pending, "JUST_STARTED", -1)  # as if both had run for long
    with (
        Proxy(own_server.socket) as proxy,
        Cache(proxy.url, instance=instance, local_ttl=0, **PATIENT) as cache,
        Cache(redis_url, instance=instance, local_ttl=0, **PATIENT) as successor,
    ):
        for each in (cache, successor):
            connect(each)
        shelf, left = Shelf(cache), Shelf(successor)
        assert shelf.get("box") == left.get("box") == OLD
        shelf.value = left.value = NEW
        WAYS[way](cache, shelf)
        assert shelf.get("box") == NEW
        proxy.upstream = redis_server.socket
        own_server.kill()
        recovery = cache.engine.recovery
        assert recovery is not None
        wait_until(lambda: recovery.servers_seen == 1 and cache.stats().coherent, PATIENCE, "the takeover")
        assert shelf.get("box") == NEW == left.get("box")


def test_a_refresh_of_many_of_which_one_fails_holds_for_the_others(
    own_server: Server, redis_server: Server, redis_url: str, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was stored before another key's function raised does not come back either."""
    monkeypatch.setattr(pending, "JUST_STARTED", -1)
    with (
        Proxy(own_server.socket) as proxy,
        Cache(proxy.url, instance=instance, local_ttl=0, **PATIENT) as cache,
        Cache(redis_url, instance=instance, local_ttl=0, **PATIENT) as successor,
    ):
        for each in (cache, successor):
            connect(each)
        shelf, left = Shelf(cache), Shelf(successor)
        assert shelf.get("box") == left.get("box") == OLD
        shelf.value, shelf.broken = NEW, "cup"
        with pytest.raises(LookupError), cache.refreshing():
            shelf.get.many(["box", "cup"])
        proxy.upstream = redis_server.socket
        own_server.kill()
        recovery = cache.engine.recovery
        assert recovery is not None
        wait_until(lambda: recovery.servers_seen == 1 and cache.stats().coherent, PATIENCE, "the takeover")
        assert shelf.get("box") == NEW


@pytest.mark.parametrize("way", ["set", "refresh"])
def test_what_finds_the_new_server_by_itself_stays_there(
    way: str, own_server: Server, redis_server: Server, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was written to the server that has taken over, so it is not lost."""
    monkeypatch.setattr(pending, "JUST_STARTED", -1)
    with Proxy(own_server.socket) as proxy, Cache(proxy.url, instance=instance, local_ttl=0, **PATIENT) as cache:
        connect(cache)
        shelf = Shelf(cache)
        shelf.get("cup")
        channel = Pause(monkeypatch, cache.engine.channel, "_connect_and_listen")
        proxy.upstream = redis_server.socket
        own_server.kill()
        proxy.cut()
        channel.wait()
        shelf.value = NEW
        WAYS[way](cache, shelf)
        assert cache.stats().pending_invalidations == 0
        channel.let_go()
        wait_until(lambda: cache.stats().coherent, PATIENCE, "the channel")
        assert cache.get("thing:get:box") == NEW
