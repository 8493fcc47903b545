"""The default cache: what the module-level decorators act on, made when it is first needed.

The one piece of module state. `configure` says what it shall be; without it the environment does; without either it is
local. Functions may be decorated before: they meet the cache at their first call, and the next one after `configure`
has replaced it.
"""

from __future__ import annotations

import threading
from typing import Any

from ._cache import Cache
from ._decorators import Decorators
from ._local import Region


class Default(Decorators):
    """Stands in for a cache that may not exist yet."""

    def __init__(self) -> None:
        # Protects `_made` while it is replaced. Re-entrant: a finaliser that calls a cached function may run inside.
        self._lock = threading.RLock()
        self._made: Cache | None = None
        self._regions: dict[str, Region] = {}
        self._declared: dict[str, tuple[str, str]] = {}

    def _cache(self) -> Cache:
        made = self._made
        if made is not None:
            return made
        new = Cache.from_env()
        with self._lock:
            if self._made is None:
                self._made = new
            return self._made

    def _region(self, name: str) -> Region:
        return self._regions.setdefault(name, Region(name))

    def configure(self, url: str | None = None, **settings: Any) -> Cache:
        made = Cache(url, **settings)
        with self._lock:
            old, self._made = self._made, made
        if old is not None:
            old.close()
        return made


default = Default()
cached = default.cached
cached_many = default.cached_many
invalidates = default.invalidates


def default_cache() -> Cache:
    """The cache that the module-level decorators act on."""
    return default._cache()


def configure(url: str | None = None, *, instance: str = "aikernel", version: str = "v1", **settings: Any) -> Cache:
    """Make the default cache what these settings say, and return it; what it was before is closed.

    Args: as for `Cache`.

    Raises:
        ConfigError: a setting breaks a rule; the default cache then stays what it was.
    """
    return default.configure(url, instance=instance, version=version, **settings)
