"""Values in Redis under their groups' stamps: which are fresh, which caller may load, and what is written.

A value is fresh if the digest in its frame is that of its groups' current stamps. The stamps are cached here, or are
read in the value's own round trip, after the value, so that an invalidation in between is noticed. The stamps that a
load will be stored under are fixed before it begins.

This module knows nothing of the local tier and decodes no payload. Every method may raise `RemoteError`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aikcache._codec.frame import Frame, Framer
from aikcache._concurrency.reporter import RateLimitedReporter
from aikcache._engine.call import Attempt, Call, milliseconds
from aikcache._keys.patterns import ANY_TAG, EVERYTHING, tag_group
from aikcache._local.entry import EncodedValue
from aikcache._redis.failures import rest
from aikcache._redis.reply import TooLargeError
from aikcache._redis.trust import Trust
from aikcache._remote.commands import DAY_MS
from aikcache._remote.leases import Leases
from aikcache._remote.replies import Busy, Life, Read
from aikcache._remote.stamps import Stamps
from aikcache._remote.store import RedisStore
from aikcache._settings.config import CacheConfig
from aikcache.errors import DecodeError, InvalidKeyError

MOST_BATCH_TAGS = 1 << 15
"""Tags of a batch whose stamps are read together. What has more is loaded again: so many short ones take a second."""


class Standing(NamedTuple):
    """The state of the cached stamps."""

    epoch: int
    server_generation: int
    current_at: float
    """The time as of which they are known to be current."""


class VersionedStore:
    """The remote tier of one cache, with versions by stamps."""

    def __init__(
        self,
        config: CacheConfig,
        remote: RedisStore,
        stamps: Stamps,
        reporter: RateLimitedReporter,
        clock: Callable[[], float],
        ready: Callable[[], object],
        on_created: Callable[[Sequence[str], Sequence[Attempt]], object],
        trust: Trust,
    ) -> None:
        self.trust = trust
        self.on_created = on_created  # called with groups whose stamp was created here, and their attempts
        self.ready = ready  # called before anything is read: starts the channel, sends what is pending
        self.remote = remote
        self.stamps = stamps
        self.reporter = reporter
        self.clock = clock
        self._max_staleness = config.max_staleness
        self._longest = config.longest_ttl
        self.framer = Framer(
            compress_min_bytes=config.compress_min_bytes,
            compress_level=config.compress_level,
            max_value_bytes=config.max_value_bytes,
            secret=config.secret,
        )
        # Shorter than other callers wait, so that they notice a loader's death in time.
        self.lease_seconds = min(config.lease_ttl, max(config.lease_wait / 2, 0.05))
        self.lease_ms = int(self.lease_seconds * 1000)
        self.leases = Leases(self.lease_seconds, remote.hold, reporter.report)

    # Reading

    def read(self, attempts: Sequence[Attempt], *, values: bool = True) -> list[Read]:
        """The values under these keys, with all stamps that are needed and not cached: one round trip.

        The attempts are all of one function, or of none. `values`: False for values that will be replaced: only their
        stamps are read, with no round trip where all are cached.
        """
        reads = self._fast_reads(attempts)
        rest(self.remote.connections)  # first: nothing below costs a call anything while the breaker is open
        self.ready()
        groups = list(dict.fromkeys([group for attempt in attempts for group in attempt.call.all_groups()]))
        # Before the question: stamps are not remembered if anything was pushed between this and their reply.
        (epoch, server_generation, current_at), requested_at = self._standing(), self.clock()
        counts_from = requested_at - self.remote.connections.age()  # without a majority the reply may be older
        strong = attempts[0].policy.strong
        by_group = dict(zip(groups, [None] * len(groups) if strong else self.stamps.cached(groups), strict=True))
        unknown = [group for group, stamp in by_group.items() if stamp is None]
        if strong and len(reads) == 1 and len(reads[0].stamps) == len(groups):  # it was read with its stamps
            by_group.update(zip(groups, reads[0].stamps, strict=True))
        # Not where the fast path found or expects no value for any of them: `ensure` gets the stamps before the load.
        elif (strong or len(reads) < len(attempts)) if values else unknown:
            reads, stamps = self._ask(attempts, unknown, values=values)
            if not strong:
                self.stamps.remember(unknown, stamps, epoch)
            by_group.update(zip(unknown, stamps, strict=True))
        if len(unknown) < len(groups):  # cached stamps are known as of the last heartbeat only
            counts_from = min(counts_from, current_at)
        for attempt in attempts:
            attempt.requested_at, attempt.server_generation = requested_at, server_generation
            attempt.read_started_at = min(attempt.read_started_at, counts_from)
            attempt.stamps = {group: by_group[group] for group in attempt.call.all_groups()}
        return reads

    def _fast_reads(self, attempts: Sequence[Attempt]) -> list[Read]:
        """The results of the fast path for these. Raises its error."""
        reads: list[Read] = []
        failed: Exception | None = None
        for attempt in attempts:
            first, attempt.first = attempt.first, None
            if isinstance(first, Exception):
                failed = failed or first
            elif first is not None:
                reads.append(first)
        if isinstance(failed, TooLargeError):
            self._remove_huge(attempts, (), failed)
            return []
        if failed is not None:
            raise failed
        return reads

    def _ask(
        self, attempts: Sequence[Attempt], groups: Sequence[str], *, values: bool
    ) -> tuple[list[Read], list[bytes | None]]:
        keys, probing = [attempt.key for attempt in attempts], not self.trust.covers()

        def ask() -> tuple[list[Read], list[bytes | None]]:
            if not values:
                return [], self.remote.read_stamps(groups, probing=probing)
            return self.remote.read(keys, groups, probing=probing)

        try:
            return ask()
        except TooLargeError as error:
            self._remove_huge(attempts, groups, error)
            return ask()

    def _standing(self) -> Standing:
        stamps = self.stamps
        return Standing(stamps.epoch, stamps.server_generation, stamps.trusted_until - self._max_staleness)

    def _remove_huge(self, attempts: Sequence[Attempt], groups: Sequence[str], error: TooLargeError) -> None:
        """A reply was given up: remove values that are too large, so that the question can be sent again."""
        if not self.remote.drop_huge([attempt.key for attempt in attempts], groups):
            raise error
        attempts[0].region.counters.error(error)
        self.reporter.report("decode", f"a value too large was removed from {attempts[0].key} or beside it: {error}")

    def parse(self, found: Sequence[tuple[Attempt, bytes | None]]) -> list[Frame | None]:
        """The frames of many values. The stamps of tags that no attempt named are read in one round trip for all."""
        frames: list[Frame | None] = []
        tags: list[list[str]] = []
        unknown: dict[str, None] = {}
        for attempt, data in found:
            frame = None if data is None else self._parse(attempt, data)
            if frame is not None and len(unknown) + len(frame.tags) > MOST_BATCH_TAGS:
                self.reporter.report("tags", f"a batch has more than {MOST_BATCH_TAGS} tags: ask for fewer at once.")
                frame = None
            frames.append(frame)
            tags.append([] if frame is None else list(map(tag_group, frame.tags)))
            unknown.update((name, None) for name in tags[-1] if name not in attempt.stamps)
        if unknown:
            names = list(unknown)
            epoch, _, current_at = self._standing()
            stamps = self.stamps.cached(names)
            cached = None not in stamps and not found[0][0].policy.strong
            if not cached:
                stamps = self.remote.read_stamps(names, probing=not self.trust.covers())
                self.stamps.remember(names, stamps, epoch)
            read = dict(zip(names, stamps, strict=True))
            for (attempt, _), own in zip(found, tags, strict=True):
                if cached:
                    attempt.read_started_at = min(attempt.read_started_at, current_at)
                for name in own:  # of its own frame alone: all those of a large batch would be its square
                    attempt.stamps.setdefault(name, read.get(name))
        return frames

    def _parse(self, attempt: Attempt, data: bytes) -> Frame | None:
        try:
            frame = self.framer.unpack(attempt.key, data)
            for name in frame.tags:
                tag_group(name)
            if frame.tags:  # set before their stamps are read, so that their invalidation reaches what is being filed
                attempt.region.tagged = True
                if attempt.groups is not None and frame.tags != attempt.call.tags:
                    attempt.groups.append(ANY_TAG)
        except (DecodeError, InvalidKeyError) as error:
            attempt.region.counters.error(error)
            self.reporter.report("decode", f"the value in Redis at {attempt.key} is not a valid frame: {error}")
            return None
        return frame

    def current(self, attempt: Attempt, frame: Frame) -> bool:
        """Whether a frame's stamps are the current ones, as far as is known."""
        groups = [tag_group(name) for name in frame.tags]
        base = attempt.call.groups[: len(attempt.call.groups) - len(attempt.call.tags)]
        if any(attempt.stamps[group] is None for group in (*base, *groups)):
            return False  # it may have been lost together with an invalidation
        # Stamps of one server say nothing about values of another (perhaps restored from a disk).
        return attempt.server_generation == self.stamps.server_generation and attempt.digest(frame.tags) == frame.digest

    # Loading

    def ensure(self, *attempts: Attempt) -> None:
        """Before a load: every group has a stamp, which will outlive what is stored under it.

        That a stamp lives long enough is remembered, so this rarely needs its own round trip.
        """
        wanted: dict[str, Life] = {}
        now = self.clock()
        for attempt in attempts:
            life_ms = self._redis_ttl_ms(attempt.call) + self.lease_ms  # it is stored after the load
            for group, stamp in attempt.stamps.items():
                if stamp is None or not self.stamps.outlives(group, stamp, now + life_ms / 1000):
                    wanted[group] = max(self._life(attempt.call, group, life_ms), wanted.get(group, Life(0, 0)))
        if wanted:
            stamps = self._ensure(wanted, attempts)
            for attempt in attempts:
                attempt.stamps.update((group, stamps[group]) for group in attempt.stamps if group in stamps)

    def _ensure(self, wanted: dict[str, Life], attempts: Sequence[Attempt]) -> dict[str, bytes]:
        if ANY_TAG in wanted:  # after the tags
            wanted[ANY_TAG] = wanted.pop(ANY_TAG)
        epoch, requested_at = self.stamps.epoch, self.clock()
        found = dict(zip(wanted, self.remote.ensure(wanted), strict=True))
        stamps = {group: one.stamp for group, one in found.items()}
        self.stamps.remember(list(stamps), list(stamps.values()), epoch)
        for group, one in found.items():
            self.stamps.set_lifetime(group, one.stamp, requested_at + one.left_ms / 1000)
        if made := [group for group, one in found.items() if one.made]:
            self.on_created(made, attempts)
        return stamps

    def _life(self, call: Call, group: str, life_ms: int) -> Life:
        """The life of a stamp that must outlive what is kept for `life_ms` milliseconds.

        Each extension looks like an invalidation to other processes. So the stamps of everything, of any tag and of a
        function, which are few, get a day; those of tags and of keys by hand, which users may choose, get at most twice
        what they need.
        """
        few = group in (EVERYTHING, ANY_TAG) or (call.relink and not group.startswith("#"))
        return Life(life_ms, max(2 * life_ms, DAY_MS) if few else 2 * life_ms)

    def ask_leases(self, attempts: Sequence[Attempt]) -> list[Read | Busy | None]:
        """Ask for leases, in one round trip: for each `None` if it was granted (with `token` set), or why not."""
        self._set_tokens(attempts)
        wanted = [(attempt.key, attempt.token or b"", attempt.digest(), attempt.seen) for attempt in attempts]
        try:
            answers = self.remote.acquire(wanted, self.lease_ms)
        except BaseException:
            self.give_up_leases(attempts)
            raise
        for attempt, answer in zip(attempts, answers, strict=True):
            if answer is not None:
                attempt.token = None
        return answers

    def take_leases(self, attempts: Sequence[Attempt], *, unlink: bool = False) -> None:
        """Take leases from whoever holds them, in one round trip. `unlink`: remove the current values."""
        self._set_tokens(attempts)
        wanted = [(attempt.key, attempt.token or b"", attempt.digest()) for attempt in attempts]
        try:
            self.remote.take(wanted, self.lease_ms, unlink=unlink)
        except BaseException:
            self.give_up_leases(attempts)
            raise

    def _set_tokens(self, attempts: Sequence[Attempt]) -> None:
        self.leases.reclaim([attempt.key for attempt in attempts])  # else they wait for leases that were lost here
        requested_at, chance = self.clock(), os.urandom(16 * len(attempts))
        for i, attempt in enumerate(attempts):
            # Before anything is sent: whoever is interrupted then knows what to give up.
            attempt.token, attempt.requested_at = chance[16 * i : 16 * i + 16], requested_at

    def give_up_leases(self, attempts: Sequence[Attempt]) -> None:
        """The caller was interrupted: leases that may have been granted, and were not used, are released soon."""
        left = [(attempt.key, attempt.token) for attempt in attempts if attempt.token is not None]
        if left:
            self.leases.add_lost(left)
            for attempt in attempts:
                attempt.token = None

    def complete(self, stores: Sequence[tuple[Attempt, Sequence[str], int]]) -> list[bool]:
        """Before values are stored (with these tags, for these milliseconds): the stamps that only they named.

        One round trip for all, or none. False: a tag, perhaps one of these, was invalidated since the load began.
        """
        wanted: dict[str, Life] = {}
        for attempt, tags, redis_ttl_ms in stores:
            if attempt.call.result_tags is None and not callable(attempt.policy.ttl):
                continue  # everything was known before the load
            groups = [group for group in map(tag_group, tags) if group not in attempt.stamps]
            life_ms = self._redis_ttl_ms(attempt.call)
            if attempt.call.result_tags is not None:
                groups.append(ANY_TAG)
            if redis_ttl_ms > life_ms:  # kept longer than could be known before the load
                groups += attempt.stamps
            for group in groups:
                life = self._life(attempt.call, group, max(life_ms, redis_ttl_ms))
                wanted[group] = max(life, wanted.get(group, Life(0, 0)))
        if not wanted:
            return [True] * len(stores)
        stamps = self._ensure(wanted, [attempt for attempt, _, _ in stores])
        unmoved = []
        for attempt, tags, _ in stores:
            before = attempt.stamps.get(ANY_TAG)
            unmoved.append(attempt.call.result_tags is None or before == stamps[ANY_TAG])
            for group in map(tag_group, tags):
                attempt.stamps.setdefault(group, stamps.get(group))
        return unmoved

    def pack(self, attempt: Attempt, value: EncodedValue, seconds: float, cost: float, tags: tuple[str, ...]) -> bytes:
        """The frame of a value, under the stamps known before its load."""
        return self.framer.pack(
            attempt.key,
            codec=value.codec,
            schema=value.schema,
            digest=attempt.digest(tags),
            cost=cost,
            ttl_ms=milliseconds(seconds),
            redis_ttl_ms=milliseconds(seconds) + milliseconds(attempt.policy.extra),
            tags=tags,
            payload=value.payload,
        )

    def _redis_ttl_ms(self, call: Call) -> int:
        """How long stamps must live for what this call may store."""
        ttl = call.policy.ttl
        longest = ttl if isinstance(ttl, float) else max(call.ttl, self._longest)
        return milliseconds(longest + call.policy.extra)
