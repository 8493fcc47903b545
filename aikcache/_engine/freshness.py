"""The one rule of freshness, for a local entry and for a value that was just read from Redis.

    fresh ── refresh_at ───── fresh_until ────────────────────────────── expired
      served   served, renewed   stale_ttl: served, renewed in the background
                                 error_ttl: served only if the function fails

While another caller renews a value, or has just failed to, it is served to the others at once. An entry must also be
trusted: the channel is live, or the entry is younger than `max_staleness`. A look-up counts nothing; a served value
counts its hit. The generated wrapper (`_decorators/wrapper`) compares with two times that follow from this rule:
`entry.until` and `trusted_until`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from aikcache._codec.codec import Codec
from aikcache._engine.call import MISSING, Attempt
from aikcache._engine.policy import Policy
from aikcache._engine.single_flight import CachedValue
from aikcache._local.entry import EncodedValue, Entry, hand_out
from aikcache._local.original import Original
from aikcache.errors import DecodeError

if TYPE_CHECKING:
    from aikcache._engine.refresh import Refresher
    from aikcache._local.tier import LocalTier

SERVE, RENEW, FALLBACK, REFUSE = range(4)
"""What a value is worth to a call: it answers; it answers and is renewed; it answers if the function fails; nothing."""


class Freshness:
    """Judges the values of one cache."""

    def __init__(
        self, local: LocalTier, refresher: Refresher, max_staleness: float, clock: Callable[[], float]
    ) -> None:
        self._local = local
        self._refresher = refresher
        self._max_staleness = max_staleness
        self._clock = clock

    def worth(self, key: str, policy: Policy, refresh_at: float, fresh_until: float, now: float) -> int:
        """Whether the value under a key may answer a call."""
        overdue = now - fresh_until
        if overdue < 0 and now < refresh_at:
            return SERVE
        if overdue >= policy.extra and overdue >= 0:
            return REFUSE
        if self._refresher.resting(key):
            return SERVE
        return RENEW if overdue < 0 or overdue < policy.stale_ttl else FALLBACK

    def trusted(self, entry: Entry, now: float) -> bool:
        """Whether the channel is live, or the entry younger than `max_staleness`."""
        return now < entry.region.trusted_until or now < entry.created_at + self._max_staleness

    def value(self, entry: Entry, codec: Codec, now: float) -> Any:
        """The value of a trusted entry that has not expired, if it has the requested type; else `MISSING`."""
        if now >= entry.expires_at or not self.trusted(entry, now) or not self._local.touch(entry):
            return MISSING
        cached = entry.value
        try:
            value = hand_out(cached, entry.codec, codec)
        except DecodeError:
            return MISSING
        if type(cached) is EncodedValue and not cached.decoded and cached.schema == codec.schema:
            self._local.keep_copied(entry, cached, codec, value)
        return value

    def fresh(self, entry: Entry, codec: Codec) -> Any:
        """An entry's value while it is fresh, else `MISSING`."""
        now = self._clock()
        value = MISSING if now >= entry.fresh_until else self.value(entry, codec, now)
        if value is not MISSING:
            entry.served()
        return value

    def serve(self, entry: Entry, policy: Policy) -> Any:
        """An entry's value if it answers a call without being renewed for it, else `MISSING`."""
        now, cached = self._clock(), entry.value
        if (  # as the compiled wrapper: what follows comes to the same, and takes a third of a microsecond more
            type(cached) is Original
            and entry.codec is policy.codec
            and now < min(entry.refresh_at, entry.fresh_until, entry.expires_at, entry.region.trusted_until)
            and self._local.touch(entry)
        ):
            entry.served()
            return cached.copy()
        if self.worth(entry.key, policy, entry.refresh_at, entry.fresh_until, now) != SERVE:
            return MISSING
        value = self.value(entry, policy.codec, now)
        if value is not MISSING:
            entry.served()
            if now >= entry.fresh_until:
                entry.region.counters.stale += 1
        return value

    # Local values, for a call on the full read path

    def local_value(self, attempt: Attempt) -> Any:
        """The local value that answers a call; `MISSING` also where the fast path has looked and found none."""
        if attempt.looked == self._local.changes:
            return MISSING
        entry = self._find(attempt)
        value = MISSING if entry is None else self._answer(entry, attempt)
        if entry is not None and value is not MISSING:
            self._relink(entry, attempt)
        return value

    def landed(self, attempt: Attempt) -> tuple[Any, CachedValue] | None:
        """The local value for a flight's leader, if anything was filled or dropped since this call looked.

        Another load may have landed meanwhile, or the stale value that was found may have been invalidated.
        """
        if attempt.policy.strong:
            attempt.fallback = None
        if attempt.looked == self._local.changes:
            return None
        entry = self._find(attempt)
        if entry is None:
            attempt.fallback = None
            return None
        value = self.fresh(entry, attempt.policy.codec)
        if value is MISSING:
            return None
        self._relink(entry, attempt)
        return value, CachedValue(entry.value, entry.codec)

    def peek(self, attempt: Attempt) -> Any:
        """The fresh local value, without side effects."""
        entry = self._find(attempt)
        return MISSING if entry is None else self.fresh(entry, attempt.policy.codec)

    def _find(self, attempt: Attempt) -> Entry | None:
        """The local entry of a key; none for a strong call."""
        attempt.looked = self._local.changes
        return None if attempt.policy.strong else self._local.peek(attempt.key)

    def _relink(self, entry: Entry, attempt: Attempt) -> None:
        """Let the wrapper find the entry that has answered its call."""
        if attempt.call.relink:
            self._local.relink(entry, attempt.region, attempt.call.local_key)

    def _answer(self, entry: Entry, attempt: Attempt) -> Any:
        """An entry's value if it answers; renew it where that is due."""
        now = self._clock()
        value = self.value(entry, attempt.policy.codec, now)
        if value is MISSING:
            return value
        attempt.fresh_until = entry.fresh_until
        found = CachedValue(entry.value, entry.codec, requested_at=entry.created_at)
        if not self.answers(attempt, entry.refresh_at, found):
            return MISSING
        if entry.refresh_at <= now < entry.fresh_until:  # renewed once; meanwhile the wrapper serves it
            entry.refresh_at = inf
            entry.until = min(entry.fresh_until, entry.expires_at) if entry.until > -inf else -inf
        entry.served()
        return value

    def answers(self, attempt: Attempt, refresh_at: float, found: CachedValue) -> bool:
        """Whether a value that is fresh until `attempt.fresh_until` answers. It is renewed, or noted as a fallback."""
        now = self._clock()
        if attempt.only_fresh:
            return now < attempt.fresh_until
        worth = self.worth(attempt.key, attempt.policy, refresh_at, attempt.fresh_until, now)
        if worth == RENEW:
            self._refresher.soon(attempt.call, attempt.fresh_until)
        elif worth == FALLBACK:
            attempt.fallback = found._replace(stale=True)
        answers = worth <= RENEW
        attempt.region.counters.stale += answers and now >= attempt.fresh_until
        return answers
