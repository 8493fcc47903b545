"""The entries of a local tier: the store that bounds them, their tables and tags, and how an entry leaves them all.

Threads: everything happens under the guard. An exception in the middle leaves it broken, and `_start_over` empties all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aikcache._concurrency.guard import Guard
from aikcache._local.entry import Entry
from aikcache._local.region import Region
from aikcache._local.regions import Regions
from aikcache._local.store import make_store
from aikcache._local.tag_index import TagIndex

if TYPE_CHECKING:
    from aikcache._settings.config import CacheConfig

PURGE = 16
"""Entries of invalidated groups that one fill removes from the store: they make room faster than fills take it."""


class Entries(Regions):
    """All entries of one cache."""

    def __init__(self, config: CacheConfig, guard: Guard) -> None:
        super().__init__(guard)
        self._config = config
        self.max_entries = config.local_max_entries
        self.max_bytes = config.local_max_bytes
        self.bytes = 0
        self.evictions = 0
        self._store: Any = make_store(config)
        self._native = config.policy == "s3fifo"
        self._linked = 0
        self._tags = TagIndex()
        self.changes = 0  # counts fills and drops: while it stands still, a look-up need not be repeated
        self._purging: list[Region] = []  # those that have invalidated entries
        guard.repair = self._start_over

    def _start_over(self) -> None:
        """Empty, whatever is half changed: nobody could drop an entry that only one of table, store and tags knows."""
        self.changes += 1
        for region in self.all_regions():
            region.epoch += 1
            region.cleared = region.epoch
            region.empty()
            while region.invalidated:  # one by one: an interruption may count one table twice, and loses none
                region.hits += sum(entry.hits for entry in region.invalidated[-1].values())
                region.invalidated.pop()
        self._store = make_store(self._config)
        self._tags, self._purging, self._linked, self.bytes = TagIndex(), [], 0, 0
        for region in self.all_regions():
            self._divert(region)

    def _make_room(self, size: int) -> None:
        for _ in range(PURGE):
            while self._purging and not self._purging[-1].invalidated:
                self._purging.pop()
            if not self._purging:
                break
            tables = self._purging[-1].invalidated
            if not tables[-1]:
                tables.pop()
                continue
            _, entry = tables[-1].popitem()
            entry.region.hits += entry.hits  # invalidated: nobody can find it, so nobody bumps it any more
            if self._store.get(entry.key) is entry:
                self._store.pop(entry.key, None)
            self._depart(entry)  # also what a store that drops by itself has dropped
        while len(self._store) >= self.max_entries or (
            self.max_bytes is not None and self.bytes + size > self.max_bytes and len(self._store)
        ):
            self._evict()

    def _evict(self) -> None:
        try:
            _, entry = self._store.popitem()
        except KeyError:  # a store that drops by itself has just done so
            self._resync()
            return
        self._depart(entry)
        entry.region.counters.evictions += 1
        self.evictions += 1

    def _resync(self) -> None:
        """Follow a store that dropped entries by itself, as cachetools.TTLCache does."""
        for region in self.all_regions():
            for entry in list(region.table.values()):
                if self._store.get(entry.key) is not entry:
                    self._depart(entry)
        self._linked = len(self._store)

    # Departure

    def _link(self, entry: Entry) -> None:
        entry.region.table[entry.local_key] = entry

    def _unlink(self, entry: Entry) -> None:
        region = entry.region
        if region.table.get(entry.local_key) is entry:
            del region.table[entry.local_key]
            region.hits += entry.hits  # nobody can find it any more, so nobody bumps it any more
            entry.hits = entry.spent = 0

    def _depart(self, entry: Entry) -> None:
        """An entry that has left the store leaves everything else, once."""
        if entry.epoch < 0:
            return
        self._unlink(entry)
        entry.epoch = -1
        self._linked -= 1
        self.bytes -= entry.size
        for tag in entry.tags:
            self._tags.remove(tag, entry)
        self.guard.release(entry)

    def _forget(self, entry: Entry) -> None:
        if self._store.get(entry.key) is entry:
            self._store.pop(entry.key, None)  # a store that drops by itself may do so in between
        self._depart(entry)
