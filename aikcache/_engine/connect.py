"""Makes a cache's parts for Redis. `build` imports it, and with it all that reaches Redis, once a cache needs them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from aikcache._coherence.channel import Channel
from aikcache._coherence.cluster_channel import ClusterChannel
from aikcache._coherence.journal import Journal
from aikcache._coherence.one_server import OneServer
from aikcache._coherence.pending import LocalSide, PendingInvalidations
from aikcache._engine import health  # noqa: F401  # now, because `Cache` imports it in a call: see `codec.load_all`
from aikcache._engine.engine import Backend, Engine
from aikcache._engine.fleet import Fleet
from aikcache._engine.invalidation import InvalidationListener, invalidate_locally
from aikcache._engine.strong import StrongPath
from aikcache._engine.tally import tally_of
from aikcache._engine.versioned_store import VersionedStore
from aikcache._redis.cluster.client import Cluster
from aikcache._redis.modes import single
from aikcache._redis.origin import origin
from aikcache._redis.pool import Pool
from aikcache._redis.transport import TransportEvents
from aikcache._remote.store import RedisStore
from aikcache._settings.config import CacheConfig

if TYPE_CHECKING:
    from aikcache._coherence.feed import InvalidationFeed

PUBLISHED_AT_LEAST = 60.0
"""Seconds within which a process without an interval must have published, to count as alive."""


def connect(engine: Engine) -> Backend:
    """Build the parts for Redis, in the form that the configuration requires."""
    config, where = engine.config, origin(engine.config)
    events = TransportEvents(
        new_server=lambda new: recovery.on_new_server(new if where.clustered else single(new)),
        on_failover=lambda **details: feed.reconnect(**details),
        primaries_changed=lambda: feed.primaries_changed(),
        breaker=engine.events.breaker,
        report=engine.reporter.report,
    )
    listener = InvalidationListener(engine)
    feed: InvalidationFeed
    if where.clustered:
        cluster = Cluster(config, where, events)
        remote = RedisStore(cluster, engine.keyspace, engine.stamps, engine.events.round_trip)
        feed = ClusterChannel(cluster, remote, listener, engine.reporter, engine.clock)
    else:
        pool = Pool(config, where, events)
        remote = RedisStore(pool, engine.keyspace, engine.stamps, engine.events.round_trip)
        feed = Channel(OneServer(pool, remote), remote, listener, engine.reporter, engine.clock)
    journal = None if config.journal is None else Journal(config.journal, engine.keyspace)
    local = LocalSide(partial(invalidate_locally, engine), listener.everything_invalidated, engine.sweeper.replay)
    recovery = PendingInvalidations(remote, engine.reporter, engine.clock, journal, local)
    tier = VersionedStore(
        config, remote, engine.stamps, engine.reporter, engine.clock, engine.ready, engine.start_groups, engine.trust
    )
    fleet = None if config.metrics is None else _fleet(remote, config, config.metrics)
    return Backend(remote, tier, StrongPath(tier, recovery, engine.events), recovery, feed, fleet)


def _fleet(remote: RedisStore, config: CacheConfig, prefix: str) -> Fleet:
    return Fleet(remote, prefix, tally_of(prefix), config.publish_interval or PUBLISHED_AT_LEAST)
