"""A child closes its copies of the parent's sockets, or a server would not see the parent close them. No server."""

from __future__ import annotations

from typing import Any

import pytest

from aikcache import Cache

from .._interrupts import Stop


class Socket:
    """A connection that is only closed."""

    generation = 0
    closed = False

    def close(self) -> None:
        self.closed = True

    def interrupt(self) -> None:
        raise Stop  # the parent would notice


def fork_of(cache: Cache, places: list[Any], name: str) -> list[Socket]:
    """Put one connection into each place; returned are those that are open in a child."""
    sockets = [Socket() for _ in places]
    for place, sock in zip(places, sockets, strict=True):
        idle = getattr(place, name)
        setattr(place, name, sock) if idle is None else idle.append(sock)
    cache.engine.after_fork()
    return [sock for sock in sockets if not sock.closed]


def test_connections_to_sentinels_are_closed() -> None:
    """Each listens to a Sentinel, which would go on writing to it."""
    with Cache("redis+sentinel://a:1,b:1/shop", instance="test") as cache:
        pool: Any = cache.engine.remote.connections  # type: ignore[union-attr]
        assert fork_of(cache, pool.sentinels._watches, "_connection") == []


@pytest.mark.parametrize("kind", ["nodes", "scouts"])
def test_connections_to_a_clusters_nodes_are_closed(kind: str) -> None:
    """At once, not when a garbage collection finds their pools."""
    with Cache("redis+cluster://a:1,b:1", instance="test") as cache:
        cluster: Any = cache.engine.remote.connections  # type: ignore[union-attr]
        find = cluster.node if kind == "nodes" else cluster.scouts.at
        assert fork_of(cache, [find(("a", 1)), find(("b", 1))], "_idle") == []
