"""The policy of one function: which results are kept, for how long, and in what form."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from aikcache._codec.codec import Codec
from aikcache._concurrency import chance
from aikcache._settings.checks import check_consistency, check_seconds
from aikcache.errors import ConfigError

if TYPE_CHECKING:
    from aikcache._settings.config import CacheConfig

Consistency = Literal["bounded", "strong"]
Ttl = float | timedelta | Callable[[Any], float | timedelta] | None


class Policy(NamedTuple):
    """A `ttl` of `None` is the prefix's; a function is called with each result. `strong` of `None` is the cache's."""

    codec: Codec
    ttl: float | Callable[[Any], Any] | None = None
    local_ttl: float | None = None
    jitter: float = 0.0
    cache_if: Callable[[Any], object] | None = None
    share: bool = False
    stale_ttl: float = 0.0
    error_ttl: float = 0.0
    early_refresh: float = 0.0
    load_timeout: float | None = None
    skip_if: Callable[..., object] | None = None
    strong: bool | None = None
    ages: bool = False
    """Whether a value can be renewed before it expires, or served afterwards."""
    extra: float = 0.0
    """Seconds that a value is kept beyond its `ttl`."""

    def within(self, config: CacheConfig) -> Policy:
        """The policy in a cache of these settings: a strong function's values are not held locally."""
        wanted = config.consistency == "strong" if self.strong is None else self.strong
        if not wanted:
            return self
        return self._replace(strong=config.shared, local_ttl=0.0 if config.shared else self.local_ttl)

    def seconds(self, result: object, default: float) -> float:
        """How long to keep this result; 0: not at all. Raises what a `ttl` function raises, or `ConfigError`."""
        ttl = self.ttl
        if ttl is None:
            seconds = default
        elif callable(ttl):
            seconds = check_seconds("the ttl that the function of the result gave", ttl(result))
        else:
            seconds = ttl
        return seconds * (1 - self.jitter * chance.random()) if self.jitter else seconds


def make(
    where: str,
    codec: Codec,
    *,
    ttl: Ttl = None,
    local_ttl: float | timedelta | None = None,
    jitter: float = 0.0,
    cache_if: Callable[[Any], object] | None = None,
    share: bool = False,
    stale_ttl: float | timedelta = 0.0,
    error_ttl: float | timedelta = 0.0,
    early_refresh: float = 0.0,
    load_timeout: float | timedelta | None = None,
    skip_if: Callable[..., object] | None = None,
    consistency: Consistency | None = None,
) -> Policy:
    """A checked `Policy`; `where` begins every message."""
    if ttl is not None and not callable(ttl):
        ttl = check_seconds(f"{where}: ttl", ttl)
    if local_ttl is not None:
        local_ttl = check_seconds(f"{where}: local_ttl", local_ttl)
    if isinstance(jitter, bool) or not isinstance(jitter, (int, float)) or not 0 <= jitter < 1:
        raise ConfigError(f"{where}: jitter must be a fraction of ttl, at least 0 and below 1, got {jitter!r}.")
    if cache_if is not None and not callable(cache_if):
        raise ConfigError(f"{where}: cache_if must be a function of the result, got {type(cache_if).__name__}.")
    if skip_if is not None and not callable(skip_if):
        raise ConfigError(f"{where}: skip_if must be a function of the call's arguments, got {type(skip_if).__name__}.")
    if isinstance(early_refresh, bool) or not isinstance(early_refresh, (int, float)) or not 0 <= early_refresh <= 100:
        raise ConfigError(
            f"{where}: early_refresh must be XFetch's beta, from 0 (off) to 100, got {early_refresh!r}. 1 is usual."
        )
    if load_timeout is not None:
        load_timeout = check_seconds(f"{where}: load_timeout", load_timeout, zero="None waits for the load.")
        if not stale_ttl and not error_ttl:
            raise ConfigError(
                f"{where}: load_timeout answers with a stale value, and none is kept. Give stale_ttl or error_ttl."
            )
    strong = None if consistency is None else check_consistency(f"{where}: consistency", consistency)
    if strong and local_ttl:
        raise ConfigError(
            f"{where}: local_ttl={local_ttl:g} would hold values in this process, and consistency='strong' answers "
            f"nothing from there. Leave one of them out."
        )
    stale_ttl = check_seconds(f"{where}: stale_ttl", stale_ttl)
    error_ttl = check_seconds(f"{where}: error_ttl", error_ttl)
    return Policy(
        codec,
        ttl,
        local_ttl,
        float(jitter),
        cache_if,
        bool(share),
        stale_ttl,
        error_ttl,
        float(early_refresh),
        load_timeout,
        skip_if,
        strong,
        ages=bool(stale_ttl or error_ttl or early_refresh),
        extra=max(stale_ttl, error_ttl),
    )
