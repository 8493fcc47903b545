"""A Flask application's cache: `Aikcache(app)`, or `init_app` in an application factory.

It makes a cache by the application's configuration, and makes it the default one, which `from aikcache import cached`
uses; so modules decorate before there is an application. Beside that: `/metrics/cache` and `/health/cache`, the
commands `flask cache …`, an operator's header that has calls run their functions, and invalidations that wait for a
request's end where that is asked for.

Threads and processes: as the application's. Nothing connects before the first call that needs Redis, so an application
may be made before its workers are forked.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

from flask import Flask, Response, current_app, request

from aikcache._cache import Cache
from aikcache._concurrency.reporter import log
from aikcache._default import default, default_cache
from aikcache._default_cache import DefaultCache
from aikcache._engine.stats import health_as_dict
from aikcache._settings.secret import Secret
from aikcache.errors import ConfigError
from aikcache.flask import settings as _settings
from aikcache.flask.commands import CacheCommands

NAME = "aikcache"
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Aikcache:
    """Gives applications their cache.

    Args:
        app: as for `init_app`.
        default: whether the module-level `cached` and `invalidates` use the cache. There is one such cache in a
            process: that of the application made last. False: for several applications in one process, each of which
            decorates with `app.extensions["aikcache"]`.
    """

    def __init__(self, app: Flask | None = None, *, default: bool = True) -> None:
        self._default = default
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Make an application's cache, `app.extensions["aikcache"]`. Asks nothing of Redis.

        Raises:
            ConfigError: a setting of `app.config` or of the environment breaks a rule or is misspelt, or the
                application has a cache already.
            AssertionError: Flask's own, where the application has answered a request. The application and the default
                cache are then as they were.
        """
        if NAME in app.extensions:
            raise ConfigError(f"the application {app.name} has a cache already. Call Aikcache.init_app once for each.")
        own = _settings.of_extension(app)
        cache: Cache = (DefaultCache if self._default else Cache)(**_settings.of_cache(app))
        # The default cache is looked up each time: a test, or another application, may have put another in its place.
        find = default_cache if self._default else lambda: cache
        try:
            if own.endpoints:
                _add_endpoints(app, find, own, cache.config.metrics)  # first: Flask may refuse, and nothing has changed
        except BaseException:
            cache.close()
            raise
        if own.token is not None or own.deferred:
            app.wsgi_app = _Requests(app.wsgi_app, find, own)  # type: ignore[method-assign]
        if find_spec("rich") is not None and "cache" not in app.cli.commands:
            app.cli.add_command(CacheCommands(app))
        if isinstance(cache, DefaultCache):
            default.replace(cache)
        app.extensions[NAME] = cache
        log.debug("The application %s has the cache %r.", app.name, cache)

    @property
    def cache(self) -> Cache:
        """The cache of the current application."""
        found: Cache = current_app.extensions[NAME]
        return found


class _Requests:
    """A WSGI middleware around an application: what calls and invalidations of a request do, teardown included.

    Both blocks end before the first byte of the answer is sent, because the server sends after the application has
    returned. So a client that has its answer finds what it has changed. What a streamed answer does while it is sent
    is outside of them.
    """

    def __init__(self, app: Wsgi, find: Callable[[], Cache], own: _settings.Extension) -> None:
        self._app, self._find = app, find
        self._deferred = own.deferred
        self._token = None if own.token is None else Secret(own.token.reveal().encode())
        self._name = "HTTP_" + own.header.upper().replace("-", "_")

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        bypass = self._asks_bypass(environ.get(self._name))
        if not bypass and not self._deferred:
            return self._app(environ, start_response)
        cache = self._find()
        with ExitStack() as stack:
            if self._deferred:
                stack.enter_context(cache.deferred())
            if bypass:
                stack.enter_context(cache.refreshing())
            return self._app(environ, start_response)

    def _asks_bypass(self, given: str | None) -> bool:
        """Compared in constant time, so the time reveals nothing of the token."""
        if given is None or self._token is None:
            return False
        return hmac.compare_digest(given.encode("latin-1", "replace"), self._token.reveal())


def _add_endpoints(app: Flask, find: Callable[[], Cache], own: _settings.Extension, prefix: str | None) -> None:
    """Ordinary routes, so the application's own hooks decide who may see them."""

    def health() -> Any:
        """Asks the server, so it may take `connect_timeout` and `timeout`."""
        found = find().health()
        return health_as_dict(found), 200 if found.live and found.ready else 503, {"Cache-Control": "no-store"}

    app.add_url_rule("/health/cache", "aikcache_health", health)
    try:
        from aikcache.prometheus import metrics_app
    except ImportError:
        return
    if prefix is None:
        return
    metrics = metrics_app(prefix, own.scope)
    app.add_url_rule("/metrics/cache", "aikcache_metrics", lambda: Response.from_app(metrics, request.environ))
