"""The stamps that a process has cached."""

from __future__ import annotations

import time
from math import inf

from aikcache._concurrency.guard import Guard
from aikcache._remote.stamps import Stamps


def test_a_stamp_that_was_found_missing_is_not_cached_any_more() -> None:
    """A call that relied on it would get what an earlier call was refused. Others stay."""
    stamps = Stamps(Guard(), time.monotonic)
    stamps.trusted, stamps.trusted_until = True, inf
    stamps.remember(["#a", "#b"], [b"stamp of", b"another."], stamps.epoch)
    assert stamps.cached(["#a", "#b"]) == [b"stamp of", b"another."]
    stamps.remember(["#a"], [None], stamps.epoch)
    assert stamps.cached(["#a", "#b"]) == [None, b"another."]
