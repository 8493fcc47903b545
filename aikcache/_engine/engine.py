"""Both tiers of one cache: what they share, and how they start, fork and close.

    local ── hit ──────────────────────────────▶ value
      └─ miss ▶ fast-path read: GET ── fresh by the stamps cached here ──▶ local ▶ value
                  └─ not ▶ flight ▶ GET and stamps ── fresh ──▶ local ▶ value
                                       └─ miss ▶ lease, under the stamps just read ▶ function ▶ store ▶ local ▶ value

A value from before an invalidation must not be stored or served after it. In Redis: a value carries the digest of its
groups' stamps, taken before it was computed, so a later stamp makes it stale. It is stored only under a lease, which
the invalidation of its key unlinks. Locally: a fill is refused if anything of its region was invalidated since the
call began, and no call joins a flight that was invalidated.

Failure: whatever Redis does, the function's own result is returned. The problem is counted and logged once per cause,
and the value is kept locally only. Threads: flights make one load of a key at a time; `lease_wait` bounds the waits.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from aikcache import _compiled
from aikcache._coherence.sweep import Sweeper
from aikcache._concurrency.background import Background
from aikcache._concurrency.guard import Guard
from aikcache._concurrency.reporter import RateLimitedReporter
from aikcache._engine import deferred, invalidation, refreshing
from aikcache._engine.batch import Batch
from aikcache._engine.call import Attempt, Call, Steps, carry_out
from aikcache._engine.events import Events
from aikcache._engine.fast_path import FastPath
from aikcache._engine.fill import Filler
from aikcache._engine.freshness import Freshness
from aikcache._engine.load import answer
from aikcache._engine.refresh import Refresher
from aikcache._engine.single_flight import Flights
from aikcache._engine.stats import SUMMED, CacheStats, OperationStats, counted
from aikcache._engine.writes import renew
from aikcache._keys import patterns
from aikcache._keys.keyspace import Keyspace
from aikcache._local.region import Region
from aikcache._local.tier import LocalTier
from aikcache._redis.trust import Trust
from aikcache._remote.stamps import Stamps
from aikcache._settings.config import CacheConfig
from aikcache.errors import DecodeError, RemoteError

if TYPE_CHECKING:
    from aikcache._coherence.feed import InvalidationFeed
    from aikcache._coherence.pending import PendingInvalidations
    from aikcache._engine.fleet import Fleet
    from aikcache._engine.strong import StrongPath
    from aikcache._engine.versioned_store import VersionedStore
    from aikcache._remote.store import RedisStore


class Backend(NamedTuple):
    """The parts that exist only with Redis."""

    remote: RedisStore
    remote_tier: VersionedStore
    strong_path: StrongPath
    recovery: PendingInvalidations
    channel: InvalidationFeed
    fleet: Fleet | None


class Engine:
    """Both tiers of one cache."""

    remote: RedisStore | None = None
    remote_tier: VersionedStore | None = None
    fast_path: FastPath | None = None
    strong_path: StrongPath | None = None
    recovery: PendingInvalidations | None = None
    channel: InvalidationFeed | None = None
    fleet: Fleet | None = None

    def __init__(
        self,
        config: CacheConfig,
        keyspace: Keyspace,
        clock: Callable[[], float],
        connect: Callable[[Engine], Backend] | None = None,
    ) -> None:
        """`connect` makes the parts for Redis; None: there is no Redis."""
        self.started_at = clock()
        self.config = config
        self.keyspace = keyspace
        self.clock = clock
        self.guard = Guard()
        self.local: LocalTier = LocalTier(config, self.guard)
        self.stamps = Stamps(self.guard, clock)
        self.flights = Flights()
        self.reporter = RateLimitedReporter()
        self.events = Events(self.reporter, len(keyspace.namespace_prefix), self.local.regions)
        self.background = Background()
        self.refresher = Refresher(self.background, lambda call, until: renew(self, call, until), clock)
        self.freshness = Freshness(self.local, self.refresher, config.max_staleness, clock)
        self.closed = False
        self.passive = not config.enabled  # closed or disabled: calls run their function
        self.sweeper = Sweeper(partial(invalidation.invalidate, self), partial(invalidation.replay_globs, self))
        self.trust = Trust(config.max_staleness, clock)
        if connect is not None:
            parts = connect(self)
            self.remote, self.remote_tier, self.strong_path, self.recovery, self.channel, self.fleet = parts
        self.filler = Filler(config, self.local, self.remote_tier, self.freshness, self.events, clock)
        if self.remote_tier is not None:
            self.fast_path = FastPath(self.remote_tier, self.filler, self.flights, self.recovery, clock)
            self.trust_until(-inf)
        _living.add(self)

    def start_groups(self, groups: Sequence[str], attempts: Sequence[Attempt]) -> None:
        """The stamps of these groups were just created, for `attempts`: values under earlier ones may be invalid."""
        asking = {attempt.key for attempt in attempts}
        named = frozenset(groups)
        self.flights.invalidate(lambda flight: flight.key not in asking and not named.isdisjoint(flight.groups))
        self.local.start_groups(groups, attempts)

    def ready(self) -> None:
        """Called before anything is read from Redis: the channel runs, and pending invalidations are sent. May raise
        `RemoteError`.
        """
        if self.channel is not None and self.recovery is not None:
            self.channel.start()
            self.recovery.send(self.trust.refused)

    @property
    def coherent(self) -> bool:
        """Whether other processes' invalidations arrive at once."""
        return self.remote is None or (self.stamps.trusted and self.trust.coherent)

    def trust_until(self, trusted_until: float) -> None:
        """Local entries and cached stamps are trusted until then."""
        self.stamps.trusted_until = trusted_until
        self.local.trust_until(trusted_until)

    def in_block(self) -> bool:
        """Whether this context has an open block, so that it must be asked."""
        return bool(self.local.waiting and (deferred.blocks(self.local) or refreshing.blocks(self.local)))

    def covered(self, call: Call) -> bool:
        """Whether an invalidation that waits in a block of this context covers this call."""
        if not self.local.waiting or not (blocks := deferred.blocks(self.local)):
            return False
        if any(block.covers(call.key, call.groups) for block in blocks):
            return True
        if not any(block.names_tags for block in blocks):
            return False
        if call.result_tags is not None:
            return True
        stored = [patterns.tag_group(tag) for tag in self._stored_tags(call.key)] if call.by_key else []
        return any(block.covers(call.key, stored) for block in blocks)

    def _stored_tags(self, key: str) -> tuple[str, ...]:
        """The tags of the value that is stored under a key."""
        entry = self.local.peek(key)
        if entry is not None or self.remote_tier is None:
            return () if entry is None else tuple(tag for tag in entry.tags if isinstance(tag, str))
        try:
            self.ready()
            (read,), _ = self.remote_tier.remote.read([key], [])
            return () if read.data is None else self.remote_tier.framer.unpack(key, read.data).tags
        except (RemoteError, DecodeError):
            return ()

    def groups_of(self, key: str, region: Region, tags: Sequence[str]) -> tuple[str, ...]:
        """The groups of a key that are known before its load; those of its tags come last."""
        groups = region.groups or patterns.groups_of(key, self.keyspace.namespace_prefix)
        return (*groups, *map(patterns.tag_group, tags))

    # A call

    def call(self, call: Call) -> Any:
        """The value of a call: from a tier, from another call's load, or from its own load."""
        (value,) = carry_out(self.steps(Attempt(call, self.clock())), lambda places: (call.load(),))
        return value

    def steps(self, attempt: Attempt) -> Steps[list[Any]]:
        """The same in steps, for a call that the fast path has tried."""
        return answer(Batch(self, [attempt], lambda places: [attempt.call.load()]))

    def wait_deadline(self) -> float:
        """Until when to wait for others' loads. A caller that loads a key itself waits half as long, because others
        wait for it.
        """
        wait = self.config.lease_wait
        return self.clock() + (wait / 2 if self.flights.loading_any() else wait)

    def drop_key(self, key: str) -> None:
        """A key was invalidated: drop it here, and let no call join its load."""
        self.flights.invalidate_key(key)
        self.local.drop_key(key, patterns.groups_of(key, self.keyspace.namespace_prefix)[-1])

    def stats(self) -> CacheStats:
        """A snapshot of what is counted here. Asks nothing of Redis."""
        operations: dict[str, dict[str, int]] = {}
        for region in self.local.all_regions():
            sums = operations.setdefault(region.name, dict.fromkeys(SUMMED, 0))
            for name, value in zip(SUMMED, counted(region), strict=True):
                sums[name] += value
        now = self.clock()
        channel, recovery = self.channel, self.recovery
        since = None if channel is None else channel.live_since
        alive_at = None if channel is None else channel.alive_at
        totals = {name: sum(sums[name] for sums in operations.values()) for name in SUMMED}
        return CacheStats(
            **totals,
            uptime=now - self.started_at,
            local_entries=len(self.local),
            coherent=self.coherent,
            coherent_for=None if since is None else now - since,
            last_heartbeat=None if alive_at is None else now - alive_at,
            channel_connects=0 if channel is None else channel.connects,
            pushes=0 if channel is None else channel.pushes,
            pending_invalidations=0 if recovery is None else len(recovery),
            oldest_pending=None if recovery is None else recovery.oldest(),
            replayed_invalidations=0 if recovery is None else recovery.replayed,
            compiled=_compiled.fast is not None,
            operations={name: OperationStats(**sums) for name, sums in operations.items()},
        )

    def close(self) -> None:
        again = self.closed
        self.closed = self.passive = True
        self.sweeper.stop()
        self._add_pending(self.sweeper.give_up())
        if self.remote_tier is not None:
            self.remote_tier.leases.close()
        self.background.close()
        self.local.close()
        if not again:
            self.events.closed(self.local.all_regions())
        if self.channel is not None:
            self.channel.close()
        if self.recovery is not None:
            self.recovery.close()
        if self.remote is not None:
            self.remote.connections.close()

    def after_fork(self) -> None:
        """Reset in the child, which has none of the parent's threads, connections and locks. Local values stay
        valid.
        """
        self.flights.forget()
        self.local.after_fork()
        mine = {id(block) for block in (*deferred.blocks(self.local), *refreshing.blocks(self.local))}
        for block in self.local.waiting.keys() - mine:  # of threads that do not exist here
            self.local.turn_away(block, frozenset())
        self.stamps.forget_all(trusted=False)
        if self.remote_tier is not None:
            self.remote_tier.leases.forget()
        self.background = Background()
        self.refresher.after_fork(self.background)
        if self.remote is not None and self.recovery is not None and self.channel is not None:
            self.trust.lose()
            self.trust_until(-inf)
            self.remote.after_fork()
            self.recovery.after_fork()
            self.channel.forget()
        self._add_pending(self.sweeper.after_fork())

    def _add_pending(self, sweeps: Sequence[patterns.Invalidation]) -> None:
        """Sweeps that are not done become pending, so a journal or a forked child still has them."""
        if self.recovery is not None:
            for what in sweeps:
                self.recovery.add(what)


_living: weakref.WeakSet[Engine] = weakref.WeakSet()


class _Passive:
    """Stands in for `Engine.passive` while all caches are; what is set meanwhile counts afterwards."""

    def __get__(self, engine: Engine | None, owner: type) -> bool:
        return True

    def __set__(self, engine: Engine, value: object) -> None:
        vars(engine)["passive"] = value


@contextmanager
def all_passive() -> Iterator[None]:
    """Every cache of this process, also one that is made meanwhile, keeps and finds nothing."""
    if "passive" in vars(Engine):  # inside another such block
        yield
        return
    mine, engines = object(), list(_living)
    Engine.passive = _Passive()  # type: ignore[assignment]
    try:
        for engine in engines:
            engine.local.turn_away(id(mine), frozenset({patterns.EVERYTHING}))
        yield
    finally:
        del Engine.passive  # type: ignore[misc]
        for engine in engines:
            engine.local.turn_away(id(mine), frozenset())


def _after_fork() -> None:
    for engine in list(_living):
        engine.after_fork()


os.register_at_fork(after_in_child=_after_fork)
