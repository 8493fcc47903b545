"""Checks: functions from the facts about servers and Sentinels to findings, one function for each question.

A check has a finding in every case, so a report without problems shows what was checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from aikcache._engine.health import is_sound, version_of
from aikcache.doctor.facts import Sentinel, Server

Severity: TypeAlias = Literal["error", "warning", "unknown", "ok"]
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "unknown", "ok")
Profile: TypeAlias = Literal["cache", "durable"]

OLDEST: Final = (7, 0, 0)
LEAST, SLOW, SKEWED, FAR_OFF, FULL = 0.0001, 0.010, 1.0, 5.0, 0.9
LONGEST_FAILOVER: Final = 60_000
_OPTIONAL: Final = {
    "INFO": "a restart or failover of the server goes unnoticed, and old values may come back after one",
    "SCAN": "invalidating by a glob pattern fails",
    "PUBLISH": "an invalidation that the server refuses reaches other processes only after max_staleness",
    "SUBSCRIBE": "an invalidation that the server refuses is received only after max_staleness",
    "WAIT": "invalidate_wait, and sessions that wait for a replica, do not work",
}


@dataclass(frozen=True)
class Finding:
    """What one check found at one place. `severity`: "error" (the library does not work, or loses data), "warning" (it
    will, some day), "unknown" (it could not be looked at), "ok". `cure` is empty where there is nothing to do."""

    check: str
    severity: Severity
    where: str
    evidence: str
    cure: str = ""

    def __str__(self) -> str:
        return f"{self.severity:7}  {self.check:13} {self.where}: {self.evidence}.{self.cure and ' ' + self.cure}"


_WORDS: Final = frozenset(
    ("allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl",
     "noeviction", "err", "slave", "replica", "sentinel", "master", "s_down", "o_down", "disconnected", "master_down",
     "failover_in_progress", "promoted", "force_failover", "reconf_sent", "reconf_inprog", "reconf_done",
     "script_kill_sent", "enable-debug-command", "enable-module-command", "enable-protected-configs")
)  # fmt: skip
_REPLICA: Final = re.compile(r"slave\d+")

Said: TypeAlias = Iterator[tuple[Severity, str, str]]
"""Severity, evidence and cure, of one check."""


def judge(server: Server, profile: Profile) -> list[Finding]:
    """All findings about one server."""
    return [
        Finding(check, severity, server.name, evidence, cure)
        for check, look in CHECKS.items()
        for severity, evidence, cure in look(server, profile)
    ]


def _version(server: Server, profile: Profile) -> Said:
    kind, version = version_of(server.info)
    what = f"{kind.title()} {'.'.join(map(str, version))}"
    if not version:
        yield "unknown", "the version is not reported", "Allow INFO."
    elif kind == "redis" and version < OLDEST:
        yield "error", f"{what} is older than 7.0", "Update to Redis 7.2.16, 7.4.11, 8.2.9 or Valkey 9.1.2."
    elif not is_sound(kind, version):
        cure = "Update, unless your distribution has fixed them under this number (Debian: 5:7.0.15-1~deb12u10)."
        yield "warning", f"{what} is known for remote code execution in Lua and TLS", cure
    else:
        yield "ok", what, ""


def _word(value: str) -> str:
    """One of the expected words. A hostile server could send any text, even the password that it was sent."""
    return value if value in _WORDS else "something else"


def _commands(server: Server, profile: Profile) -> Said:
    for name, why in server.refused.items():
        cure = _REFUSED.get(why, "Use the ACL of ops/redis/users.acl.")
        if name in _OPTIONAL:
            yield "warning", f"{name} is refused ({why}): {_OPTIONAL[name]}", cure
        else:
            yield "error", f"{name} is refused ({why})", cure
    if not server.refused:
        yield "ok", "all commands that the library sends are allowed", ""


_REFUSED: Final = {
    "READONLY": "Give the primary's address, or the Sentinels': this is a replica.",
    "OOM": "Raise maxmemory, or let it evict: it is full.",
    "NOREPLICAS": "Start its replicas: it takes no writes without them (min-replicas-to-write).",
    "MISCONF": "Look at the disk, and at the server's log: it cannot write its data.",
}


def _eviction(server: Server, profile: Profile) -> Said:
    policy, memory = server.info.get("maxmemory_policy", ""), server.number("maxmemory")
    if not policy:
        yield "unknown", "the eviction policy is not reported", "Allow INFO."
        return
    policy = _word(policy)
    evidence = f"maxmemory-policy is {policy}"
    if profile == "durable" and policy != "noeviction":
        lost = "sessions and key rings" if policy.startswith("allkeys") else "sessions"
        yield "error", f"{evidence}: {lost} can be evicted", "Set it to noeviction."
    elif profile == "cache" and policy == "noeviction":
        yield "warning", f"{evidence}: a full server refuses all writes", "Set it to allkeys-lru or allkeys-lfu."
    else:
        yield "ok", evidence, ""
    if not memory:
        yield "warning", "maxmemory is 0: the server grows until the system ends it", "Set it to 3/4 of the memory."
    elif server.number("used_memory") / memory > FULL and policy == "noeviction":
        share = server.number("used_memory") / memory
        yield "error", f"{share:.0%} of maxmemory are in use, and {policy} makes no room", "Raise maxmemory."


def _persistence(server: Server, profile: Profile) -> Said:
    logged = server.info.get("aof_enabled") == "1"
    if not server.info.get("aof_enabled"):
        yield "unknown", "persistence is not reported", "Allow INFO."
    elif logged:
        yield "ok", "the append-only file is on", ""
    elif profile == "durable":
        yield "error", "the append-only file is off: a restart ends all sessions", "Set appendonly yes."
    elif server.number("connected_slaves") or server.replicas_wanted:
        evidence = (
            "the append-only file is off: a primary that restarts at once comes back empty, and so do its replicas"
        )
        yield "warning", evidence, "Set appendonly yes."
    else:
        yield "ok", "the append-only file is off, and nothing depends on it", ""
    for name in ("aof_last_write_status", "rdb_last_bgsave_status"):
        if server.info.get(name, "ok") != "ok":
            yield "error", f"{name} is {_word(server.info[name])}", "Look at the disk, and at the server's log."


def _buffers(server: Server, profile: Profile) -> Said:
    if server.settings is None:
        yield "unknown", "CONFIG GET is refused", _MONITOR
        return
    limits = re.search(r"normal (\d+) (\d+) (\d+)", server.setting("client-output-buffer-limit"))
    if limits and limits[1] == limits[2] == "0":
        evidence = "a client that does not read its invalidations can take all memory"
        yield "warning", evidence, "Set client-output-buffer-limit normal 64mb 16mb 30."
    if server.setting("maxmemory-clients") == "0":
        yield "warning", "all clients' buffers together have no limit", "Set maxmemory-clients 5%."
    elif limits:
        yield "ok", "buffers of clients are limited", ""
    dropped = server.number("evicted_clients") + server.number("client_output_buffer_limit_disconnections")
    if dropped:
        yield "warning", f"{dropped:.0f} clients were disconnected for their buffers", "Find the slow reader."


_MONITOR: Final = "Pass monitor_url= with a user that may use CONFIG GET (`monitor` in ops/redis/users.acl)."


def _clients(server: Server, profile: Profile) -> Said:
    most, now = server.number("maxclients"), server.number("connected_clients")
    if most and now / most > FULL:
        yield "error", f"{now:.0f} of {most:.0f} connections are in use", "Raise maxclients, or share processes."
    elif server.number("rejected_connections"):
        yield "warning", f"{server.number('rejected_connections'):.0f} connections were refused", "Raise maxclients."
    else:
        yield "ok", f"{now:.0f} connection{'s' * (now != 1)}", ""


def _replication(server: Server, profile: Profile) -> Said:
    role, replicas = server.info.get("role", ""), int(server.number("connected_slaves"))
    if not role:
        yield "unknown", "the role is not reported", "Allow INFO."
        return
    if role != "master":
        yield "error", f"this is {_word(role)}, not a primary", "Give the primary's address, or the Sentinels'."
    if not server.replicas_wanted:
        yield "ok", f"{replicas} replicas", ""
        return
    if not replicas:
        yield "error", "no replica is connected: there is nothing to fail over to", "Start the replicas."
    else:
        yield "ok", f"{replicas} replicas", ""
    absent = [name for name, value in server.info.items() if _REPLICA.fullmatch(name) and "state=online" not in value]
    if absent:
        yield "warning", f"{len(absent)} replicas are not online yet", "Wait; look at them if it stays so."
    if server.settings is not None and server.setting("min-replicas-to-write") == "0":
        evidence = "min-replicas-to-write is 0: a primary that is cut off goes on accepting writes that are then lost"
        yield "warning", evidence, "Set it to 1, and min-replicas-max-lag to 3."


def _clock(server: Server, profile: Profile) -> Said:
    skew, cure = abs(server.clock), "Run NTP on both machines."
    if skew < SKEWED:
        yield "ok", f"the clocks differ by {skew:.2f} s at most", ""
    else:
        severity: Severity = "error" if skew > FAR_OFF else "warning"
        yield severity, f"the server's clock is {skew:.1f} s {'ahead' if server.clock > 0 else 'behind'}", cure


def _latency(server: Server, profile: Profile) -> Said:
    evidence = f"a PING takes {f'{server.latency * 1000:.1f}' if server.latency >= LEAST else 'less than 0.1'} ms"
    slow = server.latency > SLOW
    yield ("warning", evidence, "Bring the server nearer; see SLOWLOG and LATENCY.") if slow else ("ok", evidence, "")


def _protection(server: Server, profile: Profile) -> Said:
    lead_out = [name for name in server.settings or {} if name.startswith("enable-") and server.setting(name) == "yes"]
    for name in lead_out:
        yield "warning", f"{_word(name)} is yes", "Set it to no: such commands lead out of the server."
    if server.user == "default":
        evidence = "the library uses the default user, who may do everything"
        yield "warning", evidence, "Make a user as in ops/redis/users.acl."
    elif not server.user:
        yield "unknown", "the user is not reported", "Allow ACL WHOAMI."
    elif not lead_out:
        yield "ok", "the user is not the default one", ""


def _tls(server: Server, profile: Profile) -> Said:
    """What the server does itself; what the client's URL says is the check `url`."""
    if server.settings is None or server.setting("tls-port") in ("", "0"):
        yield "ok", "TLS is not reported" if server.settings is None else "it listens without TLS", ""
        return
    sound = True
    if server.setting("port") not in ("", "0"):
        sound = False
        yield "warning", f"it listens without TLS too, on port {server.setting('port')[:5]}", "Set port to 0."
    for name in ("tls-replication", "tls-cluster"):
        if server.setting(name) == "no" and (name == "tls-replication" or server.info.get("cluster_enabled") == "1"):
            sound = False
            yield "warning", f"{name} is no: what servers send each other is in clear", "Set it to yes."
    if old := {"TLSv1", "TLSv1.1"} & set(server.setting("tls-protocols").split()):
        sound = False
        yield "warning", f"it speaks {' and '.join(sorted(old))}", 'Set tls-protocols to "TLSv1.2 TLSv1.3".'
    if sound:
        yield "ok", f"TLS alone, on port {server.setting('tls-port')[:5]}", ""


CHECKS: Final[dict[str, Callable[[Server, Profile], Said]]] = {
    "version": _version,
    "commands": _commands,
    "eviction": _eviction,
    "persistence": _persistence,
    "replication": _replication,
    "buffers": _buffers,
    "connections": _clients,
    "clock": _clock,
    "latency": _latency,
    "protection": _protection,
    "tls": _tls,
}


def judge_sentinels(sentinels: Sequence[Sentinel], service: str) -> Iterable[Finding]:
    """All findings about the Sentinels of a service."""
    answered = [sentinel for sentinel in sentinels if not sentinel.error]
    for sentinel in sentinels:
        for severity, evidence, cure in _sentinel(sentinel, len(sentinels)):
            yield Finding("sentinel", severity, sentinel.name, evidence, cure)
    if len(sentinels) < 3:
        evidence = f"the URL names {len(sentinels)} Sentinels: when one of them is gone, there may be no majority"
        yield Finding("sentinel", "warning", service, evidence, "Run three, on machines of their own, and name all.")
    if len({(one.facts.get("ip"), one.facts.get("port")) for one in answered}) > 1:
        yield Finding("sentinel", "error", service, "the Sentinels name different primaries", "See docs/runbook.md.")


def _sentinel(sentinel: Sentinel, named: int) -> Said:
    if sentinel.error:
        yield "error" if named == 1 else "warning", sentinel.error[:200], "Start it, or take it out of the URL."
        return
    known = sentinel.number("num-other-sentinels") + 1
    quorum, after = sentinel.number("quorum"), sentinel.number("down-after-milliseconds")
    if not sentinel.quorum.startswith("OK"):
        yield "error", "it reaches no majority of the Sentinels, so no failover can happen", "Start the others."
    if quorum > known or 2 * quorum < known:
        yield "warning", f"the quorum is {quorum} of {known} Sentinels", f"Set it to {known // 2 + 1}."
    if not 500 <= after <= 30_000:
        yield "warning", f"down-after-milliseconds is {after}", "Set it to 5000."
    if sentinel.number("failover-timeout") > LONGEST_FAILOVER:
        evidence = f"failover-timeout is {sentinel.number('failover-timeout')}: after one that failed it is twice that"
        yield "warning", evidence, "Set it to 10000."
    if (syncs := sentinel.number("parallel-syncs")) > 1 and syncs >= sentinel.number("num-slaves") - 1:
        yield "warning", f"parallel-syncs is {syncs}: after a failover all replicas copy at once", "Set it to 1."
    flags = ",".join(map(_word, sentinel.facts.get("flags", "").split(",")[:5]))
    if flags != "master":
        yield "warning", f"it sees the primary as {flags}", "Look whether it runs."
    yield "ok", f"{known} Sentinels, quorum {quorum}, down after {after / 1000:g} s", ""
