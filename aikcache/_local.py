"""The local tier: entries in this process, found by a call's own arguments, bounded together.

A `Region` holds the entries of one `prefix:operation`. Its `table` is what the generated wrapper looks into, keyed by
the call's arguments, so that a hit builds no key and takes no lock. One `cachetools.Cache` over all regions, keyed by
the key's text, decides who is evicted; `table` and store always hold the same entries (a group's end puts an empty
`table` in place of the old one, whatever it holds, and lets the store follow, a few entries at each later fill).

An entry is handed out as it is until `until`. Where that is not allowed (its value is mutable and must be decoded for
each caller, or the policy wants to hear of hits) `until` is minus infinity, and the wrapper takes the slower `late`.

Threads: everything but a hit happens under `guard`. A fill is refused when the region's `epoch` has moved since its
question was asked: something in the region was invalidated meanwhile, and what was learnt may be from before it.
Counts are exact: `hits += 1` follows the look-up without a point at which the interpreter could switch threads, and an
entry leaves `table` before its hits are added up.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable
from math import inf
from types import FunctionType
from typing import Any, NamedTuple

import cachetools

from ._config import CacheConfig
from ._guard import Guard
from ._patterns import groups_of
from ._s3fifo import Node, S3FIFOCache

PURGE = 16
"""Entries of ended groups that one fill removes from the store: they make room faster than fills take it."""
OVERHEAD = 300
"""Bytes that an entry costs beyond its key and value, for `local_max_bytes`."""
TABLE, HORIZON = "_aikcache_table", "_aikcache_horizon"
"""What a wrapper calls its region's table and horizon."""


class Packed(NamedTuple):
    """A mutable value at rest: the payload that each caller's own copy is decoded from."""

    codec: int
    payload: bytes
    schema: bytes


class Entry(Node):
    """One value in the local tier. Times are this process's monotonic seconds."""

    __slots__ = ("born", "deadline", "due", "epoch", "fresh", "local_key", "region", "size", "tags", "until")

    region: Region
    local_key: Hashable
    size: int
    tags: tuple[str, ...]
    until: float  # handed out as it is before this
    due: float  # to be renewed in the background from here on
    fresh: float  # stale from here on
    deadline: float  # not handed out at all from here on
    born: float  # when the question that gave it was asked
    epoch: int  # of its region, when it was filled


class Counters:
    """What happened in one operation, but for local hits, which the entries count."""

    __slots__ = (
        "bytes_written", "errors", "evictions", "joined", "loads", "misses", "remote_hits", "stale", "writes",
    )  # fmt: skip

    def __init__(self) -> None:
        self.remote_hits = self.joined = self.misses = self.loads = self.writes = self.stale = 0
        self.evictions = self.errors = self.bytes_written = 0


class Region:
    """The local entries of one prefix:operation, and its counters."""

    __slots__ = (
        "_horizon", "_readers", "cleared", "counters", "ended", "epoch", "groups", "name", "retired", "table", "tagged",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.groups = groups_of(name, "")  # that every key of it is in
        self.table: dict[Hashable, Entry] = {}
        self.epoch = 0  # counts what ended fills
        self.cleared = 0  # the epoch at which all older entries ended
        self.ended: list[dict[Hashable, Entry]] = []  # tables ended with their group, whose entries the store still has
        self._horizon = inf
        self._readers: list[weakref.ref[FunctionType]] = []  # wrappers, which hold their cache: not to be held here
        self.retired = 0  # hits of entries that have left, less the bumps that were no hits
        self.tagged = False  # whether any entry ever had a tag
        self.counters = Counters()

    def local_hits(self) -> int:
        return self.retired + sum(entry.hits for table in [self.table, *self.ended] for entry in list(table.values()))

    def read_by(self, wrapper: FunctionType) -> None:
        """Keep TABLE and HORIZON among the globals of `wrapper`, which has globals of its own, what they are here."""
        names = wrapper.__globals__
        self._readers = [reader for reader in self._readers if reader() is not None] + [weakref.ref(wrapper)]
        while names.get(TABLE) is not self.table or names.get(HORIZON) != self._horizon:  # replaced meanwhile
            names.update({TABLE: self.table, HORIZON: self._horizon})

    def _tell(self, name: str, value: object) -> None:
        for reader in self._readers:
            wrapper = reader()
            if wrapper is not None:
                wrapper.__globals__[name] = value

    def empty(self) -> None:
        """Put a new table in place of this one. Whatever interrupts this, no wrapper finds an entry of the old one."""
        table: dict[Hashable, Entry] = {}
        self._tell(TABLE, table)
        ended, self.table = self.table, table
        self._tell(TABLE, table)  # also to a wrapper made meanwhile
        if ended:
            self.ended.append(ended)

    @property
    def horizon(self) -> float:
        """Until when local entries may be trusted without a look at their age."""
        return self._horizon

    @horizon.setter
    def horizon(self, until: float) -> None:
        self._horizon = until
        self._tell(HORIZON, until)


class EntryStore(S3FIFOCache):
    """S3-FIFO whose nodes are the entries themselves, so that a hit's count is the eviction's frequency."""

    def _node(self, key: Any, value: Entry) -> Node:
        return value

    def __getitem__(self, key: Any) -> Entry:
        return self.peek(key)  # type: ignore[return-value]

    def popitem(self) -> tuple[Any, Entry]:
        if not self:
            raise KeyError("the cache is empty")
        node = self._choose()
        return node.key, node  # type: ignore[return-value]


class LocalTier:
    """All regions of one cache, and the store that bounds them."""

    def __init__(self, config: CacheConfig, guard: Guard) -> None:
        self._config = config
        self.guard = guard
        self.regions: dict[str, list[Region]] = {}
        self.max_entries = config.local_max_entries
        self.max_bytes = config.local_max_bytes
        self.bytes = 0
        self.closed = False
        self.horizon = inf
        self.evictions = 0
        self._store: Any = self._make_store(config)
        self._native = config.policy == "s3fifo"
        self._linked = 0
        self._tags: dict[str, dict[Entry, None]] = {}
        self._purging: list[Region] = []  # those that have ended entries

    @staticmethod
    def _make_store(config: CacheConfig) -> Any:
        if config.policy == "s3fifo":
            return EntryStore(config.local_max_entries)
        if config.policy == "lru":
            return cachetools.LRUCache(config.local_max_entries)
        return config.policy(config.local_max_entries)  # type: ignore[operator]

    def __len__(self) -> int:
        if self.closed:
            return 0  # its regions may be another cache's by now
        return sum(len(region.table) for region in self.all_regions())  # the store holds ended entries, too

    def __contains__(self, key: str) -> bool:
        return key in self._store

    # Regions

    def region(self, name: str) -> Region:
        """The region of a prefix:operation, made when there is none."""
        found = self.regions.get(name)
        return found[0] if found else self.adopt(Region(name))

    def adopt(self, region: Region) -> Region:
        """Take in a region that a wrapper made before it knew its cache; its counts begin then, once."""
        if not self.guard.held():
            with self.guard:
                return self._adopt(region)
        return self._adopt(region)

    def _adopt(self, region: Region) -> Region:
        regions = self.regions.setdefault(region.name, [])
        if region not in regions:
            region.counters, region.retired, region.horizon, region.ended = Counters(), 0, self.horizon, []
            self.regions[region.name] = [*regions, region]  # replaced, not changed: others may be iterating
        return region

    def all_regions(self) -> list[Region]:
        return [region for found in list(self.regions.values()) for region in found]

    def _of_group(self, group: str) -> Iterable[Region]:
        if group == "*":
            return self.all_regions()
        if ":" in group:
            return self.regions.get(group, ())
        lead = group + ":"
        return [
            r for name, found in list(self.regions.items()) if name == group or name.startswith(lead) for r in found
        ]

    def trust_until(self, horizon: float) -> None:
        """Hits need no look at their entry's age before this time."""
        self.horizon = horizon
        for region in self.all_regions():
            region.horizon = horizon

    def after_fork(self) -> None:
        """In the child. What a thread of the parent's was changing at the moment cannot be used: then start empty."""
        if self.guard.after_fork():
            for region in self.all_regions():
                region.empty()
                region.ended.clear()
            self._store = self._make_store(self._config)
            self._tags, self._purging, self._linked, self.bytes = {}, [], 0, 0

    # Look up and fill

    def find(self, key: str, region: Region, local_key: Hashable | None) -> Entry | None:
        """The live entry of a key, linked to `local_key` in `region`; what the wrapper's own look-up did not see."""
        if key not in self._store or self.guard.held():
            return None
        with self.guard:
            entry: Entry | None = self._store.get(key)
            if entry is None or entry.epoch < entry.region.cleared:
                return None
            if local_key is not None and (entry.region is not region or entry.local_key != local_key):
                self._unlink(entry)
                entry.region, entry.local_key = region, local_key
                entry.epoch = region.epoch
                self._link(entry)
            entry.hits += 1
            return entry

    def peek(self, key: str) -> Entry | None:
        """The live entry of a key, without counting a hit."""
        if self.guard.held():
            return None
        with self.guard:
            entry: Entry | None = self._store.get(key)
            return None if entry is None or entry.epoch < entry.region.cleared else entry

    def touch(self, entry: Entry) -> bool:
        """Tell a policy of cachetools' own that an entry was hit. False: the store has dropped it by itself."""
        if self._native or self.guard.held():
            return True
        with self.guard:
            return self._store.get(entry.key) is entry

    def fill(
        self,
        key: str,
        region: Region,
        local_key: Hashable,
        epoch: int,
        value: object,
        *,
        born: float,
        fresh: float,
        due: float,
        deadline: float,
        shared: bool,
        size: int = 0,
        tags: tuple[str, ...] = (),
    ) -> bool:
        """Hold a value that was asked for at `born`, when the region stood at `epoch`. False: it was refused."""
        if self.guard.held() or deadline <= born:
            return False
        entry = Entry(key, value)
        entry.region, entry.local_key, entry.epoch = region, local_key, epoch
        entry.born, entry.deadline = born, deadline
        entry.fresh, entry.due = fresh, due
        entry.until = min(due, fresh, deadline) if shared and self._native else -inf
        entry.tags = tags
        entry.size = size + len(key) + OVERHEAD if self.max_bytes is not None else 0
        with self.guard:
            if self.closed or region.epoch != epoch or (self.max_bytes is not None and entry.size > self.max_bytes):
                return False
            old = self._store.get(key)
            if old is not None:
                self._forget(old)
            elif (old := region.table.get(local_key)) is not None:
                self._depart(old)  # a store that drops by itself has dropped it
            self._make_room(entry.size)
            try:
                self._store[key] = entry
            except ValueError:  # cachetools: larger than the whole store, as a given policy counts sizes
                return False
            self._link(entry)
            self.bytes += entry.size
            self._linked += 1
            for tag in tags:
                self._tags.setdefault(tag, {})[entry] = None
            region.tagged = region.tagged or bool(tags)
            if len(self._store) < self._linked:
                self._resync()
        return True

    def _make_room(self, size: int) -> None:
        for _ in range(PURGE):
            while self._purging and not self._purging[-1].ended:
                self._purging.pop()
            if not self._purging:
                break
            tables = self._purging[-1].ended
            if not tables[-1]:
                tables.pop()
                continue
            _, entry = tables[-1].popitem()
            entry.region.retired += entry.hits  # ended: nobody can find it, so nobody bumps it any more
            if self._store.get(entry.key) is entry:
                self._store.pop(entry.key)
            self._depart(entry)  # also what a store that drops by itself has dropped
        while len(self._store) >= self.max_entries or (
            self.max_bytes is not None and self.bytes + size > self.max_bytes and len(self._store)
        ):
            _, entry = self._store.popitem()
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
            region.retired += entry.hits  # nobody can find it any more, so nobody bumps it any more
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
            holders = self._tags.get(tag)
            if holders is not None:
                holders.pop(entry, None)
                if not holders:
                    del self._tags[tag]
        self.guard.release(entry)

    def _forget(self, entry: Entry) -> None:
        if self._store.get(entry.key) is entry:
            self._store.pop(entry.key)
        self._depart(entry)

    def close(self) -> None:
        """Empty, and fill no more: what is still under way may belong to regions that another cache has adopted."""

        def work() -> None:
            self.closed = True
            self._drop_group("*")

        self.guard.do(work)

    # Invalidation: what is dropped is gone for every later look-up, and what is under way is not filled

    def drop_key(self, key: str, name: str) -> None:
        self.guard.do(lambda: self._drop_key(key, name))

    def drop_group(self, group: str) -> None:
        self.guard.do(lambda: self._drop_tag(group[1:]) if group.startswith("#") else self._drop_group(group))

    def drop_matching(self, matches: Callable[[str], object]) -> None:
        """Drop every key that `matches`, which is called under the guard and must be a compiled pattern's own."""
        self.guard.do(lambda: self._drop_matching(matches))

    def _drop_key(self, key: str, name: str) -> None:
        for region in self.regions.get(name, ()):
            region.epoch += 1
        entry = self._store.get(key)
        if entry is not None:
            self._forget(entry)

    def _drop_group(self, group: str) -> None:
        for region in self._of_group(group):
            region.epoch += 1
            region.cleared = region.epoch
            region.empty()  # its entries are counted and dropped from the store at later fills, a few at each
            if region.ended and region not in self._purging:
                self._purging.append(region)

    def _drop_tag(self, tag: str) -> None:
        for region in self.all_regions():
            if region.tagged:
                region.epoch += 1
        for entry in list(self._tags.get(tag, ())):
            self._forget(entry)

    def _drop_matching(self, matches: Callable[[str], object]) -> None:
        for region in self.all_regions():
            region.epoch += 1
            for entry in list(region.table.values()):
                if matches(entry.key):
                    self._forget(entry)
