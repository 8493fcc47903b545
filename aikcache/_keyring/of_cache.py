"""The key ring of a cache whose secret is "keyring": where it is, and how long its keys open.

The ring replaces the word in the settings, so rooms below do not know the word, and none above is imported.
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
"""How long this ring's expired keys open. Others that share the ring may need them for that long, and any user of a
ring removes its retired keys.
"""


def with_ring(config: CacheConfig) -> tuple[CacheConfig, Callable[[], object]]:
    """The settings with a ring in place of the word, and a function that closes it if it was made here. Raises
    `ConfigError`.

    That happens without a master key, or if values live for longer than the ring's keys open. A server that evicts is
    no place for keys, so `AIKCACHE_SESSION_URL`, if set, is preferred to the cache's own.
    """
    ring, close = config.secret, _nothing
    if ring == KEYRING:
        session_url = os.environ.get("AIKCACHE_SESSION_URL")
        same_server = replace(config, secret=None, max_value_bytes=LARGEST, metrics=None, journal=None)
        place = config_of(session_url, config.instance) if session_url else same_server
        ring = made = KeyRing(instance=config.instance, retention=LONGEST, metrics=config.metrics, config=place)
        close = made.close
    assert isinstance(ring, KeySource)
    ring.must_outlive("the longest of default_ttl and ttls", config.longest_ttl)
    return replace(config, secret=ring), close


def _nothing() -> None:
    """Does not close a ring that belongs to the application."""
