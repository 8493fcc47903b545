"""`refreshing()` over a real server: the new value is in Redis, and other processes' callers get it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aikcache.errors import RemoteUnavailableError

from ._workers import Database, Shop, Spec

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
