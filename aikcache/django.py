"""Django's sessions in Redis, by an engine and a middleware in the place of Django's own.

    SESSION_ENGINE = "aikcache.django"
    MIDDLEWARE = ["aikcache.django.SessionMiddleware", ...]        # not django.contrib.sessions.middleware
    AIKCACHE_SESSIONS = {"url": "rediss://cache:6379/0"}           # AIKCACHE_MASTER_KEY from the environment

Django's middleware sends the cookie at each write, so a request that a login has overtaken would take the login's
cookie away. This one sends it only when it is another. `request.session` has Django's methods, and `bind()`, `end()`,
`end_all()` and `regenerate()`. Needs Django 5.2 and the extra `sessions`. Threads and processes: as the application's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.http import HttpResponse
from django.utils.cache import patch_vary_headers

from aikcache._keyring.keyring import DAY, KeyRing
from aikcache.errors import ConfigError, SessionUnavailableError
from aikcache.sessions.cookies import CookieForm, Drop, Keep, Set
from aikcache.sessions.middleware import AWAY, RETRY_AFTER
from aikcache.sessions.session import Session
from aikcache.sessions.store import SessionStore as Store

__all__ = ["SessionMiddleware", "SessionStore", "store"]

_OF_RING: Final = ("master_key", "allow_plaintext")
_RETENTION: Final = 31 * DAY
_TEST: Final = "testcookie"  # as Django calls it


@functools.cache
def store() -> Store:
    """This process's, made of the setting `AIKCACHE_SESSIONS`: arguments of `SessionStore` and `KeyRing`.

    Raises:
        ConfigError: an argument breaks a rule, or nobody knows it.
    """
    given = {**getattr(settings, "AIKCACHE_SESSIONS", {})}
    given.pop("insecure_cookie", None)
    if settings.is_overridden("SESSION_COOKIE_AGE"):
        given.setdefault("permanent_timeout", settings.SESSION_COOKIE_AGE)
    place = {name: given[name] for name in ("url", "instance", "metrics") if name in given}
    of_ring = {name: given.pop(name) for name in _OF_RING if name in given}
    try:
        lasts = max(float(given.get(name) or 0) for name in ("absolute_timeout", "permanent_timeout"))
        return Store(ring=KeyRing(**place, **of_ring, retention=max(lasts, _RETENTION)), **given)
    except TypeError as error:
        raise ConfigError(f"AIKCACHE_SESSIONS: {error}") from None


def _form() -> CookieForm:
    same_site = settings.SESSION_COOKIE_SAMESITE if settings.is_overridden("SESSION_COOKIE_SAMESITE") else "Strict"
    secure = not getattr(settings, "AIKCACHE_SESSIONS", {}).get("insecure_cookie", False)
    domain, path = settings.SESSION_COOKIE_DOMAIN or None, settings.SESSION_COOKIE_PATH
    # False asks for a cookie without the attribute: browsers take that for Lax, and "None" would allow more.
    return CookieForm(settings.SESSION_COOKIE_NAME, path, domain, same_site or "Lax", secure)


class SessionStore(Session):
    """`request.session`, by the name that Django asks an engine for. `session_key` is the cookie's value."""

    def __init__(self, session_key: str | None = None, cookies: list[str] | None = None) -> None:
        received = cookies if cookies is not None else [session_key] if session_key else []
        super().__init__(store(), received[:4], settings.SESSION_COOKIE_NAME)
        self.session_key = received[0] if received else None
        self.failed = False

    def unavailable(self, message: str) -> SessionUnavailableError:  # type: ignore[override]  # called, as a class is
        """Remembered, because Django makes a 500 of what is raised below the middleware."""
        self.failed = True
        return SessionUnavailableError(message)

    @property
    def permanent(self) -> bool:
        """As it was stored; of a new one what Django's settings say."""
        if self._permanent is None and self.view().record is None:
            return not settings.SESSION_EXPIRE_AT_BROWSER_CLOSE
        return super().permanent

    @permanent.setter
    def permanent(self, value: bool) -> None:
        self.view()
        self._permanent = bool(value)

    def save(self, must_create: bool = False) -> None:
        """Write it now, as outside of requests. An empty one is not stored, and has no key."""
        cookie = store().commit(self)
        if not isinstance(cookie, Keep):
            self.session_key = cookie.value if isinstance(cookie, Set) else None

    def flush(self) -> None:
        """A logout."""
        self.end()

    def cycle_key(self) -> None:
        """A new id, as at a login."""
        self.regenerate()

    def is_empty(self) -> bool:
        """Whether it has no keys."""
        return not len(self)

    def has_key(self, key: str) -> bool:
        """Whether a key is there."""
        return key in self

    def set_expiry(self, value: int | None) -> None:
        """0: it ends with the browser's session. None: as the settings say."""
        if value not in (0, None):
            raise ConfigError(
                f"set_expiry takes 0 or None, got {value!r}: how long sessions last is said in AIKCACHE_SESSIONS "
                "(idle_timeout, absolute_timeout, permanent_timeout)."
            )
        self.permanent = value is None and not settings.SESSION_EXPIRE_AT_BROWSER_CLOSE

    def get_expire_at_browser_close(self) -> bool:
        """Whether it ends with the browser's session."""
        return not self.permanent

    def get_expiry_age(self, **kwargs: Any) -> int:
        """Seconds until it ends, however much it is used."""
        record, now = self.view().record, store().ring.now() * 1000
        finish = now + store().lasting(permanent=self.permanent) if record is None else record.finish
        return max(int(finish - now) // 1000, 0)

    def get_expiry_date(self, **kwargs: Any) -> datetime:
        """When that is."""
        return datetime.now(UTC) + timedelta(seconds=self.get_expiry_age())

    def exists(self, session_key: str) -> bool:
        """Whether there is a session with this cookie."""
        return not SessionStore(session_key).new

    def delete(self, session_key: str | None = None) -> None:
        """End this session, or the one with this cookie, now."""
        ended = self if session_key is None else SessionStore(session_key)
        ended.end()
        ended.save()

    @classmethod
    def clear_expired(cls) -> None:
        """Nothing: Redis removes what has expired. For `manage.py clearsessions`."""

    def set_test_cookie(self) -> None:
        """Begin to find out whether the browser takes cookies."""
        self[_TEST] = "worked"

    def test_cookie_worked(self) -> bool:
        """Whether it has sent the cookie of `set_test_cookie` back."""
        return bool(self.get(_TEST) == "worked")

    def delete_test_cookie(self) -> None:
        """The end of the test."""
        del self[_TEST]


class SessionMiddleware:
    """Opens the session of each request, and writes it when there is a response that is no server error."""

    sync_capable, async_capable = True, False

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response, self._store, self._form = get_response, store(), _form()

    def __call__(self, request: Any) -> Any:
        session = request.session = SessionStore(cookies=self._form.received(request.META.get("HTTP_COOKIE")))
        response = self._get_response(request)
        if response.status_code >= 500:
            return _unavailable() if session.failed else response
        accessed = session.accessed
        try:
            cookie = self._store.commit(session)
        except SessionUnavailableError:
            return _unavailable()
        if accessed:
            patch_vary_headers(response, ("Cookie",))
        if not isinstance(cookie, Keep):
            self._send(response, cookie)
        return response

    def _send(self, response: Any, cookie: Set | Drop) -> None:
        form = self._form
        value, age = (cookie.value, cookie.max_age) if isinstance(cookie, Set) else ("", 0)
        flags = {"secure": form.secure, "httponly": True, "samesite": form.same_site}
        response.set_cookie(form.name, value, max_age=age, path=form.path, domain=form.domain, **flags)
        if not response.has_header("Cache-Control"):
            response["Cache-Control"] = "no-store"


def _unavailable() -> Any:
    return HttpResponse(AWAY, status=503, content_type="text/plain", headers={"Retry-After": RETRY_AFTER})
