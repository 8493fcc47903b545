"""Flask's sessions in Redis, in place of its cookie: `CacheSessions(app)`.

    app.config["AIKCACHE_SESSION_URL"] = "rediss://cache:6379/0"     # AIKCACHE_MASTER_KEY from the environment
    CacheSessions(app)

`flask.session` is then a dict whose keys are written one by one, with `regenerate()`, `bind()`, `end()` and `end_all()`
beside. With Redis away a view that uses its session raises a `ServiceUnavailable` (503), and one that does not runs.
Needs the extras `flask` and `sessions`. Threads and processes: as the application's.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

from flask import Flask
from flask.sessions import SessionInterface, SessionMixin
from flask.wrappers import Request, Response
from markupsafe import Markup
from werkzeug.exceptions import ServiceUnavailable

from aikcache._codec.registry import register_type
from aikcache.errors import ConfigError, SessionUnavailableError
from aikcache.flask.settings import OF_SESSIONS, Configured
from aikcache.sessions import KeyRing, SessionStore
from aikcache.sessions.cookies import COOKIE, HOST, CookieForm, Keep
from aikcache.sessions.middleware import AWAY, RETRY_AFTER
from aikcache.sessions.session import Session

__all__ = ["CacheSession", "CacheSessions", "SessionUnavailable"]

log = logging.getLogger("aikcache")
NAME: Final = "aikcache_sessions"
_DAY: Final = 86_400.0
_RETENTION: Final = 31 * _DAY
_LONGEST: Final = 400 * _DAY
_FLASHES: Final = "_flashes"
_FLASH: Final = "_flashes/"

register_type(Markup, name="markupsafe.Markup", encode=str, decode=Markup)


class SessionUnavailable(SessionUnavailableError, ServiceUnavailable):
    """Redis is away: a 503 where no handler takes it. `str()` of it is for logs, and no client sees it."""

    def __init__(self, message: str = "") -> None:
        super().__init__(AWAY.decode().strip(), retry_after=int(RETRY_AFTER))
        self.args = (message,)

    def __str__(self) -> str:
        return str(self.args[0])


class CacheSession(Session, SessionMixin):  # type: ignore[override]  # `new` is asked for, never set
    """`flask.session`. Each flashed message is a key of its own, so those of concurrent requests are all shown."""

    unavailable = SessionUnavailable
    sent = False
    """Whether the response's head is on its way: what is written now is lost."""
    _numbers = itertools.count()

    def __getitem__(self, name: str) -> Any:
        if name != _FLASHES:
            return super().__getitem__(name)
        if not (keys := self._flash_keys()):
            raise KeyError(name)
        return [super(CacheSession, self).__getitem__(key) for key in keys]

    def __setitem__(self, name: str, value: Any) -> None:
        self._check_sent()
        if name != _FLASHES:
            return super().__setitem__(name, value)
        keys = self._flash_keys()
        shown = [super(CacheSession, self).__getitem__(key) for key in keys]
        if list(value[: len(shown)]) != shown:
            for key in keys:
                super().__delitem__(key)
            shown = []
        for message in value[len(shown) :]:
            super().__setitem__(f"{_FLASH}{time.time_ns():020d}{next(self._numbers):06d}{os.urandom(4).hex()}", message)
        return None

    def __delitem__(self, name: str) -> None:
        self._check_sent()
        if name != _FLASHES:
            return super().__delitem__(name)
        if not (keys := self._flash_keys()):
            raise KeyError(name)
        for key in keys:
            super().__delitem__(key)
        return None

    def __contains__(self, name: object) -> bool:
        return bool(self._flash_keys()) if name == _FLASHES else super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        names = super()._names()
        yield from (name for name in names if not name.startswith(_FLASH))
        if any(name.startswith(_FLASH) for name in names):
            yield _FLASHES

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def clear(self) -> None:
        self._check_sent()
        super().clear()

    def _flash_keys(self) -> list[str]:
        self.view()
        names = {name for name in (*self._stored(), *self._values) if name.startswith(_FLASH)}
        return sorted(name for name in names if super(CacheSession, self).__contains__(name))

    def _check_sent(self) -> None:
        if self.sent:
            self._store.changed_too_late()


class CacheSessions:
    """Makes an application's sessions.

    Args:
        app: as for `init_app`.
        store: where sessions are. None: one is made of the application's configuration, and its key ring too.
    """

    def __init__(self, app: Flask | None = None, *, store: SessionStore | None = None) -> None:
        self._store = store
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Read the configuration and take over the application's sessions. Asks nothing of Redis.

        Raises:
            ConfigError: a key of the configuration, or a variable of the environment, breaks a rule or is misspelt, or
                the application has sessions of a store already.
        """
        if NAME in app.extensions:
            raise ConfigError(
                f"the application {app.name} has a session store already. Call CacheSessions.init_app once."
            )
        settings = _Settings(app)
        form = settings.cookie()
        store = self._store or settings.store()
        app.session_interface = _Interface(store, form)
        app.extensions[NAME] = store
        if not form.secure:
            log.warning("Session cookies go over plain HTTP (AIKCACHE_SESSION_INSECURE_COOKIE): for development only.")


class _Interface(SessionInterface):
    """What Flask calls to open a session and to save it."""

    def __init__(self, store: SessionStore, form: CookieForm) -> None:
        self._store, self._form = store, form

    def open_session(self, app: Flask, request: Request) -> CacheSession:
        cookies = self._form.received(request.environ.get("HTTP_COOKIE"))
        return self._store.open_as(CacheSession, cookies, self._form.name)

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        assert isinstance(session, CacheSession)
        accessed = session.accessed
        try:
            cookie = self._store.commit(session)
        except SessionUnavailableError as error:
            # An exception from here would be a 500, and cookies that were set before would go out with it.
            log.warning("A response was replaced by 503: %s", error)
            response.direct_passthrough = False
            response.headers.clear()
            response.status_code = 503
            response.set_data(AWAY)
            response.headers["Content-Type"], response.headers["Retry-After"] = "text/plain", RETRY_AFTER
            return
        session.sent = True
        if accessed:
            response.vary.add("Cookie")
        if not isinstance(cookie, Keep):
            response.headers.add("Set-Cookie", self._form.header(cookie))
            if "Cache-Control" not in response.headers:
                response.headers["Cache-Control"] = "no-store"


class _Settings(Configured):
    """The application's configuration; what is not in it may be in the environment."""

    def __init__(self, app: Flask) -> None:
        super().__init__(app)
        self.check("AIKCACHE_SESSION", OF_SESSIONS)

    def cookie(self) -> CookieForm:
        config = self.config
        name = config["SESSION_COOKIE_NAME"]
        name = COOKIE if name == "session" else name
        prefix = self.flag("AIKCACHE_SESSION_HOST_PREFIX")
        return CookieForm(
            f"{HOST}{name}" if prefix else name,
            config["SESSION_COOKIE_PATH"] or "/",
            config["SESSION_COOKIE_DOMAIN"] or None,
            config["SESSION_COOKIE_SAMESITE"] or "Strict",
            not self.flag("AIKCACHE_SESSION_INSECURE_COOKIE"),
            bool(config.get("SESSION_COOKIE_PARTITIONED")),  # Flask before 3.1 has no such key
        )

    def store(self) -> SessionStore:
        url = self.get("AIKCACHE_SESSION_URL") or self.get("AIKCACHE_URL")
        instance = self.get("AIKCACHE_INSTANCE") or "aikernel"
        absolute = self.seconds("AIKCACHE_SESSION_ABSOLUTE_TIMEOUT", 43_200.0)
        permanent = self._permanent(absolute)
        ring = KeyRing(
            url,
            instance=instance,
            master_key=self.get("AIKCACHE_MASTER_KEY"),
            retention=max(_RETENTION, absolute, permanent),
            allow_plaintext=self.flag("AIKCACHE_SESSION_ALLOW_PLAINTEXT_RING"),
        )
        return SessionStore(
            url,
            ring=ring,
            instance=instance,
            idle_timeout=self.seconds("AIKCACHE_SESSION_IDLE_TIMEOUT", 1800.0),
            absolute_timeout=absolute,
            permanent_timeout=permanent,
            on_unavailable=self.get("AIKCACHE_SESSION_ON_UNAVAILABLE") or "error",
        )

    def _permanent(self, absolute: float) -> float:
        """Flask's own default does not count as a setting of the application."""
        lasts = self.config["PERMANENT_SESSION_LIFETIME"]
        seconds = lasts.total_seconds() if isinstance(lasts, timedelta) else float(lasts)
        if seconds == _RETENTION:
            return absolute
        if seconds > _LONGEST:
            raise ConfigError(f"PERMANENT_SESSION_LIFETIME must be at most 400 days, got {seconds / _DAY:g}.")
        return seconds
