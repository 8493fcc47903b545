"""What this process believes of the groups' stamps.

A stamp is a group's current generation, a random token in Redis. Believing one saves asking for it with every value,
and is allowed only while the channel is live, since only the channel says when it ends (`trusted`). What was read is
kept only if nothing was pushed since it was asked for (`epoch`); after an invalidation of our own the stamp is
unknown, not the one we wrote: another process may have written a newer one.

Threads: changes happen under the cache's guard; reading is a dictionary look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

from ._guard import Guard

MAX_STAMPS = 100_000
"""Stamps remembered; forgetting them costs one read each."""


@lru_cache(maxsize=1024)
def digest(stamps: bytes) -> bytes:
    """The digest that a frame carries of its groups' stamps, joined in their order."""
    return blake2b(stamps, digest_size=16).digest()


class Stamps:
    """The stamps known to be current."""

    __slots__ = ("_guard", "_known", "epoch", "trusted")

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._known: dict[str, bytes] = {}
        self.epoch = 0
        self.trusted = False

    def __len__(self) -> int:
        return len(self._known)

    def known(self, groups: Sequence[str]) -> list[bytes | None]:
        if not self.trusted:
            return [None] * len(groups)
        return [self._known.get(group) for group in groups]

    def remember(self, groups: Sequence[str], stamps: Sequence[bytes | None], epoch: int) -> None:
        """Keep what was read when the epoch was `epoch`, unless anything was pushed since."""
        if not self.trusted or self._guard.held():
            return
        with self._guard:
            if self.epoch != epoch or not self.trusted:
                return
            if len(self._known) > MAX_STAMPS:
                self._known.clear()
            for group, stamp in zip(groups, stamps, strict=True):
                if stamp is not None:
                    self._known[group] = stamp

    def forget(self, *groups: str) -> None:
        """These have ended."""
        self._guard.do(lambda: self._forget(groups))

    def _forget(self, groups: tuple[str, ...]) -> None:
        self.epoch += 1
        for group in groups:
            self._known.pop(group, None)

    def forget_all(self, *, trusted: bool) -> None:
        """The channel has come or gone: nothing known before counts."""

        def work() -> None:
            self.epoch += 1
            self._known.clear()
            self.trusted = trusted

        self._guard.do(work)
