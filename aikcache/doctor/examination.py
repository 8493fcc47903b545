"""`examine`: asks the servers that the URL leads to, and gives all findings in one list."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import timedelta
from typing import get_args

from aikcache import _compiled
from aikcache._redis.cluster.client import Cluster
from aikcache._redis.modes import OTHERS, mode
from aikcache._redis.origin import origin
from aikcache._redis.pool import Pool
from aikcache._settings import url as _url
from aikcache._settings.checks import check_seconds
from aikcache._settings.config import CacheConfig
from aikcache._settings.secret import Secret, hidden
from aikcache.doctor import checks, facts
from aikcache.doctor.checks import SEVERITIES, Finding, Profile
from aikcache.errors import ConfigError, RemoteError, RemoteUnavailableError

MALFORMED = (ValueError, TypeError, LookupError, ArithmeticError)
"""What parsing a malformed reply may raise."""
_CURES = {
    "redis+": "Correct the URL.",
    "did not answer within": "Look at the network, and at the server's CPU and SLOWLOG; or give it longer (timeout).",
    "Connection refused": "Nothing listens there: look at the address, and whether the server is up.",
}
"""What to do about a server that does not answer, where its reason says so."""


def examine(
    url: str | Secret[str],
    *,
    instance: str = "aikernel",
    profile: Profile = "cache",
    monitor_url: str | Secret[str] | None = None,
    timeout: float | timedelta = 10.0,
) -> list[Finding]:
    """What is wrong with the Redis behind `url`, worst first, and what was found in order.

    Args:
        url: in every form that `Cache` takes, with the user that the application has.
        instance: keys are tried under this prefix, for the user may be confined to it.
        profile: "cache", or "durable" for a server that holds sessions or a key ring.
        monitor_url: the same server with a user that may use CONFIG GET, where the application's may not. On
            a cluster each node is asked as this user, whatever host the URL names.
        timeout: seconds for the whole examination.

    Raises:
        ConfigError: an argument breaks a rule. Whatever Redis does, or does not, is a finding.
    """
    url, monitor_url = hidden(url), None if monitor_url is None else hidden(monitor_url)  # no frame below shows them
    if profile not in get_args(Profile):
        raise ConfigError(f"profile must be 'cache' or 'durable', got {str(profile)[:40]!r}.")
    seconds = check_seconds("timeout", timeout)
    deadline = time.monotonic() + seconds
    config = CacheConfig(url=url, instance=instance, connect_timeout=min(seconds, 5.0), timeout=min(seconds, 5.0))
    monitor = None if monitor_url is None else CacheConfig(url=monitor_url, instance=instance)
    found = [Finding("url", "warning", "url", *_sentence(weakness)) for weakness in _url.weaknesses(url)]
    found += [_compiled_part(), *_without_lock(), *_open_password(url)]
    if _url.scheme(url).endswith("+cluster"):
        found += _examine_cluster(config, monitor, profile, deadline)
    else:
        found += _examine_one(config, monitor, profile, deadline)
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _compiled_part() -> Finding:
    if _compiled.fast is not None:
        return Finding("extension", "ok", "this process", "local hits are answered in C")
    return Finding("extension", "ok", "this process", f"local hits are answered in Python: {_compiled.WHY_NOT}")


def _without_lock() -> list[Finding]:
    if _compiled.locked():
        return []
    evidence = "the interpreter's lock is off: counts are not exact, and aikcache does not support this"
    return [Finding("interpreter", "warning", "this process", evidence, "Set PYTHON_GIL=1.")]


def _examine_one(config: CacheConfig, monitor: CacheConfig | None, profile: Profile, deadline: float) -> list[Finding]:
    found: list[Finding] = []
    with closing(Pool(config)) as pool:
        if pool.sentinels is not None:
            where = _url.parse(config.url or "")
            seen = [_ask_sentinel(pool, address, deadline) for address in where.hosts]
            found += checks.judge_sentinels(seen, where.service)
        other = None if monitor is None else Pool(monitor)
        found += _examine_server(pool, _name(config), profile, deadline, other)
    return found


def _examine_cluster(
    config: CacheConfig, monitor: CacheConfig | None, profile: Profile, deadline: float
) -> list[Finding]:
    found: list[Finding] = []
    with closing(Cluster(config)) as cluster:
        try:
            nodes = cluster.current(deadline).primaries
        except RemoteError as error:
            return [_unreachable("cluster", error)]
        for host, port in sorted(nodes):
            other = None if monitor is None else Pool(monitor, origin(monitor)._replace(hosts=((host, port),)))
            found += _examine_server(cluster.node((host, port)), f"{host}:{port}", profile, deadline, other)
    return found


def _examine_server(pool: Pool, name: str, profile: Profile, deadline: float, monitor: Pool | None) -> list[Finding]:
    instance = pool.config.instance
    commands = facts.needed(instance) if profile == "cache" else facts.needed_by_sessions(instance)
    try:
        server = facts.ask_server(pool, commands, name, deadline)
        server, found = (server, []) if monitor is None else _ask_monitor(server, monitor, deadline)
        reason = OTHERS.get(mode(server.info), "") if profile == "cache" else ""  # sessions may live on one node
        if reason and not _url.scheme(pool.config.url or "").endswith("+cluster"):
            return [_unreachable(name, RemoteUnavailableError(reason))]
        return [*found, *checks.judge(server, profile)]
    except ConfigError:
        raise
    except (RemoteError, OSError) as error:
        return [_unreachable(name, error)]
    except MALFORMED as error:
        return [_unreachable(name, RemoteUnavailableError(_malformed(error)))]


def _ask_monitor(server: facts.Server, monitor: Pool, deadline: float) -> tuple[facts.Server, list[Finding]]:
    """The server with its settings, as the monitor's user sees them; or without, and why."""
    try:
        with closing(monitor):
            return (facts.with_settings(server, monitor, deadline) if server.settings is None else server), []
    except ConfigError:
        raise
    except (RemoteError, OSError) as error:
        why = f"{error}".partition(". ")[0].rstrip(".")[:300]
    except MALFORMED as error:
        why = _malformed(error)
    cure = "Correct monitor_url: its user and password."
    return server, [
        Finding("monitor", "unknown", server.name, f"settings cannot be read as monitor_url's user: {why}", cure)
    ]


def _ask_sentinel(pool: Pool, address: tuple[str, int], deadline: float) -> facts.Sentinel:
    assert pool.sentinels is not None
    try:
        return facts.ask_sentinel(
            pool.sentinels, address, min(deadline, time.monotonic() + pool.config.connect_timeout)
        )
    except (RemoteError, OSError) as error:
        return facts.Sentinel(facts.place(address), f"{type(error).__name__}: {error}"[:200])
    except MALFORMED as error:
        return facts.Sentinel(facts.place(address), _malformed(error))


def _name(config: CacheConfig) -> str:
    """What the findings call a single server."""
    if _url.scheme(config.url or "") == "embedded":
        return "embedded"
    where = _url.parse(config.url or "")
    return f"primary of {where.service}" if where.service else where.path or facts.place(where.hosts[0])


def _malformed(error: Exception) -> str:
    return f"it answers what no Redis does ({type(error).__name__})"


def _unreachable(name: str, error: Exception) -> Finding:
    said = f"{error}".rstrip(".")[:300]
    cure = next((cure for word, cure in _CURES.items() if word in said), "")
    if not cure:  # the library's own hint at the cause
        said, _, hint = said.partition(". ")
        cure = f"{hint or 'Look at address, password and firewall'}."
    return Finding("reachable", "error", name, said, cure)


def _sentence(weakness: str) -> tuple[str, str]:
    """Evidence and cure of a weakness of the URL."""
    evidence, _, cure = weakness.partition(". ")
    return evidence, cure


def _open_password(url: Secret[str]) -> list[Finding]:
    where = _url.parse("unix:///embedded" if _url.scheme(url) == "embedded" else url)
    far = [host for host, _ in where.hosts if host not in ("localhost", "127.0.0.1", "::1")]
    if where.password is None or where.tls or not far:
        return []
    evidence = f"the password goes to {far[0][:60]} unencrypted"
    return [Finding("url", "warning", "url", evidence, "Use rediss://, rediss+sentinel:// or rediss+cluster://.")]
