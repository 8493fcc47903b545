"""The local tier: entries in this process, found by a call's own arguments, with common bounds.

A `Region` holds the entries of one `prefix:operation`. The generated wrapper looks into its `table`, whose keys are
the call's arguments, so a hit builds no key and takes no lock. One `cachetools.Cache` over all regions, whose keys are
the keys' text, decides what is evicted. `table` and store hold the same entries. (Invalidating a group replaces its
`table` by an empty one, whatever it holds; the store follows, a few entries at each later fill.)

An entry is returned as it is until `until`. Where that is not allowed (a mutable value is copied or decoded for each
caller, or the policy must count hits) `until` is minus infinity, and the wrapper takes the slower `serve`.

Threads: everything but a hit happens under `guard`. A fill is refused if the region's `epoch` has moved since its
value was requested: something in the region was invalidated meanwhile, and the answer may be from before it. Counts are
exact: in the wrapper `hits += 1` follows the look-up without a point at which the interpreter could switch threads, and
an entry leaves `table` before its hits are added up. A hit that is decided on later is counted by its region.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from math import inf
from typing import TYPE_CHECKING, NamedTuple, Protocol

from aikcache._concurrency.guard import Guard
from aikcache._keys.chosen import held_as
from aikcache._keys.keyspace import Keyspace
from aikcache._keys.patterns import groups_of
from aikcache._local.entries import Entries
from aikcache._local.entry import EncodedValue, Entry, Renewal, decoded_once
from aikcache._local.region import Region

if TYPE_CHECKING:
    from aikcache._settings.config import CacheConfig

MAX_RENEWED = 1000
"""Renewed keys that are remembered."""
OVERHEAD = 340
"""Bytes that an entry, and what is remembered of one that was evicted, cost beyond key, arguments and value."""


class Renewed(NamedTuple):
    """When a key was renewed, and by what."""

    at: float
    by: Renewal


class Request(Protocol):
    """A request under way: its region, and the region's epoch when it was made."""

    region: Region
    epoch: int


class LocalTier(Entries):
    """All regions of one cache, and the store that bounds them."""

    def __init__(self, config: CacheConfig, guard: Guard) -> None:
        super().__init__(config, guard)
        self._renewed: dict[str, Renewed] = {}  # by key: what is requested before is not filed
        self._forgotten: list[Renewed] = []  # of those that are remembered no more: the last, and the last by another
        self.forgot = 0  # how often
        self._namespace_prefix = Keyspace(config.instance, config.version).namespace_prefix

    def __len__(self) -> int:
        return sum(len(region.table) for region in self.all_regions())  # the store holds invalidated entries, too

    def __contains__(self, key: str) -> bool:
        return key in self._store

    def after_fork(self) -> None:
        """In the child. What a thread of the parent's was changing at the moment cannot be used: then start empty."""
        if self.guard.after_fork():
            self._start_over()

    # Look up and fill

    def peek(self, key: str) -> Entry | None:
        """The live entry of a key. It counts nothing: whether the entry answers is decided by who looks."""
        if key not in self._store or self.guard.held():
            return None
        return self.guard.run(self._live, key)

    def _live(self, key: str) -> Entry | None:
        entry: Entry | None = self._store.get(key)
        return None if entry is None or entry.epoch < entry.region.cleared else entry

    def relink(self, entry: Entry, region: Region, local_key: Hashable) -> None:
        """Let the wrappers of `region` find an entry, which is one that they may hand out, under `local_key`."""
        if (entry.region is not region or entry.local_key != local_key) and not self.guard.held():
            self.guard.run(self._relink, entry, region, local_key)

    def _relink(self, entry: Entry, region: Region, local_key: Hashable) -> None:
        local_key = held_as(local_key, entry.key, region.table)
        if entry.region is region and entry.local_key == local_key:
            return
        if self._live(entry.key) is entry and entry.epoch >= 0:
            self._unlink(entry)
            entry.region, entry.local_key, entry.epoch = region, local_key, region.epoch
            self._link(entry)

    def touch(self, entry: Entry) -> bool:
        """Report a hit to a policy of cachetools' own. False: the store has dropped it by itself."""
        if self._native or self.guard.held():
            return True
        return self.guard.run(lambda: self._store.get(entry.key) is entry)

    def fill(
        self,
        key: str,
        region: Region,
        local_key: Hashable,
        epoch: int,
        value: object,
        *,
        codec: object = None,
        created_at: float,
        fresh_until: float,
        refresh_at: float,
        expires_at: float,
        shareable: bool,
        size: int = 0,
        tags: tuple[Hashable, ...] = (),
        renewed: Renewed | None = None,
    ) -> bool:
        """Keep a value that was requested at `created_at`, when the region stood at `epoch`. False: it was refused.

        `renewed`: for a value that replaces what was requested before.
        """
        if self.guard.held() or expires_at <= created_at:  # held: a finalizer's call, inside a change of the tier
            if renewed is not None:
                self.drop_key(key, region.name)
            return False
        entry = Entry(key, value)
        entry.region, entry.local_key, entry.epoch = region, local_key, epoch
        entry.codec, entry.created_at, entry.expires_at = codec, created_at, expires_at
        entry.fresh_until, entry.refresh_at = fresh_until, refresh_at
        entry.until = min(refresh_at, fresh_until, expires_at) if shareable and self._native else -inf
        if region is self._other:
            tags = (*tags, *((group,) for group in groups_of(key, self._namespace_prefix)[1:]))
        entry.tags = tags
        entry.size = size + len(key) + OVERHEAD if self.max_bytes is not None else 0
        return self.guard.run(self._fill, entry, renewed)

    def _fill(self, entry: Entry, renewed: Renewed | None) -> bool:
        key, region = entry.key, entry.region
        self.changes += 1
        epoch, requested_at = entry.epoch, entry.created_at
        if renewed is not None:
            epoch, requested_at = epoch + self.forgot - renewed.by.forgot, renewed.by.since
        # Of two renewals that overlapped neither is known to be newer, so none is kept here.
        current = not self.closed and region.epoch == epoch and requested_at >= self._renewed_at(key, renewed)
        if renewed is not None:
            # Not what was filed by another while this one, with its time in hand, waited to be.
            self._renewed[key] = max(renewed, self._renewed.get(key, renewed), key=_at)
            if len(self._renewed) > MAX_RENEWED:
                self._forget_renewed()
            entry.epoch = region.epoch
        elif not current:
            return False
        old = self._store.get(key)
        if old is not None:  # out of its table and tags, too: it may be another region's
            self._forget(old)
        if not current or (self.max_bytes is not None and entry.size > self.max_bytes):
            return False
        entry.local_key = held_as(entry.local_key, key, region.table)
        if old is None and (old := region.table.get(entry.local_key)) is not None:
            self._depart(old)  # a store that drops by itself has dropped it
        self._make_room(entry.size)  # before it is in: it cannot be the one that is evicted
        try:
            self._store[key] = entry
        except ValueError:  # cachetools: larger than the whole store, as a given policy counts sizes
            return False
        self._link(entry)
        self.bytes += entry.size
        self._linked += 1
        for tag in entry.tags:
            self._tags.add(tag, entry)
        if entry.tags and not region.tagged:
            region.tagged = True
            self._divert(region)
        if len(self._store) < self._linked:  # only then: a walk over all entries at each fill would be quadratic
            self._resync()
        return True

    def _renewed_at(self, key: str, renewed: Renewed | None) -> float:
        """When this key was last renewed, as far as is remembered; for a renewal: by another."""
        last = self._renewed.get(key)
        if renewed is None:
            return -inf if last is None else last.at
        known = self._forgotten if last is None else (last, *self._forgotten)
        return max((other.at for other in known if other.by is not renewed.by), default=-inf)

    def _forget_renewed(self) -> None:
        """Refuse all that was requested before, in place of what was requested for certain keys; but not what belongs
        to a renewal, which is told by the batch that it is of.
        """
        by_renewal = {renewed.by: renewed for renewed in sorted([*self._forgotten, *self._renewed.values()], key=_at)}
        self._forgotten = sorted(by_renewal.values(), key=_at)[-2:]
        self._renewed.clear()
        self.forgot += 1  # before the epochs; see `load.reload`
        for region in self.all_regions():
            region.epoch += 1

    def keep_copied(self, entry: Entry, encoded: EncodedValue, codec: object, value: object) -> None:
        """From now on give copies of what `codec` has decoded for a caller, if its types allow it and there is room."""
        if self.guard.held():
            return
        room = None if self.max_bytes is None else self.max_bytes - entry.size
        kept, growth = decoded_once(encoded, value, room, quick=self._native)

        def work() -> None:
            if entry.epoch >= 0 and entry.value is encoded:
                entry.codec, entry.value = codec, kept  # in this order: who reads the new value reads its codec after
                entry.size += growth
                self.bytes += growth
                while self.max_bytes is not None and self.bytes > self.max_bytes:
                    self._evict()

        self.guard.run(work)

    def close(self) -> None:
        """Empty, fill no more, and let go of all regions: another cache may adopt them. What they counted is kept."""

        def work() -> None:
            if self.closed:
                return
            self._drop_group("*")  # a running load's fill is refused by the epoch, and later ones by `closed`
            for region in self.all_regions():
                region.unread()
                region.count_invalidated()
            self.regions = {name: [region.left() for region in found] for name, found in self.regions.items()}
            self.closed = True

        self.guard.do(work)

    # Invalidation: what is dropped is gone for every later look-up, and what is under way is not filled

    def drop_key(self, key: str, name: str) -> None:
        self.guard.do(lambda: self._drop_key(key, name))

    def drop_group(self, group: str) -> None:
        self.guard.do(lambda: self._drop(group))

    def start_groups(self, groups: Sequence[str], requests: Sequence[Request]) -> None:
        """Drop what is held of groups whose stamp was made just now, for `requests`, which may be filed all the same.

        There was no stamp, so what was invalidated under the last one is not known here: the push of it may still come,
        and would be taken for that of the stamp that was made.
        """

        def work() -> None:
            # Only these: a request that an earlier invalidation refuses stays refused.
            current = [one for one in requests if one.epoch == one.region.epoch]
            for group in groups:
                self._drop(group)
            for one in current:
                one.epoch = one.region.epoch

        self.guard.do(work)

    def drop_matching(self, matches: Callable[[str], object]) -> None:
        """Drop every key that `matches`, which is called under the guard: `globs.matcher`'s."""
        self.guard.do(lambda: self._drop_matching(matches))

    def _drop_key(self, key: str, name: str) -> None:
        self.changes += 1
        for region in self.regions.get(name, ()):
            region.epoch += 1
        self._other.epoch += 1  # keys by hand of many names share it
        entry = self._store.get(key)
        if entry is not None:
            self._forget(entry)

    def _drop(self, group: str) -> None:
        if group.startswith("#"):
            self._drop_tag(group[1:])
        else:
            self._drop_group(group)

    def _drop_group(self, group: str) -> None:
        self.changes += 1
        for region in self._of_group(group):
            region.epoch += 1
            region.cleared = region.epoch
            region.empty()  # its entries are counted and dropped from the store at later fills, a few at each
            if region.invalidated and region not in self._purging:
                self._purging.append(region)
        self._other.epoch += 1
        for entry in self._tags[(group,)]:
            self._forget(entry)

    def _drop_tag(self, tag: str) -> None:
        self.changes += 1
        for region in self.all_regions():
            if region.tagged:
                region.epoch += 1
        for entry in self._tags[tag]:
            self._forget(entry)

    def _drop_matching(self, matches: Callable[[str], object]) -> None:
        self.changes += 1
        for region in self.all_regions():
            region.epoch += 1
            for entry in list(region.table.values()):
                if matches(entry.key):
                    self._forget(entry)


def _at(renewed: Renewed) -> float:
    return renewed.at
