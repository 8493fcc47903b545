"""Another server takes over and lacks what was written last: what this process has replaced does not come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aikcache import Cache
from aikcache._coherence import pending
from aikcache.testing import Server, wait_until
from aikcache.testing.proxy import Proxy

from ._workers import PATIENCE, PATIENT, connect

OLD, NEW = "old", "new"


class Shelf:
    """A value that is read by a function, and whether Redis may have a newer one."""

    def __init__(self, cache: Cache) -> None:
        self.value = OLD
        self.get: Any = cache.cached("thing", operation="get")(lambda name: self.value)


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
