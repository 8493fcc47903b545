"""The short road to a remote hit: one GET, judged by the stamps believed, and nothing else made on the way.

Most calls that miss locally hit in Redis, and need none of what a load needs: no request, no flight, no lease. A glance
asks for the value alone, and compares the digest in its frame with that of the stamps believed of its groups. While the
channel vouches for those, and has ended nothing since before the question, the value is fresh: handed out, and filed.

It waits for nobody and nobody waits for it. Whatever it cannot decide (nothing there, a stamp that is not believed, a
frame that is damaged or of another key, trouble with Redis) is `Missed`, and takes the long road of `_tiers`. So does
what ages, for it takes part in its renewal. Many keys of one function are one MGET.

Threads: what is remembered of a region is replaced in one step, and is checked against the stamps' epoch at each use.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from math import inf
from typing import Any, NamedTuple

from ._flights import Flights, Held
from ._frame import Frame
from ._keeping import Keeper, Where
from ._local import Packed, Region
from ._patterns import tag_group
from ._policy import Policy
from ._remote import Read
from ._stamped import Stamped
from ._stamps import digest
from .errors import DecodeError, InvalidKeyError

ENDLESS = -1
"""The PTTL of what does not expire."""
Base = tuple[int, bytes, bytes]
"""The stamps' epoch, the stamps of a region's groups joined, and their digest."""


class Missed(NamedTuple):
    """What a glance gave instead of a value: that nothing was there, or what it ran into.

    A value that it could not accept is not handed on: an invalidation before the flight would end nothing of it. That
    nothing was there may be, for whoever then takes the lease is told of what has come since.
    """

    first: Read | Exception | None = None


NOTHING = Missed()
"""Nothing was asked, or nothing learnt."""


class ShortRoad:
    """The glances of one cache."""

    def __init__(self, shared: Stamped, keeper: Keeper, flights: Flights, clock: Callable[[], float]) -> None:
        self._shared = shared
        self._keeper = keeper
        self._flights = flights
        self._clock = clock
        self._bases: dict[str, Base] = {}  # by region

    def one(self, key: str, region: Region, local_key: Hashable, policy: Policy) -> Any:
        """The value under a key, or `Missed`."""
        if key in self._flights:
            return NOTHING  # somebody else is about to know
        (found,) = self.many((key,), region, (local_key,), policy)
        return found

    def many(self, keys: Sequence[str], region: Region, local_keys: Sequence[Hashable], policy: Policy) -> list[Any]:
        """For each key of one region its value, or `Missed`. `local_keys` are empty where nothing is held locally."""
        epoch, asked = region.epoch, self._clock()
        nothing: list[Any] = [NOTHING] * len(keys)
        if policy.ages:  # what has aged takes part in its renewal, which a glance cannot
            return nothing
        timed = self._keeper.bound(policy) > 0  # how long they will live matters where they are held
        try:
            base = self._base(region, asked)
            if base is None:
                return nothing
            began = min(asked, self._shared.stamps.horizon - self._keeper.config.max_staleness)
            names = [key.encode() for key in keys]
            answer = self._shared.remote.glance(names, timed)
        except Exception as error:  # whatever it is, the function can still answer
            return [Missed(error)] * len(keys)
        if answer is None:
            return nothing
        # In two rounds, which is faster than taking turns: what was there is judged, and then decoded.
        judge, decode, alike = self._judge, policy.codec.decode, None
        codec, schema, hits = 0, b"", 0
        found: list[Any] = [NOTHING] * len(keys)
        accepted: list[tuple[int, int, bytes, bytes]] = []
        framed: list[tuple[int, Frame]] = []
        for i, (key, name, data, pttl) in enumerate(zip(keys, names, *answer, strict=True)):
            if data is None:
                found[i] = Missed(Read(None, pttl, []))
            elif alike is not None and (payload := alike(name, data)) is not None:
                accepted.append((i, codec, payload, schema))
            elif (frame := judge(key, name, region, data, base, timed)) is not None:
                codec, schema = frame.codec, frame.schema
                accepted.append((i, codec, frame.payload, schema))
                if timed:
                    framed.append((i, frame))
                elif len(keys) > 1:  # those that follow have the same codec, schema and stamps
                    alike = None if frame.tags else self._shared.framer.alike(data)
        for i, codec, payload, schema in accepted:
            try:
                found[i] = decode(codec, payload, schema)
                hits += 1
            except DecodeError:  # said on the long road
                pass
        if self._shared.stamps.epoch != base[0]:
            return nothing  # something has ended meanwhile
        for i, frame in framed:
            where = keys[i], region, local_keys[i] if local_keys else None, epoch
            if found[i] is not NOTHING and not self._file(where, policy, frame, found[i], answer[1][i], asked, began):
                found[i] = NOTHING
                hits -= 1
        region.counters.remote_hits += hits
        return found

    def _base(self, region: Region, now: float) -> Base | None:
        """None: the stamps of a region's groups are not all believed."""
        self._shared.ready()
        stamps = self._shared.stamps
        epoch = stamps.epoch
        if not stamps.trusted or now >= stamps.horizon:
            return None
        base = self._bases.get(region.name)
        if base is None or base[0] != epoch:
            known = stamps.known(region.groups)
            if None in known:
                return None
            joined = b"".join(known)  # type: ignore[arg-type]
            base = self._bases[region.name] = epoch, joined, digest(joined)
        return base

    def _judge(self, key: str, name: bytes, region: Region, data: bytes, base: Base, timed: bool) -> Frame | None:
        """The frame if it is intact and its stamps are those believed; what is wrong with it is said elsewhere."""
        try:
            frame = self._shared.framer.unpack(key, data, name)
            expected = base[2]
            if frame.tags:
                region.tagged = True  # said before their stamps are looked up, so that their end is heeded here
                known = self._shared.stamps.known(list(map(tag_group, frame.tags)))
                if None in known:
                    return None
                expected = digest(base[1] + b"".join(known))  # type: ignore[arg-type]
        except (DecodeError, InvalidKeyError):
            return None
        if not timed and frame.keep_ms != frame.ttl_ms:  # kept longer than it is fresh: its age must be asked for
            return None
        return frame if frame.digest == expected else None

    def _file(
        self, where: Where, policy: Policy, frame: Frame, value: Any, pttl: int, asked: float, began: float
    ) -> bool:
        """File a value locally. False: it is not fresh any more."""
        left = pttl / 1000 if pttl >= 0 else frame.keep_ms / 1000 if pttl == ENDLESS else 0.0
        fresh = asked + left - (frame.keep_ms - frame.ttl_ms) / 1000
        if self._clock() >= fresh:
            return False
        shared = policy.share or policy.codec.shareable(value)
        packed = Packed(frame.codec, frame.payload, frame.schema)
        held = Held(value, size=len(frame.payload)) if shared else Held(None, packed)
        self._keeper.fill(where, policy, began, held, fresh, inf, asked + left, frame.tags)
        return True
