"""`refreshing()` over a real server: the new value is in Redis, and other processes' callers get it."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from aikcache import Cache
from aikcache._remote.store import RedisStore
from aikcache.errors import RemoteUnavailableError

from ._workers import PATIENCE, PATIENT, Background, Database, Shop, Spec, connect

pytestmark = pytest.mark.usefixtures("unhurried")


def test_what_is_loaded_anew_stands_in_redis(bare: Spec, open_shop: Callable[[Spec], Shop], database: Database) -> None:
    """A cache that holds nothing locally reads what the block of another has stored."""
    one, other = open_shop(bare), open_shop(bare)
    database.put("box", "old")
    assert other.get("box") == one.get("box") == "old"
    database.put("box", "new")
    with one.cache.refreshing():
        assert one.get("box") == "new"
        assert one.get("box") == "new"
    assert other.get("box") == "new"
    assert database.loads("box") == 2


def test_what_is_loaded_anew_while_redis_is_away_is_not_followed_by_the_older_value(
    bare: Spec, open_shop: Callable[[Spec], Shop], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value in Redis is invalidated before it is read again."""
    shop = open_shop(bare)
    database.put("box", "old")
    assert shop.get("box") == "old"
    database.put("box", "new")

    def away() -> None:
        raise RemoteUnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(shop.cache.engine.remote_tier, "ready", away)
        with shop.cache.refreshing():
            assert shop.get("box") == "new"
    assert shop.get("box") == "new"


def test_what_a_thread_gets_of_a_shared_block_is_never_from_before_it(redis_url: str, instance: str) -> None:
    """Not even if another thread of the block takes its lease over, and takes longer."""
    shelf = ["old"]
    loads: list[int] = []
    began, go = ([threading.Event(), threading.Event()] for _ in range(2))
    with Cache(redis_url, instance=instance, **PATIENT) as cache:

        @cache.cached("p")
        def value() -> str:
            read, number = shelf[0], len(loads)
            if read == "new" and number < 2:
                loads.append(number)
                began[number].set()
                assert go[number].wait(PATIENCE)
            return read

        connect(cache)
        assert value() == "old"
        shelf[0] = "new"
        with cache.refreshing():
            first = Background(contextvars.copy_context().run, lambda: [value(), value()])
            assert began[0].wait(PATIENCE)
            second = Background(contextvars.copy_context().run, value)
            assert began[1].wait(PATIENCE)
            go[0].set()
            assert first.result() == ["new", "new"]
            go[1].set()
            assert second.result() == "new"


def send_nothing(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def store(store: RedisStore, items: object) -> list[bool]:
        monkeypatch.undo()
        raise RemoteUnavailableError("away")

    monkeypatch.setattr(RedisStore, "put", store)


def invalidate_another_tag(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.invalidate_tags("another")


@pytest.mark.parametrize(
    ("new", "meanwhile"),
    [
        ("new", send_nothing),
        ("new", invalidate_another_tag),
        ("much too large" * 100, lambda cache, monkeypatch: None),
    ],
    ids=["Redis fails", "a tag is invalidated", "too large"],
)
@pytest.mark.parametrize("in_block", [False, True], ids=["refresh", "block"])
def test_what_could_not_be_stored_is_not_followed_by_the_older_value(
    redis_url: str,
    instance: str,
    monkeypatch: pytest.MonkeyPatch,
    new: str,
    meanwhile: Callable[[Cache, pytest.MonkeyPatch], object],
    in_block: bool,
) -> None:
    """The value that was to be replaced is gone, from this process and from Redis."""
    given = ["old"]
    with Cache(redis_url, instance=instance, max_value_bytes=1000, compress_min_bytes=10_000, **PATIENT) as cache:
        connect(cache)

        @cache.cached("p", tags=lambda result: [])
        def value() -> str:
            if given[0] == new:
                meanwhile(cache, monkeypatch)
            return given[0]

        assert value() == value() == "old"
        given[0] = new
        with cache.refreshing() if in_block else nullcontext():
            assert (value() if in_block else value.refresh()) == new
        assert value.peek() is None
        given[0] = "later"
        assert value() == "later"
