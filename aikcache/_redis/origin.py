"""Where a cache's Redis is: from its URL, or from a redis-py client."""

from __future__ import annotations

from aikcache._settings import url as _url
from aikcache._settings.config import CacheConfig
from aikcache._settings.secret import hidden
from aikcache._settings.url import Where


def origin(config: CacheConfig) -> Where:
    """Read `url` or `client`, and `credential_provider`. Raises `ConfigError`."""
    if config.client is not None:
        from aikcache._redis.client import where_of  # redis-py with it

        return where_of(config.client)
    url = hidden(config.url or "")
    if _url.scheme(url) == "embedded":
        return _url.parse("unix:///embedded")
    return _url.parse(url)._replace(provider=config.credential_provider)
