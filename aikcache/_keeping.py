"""What becomes of a result: encoded, stored in Redis under its lease, filed locally.

The function runs here, under no lock; whatever is wrong with its result, its caller gets it. A value is filed locally
only if Redis took it, or was not asked to; and the local tier refuses it if its region was touched since the call
asked.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import inf
from typing import Any

from . import _refresh
from ._config import CacheConfig
from ._flights import Flights, Held
from ._leases import Lease
from ._local import LocalTier, Packed, Region
from ._policy import Policy
from ._request import Ready, Request, milliseconds
from ._stamped import Stamped
from ._trouble import Trouble
from .errors import ConfigError, EncodeError, InvalidKeyError, RemoteError

Where = tuple[str, Region, Hashable, int]
"""A key, its region, its key in the region's table, and the region's epoch when it was asked for."""


class Keeper:
    """Keeps results for one cache, in Redis (`shared`) and here (`local`)."""

    def __init__(
        self,
        config: CacheConfig,
        local: LocalTier,
        shared: Stamped | None,
        flights: Flights,
        trouble: Trouble,
        clock: Callable[[], float],
    ) -> None:
        self.config = config
        self.local = local
        self.shared = shared
        self.flights = flights
        self.trouble = trouble
        self.clock = clock

    def load(self, request: Request, token: bytes | None, *, asked: bool = True) -> tuple[Any, Held | None]:
        """Run the function, and keep what it gives where that is allowed. None for the second: nobody can share it.

        `asked`: for a call, which has then missed; otherwise for no call in particular.
        """
        request.region.counters.misses += asked
        with self.holding([] if token is None else [(request.key, token)]):
            return self._load(request, token)

    def holding(self, leases: Sequence[Lease]) -> AbstractContextManager[None]:
        """A block during which leases are kept alive."""
        return nullcontext() if self.shared is None or not leases else self.shared.leases.holding(leases)

    def _load(self, request: Request, token: bytes | None) -> tuple[Any, Held | None]:
        started = self.clock()
        stored = False
        try:
            with self.flights.loading(request.key):
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
            if self.shared is not None and token is not None and not stored:
                self.shared.leases.end([(request.key, token)])

    def _store(self, request: Request, token: bytes, ready: Ready) -> bool:
        assert self.shared is not None
        try:
            (stored,) = self.shared.remote.store([(request.key, token, ready.frame, ready.keep_ms)])
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
                return result, Held(result), Ready(b"", seconds, policy.extra, cost, request.tags_of(result))
            encoded = policy.codec.encode(result)
            packed = Packed(encoded.codec, encoded.payload, policy.codec.schema)
            shared = encoded.shared or policy.share
            held = Held(encoded.value, size=len(packed.payload)) if shared else Held(None, packed)
            if seconds <= 0:
                return encoded.value, held, None
            tags = request.tags_of(result)
            frame = b""
            if leased and self.shared is not None:
                if request.late_tags is not None and not self.shared.late(request, tags):
                    return encoded.value, held, None
                if callable(policy.ttl):
                    self.shared.prolong(request, tags, milliseconds(seconds + policy.extra))
                frame = self.shared.pack(request, packed, seconds, cost, tags)
            return encoded.value, held, Ready(frame, seconds, policy.extra, cost, tags)
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
        fresh = self.clock() + ready.seconds
        due = fresh - _refresh.early(request.policy, ready.cost, ready.seconds)
        where = request.key, request.region, request.local_key, request.epoch
        self.fill(where, request.policy, request.began, held, fresh, due, fresh + request.policy.extra, ready.tags)

    def bound(self, policy: Policy) -> float:
        """Seconds that a value may be held locally."""
        bound = inf if policy.local_ttl is None else policy.local_ttl
        return bound if self.shared is None else min(bound, self.config.local_ttl)

    def fill(
        self,
        where: Where,
        policy: Policy,
        born: float,
        held: Held,
        fresh: float,
        due: float,
        deadline: float,
        tags: tuple[str, ...],
    ) -> None:
        """File a value locally: until `deadline`, `fresh` until then, to be renewed from `due` on."""
        now = self.clock()
        deadline = min(deadline, now + self.bound(policy))
        if deadline <= now:
            return
        packed = held.packed
        self.local.fill(
            *where,
            held.value if packed is None else packed,
            born=born,
            fresh=fresh,
            due=due if due < fresh else inf,
            deadline=deadline,
            shared=packed is None,
            size=held.size if packed is None else len(packed.payload),
            tags=tags,
        )

    def failed(self, request: Request, error: Exception) -> None:
        request.region.counters.errors += 1
        self.trouble.report(
            f"redis:{type(error).__name__}", f"Redis failed on {request.key}, answered without: {error}"
        )

    def wrote(self, request: Request, size: int) -> None:
        request.region.counters.writes += 1
        request.region.counters.bytes_written += size
