"""The keyword arguments of `Cache` and `configure` for type checkers, which find a misspelt setting.

The fields are those of `CacheConfig`, which alone has their defaults and rules; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from aikcache._settings.secret import KeySource

if TYPE_CHECKING:
    from redis import ConnectionPool, Redis, RedisCluster
    from redis.credentials import CredentialProvider


class Settings(TypedDict, total=False):
    """The settings of a cache, all of them optional; `help(aikcache.CacheConfig)` says what they mean."""

    client: Redis | RedisCluster | ConnectionPool | None
    credential_provider: CredentialProvider | None
    instance: str
    version: str
    enabled: bool
    clock: Callable[[], float] | None
    default_ttl: float | timedelta
    ttls: Mapping[str, float | timedelta]
    local_max_entries: int
    local_max_bytes: int | None
    local_ttl: float | timedelta
    policy: Literal["s3fifo", "lru"] | Callable[[int], Any]
    max_staleness: float | timedelta
    connect_timeout: float | timedelta
    timeout: float | timedelta
    lease_ttl: float | timedelta
    lease_wait: float | timedelta
    compress_min_bytes: int
    compress_level: int
    max_value_bytes: int
    breaker_failures: int
    breaker_reset: float | timedelta
    max_pending_invalidations: int
    failover: Literal["replay", "distrust"]
    invalidate_wait: int
    journal: str | None
    strict: bool
    consistency: Literal["bounded", "strong"]
    publish_interval: float | timedelta | None
    metrics: str | None
    secret: str | bytes | Sequence[str | bytes] | KeySource | None


class LoadOptions(TypedDict, total=False):
    """What `Cache.get_or_load` takes of the options that `cached` has, with the same meanings."""

    local_ttl: float | timedelta | None
    jitter: float
    cache_if: Callable[[Any], object] | None
    share: bool
    stale_ttl: float | timedelta
    error_ttl: float | timedelta
    early_refresh: float
    load_timeout: float | timedelta | None
    consistency: Literal["bounded", "strong"] | None
