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
import weakref
from collections.abc import Callable, Sequence
from math import inf
from threading import get_ident
from typing import Any

from . import _patterns
from ._channel import Channel
from ._codec import Codec
from ._config import CacheConfig
from ._flights import ALONE, FAILED, LANDED, Flight, Flights, Held
from ._frame import Frame
from ._guard import Guard
from ._keys import Space
from ._leases import Leases
from ._local import Entry, LocalTier, Packed
from ._recovery import Recovery
from ._remote import Read, Remote
from ._request import MISSING, Ready, Request
from ._stamped import Stamped
from ._stamps import Stamps
from ._trouble import Trouble
from .errors import ConfigError, DecodeError, EncodeError, InvalidKeyError, RemoteError


class Tiers:
    """Both tiers of one cache."""

    def __init__(self, config: CacheConfig, space: Space, clock: Callable[[], float]) -> None:
        self.config = config
        self.space = space
        self.clock = clock
        self.guard = Guard()
        self.local = LocalTier(config, self.guard)
        self.stamps = Stamps(self.guard, clock)
        self.flights = Flights()
        self.trouble = Trouble()
        self.closed = False
        self.remote: Remote | None = None
        self.shared: Stamped | None = None
        self.recovery: Recovery | None = None
        self.channel: Channel | None = None
        self.leases = Leases(1.0, self._extend)
        _living.add(self)

    def back(self, remote: Remote, recovery: Recovery, channel: Channel) -> None:
        """Put Redis behind the local tier."""
        self.remote, self.recovery, self.channel = remote, recovery, channel
        self.shared = Stamped(self.config, remote, self.stamps, self.trouble, self.clock, self.ready)
        self.leases = Leases(self.shared.lease_seconds, self._extend)
        self.trust_until(-inf)

    def ready(self) -> None:
        """Before Redis is asked for anything: the channel runs, and it has been told all. May raise `RemoteError`."""
        if self.channel is not None and self.recovery is not None:
            self.channel.start()
            self.recovery.settle()

    @property
    def coherent(self) -> bool:
        """Whether others' invalidations arrive at once."""
        return self.remote is None or (self.stamps.trusted and self.clock() < self.stamps.horizon)

    def trust_until(self, horizon: float) -> None:
        """What is held locally, and the stamps believed, are vouched for until then."""
        self.stamps.horizon = horizon
        self.local.trust_until(horizon)

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
            flight, leading = self.flights.join(request.key, request.all_groups(), self.clock())
            if leading:
                return self._lead(request, flight, deadline)
            now = self.clock()
            if now >= request.region.horizon and now >= flight.began + self.config.max_staleness:
                flight.ended = True  # nobody vouches that it has not been overtaken: it is not joined any more
                self.flights.end_key(request.key)
                continue
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
        return (*_patterns.groups_of(request.key, self.space.lead), *map(_patterns.tag_group, request.tags))

    def _lead(self, request: Request, flight: Flight, deadline: float) -> Any:
        state, held = FAILED, None
        request.epoch = request.region.epoch
        request.began = self.clock()
        try:
            value, held = self._find_or_load(request, deadline)
            state = ALONE if held is None else LANDED
            return value
        finally:
            self.flights.done(flight, state, held)

    def _find_or_load(self, request: Request, deadline: float) -> tuple[Any, Held | None]:
        token: bytes | None = None
        if self.shared is not None:
            try:
                found, token = self._find_or_lease(self.shared, request, deadline)
                if found is not None:
                    request.region.counters.remote_hits += 1
                    return found
            except RemoteError as error:
                self.failed(request, error)
        if token is None:
            return self.load(request, None)
        with self.leases.holding([(request.key, token)]):
            return self.load(request, token)

    def _find_or_lease(
        self, shared: Stamped, request: Request, deadline: float
    ) -> tuple[tuple[Any, Held] | None, bytes | None]:
        """A fresh value from Redis, or a lease to load it under, or neither when others took too long."""
        found = self.look(request, shared.read(request))
        if found is None:
            shared.ensure(request)
        while found is None:
            answer = shared.lease(request, deadline)
            if not isinstance(answer, Read):
                return None, answer
            found = self.look(request, answer)
        return found, None

    # Beside a call

    def reload(self, request: Request) -> Any:
        """Run the function and keep its result, whatever is kept now; an invalidation meanwhile still undoes it."""
        request.epoch = request.region.epoch
        request.began = self.clock()
        request.groups = self.groups_of(request)
        token: bytes | None = None
        if self.shared is not None:
            try:
                self.shared.read(request)
                self.shared.ensure(request)
                token = self.shared.take_lease(request)
            except RemoteError as error:
                self.failed(request, error)
        with self.leases.holding([(request.key, token)] if token else []):
            return self.load(request, token)[0]

    def put(self, request: Request, value: object, end: Callable[[_patterns.Ending], None]) -> None:
        """Keep `value` as it is told. `end` ends what was kept before, which all processes must hear of."""
        request.groups = self.groups_of(request)
        encoded = request.policy.codec.encode(value)
        packed = Packed(encoded.codec, encoded.payload, request.policy.codec.schema)
        seconds = request.seconds(value)
        tags = request.tags_of(value)
        if self.shared is None or seconds <= 0:
            end(_patterns.Ending(keys=(request.key,)))
            if self.shared is None and seconds > 0:
                request.began, request.epoch = self.clock(), request.region.epoch
                held = Held(encoded.value) if encoded.shared else Held(None, packed)
                self.keep_here(request, held, Ready(b"", seconds, tags))
            return
        try:
            self.shared.read(request)
            self.shared.ensure(request)
            if request.late_tags is not None:
                self.shared.late(request, tags)
            ready = Ready(self.shared.pack(request, packed, seconds, 0.0, tags), seconds, tags)
            self.shared.remote.put(request.key, ready.frame, ready.keep_ms)
            self.wrote(request, len(ready.frame))
            self.drop_key(request.key)
        except RemoteError as error:
            self.failed(request, error)
            end(_patterns.Ending(keys=(request.key,)))  # what stands there now is not what was put

    def drop_key(self, key: str) -> None:
        """A key ended: here, nothing of it is held, and nobody joins its load."""
        self.flights.end_key(key)
        self.local.drop_key(key, _patterns.groups_of(key, self.space.lead)[-1])

    def look(self, request: Request, read: Read) -> tuple[Any, Held] | None:
        """The value that stands in Redis if it is fresh, filed locally; else None."""
        request.seen = read.data or b""
        if read.data is None or self.shared is None:
            return None
        seen = self.shared.unpack(request, read.data)
        if seen is None or not seen[1]:
            return None
        return self._accept(request, seen[0], read.pttl)

    def _accept(self, request: Request, frame: Frame, pttl: int) -> tuple[Any, Held] | None:
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
        self._fill(request, held, request.asked + left, frame.tags)
        return value, held

    # Loading

    def load(self, request: Request, token: bytes | None) -> tuple[Any, Held | None]:
        """Run the function, and keep what it gives where that is allowed. None for the second: nobody can share it."""
        request.region.counters.misses += 1
        started = self.clock()
        stored = False
        try:
            result = request.load()
            request.region.counters.loads += 1
            cost = self.clock() - started
            value, held, ready = self.prepare(request, result, cost, leased=token is not None)
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
            (stored,) = self.remote.store([(request.key, token, ready.frame, ready.keep_ms)])
        except RemoteError as error:
            self.failed(request, error)
            return False
        if stored:
            self.wrote(request, len(ready.frame))
        return stored

    def prepare(
        self, request: Request, result: object, cost: float, *, leased: bool
    ) -> tuple[Any, Held | None, Ready | None]:
        """A result as its caller gets it, as others can share it, and as it is kept; None where that cannot be."""
        try:
            policy = request.policy
            seconds = request.seconds(result)
            if self.shared is None and policy.share:
                return result, Held(result), Ready(b"", seconds, request.tags_of(result))
            encoded = policy.codec.encode(result)
            packed = Packed(encoded.codec, encoded.payload, policy.codec.schema)
            held = Held(encoded.value) if encoded.shared or policy.share else Held(None, packed)
            if seconds <= 0:
                return encoded.value, held, None
            tags = request.tags_of(result)
            frame = b""
            if leased and self.shared is not None:
                if request.late_tags is not None and not self.shared.late(request, tags):
                    return encoded.value, held, None
                frame = self.shared.pack(request, packed, seconds, cost, tags)
            return encoded.value, held, Ready(frame, seconds, tags)
        except RemoteError as error:
            self.failed(request, error)
            return result, None, None
        except (EncodeError, InvalidKeyError, ConfigError) as error:
            request.region.counters.errors += 1
            if self.config.strict:
                raise
            self.trouble.report(f"keep:{request.region.name}", f"a result of {request.key} was not cached: {error}")
            return result, None, None

    def keep_here(self, request: Request, held: Held, ready: Ready) -> None:
        """File a result locally."""
        self._fill(request, held, self.clock() + ready.seconds, ready.tags)

    def _fill(self, request: Request, held: Held, deadline: float, tags: tuple[str, ...]) -> None:
        bound = request.policy.local_ttl
        if self.shared is not None:
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
        self.trouble.report(
            f"redis:{type(error).__name__}", f"Redis failed on {request.key}, answered without: {error}"
        )

    def wrote(self, request: Request, size: int) -> None:
        request.region.counters.writes += 1
        request.region.counters.bytes_written += size

    def _extend(self, leases: Sequence[tuple[str, bytes]]) -> None:
        self.hold(leases, int(self.leases.seconds * 1000))

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
        if self.channel is not None:
            self.channel.close()
        if self.recovery is not None:
            self.recovery.close()
        if self.remote is not None:
            self.remote.connections.close()

    def after_fork(self) -> None:
        """In the child: no thread, no connection, no lock of the parent's; what it held locally is still good."""
        self.flights.forget()
        self.local.after_fork()
        self.stamps.forget_all(trusted=False)
        self.leases = Leases(self.leases.seconds, self._extend)
        if self.remote is not None and self.recovery is not None and self.channel is not None:
            self.trust_until(-inf)
            self.remote.after_fork()
            self.recovery.after_fork()
            self.channel.forget()


_living: weakref.WeakSet[Tiers] = weakref.WeakSet()


def _after_fork() -> None:
    for tiers in list(_living):
        tiers.after_fork()


os.register_at_fork(after_in_child=_after_fork)
