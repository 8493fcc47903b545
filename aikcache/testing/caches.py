"""Caches for tests: a default one for a block, two on one server, and none at all."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Unpack

from aikcache._cache import Cache
from aikcache._default import default
from aikcache._engine.engine import all_passive
from aikcache._settings.settings import Settings

PATIENT: Final[Settings] = {"timeout": 10.0, "connect_timeout": 10.0, "lease_wait": 60.0}
"""For a healthy server on a machine that may be busy: so slowness changes no outcome."""
CONNECTED_WITHIN = 60.0
_instances = itertools.count()


def default_cache(url: str | None = None, **settings: Unpack[Settings]) -> AbstractContextManager[Cache]:
    """A default cache for a block: an empty one, which the module-level `cached` and `invalidates` use.

    On a server it has an `instance` of its own, and waits longer than an application would; what you pass wins.
    Afterwards the former one's settings are in force again.
    """
    return default.instead(url, **_settings(url, settings))


@contextmanager
def two_caches(url: str, **settings: Unpack[Settings]) -> Iterator[tuple[Cache, Cache]]:
    """Two caches that share a server, as two processes do, and receive each other's invalidations.

    What one invalidates reaches the other a moment later: `wait_until(lambda: other.get(key) is None)`.
    """
    given = _settings(url, settings)
    with Cache(url, **given) as one, Cache(url, **given) as other:
        for cache in (one, other):
            if not cache.wait_coherent(CONNECTED_WITHIN):
                raise TimeoutError(f"a cache did not connect to its server within {CONNECTED_WITHIN:g} seconds.")
        yield one, other


def no_cache() -> AbstractContextManager[None]:
    """A block in which every call of every cached function of this process runs the function, and nothing is kept.

    It concerns all threads. Invalidations still go to a server. What was cached before is found again afterwards.
    """
    return all_passive()


def _settings(url: str | None, settings: Settings) -> Settings:
    if url is None and settings.get("client") is None:
        return settings
    return {"instance": f"test-{os.getpid()}-{next(_instances)}", **PATIENT, **settings}
