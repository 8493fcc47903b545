"""Values in Redis under their groups' stamps: which are fresh, who may load, and what is written.

A value is fresh if the digest in its frame is that of its groups' current stamps. The stamps are those held here, or
are read in the value's own round trip. They are read after the value, so an invalidation in between is noticed. The
stamps that a load will be stored under are fixed before it begins.

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
from aikcache._redis.reply import TooLargeError
from aikcache._redis.trust import Trust
from aikcache._remote.commands import DAY_MS
from aikcache._remote.leases import Leases
from aikcache._remote.stamps import Stamps
from aikcache._remote.store import Busy, Life, Read, RedisStore
from aikcache._settings.config import CacheConfig
from aikcache.errors import DecodeError, InvalidKeyError


class Standing(NamedTuple):
    """How the stamps that are held here stand."""

    epoch: int
    server_generation: int
    current_at: float
    """As of when they are known to be current."""


class VersionedStore:
    """The remote tier of one cache, as its stamps make it."""

    def __init__(
        self,
        config: CacheConfig,
        remote: RedisStore,
        stamps: Stamps,
        reporter: RateLimitedReporter,
        clock: Callable[[], float],
        ready: Callable[[], object],
        made: Callable[[Sequence[str], Sequence[Attempt]], object],
        trust: Trust,
    ) -> None:
        self.trust = trust
        self.made = made  # told of groups that had no stamp before one was made here, and for whom
        self.ready = ready  # before anything is read: the channel runs, and what was to be told has been
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
        # Granted for less than others wait, so that a loader's death is noticed while they still do.
        self.lease_seconds = min(config.lease_ttl, max(config.lease_wait / 2, 0.05))
        self.lease_ms = int(self.lease_seconds * 1000)
        self.leases = Leases(self.lease_seconds, remote.hold, reporter.report)

    # Reading

    def read(self, attempts: Sequence[Attempt]) -> list[Read]:
        """What stands under these keys, and with it all stamps that are needed and not held here: one round trip.

        They are all of one function, or of none.
        """
        reads = self._fast_reads(attempts)
        self.ready()
        groups = list(dict.fromkeys([group for attempt in attempts for group in attempt.call.all_groups()]))
        (epoch, server_generation, vouched), requested_at = self._standing(), self.clock()
        counts_from = requested_at - self.remote.connections.age()  # without a majority, what Redis says may be older
        strong = attempts[0].policy.strong
        known = dict(zip(groups, [None] * len(groups) if strong else self.stamps.cached(groups), strict=True))
        unknown = [group for group, stamp in known.items() if stamp is None]
        if strong and len(reads) == 1 and len(reads[0].stamps) == len(groups):  # it brought its stamps
            known.update(zip(groups, reads[0].stamps, strict=True))
        elif strong or len(reads) < len(attempts):
            reads, stamps = self._ask(attempts, unknown)
            if not strong:
                self.stamps.remember(unknown, stamps, epoch)
            known.update(zip(unknown, stamps, strict=True))
        if len(unknown) < len(groups):
            counts_from = min(counts_from, vouched)
        for attempt in attempts:
            attempt.requested_at, attempt.server_generation = requested_at, server_generation
            attempt.read_started_at = min(attempt.read_started_at, counts_from)
            attempt.known = {group: known[group] for group in attempt.call.all_groups()}
        return reads

    def _fast_reads(self, attempts: Sequence[Attempt]) -> list[Read]:
        """What the fast path has read for these. Raises what it ran into."""
        firsts = [attempt.first for attempt in attempts]
        for attempt in attempts:
            attempt.first = None
        for first in firsts:
            if isinstance(first, TooLargeError):
                self._remove_huge(attempts, (), first)
                return []
            if isinstance(first, Exception):
                raise first
        return [first for first in firsts if isinstance(first, Read)]

    def _ask(self, attempts: Sequence[Attempt], groups: Sequence[str]) -> tuple[list[Read], list[bytes | None]]:
        keys, probing = [attempt.key for attempt in attempts], not self.trust.covers()
        try:
            return self.remote.read(keys, groups, probing=probing)
        except TooLargeError as error:
            self._remove_huge(attempts, groups, error)
            return self.remote.read(keys, groups, probing=probing)

    def _standing(self) -> Standing:
        stamps = self.stamps
        return Standing(stamps.epoch, stamps.server_generation, stamps.trusted_until - self._max_staleness)

    def _remove_huge(self, attempts: Sequence[Attempt], groups: Sequence[str], error: TooLargeError) -> None:
        """A reply was given up: remove what is too large to be ours, so that the question can be asked again."""
        if not self.remote.drop_huge([attempt.key for attempt in attempts], groups):
            raise error
        attempts[0].region.counters.error(error)
        self.reporter.report("decode", f"a value too large was removed from {attempts[0].key} or beside it: {error}")

    def parse(self, found: Sequence[tuple[Attempt, bytes | None]]) -> list[Frame | None]:
        """The frames of many values. Tags that no attempt named have their stamps read in one round trip for all."""
        frames: list[Frame | None] = []
        unknown: dict[str, None] = {}
        for attempt, data in found:
            frame = None if data is None else self._parse(attempt, data)
            frames.append(frame)
            if frame is not None:
                unknown.update((tag_group(name), None) for name in frame.tags if tag_group(name) not in attempt.known)
        if unknown:
            names = list(unknown)
            epoch, _, vouched = self._standing()
            stamps = self.stamps.cached(names)
            held = None not in stamps and not found[0][0].policy.strong
            if not held:
                stamps = self.remote.read_stamps(names, probing=not self.trust.covers())
                self.stamps.remember(names, stamps, epoch)
            for attempt, _ in found:
                if held:
                    attempt.read_started_at = min(attempt.read_started_at, vouched)
                for name, stamp in zip(names, stamps, strict=True):
                    attempt.known.setdefault(name, stamp)
        return frames

    def _parse(self, attempt: Attempt, data: bytes) -> Frame | None:
        try:
            frame = self.framer.unpack(attempt.key, data)
            for name in frame.tags:
                tag_group(name)
            if frame.tags:  # said before their stamps are read, so that their end is an end of what is being filed
                attempt.region.tagged = True
        except (DecodeError, InvalidKeyError) as error:
            attempt.region.counters.error(error)
            self.reporter.report("decode", f"the value in Redis at {attempt.key} is not a valid frame: {error}")
            return None
        return frame

    def current(self, attempt: Attempt, frame: Frame) -> bool:
        """Whether a frame's stamps are the current ones, as far as is known."""
        groups = [tag_group(name) for name in frame.tags]
        base = attempt.call.groups[: len(attempt.call.groups) - len(attempt.call.tags)]
        if any(attempt.known[group] is None for group in (*base, *groups)):
            return False
        # Of another server's values (restored from a disk, perhaps) the stamps known of this one say nothing.
        return attempt.server_generation == self.stamps.server_generation and attempt.digest(frame.tags) == frame.digest

    # Loading

    def ensure(self, *attempts: Attempt) -> None:
        """Before a load every group has a stamp, which will outlive what is stored under it.

        That a stamp lives long enough is remembered, so this is a round trip of its own only now and then.
        """
        wanted: dict[str, Life] = {}
        now = self.clock()
        for attempt in attempts:
            keep = self._redis_ttl_ms(attempt.call) + self.lease_ms  # stored when the load is done
            for group, stamp in attempt.known.items():
                if stamp is None or not self.stamps.outlives(group, stamp, now + keep / 1000):
                    wanted[group] = max(self._life(attempt.call, group, keep), wanted.get(group, Life(0, 0)))
        if wanted:
            stamps = self._ensure(wanted, attempts)
            for attempt in attempts:
                attempt.known.update((group, stamps[group]) for group in attempt.known if group in stamps)

    def _ensure(self, wanted: dict[str, Life], attempts: Sequence[Attempt]) -> dict[str, bytes]:
        if ANY_TAG in wanted:  # after the tags
            wanted[ANY_TAG] = wanted.pop(ANY_TAG)
        epoch, asked = self.stamps.epoch, self.clock()
        found = dict(zip(wanted, self.remote.ensure(wanted), strict=True))
        stamps = {group: told.stamp for group, told in found.items()}
        self.stamps.remember(list(stamps), list(stamps.values()), epoch)
        for group, told in found.items():
            self.stamps.set_lifetime(group, told.stamp, asked + told.left_ms / 1000)
        if made := [group for group, told in found.items() if told.made]:
            self.made(made, attempts)
        return stamps

    def _life(self, call: Call, group: str, keep: int) -> Life:
        """For a stamp that must outlive what is kept for `keep` milliseconds.

        Each time that it is given more, others hear of it as if it had ended. So the stamps of everything, of any tag
        and of a function, which are few, are given a day; those of tags and of keys by hand, which users may choose,
        no more than twice what they need.
        """
        few = group in (EVERYTHING, ANY_TAG) or (call.relink and not group.startswith("#"))
        return Life(keep, max(2 * keep, DAY_MS) if few else 2 * keep)

    def prolong(self, attempt: Attempt, tags: Sequence[str], redis_ttl_ms: int) -> None:
        """Let the stamps outlive a value that is kept longer than could be known before its load."""
        if redis_ttl_ms > self._redis_ttl_ms(attempt.call):
            groups = dict.fromkeys((*attempt.known, *map(tag_group, tags)))
            self._ensure({group: self._life(attempt.call, group, redis_ttl_ms) for group in groups}, [attempt])

    def ask_leases(
        self, attempts: Sequence[Attempt], *, insist: bool = False, unlink: bool = False
    ) -> list[Read | Busy | None]:
        """Ask for leases, in one round trip: for each `None` if it is ours (its token is then noted), or why not.

        `insist`: whoever has them. `unlink`: and what stands there ends.
        """
        keys = [attempt.key for attempt in attempts]
        self.leases.reclaim(keys)
        requested_at = self.clock()
        tokens = [os.urandom(16) for _ in attempts]
        wanted = [
            (attempt.key, token, attempt.digest(), b"" if insist else attempt.seen)
            for attempt, token in zip(attempts, tokens, strict=True)
        ]
        for attempt, token in zip(attempts, tokens, strict=True):
            attempt.token, attempt.requested_at = token, requested_at
        try:
            answers = self.remote.acquire(wanted, self.lease_ms, insist=insist, unlink=unlink)
        except BaseException:
            self.let_go(attempts)
            raise
        for attempt, answer in zip(attempts, answers, strict=True):
            if answer is not None:
                attempt.token = None
        return answers

    def let_go(self, attempts: Sequence[Attempt]) -> None:
        """Whoever asked was interrupted: leases that may have been granted, and were not used, are given back soon."""
        left = [(attempt.key, attempt.token) for attempt in attempts if attempt.token is not None]
        if left:
            self.leases.add_lost(left)
        for attempt in attempts:
            attempt.token = None

    def complete(self, stores: Sequence[tuple[Attempt, Sequence[str], int]]) -> list[bool]:
        """Before values are stored (with these tags, for these milliseconds): the stamps that only they named.

        One round trip for all, or none. False: a tag, maybe one of these, was invalidated since the load began.
        """
        wanted: dict[str, Life] = {}
        for attempt, tags, redis_ttl_ms in stores:
            if attempt.call.late_tags is None and not callable(attempt.policy.ttl):
                continue  # all was known before the load
            groups = [group for group in map(tag_group, tags) if group not in attempt.known]
            keep = self._redis_ttl_ms(attempt.call)
            if attempt.call.late_tags is not None:
                groups.append(ANY_TAG)
            if redis_ttl_ms > keep:  # longer than could be known before the load
                groups += attempt.known
            for group in groups:
                life = self._life(attempt.call, group, max(keep, redis_ttl_ms))
                wanted[group] = max(life, wanted.get(group, Life(0, 0)))
        if not wanted:
            return [True] * len(stores)
        stamps = self._ensure(wanted, [attempt for attempt, _, _ in stores])
        unmoved = []
        for attempt, tags, _ in stores:
            before = attempt.known.get(ANY_TAG)
            unmoved.append(attempt.call.late_tags is None or before == stamps[ANY_TAG])
            for group in map(tag_group, tags):
                attempt.known.setdefault(group, stamps.get(group))
        return unmoved

    def pack(self, attempt: Attempt, packed: EncodedValue, seconds: float, cost: float, tags: tuple[str, ...]) -> bytes:
        """The frame of a value, under the stamps known before its load."""
        return self.framer.pack(
            attempt.key,
            codec=packed.codec,
            schema=packed.schema,
            digest=attempt.digest(tags),
            cost=cost,
            ttl_ms=milliseconds(seconds),
            redis_ttl_ms=milliseconds(seconds) + milliseconds(attempt.policy.extra),
            tags=tags,
            payload=packed.payload,
        )

    def _redis_ttl_ms(self, call: Call) -> int:
        """How long stamps must live for what this call may store."""
        ttl = call.policy.ttl
        longest = ttl if isinstance(ttl, float) else max(call.ttl, self._longest)
        return milliseconds(longest + call.policy.extra)
