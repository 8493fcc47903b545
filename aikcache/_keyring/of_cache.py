"""The key ring of a cache whose secret is "keyring": where it lies, and how long its keys open.

It is put into the settings in place of the word, so nothing below knows of the word, and nothing above is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from aikcache._keyring.keyring import DAY, KeyRing
from aikcache._keyring.store import LARGEST, config_of
from aikcache._settings.config import KEYRING, CacheConfig
from aikcache._settings.secret import KeySource

LONGEST = 400 * DAY
"""How long this ring's expired keys open: whoever else shares the ring may need them for that long, and it is a ring's
users who remove its retired keys."""


def with_ring(config: CacheConfig) -> tuple[CacheConfig, Callable[[], object]]:
    """The settings with a ring in place of the word, and what closes it if it was made here. Raises `ConfigError`.

    There may be no master key, or values that live for longer than the ring's keys open. A server that evicts is no
    place for keys: so `AIKCACHE_SESSION_URL`, where that is set, is preferred to the cache's own.
    """
    ring, close = config.secret, _nothing
    if ring == KEYRING:
        there = os.environ.get("AIKCACHE_SESSION_URL")
        beside = replace(config, secret=None, max_value_bytes=LARGEST, metrics=None, journal=None)
        place = config_of(there, config.instance) if there else beside
        ring = made = KeyRing(instance=config.instance, retention=LONGEST, metrics=config.metrics, config=place)
        close = made.close
    assert isinstance(ring, KeySource)
    ring.must_outlive("the longest of default_ttl and ttls", config.longest_ttl)
    return replace(config, secret=ring), close


def _nothing() -> None:
    """The end of a ring that is the application's."""
