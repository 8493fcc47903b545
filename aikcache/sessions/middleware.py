"""Sessions for any WSGI application: `environ["aikcache.session"]`, written just before the headers are sent.

    application = SessionMiddleware(application, store)

While Redis is unavailable a request that uses its session is answered with 503; other requests are answered as usual.
What is written to the session after the first bytes of the body is lost, which is logged. A response that is closed
unread, because its client is gone or a middleware answers itself, has its session written as well: a logout stands.
Threads: as the application's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from aikcache.errors import SessionUnavailableError
from aikcache.sessions.cookies import COOKIE, HOST, Cookie, CookieForm, Keep
from aikcache.sessions.session import Session
from aikcache.sessions.store import SessionStore

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("aikcache")
ENVIRON: Final = "aikcache.session"
AWAY: Final = b"The session cannot be reached now. Try again.\n"
RETRY_AFTER: Final = "1"


class SessionMiddleware:
    """A WSGI application with sessions.

    Args:
        application: the application to call.
        store: where the sessions are.
        name, path, domain, same_site: the cookie's. "Strict" keeps it from requests that another site begins, including
            links in mails; "Lax" sends it with those.
        insecure_cookie: send it over plain HTTP. For development.
        host_prefix: `__Host-` before the name: browsers then accept it from this host alone.
        partitioned: browsers keep one cookie for each site that embeds the application's pages (CHIPS). Goes with
            same_site="None".

    Raises:
        ConfigError: browsers would refuse such a cookie.
    """

    def __init__(
        self,
        application: WSGIApplication,
        store: SessionStore,
        *,
        name: str = COOKIE,
        path: str = "/",
        domain: str | None = None,
        same_site: str = "Strict",
        insecure_cookie: bool = False,
        host_prefix: bool = False,
        partitioned: bool = False,
    ) -> None:
        self._application, self._store = application, store
        name = HOST + name if host_prefix else name
        self._form = CookieForm(name, path, domain, same_site, not insecure_cookie, partitioned)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        cookies = self._form.received(environ.get("HTTP_COOKIE"))
        session = environ[ENVIRON] = self._store.open(cookies, name=self._form.name)
        response = _Response(self._store, self._form, session, start_response)
        try:
            body = self._application(environ, response.start)
        except SessionUnavailableError:
            return response.away()
        chunks = response.stream(body)
        next(chunks)
        return chunks


class _Response:
    """One response. Its head is held back until its body begins."""

    def __init__(self, store: SessionStore, form: CookieForm, session: Session, start_response: StartResponse) -> None:
        self._store, self._form, self._session, self._start = store, form, session, start_response
        self._head: tuple[str, list[tuple[str, str]]] = ("500 Internal Server Error", [])
        self._info: Any = None
        self._write: Callable[[bytes], object] | None = None

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        if exc_info is not None and self._write is not None:
            raise exc_info[1].with_traceback(exc_info[2])
        self._head, self._info = (status, headers), exc_info
        return self._written

    def _written(self, data: bytes) -> object:
        return self._send()(data)

    def _send(self) -> Callable[[bytes], object]:
        """Write the session, then send the head."""
        if self._write is None:
            accessed = self._session.accessed
            cookie = self._store.commit(self._session)
            status, headers = self._head
            headers = with_session([*headers], self._form, cookie, accessed=accessed)
            self._write = self._start(status, headers, self._info) if self._info else self._start(status, headers)
        return self._write

    def away(self) -> list[bytes]:
        if self._write is not None:
            raise SessionUnavailableError("the session was lost in the middle of a response.")
        length = str(len(AWAY))
        plain = [("Content-Type", "text/plain"), ("Content-Length", length), ("Retry-After", RETRY_AFTER)]
        self._write = self._start("503 Service Unavailable", plain)
        return [AWAY]

    def stream(self, body: Iterable[bytes]) -> Iterator[bytes]:
        """The body, after one chunk that is not sent: so `close` finds a generator that has begun, and ends here."""
        try:
            try:
                yield b""
                for chunk in body:
                    if chunk:
                        self._send()
                        yield chunk
                self._send()
            except SessionUnavailableError:
                yield from self.away()
            if self._session.modified:
                self._store.changed_too_late()
        except GeneratorExit:
            self._closed()
            raise
        finally:
            if hasattr(body, "close"):
                body.close()

    def _closed(self) -> None:
        """Nobody waits for the response, as after a disconnect. What the application changed stands all the same."""
        try:
            if self._write is None:
                self._store.commit(self._session)
        except SessionUnavailableError as error:
            log.warning("The session of a response that was closed unread is not written: %s", error)


def with_session(
    headers: list[tuple[str, str]], form: CookieForm, cookie: Cookie, *, accessed: bool
) -> list[tuple[str, str]]:
    """A response's headers, with the session's added."""
    if accessed:
        headers.append(("Vary", "Cookie"))
    if not isinstance(cookie, Keep):
        headers.append(("Set-Cookie", form.header(cookie)))
        if not any(name.lower() == "cache-control" for name, _ in headers):
            headers.append(("Cache-Control", "no-store"))
    return headers
