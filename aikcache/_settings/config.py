"""The settings of a cache: one frozen object. It is validated once, so nothing below checks a setting again.

A setting is an argument of `Cache` or `configure`, or comes from the environment (`environment.py`). Durations are
seconds, `float` or `timedelta`, and become `float`. A broken rule raises a `ConfigError` that says what was given, the
rule, and the way out. Of a URL it shows at most a well-known scheme, because the rest may hold a password. URL and
secret become a `Secret` at once and stay one.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from aikcache._settings import url as _url
from aikcache._settings.checks import check_consistency, check_metrics, check_name, check_seconds
from aikcache._settings.secret import Keys, KeySource, Opaque, Secret, hidden, opaque
from aikcache.errors import ConfigError

C = TypeVar("C", bound=type)
SHIPPED_TTLS: Mapping[str, float] = {
    "resource": 300.0,
    "search": 600.0,
    "version": 3600.0,
    "lineage": 900.0,
    "relationship": 600.0,
}
MIN_SECRET, MIN_DISTINCT = 32, 8
"""Bytes of a secret, and different ones among them: 32 random hexadecimal digits have fewer once in a million."""
KEYRING = "keyring"
"""The secret that stands for the key ring."""
SHORTEST = 0.01
"""Seconds of a lease, and between two log lines, at least: about what a few round trips take."""
_OF_SESSIONS = ("session", "subject", "keyring")
"""What stands in a key where sessions and their ring do not have a version."""


def check_secret(value: object) -> None:
    """None, a key, or several. Keys that can be guessed are refused: an attacker can try many on a sealed value."""
    if value is None or _is_ring(value):
        return
    if not value or not all(map(is_key, value if isinstance(value, tuple) else (value,))):
        raise ConfigError(
            f"secret must be a key of at least {MIN_SECRET} random bytes, or a list of them, the newest first, or "
            f"'keyring': no password, and not a few bytes repeated. `secrets.token_urlsafe(32)` makes one."
        )


def _is_ring(value: object) -> bool:
    return value == KEYRING or isinstance(value, KeySource)


def is_key(value: object) -> bool:
    if not isinstance(value, Secret):
        return False
    text = value.reveal()
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return len(raw) >= MIN_SECRET and len(set(raw)) >= MIN_DISTINCT


def _hiding(cls: C) -> C:
    """Hide secrets before the class's `__init__`, whose arguments a traceback may show."""
    make = cls.__init__  # type: ignore[misc]

    @functools.wraps(make)
    def __init__(self: Any, **settings: Any) -> None:
        make(self, **take(settings))

    cls.__init__ = __init__  # type: ignore[misc]
    return cls


@_hiding
@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """Every setting of a cache: an argument of `Cache` and `configure`, or `AIKCACHE_` and its name in capitals.

    Durations are seconds (numbers or `timedelta`), sizes are bytes. A setting that breaks a rule raises `ConfigError`.

    Each setting with its default:

    url (None): where values are shared: `redis://`, `rediss://`, `unix://`, `embedded://`, and those of Sentinel and
        Cluster. None: this process alone. It is kept as a `Secret`; `config.url.reveal()` is the text.
    client (None): instead of a url, a redis-py client: `redis.Redis`, `redis.RedisCluster`, a `ConnectionPool`, or what
        `Sentinel.master_for` gives. Its addresses, login, TLS and connection class are used; its connections are not.
    credential_provider (None): beside a url without a password, a redis-py `CredentialProvider`. It is asked before
        each connection, in a thread, for `connect_timeout` at most.
    instance ("aikernel"): the first part of every key. Caches with the same url, instance and version share everything.
    version ("v1"): the second part of every key. A new one leaves behind all that was cached.
    default_ttl (300): seconds that a value is fresh if neither its function nor `ttls` says. 0: values are not stored.
    ttls ({"resource": 300, "search": 600, "version": 3600, "lineage": 900, "relationship": 600}): seconds by prefix.
        A mapping that you pass replaces all of these.
    local_max_entries (10,000): entries in the local tier, at least 1. Beyond them the least useful are evicted.
    local_max_bytes (None): bytes that local values, arguments and entries take in memory, within a factor of 1.5.
        None: no bound in bytes.
    local_ttl (60): seconds that the local tier keeps a copy of a shared value. 0: no local tier. Without a url it does
        not apply.
    policy ("s3fifo"): what the local tier evicts first: "s3fifo", "lru", or a function from a size in entries to a
        `cachetools.Cache`.
    max_staleness (5): seconds after the invalidation channel was last known to be alive for which values are still
        trusted. It bounds how long another process's invalidation can stay unseen; lower is stricter.
    connect_timeout (1): seconds to connect, as a whole: names, TLS and login. `socket_connect_timeout` in the url wins.
    timeout (0.5): seconds for one Redis operation as a whole. After it the call runs its function.
    lease_ttl (10): seconds that a lease outlives a loader that died, at least 0.01. It lasts half of `lease_wait` if
        that is less.
    lease_wait (5): seconds that a call waits for another's load of its key. Then it runs its function. 0: no wait.
    compress_min_bytes (1024): payloads of at least so many bytes are compressed (zstd) if that saves a tenth. 0: all.
    compress_level (3): zstd's level, 1 to 19, for payloads of 2 KiB or more. Higher is smaller and slower.
    max_value_bytes (16777216): the largest payload in bytes, before compression, that is written or read. A larger
        result is returned and not stored.
    breaker_failures (5): failures in a row after which no operation is tried and functions run at once.
    breaker_reset (1): seconds between two probes while the circuit breaker is open.
    max_pending_invalidations (10,000): invalidations kept while Redis is away. More become one of everything.
    failover ("replay"): what to do when another server takes over, for it may have missed the last invalidations.
        "replay" sends it those of this process's last minute, and one of each key that it has set or refreshed, before
        anything is read. "distrust" also invalidates all
        that it holds, which covers processes that are gone, at the price of a cold cache.
    invalidate_wait (0): replicas that must acknowledge an invalidation. If fewer do within half of `timeout`, it is
        done all the same and stays pending: each heartbeat asks again, and a server that takes over is sent it, however
        late.
    journal (None): path of a file that keeps pending invalidations through a crash. None: they are in memory only.
    strict (False): True raises `EncodeError` for a result that cannot be stored and `InvalidKeyError` for an argument
        that no key can tell apart. False logs it and returns the function's result.
    consistency ("bounded"): "bounded": a read sees others' invalidations once they are pushed here. "strong": it sees
        all that returned before it began; each read asks Redis for the value and its stamps, and with Redis away the
        function runs. Without a url both are the same.
    publish_interval (60): seconds between two log lines of what the cache did (logger `aikcache`, level INFO), each
        with a snapshot in Redis, from which the figures of all processes are read; at least 0.01. None: neither; nor
        with `metrics=None`.
    metrics ("aikernel"): what the names of exported metrics begin with: letters, digits, `_`. Caches with the same one
        are added up. None: this cache is not exported.
    secret (None): seals values in Redis (AES-GCM, extra `crypto`): 32 random bytes or more, or a list, of which the
        first seals and each is read. To change it, put the new one second everywhere, then first, then drop the old
        one. A sealed value expires by the wall clock, 60 s late: clocks of hosts may differ by no more. It is a
        `Secret` like the url. "keyring", or a `KeyRing`: by the key ring, whose keys change by themselves (extra
        `sessions`, `AIKCACHE_MASTER_KEY`); it lies where `AIKCACHE_SESSION_URL` says, else beside the values. None:
        values are not sealed.
    clock (None): a function that gives seconds, as `time.monotonic` does, for tests: `aikcache.testing.FakeClock`. Only
        without a url, because a server's entries expire by the server's clock.
    enabled (True): False keeps and finds nothing: every call runs its function. Invalidations still go to the server.
    """

    url: str | Secret[str] | None = field(default=None, repr=False)
    client: Opaque | None = field(default=None, repr=False)
    credential_provider: Opaque | None = field(default=None, repr=False)
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
    consistency: Literal["bounded", "strong"] = "bounded"
    publish_interval: float | None = 60.0
    metrics: str | None = "aikernel"
    secret: Keys | KeySource | None = field(default=None, repr=False)
    clock: Callable[[], float] | None = None
    enabled: bool = True

    def __post_init__(self) -> None:
        for name in ("url", "secret"):
            object.__setattr__(self, name, hidden(getattr(self, name)))
        for name in ("client", "credential_provider"):
            object.__setattr__(self, name, opaque(getattr(self, name)))
        check_name("instance", self.instance)
        if check_name("version", self.version) in _OF_SESSIONS:
            raise ConfigError(f"version must not be {self.version!r}: sessions are kept there. Choose another name.")
        _url.check(self.url)
        self._check_client()
        for name in ("default_ttl", "local_ttl", "lease_wait"):
            object.__setattr__(self, name, check_seconds(name, getattr(self, name)))
        for name in ("max_staleness", "connect_timeout", "timeout", "breaker_reset"):
            way = "Without a bound a call could wait for ever."
            object.__setattr__(self, name, check_seconds(name, getattr(self, name), zero=way))
        way = "A lease that ends before its value is there lets nothing be stored."
        object.__setattr__(self, "lease_ttl", check_seconds("lease_ttl", self.lease_ttl, least=SHORTEST, zero=way))
        if self.publish_interval is not None:
            way = "To publish nothing, pass publish_interval=None."
            seconds = check_seconds("publish_interval", self.publish_interval, least=SHORTEST, zero=way)
            object.__setattr__(self, "publish_interval", seconds)
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
        check_consistency("consistency", self.consistency)
        check_metrics(self.metrics)
        for name in ("strict", "enabled"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        check_secret(self.secret)
        if self.clock is not None and (self.shared or not callable(self.clock)):
            raise ConfigError(
                "clock must be a function that gives seconds, for a cache without url and client: what is kept on a "
                "server expires by the server's clock."
            )
        self._check_journal()
        given: object = self.ttls
        if not isinstance(given, Mapping):
            kind = type(given).__name__
            raise ConfigError(f"ttls must map prefixes to seconds, got {kind}. For default_ttl alone, pass ttls={{}}.")
        ttls = {check_name("a prefix in ttls", p): check_seconds(f"ttls[{p!r}]", t) for p, t in given.items()}
        object.__setattr__(self, "ttls", ttls)

    @property
    def longest_ttl(self) -> float:
        """Of those that are set here."""
        return max((*self.ttls.values(), self.default_ttl))

    @property
    def sealed_by_ring(self) -> bool:
        """Whether `secret` is a key ring, or stands for one."""
        return _is_ring(self.secret)

    @property
    def shared(self) -> bool:
        """Whether there is a server behind the local tier."""
        return self.url is not None or self.client is not None

    def _check_client(self) -> None:
        if self.client is not None and self.url is not None:
            raise ConfigError("url and client both say where Redis is: pass one of them.")
        if self.credential_provider is None:
            return
        if not callable(getattr(self.credential_provider.reveal(), "get_credentials", None)):
            raise ConfigError("credential_provider must have get_credentials(), as redis-py's CredentialProvider has.")
        if self.url is None:
            raise ConfigError("credential_provider goes with a url. Give a client its own: redis.Redis(…).")
        if _url.scheme(hidden(self.url)) == "embedded" or _url.parse(self.url).password is not None:
            raise ConfigError("credential_provider goes with a url without a password, and not with embedded://.")

    def _check_journal(self) -> None:
        path: object = self.journal
        if isinstance(path, os.PathLike):
            path = os.fspath(path)
            object.__setattr__(self, "journal", path)
        if path is not None and not isinstance(path, str):
            raise ConfigError(
                f"journal must be the path of a file, got {type(path).__name__}. To keep none, pass journal=None."
            )

    def _check_count(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            way = " To run without a local tier, pass local_ttl=0." if name.startswith("local_max") else ""
            raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}.{way}")

    def ttl_of(self, prefix: str) -> float:
        """The TTL that `@cached(prefix)` takes when it names none."""
        return self.ttls.get(prefix, self.default_ttl)


FIELDS = {f.name: f for f in dataclasses.fields(CacheConfig)}


def take(settings: Any, **more: object) -> dict[str, Any]:
    """All settings, with secrets hidden. They are removed from `settings`, so no frame that may raise shows them."""
    taken = {**more, **settings}
    settings.clear()
    for name in ("client", "credential_provider"):
        if name in taken:
            taken[name] = opaque(taken[name])
    return {name: hidden(value) if name in ("url", "secret") else value for name, value in taken.items()}


def build(settings: Mapping[str, Any]) -> CacheConfig:
    """A `CacheConfig`. An unknown setting raises a `ConfigError` that names it and the nearest known one."""
    for name in settings:
        if name not in FIELDS:
            import difflib  # here, because only this message needs it

            near = difflib.get_close_matches(name, FIELDS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(FIELDS))}."
            raise ConfigError(f"unknown setting {name!r}: {hint}")
    return CacheConfig(**settings)
