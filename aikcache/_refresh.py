"""Values that have aged: served all the same where that is asked for, while one process of the cluster renews them.

    fresh ── due ──────────── stale ─────────────────────────── gone
      └ early_refresh └ ttl     └ stale_ttl: served, renewed      └ error_ttl: served only if the function fails

`due` is XFetch: a value whose load took `cost` seconds is renewed early, at random, so that it is there before the end
and not everybody renews at once. The draw is made once per copy, when it is filed, so that a hit pays nothing for it;
as XFetch draws at every hit, and so hardly ever too late, the load's own time is added to each draw.

A value that was invalidated is gone, never stale: locally it is dropped, remotely its stamps no longer match.

Source of XFetch: Vattani, Chierichetti, Lowenstein: "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from ._background import Background
from ._policy import Policy
from ._request import Request

AGAIN = 1.0
"""Seconds after which a key whose refresh failed, or is someone else's, is tried again."""
MAX_KEYS = 10_000


def early(policy: Policy, cost: float, ttl: float) -> float:
    """How long before its end a value is due, in seconds, drawn at random; 0.0 without `early_refresh`."""
    if not policy.early_refresh or cost <= 0:
        return 0.0
    draw = 1.0 - math.log(1.0 - random.random())
    return min(cost * policy.early_refresh * draw, ttl / 2)


class Refresher:
    """Renews in the background what `soon` is told of, each key at most once at a time and once a second."""

    def __init__(self, background: Background, renew: Callable[[Request], bool], clock: Callable[[], float]) -> None:
        self._background = background
        self._renew = renew
        self._clock = clock
        self._not_before: dict[str, float] = {}

    def soon(self, request: Request) -> None:
        now = self._clock()
        if self._not_before.get(request.key, now) > now:
            return
        if len(self._not_before) >= MAX_KEYS:
            self._not_before.clear()
        self._not_before[request.key] = now + AGAIN
        self._background.submit(lambda: self._run(request))

    def failed(self, key: str) -> None:
        """A load failed where a stale value could answer: for a while it answers at once."""
        self._not_before[key] = self._clock() + AGAIN

    def resting(self, key: str) -> bool:
        return self._not_before.get(key, 0.0) > self._clock()

    def _run(self, request: Request) -> None:
        if self._renew(request):
            self._not_before.pop(request.key, None)
