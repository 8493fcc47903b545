"""The stamps that a process has cached."""

from __future__ import annotations

import time
from math import inf

from aikcache._concurrency.guard import Guard
from aikcache._remote.stamps import MOST_EXPECTED, Stamps


def test_a_stamp_that_was_found_missing_is_not_cached_any_more() -> None:
    """A call that relied on it would get what an earlier call was refused. Others stay."""
    stamps = Stamps(Guard(), time.monotonic)
    stamps.trusted, stamps.trusted_until = True, inf
    stamps.remember(["#a", "#b"], [b"stamp of", b"another."], stamps.epoch)
    assert stamps.cached(["#a", "#b"]) == [b"stamp of", b"another."]
    stamps.remember(["#a"], [None], stamps.epoch)
    assert stamps.cached(["#a", "#b"]) == [None, b"another."]


def test_expected_pushes_are_bounded() -> None:
    """Writes whose pushes do not come are not kept for ever; without a channel none comes, so none is expected."""
    stamps = Stamps(Guard(), time.monotonic)
    stamps.expect("#a", b"unheard.")
    assert not stamps.expected("#a")
    stamps.trusted = True
    for number in range(100):
        stamps.expect("#a", b"stamp%3d" % number)
    assert len(stamps._expected["#a"]) == MOST_EXPECTED
    assert stamps.is_unchanged("#a", b"stamp 99")
