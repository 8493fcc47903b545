"""Many calls at once: values by the fast path in one round trip, and look-ups that load nothing."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from aikcache._engine.batch import Batch
from aikcache._engine.call import MISSING, Attempt, Call
from aikcache._engine.fast_path import UNSEEN, FastPathMiss
from aikcache._engine.policy import Policy
from aikcache._local.region import Region
from aikcache.errors import RemoteError

if TYPE_CHECKING:
    from aikcache._engine.engine import Engine


def fast_read(
    engine: Engine, region: Region, policy: Policy, texts: Sequence[str], local_keys: Sequence[Hashable]
) -> list[Any]:
    """Values of many calls of one function by the fast path, one MGET; `FastPathMiss` for those it cannot answer.

    `texts` are their keys without the namespace prefix; `local_keys` are empty where nothing is held locally.
    """
    prefix = engine.keyspace.namespace_prefix
    keys = [prefix + text for text in texts]
    found: list[Any] = [UNSEEN] * len(keys)
    if engine.fast_path is None or engine.strong_path is None or not keys or engine.in_block():
        return found
    if policy.strong:
        return engine.strong_path.many(keys, region, policy)
    if not (local_keys or engine.local or engine.flights):  # no local value or flight to consider
        return engine.fast_path.many(keys, region, (), policy)
    useless: set[int] = set()  # places of entries that no longer answer
    for i, local_key in enumerate(local_keys):
        try:
            entry = region.table[local_key]
        except KeyError:
            continue
        useless.add(i)
        value = engine.freshness.serve(entry, policy)
        if value is not MISSING:
            found[i] = value
    requested = [
        i
        for i, key in enumerate(keys)
        if found[i] is UNSEEN and (i in useless or key not in engine.local) and key not in engine.flights
    ]
    if requested:
        seen = engine.fast_path.many(
            [keys[i] for i in requested], region, [local_keys[i] for i in requested] if local_keys else (), policy
        )
        for i, value in zip(requested, seen, strict=True):
            found[i] = value
        for i in useless.intersection(requested):
            if type(missed := found[i]) is FastPathMiss:
                found[i] = missed._replace(looked=False)  # the full read path needs the aged entry
    return found


def peek(engine: Engine, calls: Sequence[Call]) -> list[Any]:
    """The values that are cached, `MISSING` for the others. Loads nothing and waits for no load."""
    attempts = [Attempt(call, engine.clock(), only_fresh=True) for call in calls]
    batch = Batch(engine, attempts, lambda places: [MISSING for _ in places])
    values = batch.values
    if not engine.passive:
        missing = []
        for i, attempt in enumerate(attempts):
            if not engine.covered(attempt.call):
                values[i] = engine.freshness.peek(attempt)
                if values[i] is MISSING:
                    missing.append(i)
        if missing and engine.remote_tier is not None:
            try:
                batch.read(engine.remote_tier, missing)
            except RemoteError as error:
                engine.filler.failed(attempts[missing[0]], error)
    for value, call in zip(values, calls, strict=True):
        call.region.counters.misses += value is MISSING and not engine.closed
    return values
