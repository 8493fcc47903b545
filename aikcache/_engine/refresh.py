"""Renews aged values. They are served where that was configured, while one process of the cluster renews them.

    fresh ── refresh_at ───── stale ─────────────────────────── expired
      └ early_refresh └ ttl     └ stale_ttl: served, renewed      └ error_ttl: served only if the function fails

`refresh_at` is XFetch: a value whose load took `cost` seconds is renewed early, at a random time, so that the new one
is there before the old one expires and not all processes renew at once. The time is drawn once per copy, when it is
filed, so a hit pays nothing for it. XFetch draws at every hit, and so is hardly ever too late; here the load's own time
is added to each draw instead.

An invalidated value is gone, never stale: locally it is dropped, and in Redis its stamps no longer match.

Source of XFetch: Vattani, Chierichetti, Lowenstein: "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from aikcache._concurrency import chance
from aikcache._engine.call import Call
from aikcache._engine.policy import Policy

if TYPE_CHECKING:
    from aikcache._concurrency.background import Background

AGAIN = 1.0
"""Seconds after which a key is tried again whose refresh failed, or was another process's."""
MAX_KEYS = 10_000


def early(policy: Policy, cost: float, ttl: float) -> float:
    """How long before its expiry to renew a value, in seconds, drawn at random; 0.0 without `early_refresh`."""
    if not policy.early_refresh or cost <= 0:
        return 0.0
    draw = 1.0 - math.log(1.0 - chance.random())
    return min(cost * policy.early_refresh * draw, ttl / 2)


class Refresher:
    """Renews values in the background, each key at most once at a time and once a second."""

    def __init__(
        self, background: Background, renew: Callable[[Call, float], bool], clock: Callable[[], float]
    ) -> None:
        self._background = background
        self._renew = renew
        self._clock = clock
        self._not_before: dict[str, float] = {}

    def after_fork(self, background: Background) -> None:
        """Reset in the child: nothing is being renewed."""
        self._background = background
        self._not_before = {}

    def soon(self, call: Call, fresh_until: float) -> None:
        """Renew the value of a call, which is or was fresh until then."""
        now = self._clock()
        if self._not_before.get(call.key, now) > now:
            return
        self._rest(call.key)
        self._background.submit(lambda: self._run(call, fresh_until))

    def failed(self, key: str) -> None:
        """A load failed where a stale value could answer: for a while the value answers at once."""
        self._rest(key)

    def _rest(self, key: str) -> None:
        if len(self._not_before) >= MAX_KEYS:
            self._not_before.clear()
        self._not_before[key] = self._clock() + AGAIN

    def resting(self, key: str) -> bool:
        return self._not_before.get(key, 0.0) > self._clock()

    def _run(self, call: Call, fresh_until: float) -> None:
        if self._renew(call, fresh_until):
            self._not_before.pop(call.key, None)
