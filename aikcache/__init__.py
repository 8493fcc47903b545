"""Cached functions over two coherent tiers: this process, and Redis.

    from aikcache import cached, configure, invalidates

    configure("redis://cache:6379/0", instance="catalog")

    @cached("resource", ttl=300, tags=("resource:{resource_id}",))
    def get_by_id(resource_id: UUID) -> Resource: ...

    @invalidates(tags=("resource:{resource.id}",))
    def update(resource: Resource) -> Resource: ...

A decorated call returns what the function would return, whatever Redis does. ARCHITECTURE.md tells how.
"""

from ._cache import Cache
from ._codec import register_type
from ._config import CacheConfig
from ._default import cached, cached_many, configure, default_cache, invalidates
from ._stats import CacheStats, Health, OperationStats
from .errors import (
    AikcacheError,
    ConfigError,
    DecodeError,
    EncodeError,
    InvalidKeyError,
    RemoteError,
    RemoteTimeoutError,
    RemoteUnavailableError,
    SessionError,
)

__version__ = "0.1.0"
__all__ = [
    "AikcacheError",
    "Cache",
    "CacheConfig",
    "CacheStats",
    "ConfigError",
    "DecodeError",
    "EncodeError",
    "Health",
    "InvalidKeyError",
    "OperationStats",
    "RemoteError",
    "RemoteTimeoutError",
    "RemoteUnavailableError",
    "SessionError",
    "cached",
    "cached_many",
    "configure",
    "default_cache",
    "invalidates",
    "register_type",
]
