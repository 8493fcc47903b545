"""Values and stamps read before a change and used after it: each interleaving staged.

Each was found by `benchmarks.consistency`, or by reading what it might find.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from aikcache import Cache
from aikcache._remote.store import RedisStore
from aikcache.errors import RemoteUnavailableError
from aikcache.testing import Server

from ._staging import Pause, wait_for_push
from ._workers import Background, Database, Shop, Spec, connect

pytestmark = pytest.mark.usefixtures("unhurried")

OpenShop = Callable[[Spec], Shop]
NAME = "box"


def test_a_load_that_stores_while_a_sweep_looks_leaves_nothing(
    open_shop: OpenShop, spec: Spec, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep has found a load's lease, and the load stores before that is removed: the sweep removes the value."""
    loading, sweeping = open_shop(spec), open_shop(spec)
    database.put(NAME, "old")
    database.hold(NAME)
    load = Background(loading.get, NAME)
    database.wait_held(NAME)
    database.put(NAME, "new")
    removal = Pause(monkeypatch, sweeping.cache.engine.remote, "unlink")
    sweep = Background(sweeping.cache.invalidate, "th*:get:*")
    removal.wait()
    database.let_go(NAME)
    assert load.result() == "old"
    removal.let_go()
    sweep.result()
    assert sweeping.get(NAME) == "new"


def test_a_value_read_under_cached_stamps_is_trusted_as_long_as_they_are(
    open_shop: OpenShop, spec: Spec, database: Database
) -> None:
    """Should the channel fall silent, a value is trusted from the last sign of life on, not from when it was read."""
    reader, writer = open_shop(spec), open_shop(spec)
    connect(reader.cache)
    writer.get(NAME)
    writer.get("other")
    wait_for_push(reader.cache, writer.cache)  # of the stamps that were made
    reader.get("other")  # now it believes the stamps but one
    reader.get(NAME)
    reader.cache.engine.local.drop_group("thing:get")
    reader.get(NAME)
    entry = reader.cache.engine.local.peek(reader.get.key(NAME))
    channel = reader.cache.engine.channel
    assert entry is not None
    assert channel is not None
    assert channel.alive_at is not None
    assert entry.created_at <= channel.alive_at


def test_a_stamp_read_during_a_pending_invalidation_is_dropped_when_that_was_sent(
    open_shop: OpenShop, spec: Spec, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invalidation could not be sent, another thread reads the stamp as it still is, then it is replayed."""
    shop, writer = open_shop(spec), open_shop(spec)
    database.put(NAME, "old")
    writer.get(NAME)
    connect(shop.cache)
    asking = Pause(monkeypatch, shop.cache.engine.remote_tier, "ensure")
    load = Background(shop.get, "other")
    asking.wait()
    database.put(NAME, "new")
    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "invalidate", _fail)
        shop.cache.invalidate_tags("things")
        assert shop.cache.stats().pending_invalidations > 0
    asking.let_go()
    load.result()
    assert shop.get(NAME) == "new"


def _fail(*args: object) -> None:
    raise RemoteUnavailableError("as the test wants it")


@pytest.mark.parametrize("tags", [(), ("things",)])
def test_what_a_server_restored_is_not_judged_by_stamps_of_before(
    tags: tuple[str, ...], open_shop: OpenShop, own_server: Server, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that knew its stamps before a crash is sent to the restored server, which holds an invalidated value
    again.

    The process that invalidated it is gone as well, and cannot send that again.
    """
    here = spec.but()._replace(url=own_server.url, database=spec.url)
    value = ["old"]

    def bind(cache: Cache) -> Any:
        return cache.cached("plain", operation="get", tags=tags)(lambda name: value[0])

    cache, other = open_shop(here).cache, open_shop(here).cache
    get, get_there = bind(cache), bind(other)
    connect(cache)
    get("other")
    get(NAME)
    with redis.Redis.from_url(own_server.url) as client:
        client.save()
    value[0] = "new"
    get_there.invalidate(NAME)
    other.close()
    cache.engine.drop_key(get.key(NAME))  # whether it has been pushed by now is not what is asked
    reading = Pause(monkeypatch, cache.engine.remote, "fast_get")
    call = Background(get, NAME)
    reading.wait()
    own_server.kill()
    own_server.restart()
    reading.let_go()
    assert call.result() == "new"
