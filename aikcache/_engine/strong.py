"""Strong reads, which never return an old value: Redis is asked for the value and its stamps together.

Cached stamps are current only until the push of another process's invalidation arrives. A strong read asks Redis for
them, in the value's own round trip. So it sees every invalidation that had returned before it began: the new stamp is
in place, or the key is gone. The order of the replies does not matter, and on a cluster there is none: all commands
were sent after the call began, and a value is fresh only under the very stamps it was loaded under, which never come
back. If only the frame names its tags, their stamps are read in a second round trip.

This is for a strong read what `_engine/fast_path` is for a bounded one. What it cannot decide is `FastPathMiss` and
takes the full read path of `_engine/load`, where a strong call gets nothing that was requested before it began.

Threads: it stores only names. Failure: `FastPathMiss` carries the error, and the function answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from aikcache._codec.frame import Frame
from aikcache._concurrency import spans
from aikcache._engine.events import Events
from aikcache._engine.fast_path import NOTHING, READS, FastPathMiss
from aikcache._engine.policy import Policy
from aikcache._engine.versioned_store import MOST_BATCH_TAGS, VersionedStore
from aikcache._keys.patterns import ANY_TAG, tag_group
from aikcache._local.region import Region
from aikcache._redis.failures import rest
from aikcache._remote.replies import NO_VALUE, NOT_READ, Read
from aikcache._remote.stamps import digest
from aikcache._remote.store import pack_names
from aikcache.errors import DecodeError, InvalidKeyError, RemoteError

if TYPE_CHECKING:
    from aikcache._coherence.pending import PendingInvalidations


class Base(NamedTuple):
    """What strong reads of a region have in common."""

    packed_names: bytes
    """Of its groups' stamps, as arguments of a command."""
    reads: deque[float]
    """For `Events`."""


class StrongPath:
    """The strong reads of one cache."""

    def __init__(self, remote_tier: VersionedStore, recovery: PendingInvalidations, events: Events) -> None:
        self._remote_tier = remote_tier
        self._recovery = recovery
        self._events = events
        self._sealed = remote_tier.framer.seals  # then the PTTL is read as well
        self._bases: dict[str, Base] = {}  # by region
        self._latest: dict[
            str, tuple[bytes, bytes]
        ] = {}  # by region: the stamps of its groups, joined, and their digest

    def one(self, key: str, region: Region, tags: tuple[str, ...], policy: Policy, *, result_tags: bool) -> Any:
        """The value under a key, or `FastPathMiss`. `tags`: known before; `result_tags`: its result may name more."""
        if policy.ages:  # the full read path renews aged values
            return NOTHING
        remote, stamps = self._remote_tier.remote, self._remote_tier.stamps
        more = [*map(tag_group, tags), *((ANY_TAG,) if result_tags else ())]
        name = key.encode()
        try:
            # While the channel's word holds, it runs; so there is nothing to be ready for but what is to be sent first.
            if self._recovery.pending or not self._remote_tier.trust.covers():
                self._remote_tier.ready()
                if not self._remote_tier.trust.covers():
                    return NOTHING
            server_generation = stamps.server_generation
            base = self._bases.get(region.name)
            if base is None:
                packed_names = pack_names(map(remote.keyspace.stamp, region.groups))
                base = self._bases[region.name] = Base(packed_names, self._events.reads(region.name))
            answer = None if self._sealed else self._consult(name, region, base, more)
            if answer is None:
                (read,), found = remote.read([key], (*region.groups, *more))
                answer = read._replace(stamps=found)
            data, pttl, found = answer
            if data is None:
                return FastPathMiss(Read(None, NO_VALUE, found))
            frame = self._remote_tier.framer.unpack(key, data, name)
            if frame.redis_ttl_ms != frame.ttl_ms or frame.put_back(pttl):  # kept longer than it is fresh: read its age
                return NOTHING
            if frame.tags == tags:
                current = found[: len(found) - result_tags]
            else:
                current = found[: len(region.groups)]
                current += remote.read_stamps(list(map(tag_group, frame.tags))) if frame.tags else []
            if (
                None in current or server_generation != stamps.server_generation
            ):  # of another server's values these stamps say nothing
                return NOTHING
            if self._digest(region, b"".join(current)) != frame.digest:  # type: ignore[arg-type]
                return FastPathMiss(Read(data, NOT_READ, found))
            value = policy.codec.decode(frame.codec, frame.payload, frame.schema)
        except RemoteError as error:
            return FastPathMiss(error)
        except (DecodeError, InvalidKeyError):  # said on the full read path
            return NOTHING
        size = len(data)
        region.counters.remote_hits += 1
        region.counters.bytes_read += size
        return value

    def _consult(self, name: bytes, region: Region, base: Base, more: list[str]) -> Read | None:
        """Ask for the value and all stamps, and report the round trip, as `FastPath.one` does."""
        remote, events = self._remote_tier.remote, self._events
        packed_names = base.packed_names
        if more:
            packed_names += pack_names(map(remote.keyspace.stamp, more))
        count = len(region.groups) + len(more)
        started = perf_counter()
        try:
            if spans.active is None:
                answer = remote.consult(name, packed_names, count)
            else:
                rest(remote.connections)  # no span of what is not sent
                with spans.active.exchange("get", 1):
                    answer = remote.consult(name, packed_names, count)
        except RemoteError as error:
            if events.timed and error.sent:
                events.add("get", region.name, perf_counter() - started, type(error).__name__)
            raise
        if events.timed and answer is not None:
            base.reads.append(perf_counter() - started)
            if len(base.reads) >= READS:
                events.report_reads(region.name, base.reads)
        return answer

    def _digest(self, region: Region, joined: bytes) -> bytes:
        """The digest of a value's stamps; those of a region without tags are mostly the same."""
        latest = self._latest.get(region.name)
        if latest is None or latest[0] != joined:
            latest = self._latest[region.name] = (joined, digest(joined))
        return latest[1]

    def many(self, keys: Sequence[str], region: Region, policy: Policy) -> list[Any]:
        """As `one`, for many keys of a region: one round trip, and one more for the stamps of their tags."""
        found: list[Any] = [NOTHING] * len(keys)
        if policy.ages:
            return found
        remote, stamps, framer = self._remote_tier.remote, self._remote_tier.stamps, self._remote_tier.framer
        names = [key.encode() for key in keys]
        try:
            self._remote_tier.ready()
            if not self._remote_tier.trust.covers():
                return found
            server_generation = stamps.server_generation
            if self._sealed:
                reads, groups = remote.read(keys, region.groups)
                values, pttls = [read.data for read in reads], [read.pttl for read in reads]
            else:
                values, groups = remote.consult_many(names, region.groups)
                pttls = [NOT_READ] * len(keys)
            base = None if None in groups else b"".join(groups)  # type: ignore[arg-type]
            frames: dict[int, Frame] = {}
            alike: dict[int, bytes] = {}
            tagged: dict[str, None] = {}
            first: Frame | None = None
            waiting = deque([i for i, data in enumerate(values) if data is not None and base is not None])
            while waiting:
                i = waiting.popleft()
                data: Any = values[i]
                frame = self._unpack(keys[i], names[i], data)
                if frame is None or frame.put_back(pttls[i]) or len(tagged) + len(frame.tags) > MOST_BATCH_TAGS:
                    continue
                frames[i] = frame
                tagged.update((tag_group(tag), None) for tag in frame.tags)
                usual = frame.schema == policy.codec.schema and not frame.tags
                if first is None and usual and frame.digest == digest(base):
                    # Most that follow have its codec, schema and stamps.
                    first, rest = frame, [*waiting]
                    others: Any = [values[i] for i in rest]
                    payloads = framer.alike(data, [names[i] for i in rest], others, timed=False)
                    alike = {i: payload for i, payload in zip(rest, payloads, strict=True) if payload is not None}
                    waiting = deque([i for i in rest if i not in alike])
            tag_stamps = dict(zip(tagged, remote.read_stamps(list(tagged)), strict=True)) if tagged else {}
        except RemoteError as error:
            return [FastPathMiss(error)] * len(keys)
        if server_generation != stamps.server_generation or base is None:
            return found
        for i, frame in frames.items():
            current = [tag_stamps[tag_group(tag)] for tag in frame.tags]
            if None not in current and digest(base + b"".join(current)) == frame.digest:  # type: ignore[arg-type]
                with suppress(DecodeError):  # said on the full read path
                    found[i] = policy.codec.decode(frame.codec, frame.payload, frame.schema)
        if first is not None:
            decoded = policy.codec.decode_all(first.codec, list(alike.values()), NOTHING)
            for i, value in zip(alike, decoded, strict=True):
                found[i] = value
        hits = len(found) - list(map(type, found)).count(FastPathMiss)
        size = sum(len(data) for data in values if data is not None)
        region.counters.remote_hits += hits
        region.counters.bytes_read += size
        return found

    def _unpack(self, key: str, name: bytes, data: bytes) -> Frame | None:
        """The frame, if it is intact and Redis keeps it only while it is fresh."""
        try:
            frame = self._remote_tier.framer.unpack(key, data, name)
            for tag in frame.tags:
                tag_group(tag)
        except (DecodeError, InvalidKeyError):  # said on the full read path
            return None
        return frame if frame.redis_ttl_ms == frame.ttl_ms else None
