"""Explains where a call would be answered from: the dictionary of `.explain()` and of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aikcache._engine.call import Attempt, Call
from aikcache._local.entry import EncodedValue, Entry
from aikcache._local.original import Original
from aikcache.errors import RemoteError

if TYPE_CHECKING:
    from aikcache._engine.engine import Engine


def explain(engine: Engine, call: Call) -> dict[str, Any]:
    """Where a call would be answered from, and how long. Asks Redis once; counts nothing."""
    report: dict[str, Any] = {"key": call.key, "groups": list(call.groups), "local": None, "remote": None}
    if engine.passive or engine.covered(call):
        return {**report, "answer": "load"}
    entry = None if call.policy.strong else engine.local.peek(call.key)
    now = engine.clock()
    answer = "load"
    if entry is not None:
        left = min(entry.fresh_until, entry.expires_at) - now  # negative: stale for so long
        report["local"] = {"fresh": left > 0, "seconds_left": round(left, 3), "tags": list(entry.tags)}
    try:
        there = _remote(engine, call)
    except RemoteError as error:
        there = {"error": str(error)}
    report["remote"] = there
    stale_ttl = call.policy.stale_ttl
    if (
        entry is not None
        and engine.freshness.trusted(entry, now)
        and _reads(call, entry)
        and now < min(entry.expires_at, entry.fresh_until + stale_ttl)
    ):
        answer = "local"
    elif there is not None and there.get("current") and there["seconds_left"] + stale_ttl > 0:
        answer = "remote"
    return {**report, "answer": answer}


def _reads(call: Call, entry: Entry) -> bool:
    """Whether an entry's value has the expected type."""
    codec, cached = call.policy.codec, entry.value
    if type(cached) is EncodedValue:
        return codec.reads(cached.schema)
    return codec.takes(cached.copy() if type(cached) is Original else cached, entry.codec)


def _remote(engine: Engine, call: Call) -> dict[str, Any] | None:
    if engine.remote_tier is None:
        return None
    attempt = Attempt(call, engine.clock())
    (read,) = engine.remote_tier.read([attempt])
    (frame,) = engine.remote_tier.parse([(attempt, read.data)])
    if read.data is None or frame is None:
        return None
    current = engine.remote_tier.current(attempt, frame) and call.policy.codec.reads(frame.schema)
    left, _ = frame.seconds_left(read.pttl)
    return {
        "fresh": current and left > 0,
        "current": current,  # it has the expected type, and none of its groups was invalidated since
        "seconds_left": left,
        "bytes": len(read.data),
        "load_seconds": round(frame.cost, 6),
        "tags": list(frame.tags),
    }
