"""The stamps that this process has cached.

A stamp is a group's current generation, a random token in Redis. A cached one saves reading it with every value. That
is allowed only while the channel is live, because only the channel reports its end (`trusted`). A stamp that was read
is kept only if nothing was pushed since it was requested (`epoch`). After an invalidation of this process the stamp is
unknown, not the one it wrote: another process may have written a newer one.

Threads: changes happen under the cache's guard; reading is a dictionary look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import inf

from aikcache._concurrency.guard import Guard

MAX_STAMPS = 100_000
"""Cached stamps; forgetting them costs one read each."""
MOST_EXPECTED = 8
"""Pushes that are expected for one group, at most; each more invalidates a little too much."""
MAX_LIFETIMES = 10_000
"""Stamps whose expiry is remembered; forgetting one costs a round trip before a load."""


@lru_cache(maxsize=1024)
def digest(stamps: bytes) -> bytes:
    """The digest of joined stamps, which a frame carries."""
    from hashlib import blake2b  # here, because a process that only decorates needs none of OpenSSL

    return blake2b(stamps, digest_size=16).digest()


class Stamps:
    """The stamps known to be current."""

    __slots__ = (
        "_cached",
        "_clock",
        "_expected",
        "_guard",
        "_last_pushed",
        "_lifetimes",
        "epoch",
        "server_generation",
        "trusted",
        "trusted_until",
    )

    def __init__(self, guard: Guard, clock: Callable[[], float]) -> None:
        self._guard = guard
        self._clock = clock
        self._cached: dict[str, bytes] = {}
        self._lifetimes: dict[str, tuple[bytes, float]] = {}  # a stamp, and until when it lives at least
        self._expected: dict[str, tuple[bytes, ...]] = {}
        self._last_pushed: dict[str, bytes] = {}  # the stamps after the last push that was checked
        self.epoch = 0
        self.server_generation = 0  # counts servers: a stamp of one says nothing about another
        self.trusted_until = -inf  # until when the channel allows the use of cached stamps
        self.trusted = False

    def __len__(self) -> int:
        return len(self._cached)

    def cached(self, groups: Sequence[str]) -> list[bytes | None]:
        if not self.trusted or self._clock() >= self.trusted_until:
            return [None] * len(groups)
        return [self._cached.get(group) for group in groups]

    def remember(self, groups: Sequence[str], stamps: Sequence[bytes | None], epoch: int) -> None:
        """Cache stamps that were requested when the epoch was `epoch`, unless anything was pushed since."""
        if self.trusted and not self._guard.held():
            self._guard.run(self._remember, groups, stamps, epoch)

    def _remember(self, groups: Sequence[str], stamps: Sequence[bytes | None], epoch: int) -> None:
        if self.epoch != epoch or not self.trusted:
            return
        if len(self._cached) > MAX_STAMPS:
            self._cached.clear()
        for group, stamp in zip(groups, stamps, strict=True):
            if stamp is not None:
                self._cached[group] = stamp
            elif self._cached.pop(group, None) is not None:
                self.epoch += 1  # it is gone: a later call must not get what this one is refused

    def set_lifetime(self, group: str, stamp: bytes, until: float) -> None:
        """Redis keeps this stamp of a group at least until then: no process shortens its life."""
        if len(self._lifetimes) >= MAX_LIFETIMES:
            self._lifetimes.clear()
        self._lifetimes[group] = stamp, until

    def outlives(self, group: str, stamp: bytes, until: float) -> bool:
        """Whether this stamp of the group is known to live until then."""
        cached = self._lifetimes.get(group)
        return cached is not None and cached[0] == stamp and cached[1] >= until

    def forget(self, *groups: str) -> None:
        """These groups were invalidated."""
        self._guard.do(lambda: self._forget(groups))

    def _forget(self, groups: tuple[str, ...]) -> None:
        self.epoch += 1
        for group in groups:
            self._cached.pop(group, None)

    def forget_all(self, *, trusted: bool, server_generation: bool = False) -> None:
        """The channel was connected or lost: forget all stamps. `server_generation`: also those that are being read
        now.
        """

        def work() -> None:
            self.epoch += 1
            self.server_generation += server_generation
            self._cached.clear()
            self._expected.clear()
            self._last_pushed.clear()
            self.trusted = trusted

        self._guard.do(work)

    # Redis pushes this process's own writes back to it. A writer registers the push beforehand. (If two threads write
    # one group, a registration may be lost: the push then invalidates a little too much.)

    def expect(self, group: str, stamp: bytes) -> None:
        """`stamp` is about to be written for this group, so a push will follow.

        Never for a stamp that was merely read: its writer's push may still be on its way, and must not be ignored.
        """
        if not self.trusted:  # no channel, no push: it would be kept for ever
            return
        if len(self._expected) > MAX_STAMPS:
            self._expected.clear()
        self._expected[group] = (*self._expected.get(group, ())[1 - MOST_EXPECTED :], stamp)

    def unexpect(self, group: str, stamp: bytes) -> None:
        """The stamp was not written after all."""
        left = tuple(mine for mine in self._expected.get(group, ()) if mine != stamp)
        if left:
            self._expected[group] = left
        else:
            self._expected.pop(group, None)

    def expected(self, group: str) -> bool:
        return group in self._expected

    def is_unchanged(self, group: str, stamp: object) -> bool:
        """Whether the stamp, read after an expected push, is one that this process knows.

        It is when this process wrote it, or when it was there after an earlier push (only its life was extended).
        """
        if not isinstance(stamp, bytes):
            return False
        if len(self._last_pushed) > MAX_STAMPS:
            self._last_pushed.clear()
        before, self._last_pushed[group] = self._last_pushed.get(group), stamp
        return stamp in self._expected.pop(group, ()) or stamp == before
