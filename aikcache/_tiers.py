"""The road of a call: the one module that knows both tiers.

    local ── hit ──────────────────────────────▶ value
      └─ miss ▶ glance: GET ── fresh by the stamps believed ──▶ local ▶ value
                  └─ not ▶ flight ▶ GET and stamps ── fresh ──▶ local ▶ value
                                       └─ miss ▶ lease, under the stamps just known ▶ function ▶ store ▶ local ▶ value

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
from collections.abc import Callable
from math import inf
from typing import Any

from . import _patterns, _refresh
from ._background import Background
from ._channel import Channel
from ._channels import Channels
from ._codec import Codec
from ._config import CacheConfig
from ._flights import ALONE, FAILED, LANDED, UNDER_WAY, Flight, Flights, Held
from ._frame import Frame
from ._glance import ShortRoad
from ._guard import Guard
from ._keeping import Keeper
from ._keys import Space
from ._local import Entry, LocalTier, Packed
from ._policy import Policy
from ._recovery import Recovery
from ._refresh import Refresher
from ._remote import Read, Remote
from ._request import MISSING, Request
from ._stamped import Stamped
from ._stamps import Stamps
from ._trouble import Trouble
from .errors import DecodeError, RemoteError


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
        self.background = Background()
        self.refresher = Refresher(self.background, self.renew, clock)
        self.closed = False
        self.remote: Remote | None = None
        self.shared: Stamped | None = None
        self.road: ShortRoad | None = None
        self.recovery: Recovery | None = None
        self.channel: Channel | Channels | None = None
        self.keeper = Keeper(config, self.local, None, self.flights, self.trouble, clock)
        _living.add(self)

    def back(self, remote: Remote, recovery: Recovery, channel: Channel | Channels) -> None:
        """Put Redis behind the local tier."""
        self.remote, self.recovery, self.channel = remote, recovery, channel
        self.shared = Stamped(self.config, remote, self.stamps, self.trouble, self.clock, self.ready)
        self.keeper = Keeper(self.config, self.local, self.shared, self.flights, self.trouble, self.clock)
        self.road = ShortRoad(self.shared, self.keeper, self.flights, self.clock)
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
            value = self.take(entry, request)
            if value is not MISSING:
                return value
            request.region.retired -= 1  # `find` counted a hit
        return self._fly(request)

    def serve(self, entry: Entry, codec: Codec) -> Any:
        """An entry's value while it is fresh, else `MISSING`. The hit is counted by the caller."""
        now = self.clock()
        return MISSING if now >= entry.fresh or self._gone(entry, now) else self._value(entry, codec)

    def serve_late(self, entry: Entry, policy: Policy) -> Any:
        """The same before it is due, and, stale or due, while it is being renewed or that has just failed."""
        now = self.clock()
        late = now - entry.fresh
        if now >= min(entry.due, entry.fresh) and (late >= policy.extra or not self.refresher.resting(entry.key)):
            return MISSING
        value = MISSING if self._gone(entry, now) else self._value(entry, policy.codec)
        if late >= 0 and value is not MISSING:
            entry.region.counters.stale += 1
        return value

    def take(self, entry: Entry, request: Request) -> Any:
        """The same for a call, which may also be answered with what is due, or stale, and then has it renewed."""
        now = self.clock()
        if self._gone(entry, now):
            return MISSING
        value = self._value(entry, request.policy.codec)
        if value is MISSING or now < min(entry.due, entry.fresh):
            return value
        if now < entry.fresh:
            entry.due, entry.until = inf, (min(entry.fresh, entry.deadline) if entry.until > -inf else -inf)
        held = Held(None, entry.value) if type(entry.value) is Packed else Held(value)
        return value if self._serves(request, entry.fresh, held) else MISSING

    def _gone(self, entry: Entry, now: float) -> bool:
        if now >= entry.deadline or (now >= entry.region.horizon and now >= entry.born + self.config.max_staleness):
            return True
        return not self.local.touch(entry)

    def _value(self, entry: Entry, codec: Codec) -> Any:
        value = entry.value
        if type(value) is Packed:
            try:
                return codec.decode(value.codec, value.payload, value.schema)
            except DecodeError:  # asked for as another type than it was stored as
                return MISSING
        return value

    def _serves(self, request: Request, fresh: float, held: Held) -> bool:
        """Whether a value that is due, or has been stale since `fresh`, still answers a call; it is renewed then."""
        late = self.clock() - fresh
        policy, request.fresh = request.policy, fresh
        if request.only_fresh:
            return late < 0
        if late < policy.stale_ttl or late < 0:
            request.region.counters.stale += late >= 0
            self.refresher.soon(request)
            return True
        if late < policy.error_ttl:
            if self.refresher.resting(request.key):  # it has just failed: not every call need find out again
                request.region.counters.stale += 1
                return True
            request.fallback = held._replace(stale=True)
        return False

    def _fly(self, request: Request) -> Any:
        counters = request.region.counters
        deadline = self.clock() + self.config.lease_wait
        if self.flights.loading_here(request.key):  # a function that calls itself
            return self._run(request)
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
            landed = flight.wait(self._patience(request, deadline))
            request.first = None  # that was long ago
            if flight.ended:  # what was invalidated meanwhile is gone
                request.fallback = None
            if not landed and request.fallback:
                return self._fall_back(request, None)
            if flight.state in (UNDER_WAY, ALONE):
                return self._run(request)
            if flight.state == LANDED and (request.policy.extra or not flight.held.stale):
                try:
                    value = self.hand_out(flight.held, request.policy.codec)
                except DecodeError:
                    continue
                counters.joined += 1
                counters.stale += flight.held.stale
                return value

    def _run(self, request: Request) -> Any:
        """The function's own result, kept nowhere."""
        request.region.counters.misses += 1
        result = request.load()
        request.region.counters.loads += 1
        return result

    def hand_out(self, held: Held, codec: Codec) -> Any:
        packed = held.packed
        return held.value if packed is None else codec.decode(packed.codec, packed.payload, packed.schema)

    def groups_of(self, request: Request) -> tuple[str, ...]:
        """The groups a request is in that are known before its load."""
        return (*request.region.groups, *map(_patterns.tag_group, request.tags))

    def _lead(self, request: Request, flight: Flight, deadline: float) -> Any:
        state, held = FAILED, None
        request.epoch = request.region.epoch
        request.began = self.clock()
        try:
            landed = self.landed(request)
            if landed is not None:
                state, (value, held) = LANDED, landed
                return value
            entry = self.local.find(request.key, request.region, request.local_key if request.relink else None)
            if entry is None:
                request.fallback = None  # it was invalidated before this flight began
            if entry is not None:  # another's load may have landed between our look and our flight
                value = self.serve(entry, request.policy.codec)
                if value is not MISSING:
                    return value  # those who wait for us look again
                request.region.retired -= 1
            value, held = self._find_or_load(request, flight, deadline)
            state = ALONE if held is None else LANDED
            return value
        except Exception as error:
            if request.fallback is not None and flight.ended:
                found = self._look_again(request)
                if found is not None:
                    value, held = found
                    state = LANDED
                    return value
            if request.fallback is None:
                raise
            state, held = LANDED, request.fallback
            return self._fall_back(request, error)
        finally:
            if not flight.aside:
                self.flights.done(flight, state, held)

    def landed(self, request: Request) -> tuple[Any, Held] | None:
        """What a flight has brought that landed between this call's look at the local tier and its joining."""
        entry = self.local.find(request.key, request.region, None)
        if entry is None:
            return None
        value = self.serve(entry, request.policy.codec)
        if value is MISSING:
            entry.region.retired -= 1
            return None
        return value, Held(None, entry.value) if type(entry.value) is Packed else Held(value)

    def _patience(self, request: Request, deadline: float) -> float:
        """Seconds to wait for another's load: less when there is a stale value to answer with."""
        left = deadline - self.clock()
        timeout = request.policy.load_timeout
        return left if request.fallback is None or timeout is None else min(left, timeout)

    def _look_again(self, request: Request) -> tuple[Any, Held] | None:
        """What stands now that something has ended, maybe the stale value; if it still stands, it is the fallback."""
        request.fallback = None
        try:
            return None if self.shared is None else self.look(request, self.shared.read(request))
        except RemoteError:
            return None

    def _fall_back(self, request: Request, error: Exception | None) -> Any:
        """The stale value, because the function failed or takes too long."""
        if error is not None:
            self.refresher.failed(request.key)
        why = "takes too long" if error is None else f"failed: {type(error).__name__}"
        self.trouble.report(f"stale:{request.region.name}", f"the load of {request.key} {why}; a stale value answers.")
        request.region.counters.stale += 1
        assert request.fallback is not None
        return self.hand_out(request.fallback, request.policy.codec)

    def _find_or_load(self, request: Request, flight: Flight, deadline: float) -> tuple[Any, Held | None]:
        token: bytes | None = None
        if self.shared is not None:
            try:
                found, token = self._find_or_lease(self.shared, request, flight, deadline)
                if found is not None:
                    request.region.counters.remote_hits += 1
                    return found
                if token is None and request.fallback is not None and not flight.ended:
                    return self._fall_back(request, None), request.fallback
            except Exception as error:  # whatever it is, the function can still answer
                self.keeper.failed(request, error)
        if request.fallback is not None and request.policy.load_timeout is not None:
            return self._load_aside(request, flight, token, request.policy.load_timeout)
        return self.keeper.load(request, token)

    def _load_aside(
        self, request: Request, flight: Flight, token: bytes | None, timeout: float
    ) -> tuple[Any, Held | None]:
        """Load in the background and wait `timeout` seconds; then the stale value answers, and the load goes on."""

        def work() -> tuple[Any, Held | None]:
            state, held = FAILED, None
            try:
                value, held = self.keeper.load(request, token)
                state = ALONE if held is None else LANDED
                return value, held
            except Exception:
                self.refresher.failed(request.key)
                if request.fallback is not None and not flight.ended:
                    state, held = LANDED, request.fallback  # those who wait need not try for themselves
                raise
            finally:
                self.flights.done(flight, state, held)

        flight.aside = True
        task = self.background.submit(work)
        if task is None:
            flight.aside = False
            return self.keeper.load(request, token)
        if not task.wait(timeout):
            return (self._run(request) if flight.ended else self._fall_back(request, None)), None
        if task.error is not None:
            raise task.error
        return task.result  # type: ignore[return-value]

    def renew(self, request: Request) -> bool:
        """Load a value anew in the background, unless somebody else does. True: it has been.

        With Redis a lease alone says who does, not a flight: callers that ask Redis meanwhile must not wait for it.
        """
        request.groups = self.groups_of(request)
        request.fallback = request.first = None
        flight: Flight | None = None
        if self.shared is None:
            flight, leading = self.flights.join(request.key, request.all_groups(), self.clock())
            if not leading:
                return False
        held: Held | None = None
        request.epoch, request.began = request.region.epoch, self.clock()
        try:
            token: bytes | None = None
            if self.shared is not None:
                mine, request.only_fresh = request.fresh, True
                found = self.look(request, self.shared.read(request))
                # Two readings of one value's end differ by less than an operation takes.
                if found is not None and (self.clock() >= mine or request.fresh > mine + self.config.timeout):
                    return True  # somebody else has renewed it
                self.shared.ensure(request)
                answer = self.shared.lease(request, self.clock())
                if not isinstance(answer, bytes):
                    return answer is not None and self.look(request, answer) is not None
                token = answer
            _, held = self.keeper.load(request, token, asked=False)
        except Exception as error:
            request.region.counters.errors += 1
            self.trouble.report(f"renew:{request.region.name}", f"{request.key} not renewed: {type(error).__name__}")
        finally:
            if flight is not None:
                self.flights.done(flight, FAILED if held is None else LANDED, held)
        return held is not None

    def _find_or_lease(
        self, shared: Stamped, request: Request, flight: Flight, deadline: float
    ) -> tuple[tuple[Any, Held] | None, bytes | None]:
        """A fresh value from Redis, or a lease to load it under, or neither when others took too long."""
        read = shared.read(request)
        flight.began = min(flight.began, request.began)  # of what was believed, joiners get what was vouched for then
        found = self.look(request, read)
        if found is None:
            shared.ensure(request)
            deadline = self.clock() + self._patience(request, deadline)
        while found is None:
            answer = shared.lease(request, deadline)
            if not isinstance(answer, Read):
                return None, answer
            found = self.look(request, answer)
        return found, None

    def drop_key(self, key: str) -> None:
        """A key ended: here, nothing of it is held, and nobody joins its load."""
        self.flights.end_key(key)
        self.local.drop_key(key, _patterns.groups_of(key, self.space.lead)[-1])

    def look(self, request: Request, read: Read, frame: Frame | None = None) -> tuple[Any, Held] | None:
        """The value that stands in Redis if it is fresh, filed locally; else None. `frame`: it is parsed already."""
        request.seen = read.data or b""
        if read.data is None or self.shared is None:
            return None
        if frame is None:
            (frame,) = self.shared.parse([(request, read.data)])
        if frame is None or not self.shared.current(request, frame):
            return None
        return self._accept(request, frame, read.pttl)

    def _accept(self, request: Request, frame: Frame, pttl: int) -> tuple[Any, Held] | None:
        codec = request.policy.codec
        try:
            value = codec.decode(frame.codec, frame.payload, frame.schema)
        except DecodeError as error:
            request.region.counters.errors += 1
            self.trouble.report("decode", f"the value of {request.key} cannot be decoded: {error}")
            return None
        shared = request.policy.share or codec.shareable(value)
        packed = Packed(frame.codec, frame.payload, frame.schema)
        held = Held(value, size=len(frame.payload)) if shared else Held(None, packed)
        left = pttl / 1000 if pttl >= 0 else frame.keep_ms / 1000 if pttl == -1 else 0.0
        fresh = request.asked + left - (frame.keep_ms - frame.ttl_ms) / 1000
        request.fresh = fresh
        due = fresh - _refresh.early(request.policy, frame.cost, frame.ttl_ms / 1000)
        where = request.key, request.region, request.local_key, request.epoch
        self.keeper.fill(where, request.policy, request.began, held, fresh, due, request.asked + left, frame.tags)
        if self.clock() >= due and not self._serves(request, fresh, held):
            return None
        return value, held if self.clock() < fresh else held._replace(stale=True)

    def close(self) -> None:
        self.closed = True
        if self.shared is not None:
            self.shared.leases.close()
        self.background.close()
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
        if self.shared is not None:
            self.shared.leases.forget()
        self.background = Background()
        self.refresher = Refresher(self.background, self.renew, self.clock)
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
