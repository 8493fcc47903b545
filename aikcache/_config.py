"""The settings of a cache: one frozen object, validated once, so that nothing below checks a setting again.

A setting comes from an argument of `Cache`/`configure` or from the environment (`AIKCACHE_` and its name in capitals).
Durations are seconds, `float` or `timedelta`, and become `float`. A broken rule is a `ConfigError` that says what was
given, the rule, and the way out; of a URL it shows no more than the scheme, because the rest may hold a password.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from . import _url
from .errors import ConfigError

ENV = "AIKCACHE_"
_NOT_SETTINGS = {ENV + name for name in ("REQUIRE_SERVERS", "MUTATIONS", "CONSISTENCY_SECONDS")}  # of the tests
SHIPPED_TTLS: Mapping[str, float] = {
    "resource": 300.0,
    "search": 600.0,
    "version": 3600.0,
    "lineage": 900.0,
    "relationship": 600.0,
}
SCHEMES = (
    "embedded", "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
MAX_TTL = 10 * 365 * 86400.0
"""Ten years: a longer TTL is a mistake of units (milliseconds), and Redis refuses absurd ones."""


def check_name(what: str, value: object) -> str:
    """A part of a key that people write (instance, version, prefix, operation): no separator, wildcard or space."""
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    raise ConfigError(
        f"{what} must be letters, digits, '_', '-' or '.', and begin with a letter, a digit or '_', got {value!r}. "
        f"The colon separates the parts of a key and '*' is a wildcard: give each part by itself."
    )


def check_seconds(what: str, value: object, *, least: float = 0.0, zero: str | None = None) -> float:
    """A duration in seconds. `zero` says what 0 would mean where it is not allowed."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{what} must be seconds (a number or a timedelta), got {type(value).__name__}.")
    if not least <= value <= MAX_TTL:  # nan fails too
        raise ConfigError(
            f"{what} must be between {least:g} and {MAX_TTL:g} seconds, got {value!r}. "
            + ("0 means: do not store." if zero is None else "")
        )
    if value == 0 and zero is not None:
        raise ConfigError(f"{what} must be greater than 0, got 0. {zero}")
    return float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """Every setting of a cache, with its default. Seconds and bytes throughout.

    `local_ttl` bounds what the local tier keeps of a shared cache (0: no local tier); without a URL it does not apply.
    `timeout` is for one Redis operation as a whole, `lease_wait` how long a call waits for another's load of its key,
    `lease_ttl` the longest that a lease outlives an owner that died.

    `failover` is what to think of a server that takes over from another, which may not have heard of the last
    invalidations: `"replay"` sends it this process's last minute again before anything is read from it; `"distrust"`
    also ends all that it holds, which covers the invalidations of processes that are gone, for the price of a cold
    cache. `invalidate_wait` is how many replicas must acknowledge an invalidation (0: none). One that fewer acknowledge
    in half of `timeout` is done all the same, but stays pending: it is asked for again with each heartbeat, and told to
    a server that takes over, however long after.
    """

    url: str | None = field(default=None, repr=False)
    instance: str = "aikernel"
    version: str = "v1"
    default_ttl: float = 300.0
    ttls: Mapping[str, float] = field(default_factory=lambda: dict(SHIPPED_TTLS))
    local_max_entries: int = 10_000
    local_max_bytes: int | None = None
    local_ttl: float = 60.0
    policy: str | Callable[[int], Any] = "s3fifo"
    max_staleness: float = 5.0
    connect_timeout: float = 1.0
    timeout: float = 0.5
    lease_ttl: float = 10.0
    lease_wait: float = 5.0
    compress_min_bytes: int = 1024
    compress_level: int = 3
    max_value_bytes: int = 16 * 2**20
    breaker_failures: int = 5
    breaker_reset: float = 1.0
    max_pending_invalidations: int = 10_000
    failover: str = "replay"
    invalidate_wait: int = 0
    journal: str | None = None
    strict: bool = False
    publish_interval: float = 60.0
    secret: str | bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_name("instance", self.instance)
        check_name("version", self.version)
        check_url(self.url)
        for name in ("default_ttl", "local_ttl", "lease_wait", "publish_interval"):
            object.__setattr__(self, name, check_seconds(name, getattr(self, name)))
        for name in ("max_staleness", "connect_timeout", "timeout", "lease_ttl", "breaker_reset"):
            way = "Without a bound a call could wait for ever."
            object.__setattr__(self, name, check_seconds(name, getattr(self, name), zero=way))
        for name, least in (
            ("local_max_entries", 1), ("compress_min_bytes", 0), ("compress_level", 1),
            ("max_value_bytes", 1), ("breaker_failures", 1), ("max_pending_invalidations", 1),
            ("invalidate_wait", 0),
        ):  # fmt: skip
            self._check_count(name, least)
        if self.local_max_bytes is not None:
            self._check_count("local_max_bytes", 1)
        if self.compress_level > 19:
            raise ConfigError(f"compress_level must be at most 19, got {self.compress_level}. 3 is zstd's own default.")
        if not callable(self.policy) and self.policy not in ("s3fifo", "lru"):
            raise ConfigError(
                f"policy must be 's3fifo', 'lru' or a function from a size to a cachetools.Cache, got {self.policy!r}."
            )
        if self.failover not in ("replay", "distrust"):
            raise ConfigError(f"failover must be 'replay' or 'distrust', got {self.failover!r}.")
        if not isinstance(self.strict, bool):
            raise ConfigError(f"strict must be True or False, got {self.strict!r}.")
        if self.secret is not None and (not isinstance(self.secret, (str, bytes)) or len(self.secret) < 16):
            raise ConfigError("secret must be at least 16 characters or bytes. `secrets.token_urlsafe(32)` makes one.")
        ttls = {check_name("a prefix in ttls", p): check_seconds(f"ttls[{p!r}]", t) for p, t in self.ttls.items()}
        object.__setattr__(self, "ttls", ttls)

    def _check_count(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            way = " To run without a local tier, pass local_ttl=0." if name.startswith("local_max") else ""
            raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}.{way}")

    def ttl_of(self, prefix: str) -> float:
        """The TTL that `@cached(prefix)` takes when it names none."""
        return self.ttls.get(prefix, self.default_ttl)


def check_url(url: object) -> None:
    if url is None:
        return
    if not isinstance(url, str) or "://" not in url:
        raise ConfigError("url must look like redis://host:6379/0. Leave it out for a cache in this process alone.")
    scheme = url.split("://", 1)[0]
    if scheme not in SCHEMES:
        near = difflib.get_close_matches(scheme, SCHEMES, 1)
        hint = f" Did you mean {near[0]}://?" if near else ""
        raise ConfigError(f"url has the unknown scheme {scheme!r}; known are {', '.join(SCHEMES)}.{hint}")
    if scheme != "embedded":
        _url.parse(url)


_FIELDS = {f.name: f for f in dataclasses.fields(CacheConfig)}


def build(settings: Mapping[str, Any]) -> CacheConfig:
    """A `CacheConfig`, or a `ConfigError` that names the setting nobody knows and the nearest one there is."""
    for name in settings:
        if name not in _FIELDS:
            near = difflib.get_close_matches(name, _FIELDS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(_FIELDS))}."
            raise ConfigError(f"unknown setting {name!r}: {hint}")
    ttls = settings.get("ttls")
    if ttls is not None and not isinstance(ttls, Mapping):
        raise ConfigError(f"ttls must map prefixes to seconds, got {type(ttls).__name__}.")
    return CacheConfig(**settings)


def from_env(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The settings that the environment gives, as `AIKCACHE_URL`, `AIKCACHE_TTLS="search=60,resource=300"`, …"""
    environ = os.environ if environ is None else environ
    found: dict[str, Any] = {}
    for name, value in environ.items():
        if not name.startswith(ENV) or name in _NOT_SETTINGS:
            continue
        setting = name[len(ENV) :].lower()
        if setting not in _FIELDS:
            near = difflib.get_close_matches(setting, _FIELDS, 1)
            hint = f" Did you mean {ENV}{near[0].upper()}?" if near else ""
            raise ConfigError(f"the environment has {name}, and there is no setting {setting!r}.{hint}")
        found[setting] = _parse(name, setting, value)
    return found


def _parse(name: str, setting: str, text: str) -> Any:
    kind = str(_FIELDS[setting].type)
    try:
        if setting == "ttls":
            pairs = (pair.split("=", 1) for pair in text.split(",") if pair.strip())
            return {prefix.strip(): float(seconds) for prefix, seconds in pairs}
        if kind == "bool":
            return {"1": True, "true": True, "yes": True, "on": True,
                    "0": False, "false": False, "no": False, "off": False}[text.strip().lower()]  # fmt: skip
        if kind.startswith("int"):
            return int(text)
        if kind == "float":
            number = float(text)
            if not math.isfinite(number):
                raise ValueError
            return number
    except (ValueError, KeyError):
        what = {"ttls": "prefix=seconds pairs, as in search=600,resource=300"}.get(setting, f"of type {kind}")
        raise ConfigError(f"{name} must be {what}.") from None
    return text or None
