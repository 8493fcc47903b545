"""Checks whether a cache works as it should, and names a cure for each problem.

It asks the server (`PING`, and `INFO` where an ACL allows it), so it takes at most `connect_timeout` and `timeout` for
each server, and never raises. A cache whose Redis is unavailable is ready, because calls run their functions, and
degraded.

Text from a server is only compared and never shown, except numbers and a version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from time import monotonic
from typing import Final, Literal

from aikcache._engine.engine import Engine
from aikcache._engine.stats import Health, Problem
from aikcache._redis.transport import Server
from aikcache.errors import RemoteError

SOUND: Final = {"redis": ((7, 2, 16), (7, 4, 11), (8, 2, 9)), "valkey": ((9, 1, 2),)}
"""The first release of each line without the known holes in Lua and TLS."""
FULL = 0.9
MISSED = 2.0
"""Seconds without an answered heartbeat after which a channel that is connected counts as silent."""
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,6})")


def check(engine: Engine) -> Health:
    """Ask the servers and return the result."""
    ok, server, latency = True, "none", None
    problems: list[Problem] = []
    if engine.closed:
        ok, server = False, "this cache is closed."
    elif engine.remote is not None:
        server = "reachable"
        try:
            started_at = monotonic()
            engine.remote.ping()
            latency = monotonic() - started_at
        except RemoteError as error:
            ok, server = False, str(error)
        if ok and engine.trust.refused is not None:
            ok, server = False, engine.trust.refused
        problems += _of_connection(engine, server, latency, ok=ok)
        if latency is not None:
            problems += [problem for pool in engine.remote.connections.servers() for problem in _of_server(pool)]
    remote, recovery = engine.remote, engine.recovery
    return Health(
        ok=ok,
        server=server,
        coherent=engine.coherent,
        breaker_open=remote is not None and remote.connections.breaker.is_open,
        pending_invalidations=0 if recovery is None else len(recovery),
        live=not engine.closed,
        ready=not engine.closed,
        latency=latency,
        problems=tuple(dict.fromkeys(problems)),
    )


def _of_connection(engine: Engine, server: str, latency: float | None, *, ok: bool) -> Iterator[Problem]:
    assert engine.remote is not None
    breaker, timeout = engine.remote.connections.breaker, engine.config.timeout
    if breaker.is_open:
        why = f"the circuit breaker is open; the last failure: {breaker.cause}"
        yield Problem("breaker", "degraded", why, "It closes by itself once Redis answers: look at that failure first.")
    elif latency is None:
        cure = "Is the server up, and do url, network and login fit? Calls run their functions meanwhile."
        yield Problem("server", "degraded", f"Redis cannot be used: {server}", cure)
    elif not ok:
        cure = "Free memory, connect its replicas, or name the primary: what refuses writes cannot carry invalidations."
        yield Problem("writes", "degraded", f"the server would refuse an invalidation: {server}", cure)
    elif latency > timeout / 2:
        what = f"a round trip took {latency:.3f} s, more than half of timeout ({timeout:g} s)"
        yield Problem("latency", "degraded", what, "Look at SLOWLOG, the server's CPU and the network.")
    channel, recovery = engine.channel, engine.recovery
    silence = 0.0 if channel is None or channel.alive_at is None else engine.clock() - channel.alive_at
    if channel is not None and not engine.coherent and (channel.failure or silence > MISSED):  # else it just starts
        what = "the invalidation channel does not open"
        if channel.alive_at is not None:
            what = f"the invalidation channel has been silent for {silence:.1f} s"
        what += f"; the last failure: {channel.failure}" if channel.failure else ""
        cure = "It connects again by itself. If it does not: may this user CLIENT TRACKING, and does a proxy cut links?"
        yield Problem("channel", "degraded", what, cure)
    if channel is not None and channel.unsubscribed:
        what = f"the server refuses SUBSCRIBE: {channel.unsubscribed}; what it refuses to write is received here late"
        yield Problem("subscribe", "warning", what, "Allow +subscribe and the channels, as ops/redis/users.acl does.")
    if recovery is not None and len(recovery):
        what = f"{len(recovery)} invalidations wait for Redis, the oldest for {recovery.oldest() or 0:.1f} s"
        cure = "They are sent once Redis takes writes. Other processes may hold old values for max_staleness."
        yield Problem("pending", "degraded", what, cure)


def _of_server(pool: Server) -> Iterator[Problem]:
    """Problems from one server's `INFO`; none where it may not be asked, or does not answer now."""
    if not pool.informed:
        return
    try:
        (reply,) = pool.exchange([("INFO", "server", "memory", "persistence", "replication")])
    except RemoteError:
        return
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else ""
    facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    yield from judge(facts)


def judge(facts: Mapping[str, str]) -> Iterator[Problem]:
    """Problems of a server by the fields of its `INFO`."""
    if facts.get("role", "master") != "master":
        cure = "Name the primary, or let Sentinels name it: redis+sentinel://…"
        yield Problem("role", "degraded", "the server is a replica", cure)
    yield from _of_version(facts)
    used, most = (_number(facts.get(name)) for name in ("used_memory", "maxmemory"))
    policy = facts.get("maxmemory_policy", "")
    if most and policy == "noeviction":
        severity: Literal["degraded", "warning"] = "degraded" if used > FULL * most else "warning"
        what = (
            f"maxmemory-policy is noeviction, and {used / most:.0%} of maxmemory are used: a full server refuses writes"
        )
        yield Problem("eviction", severity, what, "For a cache: CONFIG SET maxmemory-policy allkeys-lru.")
    elif not most and facts.get("maxmemory") is not None:
        cure = "Set maxmemory, with maxmemory-policy allkeys-lru, below what the machine has."
        yield Problem("memory", "warning", "the server has no maxmemory, so it grows until it is killed", cure)
    elif policy.startswith("allkeys-") and facts.get("aof_enabled") == "1":
        cure = "Keep sessions and key rings on a server of their own, with noeviction or volatile-lru."
        yield Problem("eviction", "warning", f"the server is persistent and its {policy[:20]} evicts anything", cure)
    for name, bad, what in (
        ("rdb_last_bgsave_status", "err", "the last snapshot to disk failed; the server may refuse writes (MISCONF)"),
        ("aof_last_write_status", "err", "the append-only file cannot be written; the server refuses writes"),
    ):
        if facts.get(name) == bad:
            yield Problem("persistence", "degraded", what, "Look at the server's log, and free its disk.")
    if facts.get("loading") == "1":
        cure = "Wait until its data are loaded. A cache alone needs no persistence."
        yield Problem("loading", "degraded", "the server is loading its data", cure)


def version_of(facts: Mapping[str, str]) -> tuple[Literal["redis", "valkey"], tuple[int, ...]]:
    """Whose server it is, and its version; an empty one if it does not say."""
    kind: Literal["redis", "valkey"] = "valkey" if facts.get("server_name", "").strip() == "valkey" else "redis"
    found = _VERSION.match(facts.get(f"{kind}_version", ""))
    return kind, () if found is None else tuple(map(int, found.groups()))


def is_sound(kind: Literal["redis", "valkey"], version: tuple[int, ...]) -> bool:
    """Whether a release has none of the known holes."""
    first = next((first for first in SOUND[kind] if first[:2] == version[:2]), None)
    return version > max(SOUND[kind]) if first is None else version >= first


def _of_version(facts: Mapping[str, str]) -> Iterator[Problem]:
    kind, version = version_of(facts)
    if not version or is_sound(kind, version):
        return
    cure = f"Upgrade to {', '.join('.'.join(map(str, first)) for first in SOUND[kind])} or newer"
    if kind == "redis" and version < (7, 2):
        cure += ", or see whether your system's package fixes it under this number"
    what = f"{kind.title()} {'.'.join(map(str, version))} has known holes that let Lua scripts run code on the server"
    yield Problem("version", "warning", what, f"{cure}.")


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() and len(text) < 20 else 0
