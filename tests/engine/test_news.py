"""Invalidations that a server refused, and that were published on a connection that broke. No server."""

from __future__ import annotations

from aikcache import Cache
from aikcache._engine.invalidation import InvalidationListener
from aikcache._keys.patterns import Invalidation


def test_what_was_published_before_the_channel_was_lost_is_published_again() -> None:
    """Nobody may have received it, also where the next connection's server refuses nothing at first."""
    with Cache("redis://a:1", instance="test") as cache:
        recovery, listener = cache.engine.recovery, InvalidationListener(cache.engine)
        assert recovery is not None
        recovery.add(Invalidation(groups=("price",)))
        published = listener.news()
        assert len(published) == 1
        assert listener.news() == []
        listener.channel_lost()
        assert listener.news() == published
