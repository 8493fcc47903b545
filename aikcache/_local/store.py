"""The stores of the local tier: what holds entries, and chooses which of them leaves for room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cachetools

from aikcache._local import s3fifo
from aikcache._local.entry import Entry
from aikcache.errors import ConfigError

if TYPE_CHECKING:
    from aikcache._settings.config import CacheConfig


class EntryStore(s3fifo.S3FIFOCache):
    """S3-FIFO whose nodes are the entries themselves, so that a hit's count is the eviction's frequency."""

    def _node(self, key: Any, value: Entry) -> s3fifo.Node:
        return value

    def __getitem__(self, key: Any) -> Entry:
        return self.peek(key)  # type: ignore[return-value]

    def popitem(self) -> tuple[Any, Entry]:
        if not self:
            raise KeyError("the cache is empty")
        node = self._choose()
        return node.key, node  # type: ignore[return-value]


def make_store(config: CacheConfig) -> Any:
    """The store of a policy."""
    if config.policy == "s3fifo":
        return EntryStore(config.local_max_entries)
    if config.policy == "lru":
        return cachetools.LRUCache(config.local_max_entries)
    store = config.policy(config.local_max_entries)  # type: ignore[operator]
    if not isinstance(store, cachetools.Cache):
        raise ConfigError(
            f"policy must be a function that gives a cachetools.Cache, and it gave {type(store).__name__}. Return the "
            "cache, as in policy=lambda size: LFUCache(size), or pass 's3fifo' or 'lru'."
        )
    return store
