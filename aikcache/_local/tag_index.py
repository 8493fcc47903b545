"""Which entries have a tag. Most tags have one, which then stands in the index itself: a dict for it takes 232 bytes.

Not thread-safe: all happens under the guard of the tier. An exception of a signal handler between two steps is the
tier's to repair, which then starts over.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from aikcache._local.entry import Entry

TAG_OVERHEAD = 220
"""Bytes that an entry costs for each of its tags, which few or many entries have."""


class TagIndex:
    """The entries of each tag, in the order in which they came."""

    def __init__(self) -> None:
        self._holders: dict[Hashable, Entry | dict[Entry, None]] = {}

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._holders)

    def __getitem__(self, tag: Hashable) -> list[Entry]:
        """A copy: what is done with the entries may remove them."""
        found = self._holders.get(tag)
        return [] if found is None else list(found) if type(found) is dict else [found]  # type: ignore[list-item]

    def add(self, tag: Hashable, entry: Entry) -> None:
        found = self._holders.get(tag)
        if found is None:
            self._holders[tag] = entry
        elif type(found) is dict:
            found[entry] = None
        elif found is not entry:
            self._holders[tag] = {found: None, entry: None}  # type: ignore[dict-item]

    def remove(self, tag: Hashable, entry: Entry) -> None:
        found = self._holders.get(tag)
        if type(found) is dict:
            found.pop(entry, None)
        if found is entry or found == {}:
            del self._holders[tag]
