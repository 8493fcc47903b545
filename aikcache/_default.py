"""The default cache, which the module-level decorators use. It is made when it is first needed.

It is the one piece of module state. `configure` says what it is; without that the environment does; without either it
is local. A function may be decorated before that: it finds the cache at its first call, and again after `configure`.
What a cache consists of is loaded with the first one: a module that only decorates has no part of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Unpack

from aikcache._concurrency.reporter import log
from aikcache._decorators.decorators import Decorators
from aikcache._decorators.registry import Registry
from aikcache._engine import invalidation
from aikcache._keys.patterns import Invalidation
from aikcache._local.region import Region, of_type
from aikcache.errors import ConfigError

if TYPE_CHECKING:
    from aikcache._cache import Cache
    from aikcache._default_cache import DefaultCache
    from aikcache._settings.settings import Settings


class Default(Decorators):
    """Stands in for a cache that may not exist yet."""

    def __init__(self) -> None:
        # Protects `_made` while it is replaced. Re-entrant: a finaliser that calls a cached function may run inside.
        self._lock = threading.RLock()
        self._made: DefaultCache | None = None
        self._stand_in: DefaultCache | None = None  # while there is no cache to be had
        self._regions: dict[str, list[Region]] = {}
        self._registry = Registry()

    def _cache(self) -> Cache:
        """The cache for a decorated call, which a mistake in the environment must not keep from its function."""
        made = self._made or self._stand_in
        if made is not None:
            return made
        try:
            return self.cache()
        except ConfigError as error:
            with self._lock:
                if self._stand_in is None:
                    log.error("No default cache: functions run uncached, and nothing is invalidated: %s", error)
                    self._stand_in = self._ours(_kind()(enabled=False))
                return self._made or self._stand_in

    def cache(self) -> Cache:
        """The default cache, made as the environment says when there is none. Raises `ConfigError`."""
        made = self._made
        if made is not None:
            return made
        new = _kind().from_env()
        with self._lock:
            if self._made is None:
                self.replace(new)
            assert self._made is not None
            return self._made

    def _region(self, name: str, expects: object, *, anew: bool = False) -> Region:
        if anew:
            if self._made is not None:
                invalidation.invalidate_locally(self._made.engine, Invalidation(groups=(name,)))
            self._regions.pop(name, None)
        found = self._regions.setdefault(name, [])
        region = of_type(found, expects)
        if region is None:
            found.append(region := Region(name, expects))
        return region

    def _ours(self, made: DefaultCache) -> DefaultCache:
        """What is decorated on the module is known to the default cache, and the other way round."""
        made._registry, made.of = self._registry, self
        return made

    def configure(self, url: str | None = None, **settings: Unpack[Settings]) -> Cache:
        given = _take(settings, url=url)
        del url
        made = _kind()(**given)
        self.replace(made)
        return made

    @contextmanager
    def instead(self, url: str | None = None, **settings: Unpack[Settings]) -> Iterator[Cache]:
        """Another default cache for a block. Then one with the former's settings is made, or none as before."""
        given = _take(settings, url=url)
        del url
        former = None if self._made is None else self._made.config
        made = self.configure(**given)
        try:
            yield made
        finally:
            if former is not None:
                self.configure(**{f.name: getattr(former, f.name) for f in fields(former)})
            else:
                with self._lock:
                    last, self._made = self._made, None
                if last is not None:
                    last.close()

    def replace(self, made: DefaultCache) -> None:
        """Make this the default cache. Functions that were bound to what there was find it closed, and look again.
        What it has not sent, the new one sends, and again what it has sent lately, should the server be replaced.
        """
        with self._lock:
            old = self._made, self._stand_in
            self._made, self._stand_in = self._ours(made), None
            made.expect(self._regions)
        for cache in old:
            if cache is not None:
                cache.close()
                left, recovery = cache.engine.recovery, made.engine.recovery
                same = cache.space.namespace_prefix == made.space.namespace_prefix
                if left is not None and recovery is not None and same:
                    recovery.take_over(left)


def _kind() -> type[DefaultCache]:
    from aikcache._default_cache import DefaultCache

    return DefaultCache


def _take(settings: Any, **more: object) -> dict[str, Any]:
    from aikcache._settings.config import take

    return take(settings, **more)


default = Default()
cached = default.cached
cached_many = default.cached_many
invalidates = default.invalidates


def default_cache() -> Cache:
    """The cache that the module-level decorators use: that of `configure`, or one made from the environment.

    Raises:
        ConfigError: the environment breaks a rule of the settings. A decorated call logs that and runs its function.
    """
    return default.cache()


def configure(url: str | None = None, **settings: Unpack[Settings]) -> Cache:
    """Make a cache with these settings, make it the default cache, and return it. The former one is closed; what is
    invalidated through it from then on is invalidated in the new one, and functions that it has decorated are cached
    there.

    The environment is not read. Nothing connects before the first call that needs Redis.

    Args: as for `Cache`; `help(aikcache.CacheConfig)` explains each setting.

    Raises:
        ConfigError: a setting breaks a rule; the default cache stays as it was.
    """
    given = _take(settings, url=url)
    del url
    return default.configure(**given)
