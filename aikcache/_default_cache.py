"""The cache that the module's decorators use, loaded when one is made, and with it all that a cache consists of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from aikcache._cache import Cache
from aikcache._coherence.sweep import Sweep
from aikcache._engine.deferred import Deferred
from aikcache._engine.refreshing import Refreshing
from aikcache._engine.tally import tally_of
from aikcache._keys.patterns import Invalidation

if TYPE_CHECKING:
    from aikcache._default import Default


class DefaultCache(Cache):
    """The default cache. Once `configure` has put another in its place, what is invalidated through it is invalidated
    there, and what it has decorated is cached there: an application may have kept it, and calls and blocks may be under
    way.
    """

    of: Default | None = None

    def _successor(self) -> Cache | None:
        now = self.of._made if self.of is not None and self.engine.closed else None
        return None if now is self else now

    def _cache(self) -> Cache:
        return self._successor() or self

    def expect(self, operations: Mapping[str, object]) -> None:
        """Count these operations from now on, also before their first call."""
        if self.config.metrics is not None:
            tally_of(self.config.metrics).expect(operations)

    def _invalidate(self, what: Invalidation) -> None:
        if self._successor() is None:
            super()._invalidate(what)
        if (now := self._successor()) is not None:  # perhaps since a moment, so that it could not be sent
            mine, its = self.space.namespace_prefix, now.space.namespace_prefix
            now.end(what._replace(keys=tuple(its + key.removeprefix(mine) for key in what.keys)))

    def invalidate(self, *patterns: str, background: bool = False, **fields: object) -> Sweep | None:
        invalidate = super().invalidate if (now := self._successor()) is None else now.invalidate
        return invalidate(*patterns, background=background, **fields)

    def deferred(self) -> Deferred:
        return super().deferred() if (now := self._successor()) is None else now.deferred()

    def refreshing(self) -> Refreshing:
        return super().refreshing() if (now := self._successor()) is None else now.refreshing()
