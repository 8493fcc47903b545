"""Cached functions over two coherent tiers: this process, and Redis.

    from aikcache import cached, configure, invalidates

    configure("redis://cache:6379/0", instance="catalog")

    @cached("resource", ttl=300, tags=("resource:{resource_id}",))
    def get_by_id(resource_id: UUID) -> Resource: ...

    @invalidates(tags=("resource:{resource.id}",))
    def update(resource: Resource) -> Resource: ...

A decorated call returns what the function would return, whatever Redis does. `help(aikcache.CacheConfig)` explains the
settings, `help(aikcache.cached)` the decorator.
"""

import typing

from aikcache._codec.registry import register_type
from aikcache._default import cached, cached_many, configure, default_cache, invalidates
from aikcache._engine.deferred import Deferred
from aikcache._engine.refreshing import Refreshing
from aikcache.errors import (
    AikcacheError,
    ConfigError,
    DecodeError,
    EncodeError,
    InvalidKeyError,
    KeyRingError,
    RemoteError,
    RemoteTimeoutError,
    RemoteUnavailableError,
    SealError,
    SessionError,
    SessionTooLargeError,
    SessionUnavailableError,
)

if typing.TYPE_CHECKING:
    from aikcache._cache import Cache
    from aikcache._coherence.sweep import Sweep
    from aikcache._decorators.protocols import CachedFunction
    from aikcache._engine.stats import CacheInfo, CacheStats, FleetStats, Health, OperationStats, Problem, ProcessStats
    from aikcache._settings.config import CacheConfig
    from aikcache._settings.settings import Settings

__version__ = "1.0.0"
__all__ = [
    "AikcacheError",
    "Cache",
    "CacheConfig",
    "CacheInfo",
    "CacheStats",
    "CachedFunction",
    "ConfigError",
    "DecodeError",
    "Deferred",
    "EncodeError",
    "FleetStats",
    "Health",
    "InvalidKeyError",
    "KeyRingError",
    "OperationStats",
    "Problem",
    "ProcessStats",
    "Refreshing",
    "RemoteError",
    "RemoteTimeoutError",
    "RemoteUnavailableError",
    "SealError",
    "SessionError",
    "SessionTooLargeError",
    "SessionUnavailableError",
    "Settings",
    "Sweep",
    "cached",
    "cached_many",
    "configure",
    "default_cache",
    "invalidates",
    "register_type",
]

_LOADED_LATER = {
    "Cache": "aikcache._cache",
    "CacheConfig": "aikcache._settings.config",
    "CacheInfo": "aikcache._engine.stats",
    "CacheStats": "aikcache._engine.stats",
    "CachedFunction": "aikcache._decorators.protocols",
    "FleetStats": "aikcache._engine.stats",
    "Health": "aikcache._engine.stats",
    "OperationStats": "aikcache._engine.stats",
    "Problem": "aikcache._engine.stats",
    "ProcessStats": "aikcache._engine.stats",
    "Settings": "aikcache._settings.settings",
    "Sweep": "aikcache._coherence.sweep",
}
"""What decorating needs nothing of, by the module that has it."""


def __getattr__(name: str) -> object:
    if name not in _LOADED_LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_LOADED_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
