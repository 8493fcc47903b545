"""The local entries of one `prefix:operation`, its counters, and the wrappers that look into its table.

Threads: all but a hit happens under the cache's guard; see `tier`.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable
from math import inf
from types import FunctionType
from typing import Any

from aikcache._keys.patterns import groups_of
from aikcache._local.entry import Entry

TABLE, TRUSTED_UNTIL = "_aikcache_table", "_aikcache_trusted_until"
"""What a wrapper calls its region's table and how long it is trusted: a generated one among its globals, which are its
own, a compiled one among its attributes."""
CLOCK = "_aikcache_clock"
"""What a generated one calls the clock that it compares with; a compiled one knows `time.monotonic` alone."""
MAX_ERROR_TYPES, OTHER_ERROR = 50, "other"
"""Classes of errors that an operation tells apart, and what the rest is counted as."""
ANYTHING: Any = object()
"""The type expected of a value by key."""


class Counters:
    """What happened in one operation, but for local hits, which the entries count.

    Threads: any. What is added is worked out before: at a call between the reading of a counter and its writing, the
    interpreter may switch threads, and their counts are lost.
    """

    __slots__ = (
        "bytes_read", "bytes_written", "error_types", "evictions", "joined", "loads", "misses", "refreshes",
        "remote_hits", "stale", "waits", "writes",
    )  # fmt: skip

    def __init__(self) -> None:
        self.remote_hits = self.joined = self.misses = self.loads = self.writes = self.stale = 0
        self.evictions = self.bytes_written = self.bytes_read = self.waits = self.refreshes = 0
        self.error_types: dict[str, int] = {}

    def error(self, error: BaseException) -> None:
        """Count a problem by its class."""
        name = type(error).__name__
        if name not in self.error_types:
            if len(self.error_types) >= MAX_ERROR_TYPES:
                name = OTHER_ERROR
            self.error_types.setdefault(name, 0)
        self.error_types[name] += 1  # nothing is called in between, so no thread's count is lost

    @property
    def errors(self) -> int:
        """All problems."""
        return sum(list(self.error_types.values()))


class Region:
    """The local entries of one prefix:operation, and its counters."""

    __slots__ = (
        "_hits_seen",
        "_readers",
        "_trusted_until",
        "absent",
        "cleared",
        "counters",
        "diverted",
        "epoch",
        "expects",
        "groups",
        "hits",
        "invalidated",
        "name",
        "shape",
        "table",
        "tagged",
        "tier",
    )  # fmt: skip

    def __init__(self, name: str, expects: object = ANYTHING) -> None:
        self.name = name
        self.expects = expects  # the type of what its wrappers hand out without a look at it
        self.shape: object = None  # the parameters, and their types, that its wrappers make keys of without a mark
        self.groups = groups_of(name, "")  # that every key of it is in
        self.table: dict[Hashable, Entry] = {}
        self.epoch = 0  # counts what forbids running fills
        self.cleared = 0  # the epoch at which all older entries were invalidated
        self.invalidated: list[
            dict[Hashable, Entry]
        ] = []  # tables of invalidated groups, whose entries the store still has
        self._hits_seen = 0  # the most that `local_hits` ever gave
        self._trusted_until = inf
        self.diverted = False  # no wrapper answers by itself: the fate of an entry depends on who asks
        self._readers: list[weakref.ref[Any]] = []  # wrappers, which hold their cache: not to be held here
        self.hits = 0  # but for those that the entries in its tables count
        self.absent = 0  # reads on end that found no value in Redis
        self.tagged = False  # whether any entry ever had a tag
        self.tier: Any = None  # that holds it
        self.counters = Counters()

    def local_hits(self) -> int:
        """It never falls. No lock is taken, so hits of an entry that leaves meanwhile are missed, and counted again by
        the next look; in this order none is counted twice.
        """
        found = self.hits + sum(
            entry.hits for table in [*self.invalidated, self.table] for entry in list(table.values())
        )
        if found > self._hits_seen:
            self._hits_seen = found
        return self._hits_seen

    def count_from_zero(self) -> None:
        """Forget all that was counted."""
        self.counters, self.hits, self._hits_seen = Counters(), 0, 0

    def count_invalidated(self) -> None:
        """Add up the hits of entries that were invalidated, and let go of them."""
        invalidated, self.invalidated = self.invalidated, []
        self.hits += sum(entry.hits for table in invalidated for entry in table.values())

    def left(self) -> Region:
        """What a tier that is closed keeps of it: its counts."""
        kept = Region(self.name, self.expects)
        kept.counters, kept.hits = self.counters, self.local_hits()
        return kept

    def read_by(self, wrapper: Any) -> None:
        """Keep what `wrapper` calls TABLE and TRUSTED_UNTIL what they are here."""
        self._readers = [*self._others(wrapper), weakref.ref(wrapper)]
        while _shown(wrapper, TABLE) is not self.table or _shown(wrapper, TRUSTED_UNTIL) != self._shown():
            _show(wrapper, TRUSTED_UNTIL, self._shown())  # and again, if they are replaced meanwhile
            _show(wrapper, TABLE, self.table)

    def unread_by(self, wrapper: Any) -> None:
        """Let `wrapper` find nothing from here on, whatever is held."""
        self._readers = self._others(wrapper)
        _show(wrapper, TRUSTED_UNTIL, -inf)
        _show(wrapper, TABLE, {})

    def unread(self) -> None:
        """Let no wrapper find anything until it reads again."""
        for reader in self._readers:
            wrapper = reader()
            if wrapper is not None:
                self.unread_by(wrapper)

    def _others(self, wrapper: Any) -> list[weakref.ref[Any]]:
        return [reader for reader in self._readers if reader() not in (None, wrapper)]

    def _update_readers(self, name: str, value: object) -> None:
        for reader in self._readers:
            wrapper = reader()
            if wrapper is not None:
                _show(wrapper, name, value)

    def empty(self) -> None:
        """Put a new table in place of this one. Whatever interrupts this, no wrapper finds an entry of the old one."""
        table: dict[Hashable, Entry] = {}
        self._update_readers(TABLE, table)
        invalidated, self.table = self.table, table
        self._update_readers(TABLE, table)  # also to a wrapper made meanwhile
        if invalidated:
            self.invalidated.append(invalidated)

    @property
    def trusted_until(self) -> float:
        """Until when local entries may be trusted without a look at their age."""
        return self._trusted_until

    @trusted_until.setter
    def trusted_until(self, until: float) -> None:
        self._trusted_until = until
        self._update_readers(TRUSTED_UNTIL, self._shown())

    def divert(self, *, diverted: bool) -> None:
        """Whether wrappers are to answer nothing by themselves."""
        self.diverted = diverted
        self._update_readers(TRUSTED_UNTIL, self._shown())

    def _shown(self) -> float:
        return -inf if self.diverted else self._trusted_until


def _show(wrapper: Any, name: str, value: object) -> None:
    if type(wrapper) is FunctionType:
        wrapper.__globals__[name] = value
    else:
        setattr(wrapper, name, value)


def _shown(wrapper: Any, name: str) -> Any:
    return wrapper.__globals__.get(name) if type(wrapper) is FunctionType else getattr(wrapper, name)


def of_type(regions: Iterable[Region], expects: object) -> Region | None:
    """The region whose functions expect this type."""
    for region in regions:
        try:
            if expects is ANYTHING or region.expects is expects or region.expects == expects:
                return region
        except (TypeError, ValueError):  # of what an annotation holds
            continue
    return None
