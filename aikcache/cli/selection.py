"""Which keys a pattern or a tag covers, looked up in Redis: SCAN over all of it, so the cost is that of the keyspace.

A pattern means here what it means to `invalidate`. Keys are told below `instance:version:`. What was invalidated by its
group is still there until its time is over, so it is among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from aikcache._cache import Cache
from aikcache._keys.globs import covering, matcher
from aikcache._keys.patterns import EVERYTHING, resolve
from aikcache._remote.store import RedisStore
from aikcache.errors import DecodeError

COUNT = 1000
VALUES = 20
"""Values that are read at once: each may have `max_value_bytes`."""


@dataclass(frozen=True, slots=True)
class Selection:
    """`glob` is for Redis, and may match more than `covers` does."""

    glob: str
    covers: Callable[[str], object]


def select(pattern: str) -> Selection:
    """What a pattern covers. Raises `ConfigError`."""
    target = resolve(pattern)
    if target.name == EVERYTHING:
        return Selection("*", lambda key: True)
    if target.kind == "group":
        return Selection(f"{target.name}*", lambda key: f"{key}:".startswith(f"{target.name}:"))
    if target.kind == "key":
        return Selection(target.name, target.name.__eq__)
    return Selection(covering([target.name]), matcher("", target.name))


def keys(cache: Cache, selection: Selection, progress: Callable[[int], object] = lambda looked: None) -> Iterator[str]:
    """Each key once. `progress` is told how many of the keyspace's were looked at, about. Raises `RemoteError`."""
    remote, namespace_prefix = store(cache), cache.space.namespace_prefix
    seen: set[str] = set()
    for part in remote.parts():
        cursor = b"0"
        while True:
            cursor, found = remote.scan(part, cursor, f"{namespace_prefix}{selection.glob}", COUNT)
            for raw in found:
                key = raw.decode("utf-8", "replace").removeprefix(namespace_prefix)
                if f"{namespace_prefix}{key}".encode() != raw:
                    continue  # no key of the library's, which are all UTF-8
                if key[:1] not in ("~", "!") and key not in seen and selection.covers(key):
                    seen.add(key)
                    yield key
            progress(COUNT)
            if cursor == b"0":
                break


def tagged(
    cache: Cache, tags: frozenset[str], progress: Callable[[int], object] = lambda looked: None
) -> Iterator[str]:
    """Keys of values with one of these tags: every value is read. Raises `RemoteError`."""
    remote, tier, namespace_prefix = store(cache), cache.engine.remote_tier, cache.space.namespace_prefix
    assert tier is not None
    all_keys = keys(cache, select(EVERYTHING), progress)
    while batch := list(islice(all_keys, VALUES)):
        replies = remote.connections.exchange([("GET", f"{namespace_prefix}{key}") for key in batch])
        for key, data in zip(batch, replies, strict=True):
            try:
                if isinstance(data, bytes) and not tags.isdisjoint(
                    tier.framer.unpack(f"{namespace_prefix}{key}", data).tags
                ):
                    yield key
            except DecodeError:
                continue  # nobody reads it, so no tag invalidates it


def store(cache: Cache) -> RedisStore:
    """Where a cache with a server asks."""
    assert cache.engine.remote is not None
    return cache.engine.remote
