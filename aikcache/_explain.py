"""Where a call would be answered from, told to people: the dictionary behind `.explain()` and the command line."""

from __future__ import annotations

from typing import Any

from ._request import Request
from ._tiers import Tiers
from .errors import RemoteError


def explain(tiers: Tiers, request: Request) -> dict[str, Any]:
    """Where a request would be answered from, and how long. Asks Redis once; counts nothing."""
    request.groups = tiers.groups_of(request)
    entry = tiers.local.peek(request.key)
    now = tiers.clock()
    told: dict[str, Any] = {"key": request.key, "groups": list(request.groups), "local": None, "remote": None}
    answer = "load"
    if entry is not None:
        left = min(entry.fresh, entry.deadline) - now  # negative: stale for so long
        told["local"] = {"fresh": left > 0, "seconds_left": round(left, 3), "tags": list(entry.tags)}
    try:
        there = _remote(tiers, request)
    except RemoteError as error:
        there = {"error": str(error)}
    told["remote"] = there
    stale_ttl = request.policy.stale_ttl
    if entry is not None and now < min(entry.deadline, entry.fresh + stale_ttl):
        answer = "local"
    elif there is not None and there.get("current") and there["seconds_left"] + stale_ttl > 0:
        answer = "remote"
    return {**told, "answer": answer}


def _remote(tiers: Tiers, request: Request) -> dict[str, Any] | None:
    if tiers.shared is None:
        return None
    read = tiers.shared.read(request)
    seen = None if read.data is None else tiers.shared.unpack(request, read.data)
    if read.data is None or seen is None:
        return None
    frame, current = seen
    left = (read.pttl - (frame.keep_ms - frame.ttl_ms)) / 1000
    return {
        "fresh": current and left > 0,
        "current": current,  # nothing that it belongs to was ended since
        "seconds_left": left,
        "bytes": len(read.data),
        "load_seconds": round(frame.cost, 6),
        "tags": list(frame.tags),
    }
