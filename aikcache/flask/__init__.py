"""A cache, and sessions in Redis, for a Flask application: `Aikcache(app)` and `CacheSessions(app)`.

    app.config.from_prefixed_env()          # or AIKCACHE_URL, AIKCACHE_INSTANCE, … in app.config or the environment
    Aikcache(app)                           # configures the cache of `from aikcache import cached`
    CacheSessions(app)                      # needs the extra `sessions`

Start in `extension`; `settings` reads an application's configuration, `sessions` has all about sessions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aikcache.flask.extension import Aikcache

if TYPE_CHECKING:
    from aikcache.flask.sessions import CacheSession, CacheSessions, SessionUnavailable

__all__ = ["Aikcache", "CacheSession", "CacheSessions", "SessionUnavailable"]


def __getattr__(name: str) -> Any:
    """Sessions are imported when they are asked for, because they need cryptography."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from aikcache.flask import sessions

    return getattr(sessions, name)
