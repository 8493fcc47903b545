"""Which regions a cache has, until when they are trusted, and which of them answer no call by themselves.

A region belongs to one `prefix:operation` and to the functions of it that expect one type. Threads: all changes happen
under the guard; the lists of regions are replaced, not changed, because others may be iterating.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from aikcache._concurrency.guard import Guard
from aikcache._concurrency.shared import items
from aikcache._keys.patterns import ANY_TAG
from aikcache._local.region import ANYTHING, Region, of_type

MAX_BY_HAND = 100
"""Operations of keys by hand that have a region, and counters, of their own."""
OTHER = "other"
"""The region of the others."""


class Regions:
    """All regions of one cache."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.closed = False
        self.regions: dict[str, list[Region]] = {}
        self.trusted_until = inf
        self._by_hand = 0
        self._other = Region(OTHER)
        self._other.groups = ()  # its entries' own
        self.waiting: dict[
            int, frozenset[str]
        ] = {}  # by block of `deferred`, groups of which something will be invalidated

    def region(self, name: str, expects: object = ANYTHING) -> Region:
        """The region of a prefix:operation, and of the functions of it that expect this type, made if there is none."""
        found = self.regions.get(name, ())
        return of_type(found, expects) or self.adopt(Region(name, expects))

    def region_by_hand(self, name: str) -> Region:
        """The region of keys that no function has: so many have one of their own, the rest share one.

        What comes before a key's second colon may be a user's id, and must not become a region, and counters, for ever.
        """
        if name not in self.regions:
            if self._by_hand >= MAX_BY_HAND:
                known = self._other in self.regions.get(OTHER, ())  # not by its name alone: a key may have that too
                return self._other if known else self.adopt(self._other)
            self._by_hand += 1
        return self.region(name)

    def adopt(self, region: Region) -> Region:
        """Take in a region that a wrapper made before it knew its cache; its counts begin then, once.

        The tier of a cache that is being replaced lets go of it before.
        """
        if self.closed:
            return region
        if self.guard.held():
            return self._adopt(region)
        if region.tier not in (None, self):
            region.tier.close()
        return self.guard.run(self._adopt, region)

    def close(self) -> None:
        """Let go of all regions."""
        raise NotImplementedError

    def _adopt(self, region: Region) -> Region:
        regions = self.regions.get(region.name, [])  # put there once it has the region: a signal may come between
        if region not in regions:
            region.count_from_zero()
            region.tier, region.trusted_until, region.invalidated = self, self.trusted_until, []
            self.regions[region.name] = [*regions, region]  # replaced, not changed: others may be iterating
            self._divert(region)
        return region

    def all_regions(self) -> list[Region]:
        return [region for found in list(self.regions.values()) for region in found]

    def _of_group(self, group: str) -> Iterable[Region]:
        if group == "*":
            return self.all_regions()
        if ":" in group:  # the versions of an operation, too
            return [r for _, found in items(self.regions) for r in found if group in r.groups]
        prefix = group + ":"
        return [r for name, found in items(self.regions) if name == group or name.startswith(prefix) for r in found]

    def trust_until(self, trusted_until: float) -> None:
        """Hits need no look at their entry's age before this time."""

        def work() -> None:
            self.trusted_until = trusted_until
            for region in self.all_regions():
                region.trusted_until = trusted_until

        self.guard.do(work)

    def turn_away(self, block: int, groups: frozenset[str]) -> None:
        """Send every look-up in regions of these groups on to `serve` and `miss`; no groups: the block has ended."""

        def work() -> None:
            if groups:
                self.waiting[block] = groups
            else:
                self.waiting.pop(block, None)
            for region in self.all_regions():
                self._divert(region)

        self.guard.do(work)

    def _divert(self, region: Region) -> None:
        names = (*region.groups, ANY_TAG) if region.tagged else region.groups
        diverted = not all(groups.isdisjoint(names) for groups in self.waiting.values())
        region.divert(diverted=diverted)  # also where it is so already: a signal may have cut that short
