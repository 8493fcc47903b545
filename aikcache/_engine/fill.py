"""Encodes results, stores them in Redis under their leases, and files them locally.

No lock is held here while user code runs. Whatever is wrong with a result, its caller gets it. A value is filed
locally only if Redis stored it or was not asked to. The local tier refuses it if its region was invalidated since the
call began.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from aikcache._engine import deferred, refresh
from aikcache._engine.call import Attempt, Call, Result
from aikcache._engine.policy import Policy
from aikcache._engine.single_flight import CachedValue, hold
from aikcache._keys.chosen import is_long
from aikcache._keys.patterns import tag_group
from aikcache._local.entry import EncodedValue, Renewal
from aikcache._local.region import Region
from aikcache._local.size import held_bytes
from aikcache._local.tag_index import TAG_OVERHEAD
from aikcache._local.tier import Renewed
from aikcache.errors import ConfigError, DecodeError, EncodeError, InvalidKeyError, RemoteError

if TYPE_CHECKING:
    from aikcache._codec.frame import Frame
    from aikcache._engine.events import Events
    from aikcache._engine.freshness import Freshness
    from aikcache._engine.versioned_store import VersionedStore
    from aikcache._local.tier import LocalTier
    from aikcache._settings.config import CacheConfig

Where = tuple[str, Region, Hashable, int]
"""A key, its region, its key in the region's table, and the region's epoch when it was requested."""


class Filler:
    """Stores the results of one cache, in Redis (`remote_tier`) and in this process (`local`)."""

    def __init__(
        self,
        config: CacheConfig,
        local: LocalTier,
        remote_tier: VersionedStore | None,
        freshness: Freshness,
        events: Events,
        clock: Callable[[], float],
    ) -> None:
        self.config = config
        self.local = local
        self.remote_tier = remote_tier
        self.freshness = freshness
        self.events = events
        self.reporter = events.reporter
        self.clock = clock

    # Results

    def judge(self, attempt: Attempt, result: object, cost: float) -> Result:
        """A result as its caller gets it, as others can share it, and for how long it may be kept."""
        call, policy = attempt.call, attempt.policy
        try:
            if self._covered(call, result):  # the function itself may have invalidated it
                return Result(attempt, result)
            seconds = call.seconds(result)
            if self.remote_tier is None and policy.share:  # no bytes are needed, so it may be any object
                return Result(attempt, result, CachedValue(result, codec=policy.codec), None, seconds, cost,
                              call.tags_of(result))  # fmt: skip
            form = policy.codec.encode(result)
            encoded = EncodedValue(form.codec, form.payload, policy.codec.schema)
            cached = hold(form.value, encoded, policy.codec, shareable=form.shareable or policy.share)
            tags = call.tags_of(result) if seconds > 0 else ()
            # `form.value` has come back from the codec, so a miss gives what a hit will give.
            return Result(attempt, form.value, cached, encoded, seconds, cost, tags)
        except (EncodeError, InvalidKeyError, ConfigError) as error:  # of the value; of a tag; of the user's functions
            self._report_uncached(attempt, error)
            return Result(attempt, result)

    def store_results(self, results: Sequence[Result]) -> None:
        """Store what may be kept: results with a lease in two round trips, the others in this process."""
        leased = [result for result in results if result.lasts and result.attempt.token is not None]
        for result in results:  # first, because they need no Redis, and what follows may raise
            if result.lasts and result.attempt.token is None:
                self.fill_locally(result)
        if leased and self.remote_tier is not None:
            try:
                self._store(self.remote_tier, leased)
            except RemoteError as error:  # whether Redis stored them is not known, so none is filed here
                self.failed(leased[0].attempt, error)

    def _store(self, remote_tier: VersionedStore, results: Sequence[Result]) -> None:
        wanted = [(result.attempt, result.tags, result.redis_ttl_ms) for result in results]
        items: list[tuple[Result, tuple[str, bytes, bytes, int]]] = []
        for result, unmoved in zip(results, remote_tier.complete(wanted), strict=True):
            attempt = result.attempt
            if unmoved and attempt.token is not None and result.encoded is not None:
                try:
                    frame = remote_tier.pack(attempt, result.encoded, result.seconds, result.cost, result.tags)
                except EncodeError as error:
                    self._report_uncached(attempt, error)
                else:
                    items.append((result, (attempt.key, attempt.token, frame, result.redis_ttl_ms)))
        if not items:
            return
        renewing = items[0][0].attempt.renewal is not None
        try:
            store = remote_tier.remote.put if renewing else remote_tier.remote.store
            for (result, item), done in zip(items, store([item for _, item in items]), strict=True):
                if done or not renewing:  # else an older value may be there, which `reload` ends
                    result.attempt.token = None  # STORE has removed the lease, or it was lost: it need not be released
                if done:  # else perhaps lost to an invalidation: it may be too old to be filed here
                    self.wrote(result.attempt, len(item[2]))
                    self.fill_locally(result)
        except BaseException:  # also if interrupted: then Redis, and so other processes, may have what is new
            if renewing:
                for result, _ in items:
                    self.local.drop_key(result.attempt.key, result.attempt.region.name)
            raise

    def _report_uncached(self, attempt: Attempt, error: Exception) -> None:
        attempt.region.counters.error(error)
        if self.config.strict:
            raise error
        self.reporter.report(f"keep:{attempt.region.name}", f"a result of {attempt.key} was not cached: {error}")

    def _covered(self, call: Call, result: object) -> bool:
        """Whether a block of this context will invalidate this result."""
        if not self.local.waiting or not (blocks := deferred.blocks(self.local)):
            return False
        groups = [tag_group(tag) for tag in call.tags_of(result)]
        return any(block.covers(call.key, groups) for block in blocks)

    def fill_locally(self, result: Result) -> None:
        """File a result locally."""
        attempt, policy = result.attempt, result.attempt.policy
        assert result.cached is not None
        if attempt.renewal is not None:
            attempt.renewal.given.discard(attempt.key)
        # Fresh from now on, as in Redis; trusted from when the load began: an invalidation since may not have arrived.
        fresh_until = self.clock() + result.seconds
        refresh_at = fresh_until - refresh.early(policy, result.cost, result.seconds)
        where = attempt.key, attempt.region, attempt.call.local_key, attempt.epoch
        self.fill(
            where,
            policy,
            attempt.read_started_at,
            result.cached,
            fresh_until,
            refresh_at,
            fresh_until + policy.extra,
            result.tags,
            renewal=attempt.renewal,
        )

    # Values in Redis

    def accept(self, attempt: Attempt, frame: Frame, pttl: int) -> tuple[Any, CachedValue] | None:
        """The value of a current frame, filed locally, if it answers."""
        codec = attempt.policy.codec
        if frame.put_back(pttl):  # not even as a stale value
            return None
        if not codec.reads(frame.schema):
            why = "the return annotation, or type=, or a class of it has changed since it was stored"
            self.reporter.report(f"schema:{attempt.region.name}", f"{attempt.key} is loaded again: {why}.")
            return None
        try:
            value = codec.decode(frame.codec, frame.payload, frame.schema)
        except DecodeError as error:
            attempt.region.counters.error(error)
            self.reporter.report("decode", f"the value of {attempt.key} cannot be decoded: {error}")
            return None
        encoded = EncodedValue(frame.codec, frame.payload, frame.schema)
        cached = hold(value, encoded, codec, shareable=attempt.policy.share or codec.shareable(value))
        left, kept = frame.seconds_left(pttl)
        # From the question on, because the PTTL is of some moment between it and the reply.
        attempt.fresh_until = fresh_until = attempt.requested_at + left
        refresh_at = fresh_until - refresh.early(attempt.policy, frame.cost, frame.ttl_ms / 1000)
        where = attempt.key, attempt.region, attempt.call.local_key, attempt.epoch
        # Also a value that does not answer this call: it may be the fallback of a later one.
        self.fill(
            where,
            attempt.policy,
            attempt.read_started_at,
            cached,
            fresh_until,
            refresh_at,
            attempt.requested_at + kept,
            frame.tags,
        )
        if self.clock() >= refresh_at and not self.freshness.answers(attempt, refresh_at, cached):
            return None
        return value, cached if self.clock() < fresh_until else cached._replace(stale=True)

    def bound(self, policy: Policy) -> float:
        """Seconds that a value may be held locally."""
        bound = inf if policy.local_ttl is None else policy.local_ttl
        # The cache's `local_ttl` is for copies of what Redis has: without Redis an entry stays for its whole TTL.
        return bound if self.remote_tier is None else min(bound, self.config.local_ttl)

    def fill(
        self,
        where: Where,
        policy: Policy,
        created_at: float,
        cached: CachedValue,
        fresh_until: float,
        refresh_at: float,
        expires_at: float,
        tags: tuple[str, ...],
        *,
        renewal: Renewal | None = None,
    ) -> None:
        """File a value locally: until `expires_at`, fresh until `fresh_until`, to be renewed from `refresh_at` on."""
        now = self.clock()
        expires_at = min(expires_at, now + self.bound(policy))
        if expires_at <= now:
            if renewal is not None:
                self.local.drop_key(where[0], where[1].name)
            return
        size = 0
        if self.local.max_bytes is not None:
            arguments = None if is_long(where[2]) else where[2]  # a long one is not held: see `held_as`
            size = held_bytes(cached.value, arguments) + TAG_OVERHEAD * len(tags)
        self.local.fill(
            *where,
            cached.value,
            codec=policy.codec,
            created_at=created_at,
            fresh_until=fresh_until,
            refresh_at=refresh_at if refresh_at < fresh_until else inf,
            expires_at=expires_at,
            shareable=type(cached.value) is not EncodedValue,
            size=size,
            tags=tags,
            renewed=None if renewal is None else Renewed(now, renewal),
        )

    def failed(self, attempt: Attempt, error: Exception) -> None:
        attempt.region.counters.error(error)
        what = "Redis failed on %s; the call is answered without it: %s"
        self.reporter.report(f"redis:{type(error).__name__}", what, attempt.key, error)

    def wrote(self, attempt: Attempt, size: int) -> None:
        attempt.region.counters.writes += 1
        attempt.region.counters.bytes_written += size
