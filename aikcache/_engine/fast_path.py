"""The fast path to a remote hit: one GET, judged by the stamps held here. It creates nothing else.

Most calls that miss locally hit in Redis, and need nothing that a load needs: no request, no flight, no lease. A
fast-path read asks for the value only. It compares the digest in the frame with the digest of the stamps held here for
its groups. If the channel is trusted for those, and has invalidated nothing since the question was sent, the value is
fresh: it is returned and filed.

A fast-path read takes no lock and joins no flight. What it cannot decide is `FastPathMiss`: no value, an unknown
stamp, a damaged frame or one of another key, a problem with Redis. The call then takes the full read path of
`_engine/load`. So do aged values, which take part in their renewal. Many keys of one function are one MGET.

Threads: what is remembered of a region is replaced in one step, and is checked against the stamps' epoch at each use.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from aikcache._concurrency import spans
from aikcache._concurrency.outside import BUGS, let_out
from aikcache._engine.policy import Policy
from aikcache._engine.single_flight import Flights, hold
from aikcache._keys.patterns import tag_group
from aikcache._local.entry import EncodedValue
from aikcache._local.region import Region
from aikcache._remote.replies import NO_VALUE, Read
from aikcache._remote.stamps import digest
from aikcache.errors import DecodeError, InvalidKeyError, RemoteError

if TYPE_CHECKING:
    from aikcache._codec.frame import Frame
    from aikcache._coherence.pending import PendingInvalidations
    from aikcache._engine.fill import Filler, Where
    from aikcache._engine.versioned_store import VersionedStore

READS = 256
"""Reads of one operation in one report to observers."""


class Base(NamedTuple):
    """The stamps of a region's groups."""

    epoch: int
    joined: bytes
    digest: bytes
    reads: deque[float]
    """Of the region, for `Events`."""


class FastPathMiss(NamedTuple):
    """What a fast-path read gave instead of a value: that nothing was there, or what it ran into.

    A value that it could not accept is not handed on: an invalidation before the flight would end nothing of it. That
    nothing was there may be, for whoever then takes the lease learns of what has come since.
    """

    first: Read | Exception | None = None
    looked: bool = True
    """Whether the local tier was found to have nothing under the key."""


class Judged(NamedTuple):
    """Values that are intact and fresh, by their places."""

    places: list[int]
    frames: list[Frame]
    """Of each its own, or of one with the same head, life and tags."""
    payloads: list[bytes]

    def add(self, places: list[int], frame: Frame, payloads: list[bytes]) -> None:
        self.places.extend(places)
        self.frames.extend([frame] * len(places))
        self.payloads.extend(payloads)


class Answer(NamedTuple):
    """What Redis answered, and the stamps that it is judged by."""

    base: Base
    read_started_at: float
    """As of when those stamps are known to be current."""
    names: list[bytes]
    values: tuple[list[bytes | None], list[int]]
    """And how many milliseconds they will live."""


NOTHING = FastPathMiss()
"""Nothing was asked, or nothing learnt."""
USUALLY_ABSENT = 4
"""Reads on end that found nothing, after which an operation's next call asks for the lease at once. That brings a value
too, if there is one after all, and saves a load one of its three round trips."""
ABSENT = FastPathMiss(Read(None, NO_VALUE, []))
"""There is no value in Redis, or probably none."""
UNSEEN = FastPathMiss(looked=False)
"""Nothing was asked, and the local tier may have something."""


class FastPath:
    """The fast-path reads of one cache."""

    def __init__(
        self,
        remote_tier: VersionedStore,
        filler: Filler,
        flights: Flights,
        recovery: PendingInvalidations | None,
        clock: Callable[[], float],
    ) -> None:
        self._remote_tier = remote_tier
        self._stamps = remote_tier.stamps
        self._filler = filler
        self._events = filler.events
        self._flights = flights
        self._recovery = recovery
        self._clock = clock
        self._max_staleness = filler.config.max_staleness
        self._holds = filler.config.local_ttl > 0
        # What Redis would keep for longer than it was sealed for has been put back: a sealed value's life is asked for.
        self._sealed = remote_tier.framer.seals
        self._bases: dict[str, Base] = {}  # by region

    def one(self, key: str, region: Region, local_key: Hashable, policy: Policy) -> Any:
        """The value under a key, or `FastPathMiss`. What `many` does, without its lists: most calls are one."""
        if policy.ages or key in self._flights.flying:  # somebody else is about to know
            return NOTHING
        epoch, requested_at = region.epoch, self._clock()  # before the question: what is invalidated since is not filed
        timed = self._sealed or (self._holds and policy.local_ttl != 0)
        started = read_started_at = requested_at
        try:
            stamps, base = self._stamps, self._bases.get(region.name)
            # All that `_base` would look at, without its calls: nearly every read passes.
            if (
                base is None
                or base[0] != stamps.epoch
                or not stamps.trusted  # so the channel runs
                or requested_at >= stamps.trusted_until
                or self._recovery is None
                or self._recovery.pending
            ):
                base = self._base(region, requested_at)
                if base is None:
                    return NOTHING
                started = self._clock()  # `_base` may have sent what is pending, which is no part of this read
            if region.absent >= USUALLY_ABSENT:
                return ABSENT
            if timed:  # no later than the last heartbeat, by which the stamps are known to be current
                read_started_at = min(requested_at, stamps.trusted_until - self._max_staleness)
            name = key.encode()
            if spans.active is None:
                answer = self._remote_tier.remote.fast_get(name, timed=timed)
            else:
                self._rest()  # no span of what is not sent
                with spans.active.exchange("get", 1):
                    answer = self._remote_tier.remote.fast_get(name, timed=timed)
        except (RemoteError, *BUGS) as error:  # the function can still answer
            return self._failed("get", region, started, error)
        if answer is None:
            return NOTHING
        if self._events.timed:
            reads = base[3]
            reads.append(self._clock() - started)
            if len(reads) >= READS:
                self._events.report_reads(region.name, reads)
        data, pttl = answer
        if data is None:
            region.absent += 1
            return ABSENT
        if region.absent:
            region.absent = 0
        size = len(data)
        region.counters.bytes_read += size
        frame = self._judge(key, name, region, data, base, timed)
        if frame is None or frame.schema != policy.codec.schema:
            return NOTHING
        try:
            value = policy.codec.decode(frame.codec, frame.payload)
        except DecodeError:  # said on the full read path
            return NOTHING
        if stamps.epoch != base[0]:  # looked at after decoding, as late as it can be
            return NOTHING  # something was invalidated meanwhile
        if timed:
            encoded = EncodedValue(frame.codec, frame.payload, frame.schema)
            if not self._file(
                (key, region, local_key, epoch), policy, frame, encoded, value, pttl, requested_at, read_started_at
            ):
                return NOTHING
        region.counters.remote_hits += 1
        return value

    def many(self, keys: Sequence[str], region: Region, local_keys: Sequence[Hashable], policy: Policy) -> list[Any]:
        """For each key of one region its value, or `FastPathMiss`. `local_keys`: empty if nothing is held locally."""
        epoch, requested_at = region.epoch, self._clock()
        nothing: list[Any] = [NOTHING] * len(keys)
        if policy.ages:  # what has aged takes part in its renewal, which a fast-path read cannot
            return nothing
        timed = self._sealed or (self._holds and policy.local_ttl != 0)  # else it does not matter how long they live
        question = self._ask(keys, region, requested_at, timed)
        if isinstance(question, FastPathMiss):
            return [question] * len(keys)
        base, read_started_at, _, (values, pttls) = question
        found: list[Any] = [NOTHING] * len(keys)
        for i, data in enumerate(values) if None in values else ():
            if data is None:
                found[i] = FastPathMiss(Read(None, pttls[i], []))
        judged = self._judge_all(keys, region, question, policy.codec.schema, timed)
        for codec, (places, _, payloads) in judged.items():
            for i, value in zip(places, policy.codec.decode_all(codec, payloads, NOTHING), strict=True):
                found[i] = value
        if self._stamps.epoch != base[0]:
            return nothing  # something was invalidated meanwhile
        for places, frames, payloads in judged.values() if timed else ():
            for i, frame, payload in zip(places, frames, payloads, strict=True):
                where = keys[i], region, local_keys[i] if local_keys else None, epoch
                encoded = EncodedValue(frame.codec, payload, frame.schema)
                value = found[i]
                if value is not NOTHING and not self._file(
                    where, policy, frame, encoded, value, pttls[i], requested_at, read_started_at
                ):
                    found[i] = NOTHING
        hits = len(found) - list(map(type, found)).count(FastPathMiss)
        size = sum(map(len, filter(None, values)))
        region.counters.remote_hits += hits
        region.counters.bytes_read += size
        return found

    def _judge_all(
        self, keys: Sequence[str], region: Region, answer: Answer, schema: bytes, timed: bool
    ) -> dict[int, Judged]:
        """What was found and is intact and fresh, by codec. Judging all before decoding any is faster than in turns."""
        base, _, names, (values, _) = answer
        judged: dict[int, Judged] = {}
        waiting = deque([i for i, data in enumerate(values) if data])
        alone = len(values) == 1
        while waiting:
            i = waiting.popleft()
            data: Any = values[i]
            frame = self._judge(keys[i], names[i], region, data, base, timed)
            if frame is None or frame.schema != schema:
                continue
            group = judged.setdefault(frame.codec, Judged([], [], []))
            group.add([i], frame, [frame.payload])
            if alone or frame.tags:
                continue
            alone, rest = True, [*waiting]  # most that follow have the same codec, schema and stamps
            whole = len(rest) == len(values) - i - 1
            others: Any = values[i + 1 :] if whole else [values[i] for i in rest]
            payloads = self._remote_tier.framer.alike(
                data, names[i + 1 :] if whole else [names[i] for i in rest], others, timed=timed
            )
            waiting = deque()
            if not all(payloads):
                waiting.extend([i for i, payload in zip(rest, payloads, strict=True) if not payload])
                rest = [i for i, payload in zip(rest, payloads, strict=True) if payload]
            group.add(rest, frame, list(filter(None, payloads)))
        return judged

    def _ask(self, keys: Sequence[str], region: Region, requested_at: float, timed: bool) -> Answer | FastPathMiss:
        """The stamps held for a region, since when they count, names, and what Redis answers; or why it does not."""
        started = requested_at
        try:
            base = self._base(region, requested_at)
            if base is None:
                return NOTHING
            read_started_at = min(requested_at, self._stamps.trusted_until - self._max_staleness)
            names = [key.encode() for key in keys]
            started = self._clock()
            if spans.active is None:
                answer = self._remote_tier.remote.fast_read(names, timed=timed)
            else:
                self._rest()
                with spans.active.exchange("many", len(names)):
                    answer = self._remote_tier.remote.fast_read(names, timed=timed)
        except (RemoteError, *BUGS) as error:  # the function can still answer
            return self._failed("many", region, started, error)
        if answer is None:
            return NOTHING
        if self._events.timed:
            self._events.add("many", region.name, self._clock() - started, None)
        return Answer(base, read_started_at, names, answer)

    def _rest(self) -> None:
        if (refusal := self._remote_tier.remote.connections.refusal()) is not None:
            raise refusal

    def _failed(self, command: str, region: Region, started: float, error: Exception) -> FastPathMiss:
        let_out(error)
        if self._events.timed and getattr(error, "sent", True):  # what an open breaker refuses is no round trip
            self._events.add(command, region.name, self._clock() - started, type(error).__name__)
        return FastPathMiss(error)

    def _base(self, region: Region, now: float) -> Base | None:
        """None: not all stamps of a region's groups are held here."""
        self._remote_tier.ready()
        stamps = self._stamps
        epoch = stamps.epoch  # read before the stamps: if one is dropped in between, the base is out of date at once
        if not stamps.trusted or now >= stamps.trusted_until:
            return None
        base = self._bases.get(region.name)
        if base is None or base[0] != epoch:
            known = stamps.cached(region.groups)
            if None in known:
                return None
            joined = b"".join(known)  # type: ignore[arg-type]
            reads = self._events.reads(region.name)
            base = self._bases[region.name] = Base(epoch, joined, digest(joined), reads)
        return base

    def _judge(self, key: str, name: bytes, region: Region, data: bytes, base: Base, timed: bool) -> Frame | None:
        """The frame if it is intact and its stamps are those held here; what is wrong with it is said elsewhere."""
        try:
            frame = self._remote_tier.framer.unpack(key, data, name)
            expected = base[2]
            if frame.tags:
                region.tagged = True  # before their stamps are read: their invalidation then reaches what is filed
                known = self._stamps.cached(list(map(tag_group, frame.tags)))
                if None in known:
                    return None
                expected = digest(base[1] + b"".join(known))  # type: ignore[arg-type]
        except (DecodeError, InvalidKeyError):
            return None
        if not timed and frame.redis_ttl_ms != frame.ttl_ms:  # kept longer than it is fresh: its age must be asked for
            return None
        return frame if frame.digest == expected else None

    def _file(
        self,
        where: Where,
        policy: Policy,
        frame: Frame,
        encoded: EncodedValue,
        value: Any,
        pttl: int,
        requested_at: float,
        read_started_at: float,
    ) -> bool:
        """File a value locally. False: it is not fresh any more. `encoded`: of a frame with the same life and tags."""
        left, kept = frame.seconds_left(pttl)
        fresh_until = requested_at + left
        if self._clock() >= fresh_until:
            return False
        shareable = policy.share or policy.codec.shareable(value)
        cached = hold(value, encoded, policy.codec, shareable=shareable)
        # `inf`: what is renewed early does not come this way (`Policy.ages`).
        self._filler.fill(where, policy, read_started_at, cached, fresh_until, inf, requested_at + kept, frame.tags)
        return True
