"""Puts a cache's parts together: the one place that knows the form of each.

Some parts inform each other, so they are made with functions that look the other part up when they are called. None is
called before everything is built: no thread has been started and no connection made.
"""

from __future__ import annotations

from time import monotonic

from aikcache._engine import explain  # noqa: F401  # now, because a method imports it in a call: see `codec.load_all`
from aikcache._engine.engine import Backend, Engine
from aikcache._engine.tally import tally_of
from aikcache._keys.keyspace import Keyspace
from aikcache._settings.config import CacheConfig


def build(config: CacheConfig, keyspace: Keyspace) -> Engine:
    """Build the engine of a cache."""
    clock = monotonic if config.clock is None else config.clock
    engine = Engine(config, keyspace, clock, _connect if config.shared else None)
    if config.metrics is not None:
        tally_of(config.metrics).join(engine)
        if config.publish_interval is not None:
            _publish(engine, config.publish_interval)
    return engine


def _connect(engine: Engine) -> Backend:
    from aikcache._engine.connect import connect  # here, so that a cache without Redis does not load what reaches it

    return connect(engine)


def _publish(engine: Engine, interval: float) -> None:
    from aikcache._engine.publisher import Publisher

    names = {"instance": engine.config.instance}
    publisher = Publisher(engine.stats, engine.fleet, interval, engine.config.timeout, engine.reporter, names)
    engine.events.observe(publisher, timed=False)
