"""A Flask request with a session against Flask-Session and Flask's own cookie: not used, read, and written.

Whole requests through `wsgi_app`, with a session of five keys. Flask-Session is set up as its manual says.
Below the costs, what each keeps of 32 concurrent changes of 32 keys, how many of 50 sessions are alive again when a
request that had read them ends after the logout, and how many such requests send a cookie. Last what a request is
answered, and after how long, when Redis refuses connections or hangs, on a server of its own.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import redis

from aikcache.sessions import KeyRing, SessionStore
from aikcache.testing import Server
from benchmarks._harness.measure import Bar, Row, Settings, absent, duration, interleaved
from benchmarks._harness.rivals import module
from benchmarks._harness.server import INSTANCE, places

DATA = {"user": 7, "name": "Ada", "cart": ["tea", "milk"], "theme": "dark", "csrf_token": "x" * 40}
BARS = {"plain": Bar(0.5), "read": Bar(1.0), "write": Bar(1.25)}
KEYS, LOGOUTS = 32, 50
Gate = dict[str, Callable[[], object]]


def run(settings: Settings) -> list[Row]:
    """On one server, over its socket, on one core where that can be."""
    flask = module("flask")
    if flask is None:
        return [absent("session request", "Flask")]
    where = places(settings.url)
    place, url = next(where)  # the server goes with `where`
    with ExitStack() as stack:
        gate: Gate = {}
        apps = _apps(url, gate, stack)
        rows = _costs(place, apps, settings)
        for name, app in apps.items():
            rows += _behaviour(name, app, gate)
        return rows + _away()


def _apps(url: str, gate: Gate, stack: ExitStack) -> dict[str, Any]:
    ours = stack.enter_context(_ours(url))
    apps = {"aikcache": _app(ours, gate), "Flask's cookie": _app(lambda app: None, gate)}
    if (server_side := module("flask_session")) is not None:
        client = stack.enter_context(closing(redis.Redis.from_url(url)))
        apps["Flask-Session"] = _app(lambda app: _flask_session(server_side, app, client), gate)
    return apps


@contextmanager
def _ours(url: str) -> Iterator[Callable[[Any], object]]:
    from aikcache.flask import CacheSessions

    with ExitStack() as stack:
        ring = stack.enter_context(closing(KeyRing(url, instance=INSTANCE, master_key=secrets.token_urlsafe(32))))
        store = stack.enter_context(closing(SessionStore(url, ring=ring, instance=INSTANCE)))
        yield lambda app: CacheSessions(app, store=store)


def _flask_session(server_side: Any, app: Any, client: Any) -> None:
    app.config.update(
        SESSION_TYPE="redis", SESSION_REDIS=client, SESSION_KEY_PREFIX=f"{INSTANCE}:", SESSION_PERMANENT=0
    )
    server_side.Session(app)


def _app(configure: Callable[[Any], object], gate: Gate) -> Any:
    """An application of five pages; a page waits in the middle where the gate says so."""
    import flask

    app = flask.Flask("benchmark")
    app.secret_key = secrets.token_bytes(32)
    app.logger.disabled = True  # tracebacks of what is answered with 500
    configure(app)
    session = flask.session

    @app.route("/begin")
    def begin() -> str:
        session.update(DATA)
        return "begun"

    @app.route("/plain")
    def plain() -> str:
        return "plain"

    @app.route("/read")
    def read() -> str:
        return str(session["user"])

    @app.route("/write")
    def write() -> str:
        session["count"] = session.get("count", 0) + 1
        return "written"

    @app.route("/add/<name>")
    def add(name: str) -> str:
        session.get("user")
        gate["wait"]()
        session[name] = 1
        return "added"

    @app.route("/end")
    def end() -> str:
        session.clear()
        return "ended"

    @app.route("/count")
    def count() -> str:
        return str(len([name for name in session if name.startswith("k")]))

    @app.route("/alive")
    def alive() -> str:
        return str(session.get("user"))

    return app


def _costs(place: str, apps: dict[str, Any], settings: Settings) -> list[Row]:
    rows = []
    for page, bar in BARS.items():
        calls = {name: _request(app, f"/{page}") for name, app in apps.items()}
        samples = interleaved(calls, settings)
        mine = samples["aikcache"]
        question = f"session request, {page}, {place}"
        if "Flask-Session" not in samples:
            rows.append(absent(question, "Flask-Session", bar))
        for rival in samples.keys() - {"aikcache"}:
            judged = bar if rival == "Flask-Session" else None
            rival_figure = f"{rival}: {samples[rival]}"
            rows.append(
                Row(
                    question=question,
                    figure=str(mine),
                    rival=rival_figure,
                    measured=mine.over(samples[rival]),
                    bar=judged,
                )
            )
    return rows


def _request(app: Any, path: str) -> Callable[[], object]:
    """A request of a browser that has a session, through the application as a server calls it."""
    client = app.test_client()
    client.get("/begin", base_url="https://localhost")
    with client:
        cookies = "; ".join(f"{c.key}={c.value}" for c in client._cookies.values())
    wsgi = app.wsgi_app
    base = {
        "REQUEST_METHOD": "GET", "PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": "", "SERVER_NAME": "localhost",
        "SERVER_PORT": "443", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "https", "HTTP_COOKIE": cookies,
    }  # fmt: skip

    def call() -> object:
        return b"".join(wsgi(dict(base), lambda status, headers, info=None: None))

    return call


def _browser(app: Any, like: Any = None) -> Any:
    client = app.test_client()
    for cookie in () if like is None else like._cookies.values():
        client.set_cookie(cookie.key, cookie.value)
    return client


def _behaviour(name: str, app: Any, gate: Gate) -> list[Row]:
    first = _browser(app)
    first.get("/begin")
    line = threading.Barrier(KEYS)
    gate["wait"] = line.wait
    with ThreadPoolExecutor(KEYS) as pool:
        list(pool.map(lambda number: _browser(app, first).get(f"/add/k{number}"), range(KEYS)))
    kept = int(first.get("/count").data)
    alive = cookies = 0
    for _ in range(LOGOUTS):
        browser = _browser(app)
        browser.get("/begin")
        stale = _browser(app, browser)
        gate["wait"] = lambda browser=browser: browser.get("/end")  # type: ignore[misc]
        response = stale.get("/add/late")
        cookies += "Set-Cookie" in response.headers
        alive += stale.get("/alive").data != b"None"
    question = f"sessions, {name}"
    return [
        Row(question=question, figure=f"{kept} of {KEYS}", rival="concurrent changes kept"),
        Row(question=question, figure=f"{alive} of {LOGOUTS}", rival="alive again after a logout"),
        Row(question=question, figure=f"{cookies} of {LOGOUTS}", rival="cookies of requests that the logout overtook"),
    ]


def _away() -> list[Row]:
    rows = []
    for how in ("refuses", "hangs"):
        with Server(port=0) as server, ExitStack() as stack:
            apps = _apps(server.url, {}, stack)
            del apps["Flask's cookie"]  # which asks no server
            browsers = {name: _browser(app) for name, app in apps.items()}
            for browser in browsers.values():
                browser.get("/begin")
            server.kill() if how == "refuses" else server.pause()
            try:
                for page in BARS:
                    figures = {name: _answered(browser, page) for name, browser in browsers.items()}
                    rival = f"Flask-Session: {figures.get('Flask-Session', 'not installed')}"
                    rows.append(Row(question=f"Redis {how}, {page}", figure=figures["aikcache"], rival=rival))
            finally:
                server.resume()
    return rows


def _answered(browser: Any, page: str) -> str:
    """The status, and the time of the first request and of the sixth, by which a circuit breaker is open."""
    times, status = [], 0
    for _ in range(6):
        began = time.perf_counter()
        status = browser.get(f"/{page}").status_code
        times.append(time.perf_counter() - began)
    return f"{status} in {duration(times[0])}, then {duration(times[-1])}"
