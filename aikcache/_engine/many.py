"""Many calls at once: values by the fast path in one round trip, and values that are only looked for."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from aikcache._engine.batch import Batch
from aikcache._engine.call import MISSING, Attempt, Call
from aikcache._engine.engine import Engine
from aikcache._engine.fast_path import UNSEEN, FastPathMiss
from aikcache._engine.policy import Policy
from aikcache._local.region import Region
from aikcache.errors import RemoteError


def fast_read(
    engine: Engine, region: Region, policy: Policy, texts: Sequence[str], local_keys: Sequence[Hashable]
) -> list[Any]:
    """Values of many calls of one function by the fast path, one MGET; `FastPathMiss` for those it cannot answer.

    `texts` are their keys without the lead; `local_keys` are empty where nothing is held locally.
    """
    lead = engine.keyspace.namespace_prefix
    keys = [lead + text for text in texts]
    found: list[Any] = [UNSEEN] * len(keys)
    if engine.fast_path is None or engine.strong_path is None or not keys or engine.in_block():
        return found
    if policy.strong:
        return engine.strong_path.many(keys, region, policy)
    if not (local_keys or engine.local or engine.flights):  # nothing here that could know better
        return engine.fast_path.many(keys, region, (), policy)
    useless: set[int] = set()  # places of entries that cannot answer any more
    for i, local_key in enumerate(local_keys):
        try:
            entry = region.table[local_key]
        except KeyError:
            continue
        useless.add(i)
        value = engine.freshness.serve(entry, policy)
        if value is not MISSING:
            found[i] = value
    asked = [
        i
        for i, key in enumerate(keys)
        if found[i] is UNSEEN and (i in useless or key not in engine.local) and key not in engine.flights
    ]
    if asked:
        seen = engine.fast_path.many(
            [keys[i] for i in asked], region, [local_keys[i] for i in asked] if local_keys else (), policy
        )
        for i, value in zip(asked, seen, strict=True):
            found[i] = value
        for i in useless.intersection(asked):
            if type(missed := found[i]) is FastPathMiss:
                found[i] = missed._replace(looked=False)  # an entry that has aged has a part in what follows
    return found


def peek(engine: Engine, calls: Sequence[Call]) -> list[Any]:
    """The values that are cached, `MISSING` for the others; nothing is loaded, and nobody is waited for."""
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
                batch.look(engine.remote_tier, missing)
            except RemoteError as error:
                engine.filler.failed(attempts[missing[0]], error)
    for value, call in zip(values, calls, strict=True):
        call.region.counters.misses += value is MISSING and not engine.closed
    return values
