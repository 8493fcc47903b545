"""The cache's random draws do not touch the application's own random numbers."""

from __future__ import annotations

import random

from aikcache import Cache


def test_the_state_of_random_is_the_applications() -> None:
    """Jitter and early renewals draw, and a seeded application gets the numbers it expects all the same."""
    before = random.getstate()
    with Cache() as cache:

        @cache.cached("thing", ttl=10, jitter=0.5, early_refresh=1)
        def get(n: int) -> int:
            return n

        assert [get(n) for n in range(20)] == list(range(20))
    assert random.getstate() == before
