"""How one function's results are kept: for how long, in what form, and which of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ._codec import Codec
from ._config import check_seconds
from .errors import ConfigError

Ttl = float | timedelta | Callable[[Any], float | timedelta] | None


@dataclass(frozen=True, slots=True)
class Policy:
    """A `ttl` of `None` is the prefix's; a function is asked with each result."""

    codec: Codec
    ttl: float | Callable[[Any], Any] | None = None
    local_ttl: float | None = None
    jitter: float = 0.0
    cache_if: Callable[[Any], object] | None = None
    share: bool = False

    def seconds(self, result: object, default: float) -> float:
        """How long to keep this result; 0: not at all. Raises what a `ttl` function raises, or `ConfigError`."""
        ttl = self.ttl
        if ttl is None:
            seconds = default
        elif callable(ttl):
            seconds = check_seconds("the ttl that the function of the result gave", ttl(result))
        else:
            seconds = ttl
        return seconds * (1 - self.jitter * random.random()) if self.jitter else seconds


def make(
    where: str,
    codec: Codec,
    *,
    ttl: Ttl = None,
    local_ttl: float | timedelta | None = None,
    jitter: float = 0.0,
    cache_if: Callable[[Any], object] | None = None,
    share: bool = False,
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
    return Policy(codec, ttl, local_ttl, float(jitter), cache_if, bool(share))
