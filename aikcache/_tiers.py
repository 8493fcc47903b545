"""The road of a call: the one module that knows both tiers.

    local ── hit ──────────────────────────────▶ value
      └─ miss ▶ flight ▶ remote GET ── fresh ──▶ local ▶ value
                           └─ miss ▶ lease, under the stamps just known ▶ function ▶ codec ▶ store ▶ local ▶ value

What must not happen is that a value from before an invalidation is stored or served after it. Remotely: a value carries
the digest of its groups' stamps taken before it was computed, so a later stamp makes it stale by itself; and it is
stored only under a lease, which the invalidation of its key unlinks. Locally: a fill is refused when anything of its
region was invalidated since the call asked, and a flight that an invalidation hit is joined by nobody.

Failure: whatever Redis does, the function's own result is returned; trouble is counted, logged once per cause, and the
value is kept locally alone. Threads: flights make one load of a key at a time; the waits are bounded by `lease_wait`.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any, NamedTuple

from . import _patterns
from ._codec import Codec
from ._config import CacheConfig
from ._flights import ALONE, FAILED, LANDED, Flight, Flights, Held
from ._frame import Frame, Framer
from ._guard import Guard
from ._keys import Space
from ._leases import Leases
from ._local import Entry, LocalTier, Packed, Region
from ._policy import Policy
from ._remote import Busy, Read, Remote
from ._stamps import Stamps, digest
from ._trouble import Trouble
from .errors import ConfigError, DecodeError, EncodeError, InvalidKeyError, RemoteError

tag = _patterns.tag_group
MISSING: Any = object()
FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.05
ANY_TAG = "#"
"""The group whose stamp every tag's invalidation renews: it tells whether tags known only after the load still hold."""


@dataclass(slots=True)
class Request:
    """One call, as the tiers need it. `tags` are known before the load; `late_tags` gives those of its result."""

    key: str
    region: Region
    local_key: Hashable
    policy: Policy
    ttl: float
    load: Callable[[], object]
    tags: tuple[str, ...] = ()
    late_tags: Callable[[object], Iterable[str]] | None = None
    relink: bool = True  # whether the wrapper looks entries up by `local_key`
    began: float = 0.0  # when the first question was asked, and where the region stood then
    epoch: int = 0
    groups: tuple[str, ...] = ()
    known: dict[str, bytes | None] = field(default_factory=dict)  # the stamps as of the first question
    seen: bytes = b""  # what stood remotely and was of no use

    def all_groups(self) -> tuple[str, ...]:
        return self.groups if self.late_tags is None else (*self.groups, ANY_TAG)

    def digest(self, tags: Iterable[str] | None = None) -> bytes:
        """Of the stamps known, for a frame with `tags` (by default those known before the load)."""
        names = self.groups if tags is None else (*self.groups[: len(self.groups) - len(self.tags)], *map(tag, tags))
        return digest(b"".join(self.known[name] or b"" for name in names))


class Ready(NamedTuple):
    """A result ready to be kept: its frame (empty where it is for this process alone), its seconds, its tags."""

    frame: bytes
    seconds: float
    tags: tuple[str, ...]

    @property
    def keep_ms(self) -> int:
        return max(int(self.seconds * 1000), 1)


class Tiers:
    """Both tiers of one cache."""

    def __init__(self, config: CacheConfig, space: Space, remote: Remote | None, clock: Callable[[], float]) -> None:
        self.config = config
        self.space = space
        self.remote = remote
        self.clock = clock
        self.guard = Guard()
        self.local = LocalTier(config, clock, self.guard)
        self.stamps = Stamps(self.guard)
        self.flights = Flights()
        self.trouble = Trouble()
        self.framer = Framer(
            compress_min_bytes=config.compress_min_bytes,
            compress_level=config.compress_level,
            max_value_bytes=config.max_value_bytes,
            secret=config.secret,
        )
        # Granted for less than others wait, so that a loader's death is noticed while they still do.
        self.lease_seconds = min(config.lease_ttl, max(config.lease_wait / 2, 0.05))
        self.lease_ms = int(self.lease_seconds * 1000)
        self.leases = Leases(self.lease_seconds, self._extend)
        self.closed = False

    # A call

    def call(self, request: Request) -> Any:
        """The value of a request: from a tier, from another's load, or from its own."""
        entry = self.local.find(request.key, request.region, request.local_key if request.relink else None)
        if entry is not None:
            value = self.serve(entry, request.policy.codec)
            if value is not MISSING:
                return value
            request.region.retired -= 1  # `find` counted a hit
        return self._fly(request)

    def serve(self, entry: Entry, codec: Codec) -> Any:
        """An entry's value, or `MISSING` when it may not be handed out. The hit is counted by the caller."""
        now = self.clock()
        if now >= entry.deadline or (now >= entry.region.horizon and now >= entry.born + self.config.max_staleness):
            return MISSING
        if not self.local.touch(entry):
            return MISSING
        value = entry.value
        if type(value) is Packed:
            try:
                return codec.decode(value.codec, value.payload, value.schema)
            except DecodeError:  # asked for as another type than it was stored as
                return MISSING
        return value

    def _fly(self, request: Request) -> Any:
        counters = request.region.counters
        deadline = self.clock() + self.config.lease_wait
        request.groups = self.groups_of(request)
        while True:
            flight, leading = self.flights.join(request.key, request.all_groups())
            if leading:
                return self._lead(request, flight, deadline)
            if flight.thread == get_ident() or not flight.wait(deadline - self.clock()) or flight.state == ALONE:
                counters.misses += 1
                result = request.load()
                counters.loads += 1
                return result
            if flight.state == LANDED:
                try:
                    value = self.hand_out(flight.held, request.policy.codec)
                except DecodeError:
                    continue
                counters.joined += 1
                return value

    def hand_out(self, held: Held, codec: Codec) -> Any:
        packed = held.packed
        return held.value if packed is None else codec.decode(packed.codec, packed.payload, packed.schema)

    def groups_of(self, request: Request) -> tuple[str, ...]:
        """The groups a request is in that are known before its load."""
        return (*_patterns.groups_of(request.key, self.space.lead), *map(tag, request.tags))

    def _lead(self, request: Request, flight: Flight, deadline: float) -> Any:
        state, held = FAILED, None
        request.epoch = request.region.epoch
        request.began = self.clock()
        try:
            value, held = self._find_or_load(request, flight, deadline)
            state = ALONE if held is None else LANDED
            return value
        finally:
            self.flights.done(flight, state, held)

    def _find_or_load(self, request: Request, flight: Flight, deadline: float) -> tuple[Any, Held | None]:
        if self.remote is None:
            return self.load(request, flight, None)
        token: bytes | None = None
        try:
            found = self.look(request)
            if found is None:
                self.ensure_stamps(request)
                token, found = self._lease(request, deadline)
            if found is not None:
                value, held = found
                request.region.counters.remote_hits += 1
                return value, held
        except RemoteError as error:
            self.failed(request, error)
        if token is None:
            return self.load(request, flight, None)
        with self.leases.holding([(request.key, token)]):
            return self.load(request, flight, token)

    # Beside a call

    def reload(self, request: Request) -> Any:
        """Run the function and keep its result, whatever is kept now; an invalidation meanwhile still undoes it."""
        request.epoch = request.region.epoch
        request.began = self.clock()
        request.groups = self.groups_of(request)
        token: bytes | None = None
        if self.remote is not None:
            try:
                self._read(request)
                self.ensure_stamps(request)
                token = os.urandom(16)
                self.remote.acquire(request.key, token, request.digest(), self.lease_ms, b"", insist=True)
            except RemoteError as error:
                self.failed(request, error)
                token = None
        with self.leases.holding([(request.key, token)] if token else []):
            return self.load(request, None, token)[0]

    def put(self, request: Request, value: object, end: Callable[[], None]) -> None:
        """Keep `value` as it is told. `end` ends what was kept before, which all processes must hear of."""
        request.groups = self.groups_of(request)
        encoded = request.policy.codec.encode(value)
        packed = Packed(encoded.codec, encoded.payload, request.policy.codec.schema)
        seconds = self.seconds(request, value)
        tags = self.tags_of(request, value)
        if self.remote is None or seconds <= 0:
            end()
            if self.remote is None and seconds > 0:
                request.began, request.epoch = self.clock(), request.region.epoch
                held = Held(encoded.value) if encoded.shared else Held(None, packed)
                self.keep_here(request, held, Ready(b"", seconds, tags))
            return
        try:
            self._read(request)
            self.ensure_stamps(request)
            if request.late_tags is not None:
                self._late_stamps(request, tags)
            ready = Ready(self.pack(request, packed, seconds, 0.0, tags), seconds, tags)
            self.remote.put(request.key, ready.frame, ready.keep_ms)
            self.wrote(request, len(ready.frame))
            self.drop_key(request.key)
        except RemoteError as error:
            self.failed(request, error)
            end()  # what stands there now is not what was put

    def drop_key(self, key: str) -> None:
        """A key ended: here, nothing of it is held, and nobody joins its load."""
        self.flights.end_key(key)
        self.local.drop_key(key, _patterns.groups_of(key, self.space.lead)[-1])

    def explain(self, request: Request) -> dict[str, Any]:
        """Where a request would be answered from."""
        request.groups = self.groups_of(request)
        entry = self.local.peek(request.key)
        now = self.clock()
        told: dict[str, Any] = {"key": request.key, "groups": list(request.groups)}
        fresh_here = entry is not None and now < entry.deadline
        told["local"] = (
            {"fresh": fresh_here, "seconds_left": round(entry.deadline - now, 3), "tags": list(entry.tags)}
            if entry is not None
            else None
        )
        fresh_there = False
        told["remote"] = None
        if self.remote is not None:
            try:
                read = self._read(request)
                seen = None if read.data is None else self.unpack(request, read.data)
                if read.data is not None and seen is not None:
                    frame, fresh_there = seen
                    told["remote"] = {
                        "fresh": fresh_there,
                        "seconds_left": read.pttl / 1000,
                        "bytes": len(read.data),
                        "load_seconds": round(frame.cost, 6),
                        "tags": list(frame.tags),
                    }
            except RemoteError as error:
                told["remote"] = {"error": str(error)}
        told["answer"] = "local" if fresh_here else "remote" if fresh_there else "load"
        return told

    # Remote questions

    def look(self, request: Request, data: Read | None = None) -> tuple[Any, Held] | None:
        """The remote value if it is fresh, filed locally; else None. `data`: an answer that is already here."""
        asked = self.clock()
        if data is None:
            data = self._read(request)
        request.seen = data.data or b""
        if data.data is None:
            return None
        seen = self.unpack(request, data.data)
        if seen is None:
            return None
        frame, fresh = seen
        if not fresh:
            return None
        return self.accept(request, frame, data.pttl, asked)

    def _read(self, request: Request) -> Read:
        assert self.remote is not None
        epoch = self.stamps.epoch
        groups = request.all_groups()
        stamps = self.stamps.known(groups)
        unknown = [group for group, stamp in zip(groups, stamps, strict=True) if stamp is None]
        read = self.remote.read(request.key, unknown)
        self.stamps.remember(unknown, read.stamps, epoch)
        request.known = dict(zip(groups, stamps, strict=True))
        request.known.update(zip(unknown, read.stamps, strict=True))
        return read

    def unpack(self, request: Request, data: bytes) -> tuple[Frame, bool] | None:
        """The frame, and whether its stamps are the current ones. None: it is no frame of this key."""
        try:
            frame = self.framer.unpack(request.key, data)
        except DecodeError as error:
            request.region.counters.errors += 1
            self.trouble.report("decode", f"what Redis holds for {request.key} is not a frame of it: {error}")
            return None
        groups = [tag(name) for name in frame.tags]
        unknown = [group for group in groups if group not in request.known]
        if unknown:
            assert self.remote is not None
            epoch = self.stamps.epoch
            stamps = self.stamps.known(unknown)
            if None in stamps:
                stamps = self.remote.stamps(unknown)
                self.stamps.remember(unknown, stamps, epoch)
            request.known.update(zip(unknown, stamps, strict=True))
        base = request.groups[: len(request.groups) - len(request.tags)]
        if any(request.known[group] is None for group in (*base, *groups)):
            return frame, False
        return frame, request.digest(frame.tags) == frame.digest

    def accept(self, request: Request, frame: Frame, pttl: int, asked: float) -> tuple[Any, Held] | None:
        """A fresh frame's value, filed locally."""
        codec = request.policy.codec
        try:
            value = codec.decode(frame.codec, frame.payload, frame.schema)
        except DecodeError as error:
            request.region.counters.errors += 1
            self.trouble.report("decode", f"the value of {request.key} cannot be decoded: {error}")
            return None
        shared = request.policy.share or codec.shareable(value)
        held = Held(value) if shared else Held(None, Packed(frame.codec, frame.payload, frame.schema))
        left = pttl / 1000 if pttl >= 0 else frame.ttl_ms / 1000 if pttl == -1 else 0.0
        self._fill(request, held, asked + left, frame.tags)
        return value, held

    def ensure_stamps(self, *requests: Request) -> None:
        """Before a load every group has a stamp, and those of tags will outlive what is stored under them."""
        assert self.remote is not None
        wanted: dict[str, bytes | None] = {}
        for request in requests:
            for group, stamp in request.known.items():
                if stamp is None or (group.startswith("#") and group != ANY_TAG):
                    wanted[group] = stamp
        if wanted:
            epoch = self.stamps.epoch
            made = self.remote.ensure(list(wanted), max(map(self._keep_ms, requests)))
            self.stamps.remember(list(wanted), made, epoch)
            stamps = dict(zip(wanted, made, strict=True))
            for request in requests:
                request.known.update((group, stamps[group]) for group in request.known if group in stamps)

    def _keep_ms(self, request: Request) -> int:
        ttl = request.policy.ttl
        longest = max(self.config.ttls.values(), default=0.0)
        return int(1000 * (ttl if isinstance(ttl, float) else max(request.ttl, longest)))

    def _lease(self, request: Request, deadline: float) -> tuple[bytes | None, tuple[Any, Held] | None]:
        """The right to load (a token), or the value that arrived meanwhile, or neither when waiting took too long."""
        assert self.remote is not None
        token = os.urandom(16)
        pause = FIRST_PAUSE
        while True:
            answer = self.remote.acquire(request.key, token, request.digest(), self.lease_ms, request.seen)
            if answer is None:
                return token, None
            if isinstance(answer, Busy):
                left = deadline - self.clock()
                if left <= 0:
                    return None, None
                time.sleep(min(pause * random.uniform(0.5, 1.5), left))
                pause = min(pause * 1.6, LONGEST_PAUSE)
                continue
            found = self.look(request, answer)
            if found is not None:
                return None, found
            if self.clock() >= deadline:
                return None, None

    # Loading

    def load(self, request: Request, flight: Flight | None, token: bytes | None) -> tuple[Any, Held | None]:
        """Run the function, and keep what it gives where that is allowed. None for the second: nobody can share it."""
        request.region.counters.misses += 1
        started = self.clock()
        stored = False
        try:
            result = request.load()
            request.region.counters.loads += 1
            cost = self.clock() - started
            value, held, ready = self.prepare(request, flight, result, cost, leased=token is not None)
            if held is not None and ready is not None:
                if token is not None:
                    stored = self._store(request, token, ready)
                if stored or token is None:
                    self.keep_here(request, held, ready)
            return value, held
        finally:
            if token is not None and not stored:
                self.hold([(request.key, token)], 0)

    def _store(self, request: Request, token: bytes, ready: Ready) -> bool:
        assert self.remote is not None
        try:
            stored = self.remote.store([(request.key, token, ready.frame, ready.keep_ms)])[0]
        except RemoteError as error:
            self.failed(request, error)
            return False
        if stored:
            self.wrote(request, len(ready.frame))
        return stored

    def prepare(
        self, request: Request, flight: Flight | None, result: object, cost: float, *, leased: bool
    ) -> tuple[Any, Held | None, Ready | None]:
        """A result as its caller gets it, as others can share it, and as it is kept; None where that cannot be."""
        try:
            policy = request.policy
            seconds = self.seconds(request, result)
            if self.remote is None and policy.share:
                return result, Held(result), Ready(b"", seconds, self.tags_of(request, result))
            encoded = policy.codec.encode(result)
            packed = Packed(encoded.codec, encoded.payload, policy.codec.schema)
            held = Held(encoded.value) if encoded.shared or policy.share else Held(None, packed)
            if seconds <= 0 or (flight is not None and flight.ended):
                return encoded.value, held, None
            tags = self.tags_of(request, result)
            if not leased:
                return encoded.value, held, Ready(b"", seconds, tags)
            if request.late_tags is not None and not self._late_stamps(request, tags):
                return encoded.value, held, None
            return encoded.value, held, Ready(self.pack(request, packed, seconds, cost, tags), seconds, tags)
        except RemoteError as error:
            self.failed(request, error)
            return encoded.value, held, None
        except (EncodeError, InvalidKeyError, ConfigError) as error:
            request.region.counters.errors += 1
            if self.config.strict:
                raise
            self.trouble.report(f"keep:{request.region.name}", f"a result of {request.key} was not cached: {error}")
            return result, None, None

    def seconds(self, request: Request, result: object) -> float:
        """How long to keep a result, 0 where it is not to be kept. The user's own functions cannot make a call fail."""
        policy = request.policy
        try:
            if policy.cache_if is not None and not policy.cache_if(result):
                return 0.0
            return policy.seconds(result, request.ttl)
        except Exception as error:
            raise ConfigError(f"cache_if or ttl failed on the result: {type(error).__name__}: {error}") from error

    def tags_of(self, request: Request, result: object) -> tuple[str, ...]:
        if request.late_tags is None:
            return request.tags
        try:
            tags = tuple(dict.fromkeys((*request.tags, *request.late_tags(result))))
        except Exception as error:
            raise ConfigError(f"tags failed on the result: {type(error).__name__}: {error}") from error
        for name in tags:
            tag(name)
        return tags

    def _late_stamps(self, request: Request, tags: tuple[str, ...]) -> bool:
        """Stamps of tags that only the result named. False: some tag ended since before the load, maybe one of them."""
        assert self.remote is not None
        groups = [group for group in map(tag, tags) if group not in request.known]
        before = request.known.get(ANY_TAG)
        *stamps, after = self.remote.ensure([*groups, ANY_TAG], self._keep_ms(request))  # its stamp after theirs
        request.known.update(zip(groups, stamps, strict=True))
        return before == after

    def pack(self, request: Request, packed: Packed, seconds: float, cost: float, tags: tuple[str, ...]) -> bytes:
        """The frame of a value, under the stamps known before its load."""
        keep_ms = max(int(seconds * 1000), 1)
        return self.framer.pack(
            request.key,
            codec=packed.codec,
            schema=packed.schema,
            digest=request.digest(tags),
            cost=cost,
            ttl_ms=keep_ms,
            keep_ms=keep_ms,
            tags=tags,
            payload=packed.payload,
        )

    def keep_here(self, request: Request, held: Held, ready: Ready) -> None:
        """File a result locally."""
        self._fill(request, held, self.clock() + ready.seconds, ready.tags)

    def _fill(self, request: Request, held: Held, deadline: float, tags: tuple[str, ...]) -> None:
        bound = request.policy.local_ttl
        if self.remote is not None:
            bound = self.config.local_ttl if bound is None else min(bound, self.config.local_ttl)
        now = self.clock()
        if bound is not None:
            deadline = min(deadline, now + bound)
        if deadline <= now:
            return
        packed = held.packed
        self.local.fill(
            request.key,
            request.region,
            request.local_key,
            request.epoch,
            held.value if packed is None else packed,
            born=request.began,
            deadline=deadline,
            shared=packed is None,
            size=0 if packed is None else len(packed.payload),
            tags=tags,
        )

    # Trouble and the end

    def failed(self, request: Request, error: RemoteError) -> None:
        request.region.counters.errors += 1
        self.trouble.report(f"redis:{type(error).__name__}", f"Redis failed on {request.key}, answered without: {error}")

    def wrote(self, request: Request, size: int) -> None:
        request.region.counters.writes += 1
        request.region.counters.bytes_written += size

    def _extend(self, leases: Sequence[tuple[str, bytes]]) -> None:
        self.hold(leases, self.lease_ms)

    def hold(self, leases: Sequence[tuple[str, bytes]], lease_ms: int) -> None:
        """Extend leases, or give them up (0)."""
        try:
            if self.remote is not None:
                self.remote.hold(leases, lease_ms)
        except RemoteError as error:
            self.trouble.report(f"redis:{type(error).__name__}", f"a lease could not be held or given up: {error}")

    def close(self) -> None:
        self.closed = True
        self.leases.close()
        self.local.close()
        if self.remote is not None:
            self.remote.connections.close()
