"""Behind Sentinel: a failover in the middle of the work, which no call notices, and no invalidation is lost in.

It starts a primary, two replicas and three Sentinels on this machine, from the files in `ops/redis`.

Run: python examples/sentinel.py
"""

from __future__ import annotations

from aikcache import AikcacheError, Cache
from aikcache.testing import wait_until
from aikcache.testing.sentinel import Topology

PATIENCE = 120
database = {"tea": 3}


def fail_over(topology: Topology) -> bool:
    """By hand, as for an upgrade. The new primary may not have heard of the latest invalidation."""
    try:
        topology.fail_over()
    except AikcacheError:  # not yet: a Sentinel has not heard of a replica for a while
        return False
    return True


def moved(topology: Topology, old: int | None) -> bool:
    return [server.port for server in topology.primaries()] not in ([], [old])


def settled(cache: Cache) -> bool:
    """Whether it receives invalidations again, and none of its own is pending."""
    stats = cache.stats()
    return stats.coherent and not stats.pending_invalidations


def main() -> None:
    with Topology(failover_timeout_ms=2000) as topology, Cache(topology.url, instance="sentinel-example") as cache:

        @cache.cached("price", ttl=300, tags=("product:{product}",))
        def price(product: str) -> int:
            return database[product]

        print("before:", price("tea"))
        old = topology.primary().port

        database["tea"] = 4
        cache.invalidate_tags("product:tea")
        wait_until(lambda: fail_over(topology), PATIENCE, "the Sentinels to agree")

        wait_until(lambda: price("tea") and moved(topology, old), PATIENCE, "another primary")
        wait_until(lambda: price("tea") and settled(cache), PATIENCE, "the cache to use it")
        print("after:", price("tea"))


if __name__ == "__main__":
    main()

# It prints:
#   before: 3
#   after: 4
