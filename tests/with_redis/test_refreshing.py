"""`refreshing()` over a real server: the new value is in Redis, and other processes' callers get it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

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
