"""What this process believes of the groups' stamps.

A stamp is a group's current generation, a random token in Redis. Believing one saves asking for it with every value,
and is allowed only while the channel is live, since only the channel says when it ends (`trusted`). What was read is
kept only if nothing was pushed since it was asked for (`epoch`); after an invalidation of our own the stamp is
unknown, not the one we wrote: another process may have written a newer one.

Threads: changes happen under the cache's guard; reading is a dictionary look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import inf

from aikcache._concurrency.guard import Guard

MAX_STAMPS = 100_000
"""Stamps remembered; forgetting them costs one read each."""
MAX_LIVES = 10_000
"""Stamps whose lives are remembered; forgetting them costs a round trip before a load, once for each."""


@lru_cache(maxsize=1024)
def digest(stamps: bytes) -> bytes:
    """The digest that a frame carries of its groups' stamps, joined in their order."""
    return blake2b(stamps, digest_size=16).digest()


class Stamps:
    """The stamps known to be current."""

    __slots__ = (
        "_clock",
        "_guard",
        "_known",
        "_last_pushed",
        "_lives",
        "_mine",
        "epoch",
        "server_generation",
        "trusted",
        "trusted_until",
    )

    def __init__(self, guard: Guard, clock: Callable[[], float]) -> None:
        self._guard = guard
        self._clock = clock
        self._known: dict[str, bytes] = {}
        self._lives: dict[str, tuple[bytes, float]] = {}  # until when a stamp lives at least, believed or not
        self._mine: dict[str, tuple[bytes, ...]] = {}
        self._last_pushed: dict[str, bytes] = {}  # as they stood after the last push that was asked about
        self.epoch = 0
        self.server_generation = 0  # counts servers: what was learnt in one says nothing of what another holds
        self.trusted_until = -inf  # until when the channel vouches
        self.trusted = False

    def __len__(self) -> int:
        return len(self._known)

    def known(self, groups: Sequence[str]) -> list[bytes | None]:
        if not self.trusted or self._clock() >= self.trusted_until:
            return [None] * len(groups)
        return [self._known.get(group) for group in groups]

    def remember(self, groups: Sequence[str], stamps: Sequence[bytes | None], epoch: int) -> None:
        """Keep what was read when the epoch was `epoch`, unless anything was pushed since."""
        if self.trusted and not self._guard.held():
            self._guard.run(self._remember, groups, stamps, epoch)

    def _remember(self, groups: Sequence[str], stamps: Sequence[bytes | None], epoch: int) -> None:
        if self.epoch != epoch or not self.trusted:
            return
        if len(self._known) > MAX_STAMPS:
            self._known.clear()
        for group, stamp in zip(groups, stamps, strict=True):
            if stamp is not None:
                self._known[group] = stamp

    def lives(self, group: str, stamp: bytes, until: float) -> None:
        """Redis keeps this stamp of a group until then, or longer: nobody makes its life shorter."""
        if len(self._lives) >= MAX_LIVES:
            self._lives.clear()
        self._lives[group] = stamp, until

    def outlives(self, group: str, stamp: bytes, until: float) -> bool:
        """Whether it is known that the stamp, if it is the group's, lives until then."""
        known = self._lives.get(group)
        return known is not None and known[0] == stamp and known[1] >= until

    def forget(self, *groups: str) -> None:
        """These were invalidated."""
        self._guard.do(lambda: self._forget(groups))

    def _forget(self, groups: tuple[str, ...]) -> None:
        self.epoch += 1
        for group in groups:
            self._known.pop(group, None)

    def forget_all(self, *, trusted: bool, server_generation: bool = False) -> None:
        """The channel has come or gone: nothing known counts. `server_generation`: nor for what is being read now."""

        def work() -> None:
            self.epoch += 1
            self.server_generation += server_generation
            self._known.clear()
            self._mine.clear()
            self._last_pushed.clear()
            self.trusted = trusted

        self._guard.do(work)

    # What this process writes is pushed back to it. Writing says beforehand what the push will be about. (Two threads
    # at one group may lose one expectation: the push then ends a little too much.)

    def expect(self, group: str, stamp: bytes) -> None:
        """A push of this group is to come, because `stamp` is about to be written.

        Never one that was merely read: the push of whoever wrote it may still be on its way, and must be heeded.
        """
        if len(self._mine) > MAX_STAMPS:
            self._mine.clear()
        self._mine[group] = (*self._mine.get(group, ()), stamp)

    def unexpect(self, group: str, stamp: bytes) -> None:
        """It was not written after all."""
        left = tuple(mine for mine in self._mine.get(group, ()) if mine != stamp)
        if left:
            self._mine[group] = left
        else:
            self._mine.pop(group, None)

    def expected(self, group: str) -> bool:
        return group in self._mine

    def already_known(self, group: str, stamp: object) -> bool:
        """The stamp as it stands after the push that was expected. True when that says nothing new.

        So it is when it was written here, or stood there already after an earlier push (it was made to live longer).
        """
        if not isinstance(stamp, bytes):
            return False
        if len(self._last_pushed) > MAX_STAMPS:
            self._last_pushed.clear()
        before, self._last_pushed[group] = self._last_pushed.get(group), stamp
        return stamp in self._mine.pop(group, ()) or stamp == before
