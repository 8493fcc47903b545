"""Flask's sessions on a real server, and the WSGI middleware: cookies, concurrent requests, a server that is away."""

from __future__ import annotations

import datetime as dt
import secrets
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
import redis
from flask import Flask, Response, flash, get_flashed_messages, session, stream_with_context
from flask.testing import FlaskClient
from markupsafe import Markup

from aikcache import Cache
from aikcache.errors import ConfigError, SessionUnavailableError
from aikcache.flask import CacheSession, CacheSessions
from aikcache.sessions import KeyRing, SessionMiddleware, SessionStore
from aikcache.testing import Server

from ._rings import make_flask_patient, make_rings_patient

MASTER = secrets.token_urlsafe(32)
TAGGED = {
    "tuple": (1, [2, (3,)]), "markup": Markup("<b>x</b>"), "zone": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    "uuid": uuid.UUID(int=7), "bytes": b"\x00\xff", "keys": {1: "a"}, "set": {1, 2}, "none": None,
}  # fmt: skip
MakeApp = Callable[..., Flask]


def current() -> CacheSession:
    return session._get_current_object()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def make_app(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeApp]:
    """Applications with a few pages."""
    make_flask_patient(monkeypatch)
    with ExitStack() as stack:

        def made(url: str = redis_url, **config: Any) -> Flask:
            app = Flask("shop")
            app.config.update(AIKCACHE_SESSION_URL=url, AIKCACHE_INSTANCE="shop", AIKCACHE_MASTER_KEY=MASTER, **config)
            CacheSessions(app)
            store = app.extensions["aikcache_sessions"]
            stack.enter_context(closing(store))
            stack.enter_context(closing(store.ring))
            _pages(app)
            return app

        yield made


def _pages(app: Flask) -> None:
    @app.route("/plain")
    def plain() -> str:
        return "plain"

    @app.route("/set/<name>/<value>")
    def set_(name: str, value: str) -> str:
        session[name] = value
        return "set"

    @app.route("/get")
    def get() -> dict[str, Any]:
        return {name: session[name] for name in session}

    @app.route("/login/<user>")
    def login(user: str) -> str:
        current().bind(user, "browser")
        return "in"

    @app.route("/logout")
    def logout() -> str:
        current().end()
        return "out"

    @app.route("/flash/<text>")
    def flash_(text: str) -> str:
        flash(text)
        return "flashed"

    @app.route("/shown")
    def shown() -> list[Any]:
        return get_flashed_messages()

    @app.route("/permanent")
    def permanent() -> str:
        session.permanent = True
        session["x"] = 1
        return "x"

    @app.route("/in")
    def within() -> str:
        return str("x" in session)

    @app.route("/late")
    def late() -> Response:
        def body() -> Iterator[str]:
            yield "a"
            session["late"] = 1
            yield "b"

        return Response(stream_with_context(body()))


def cookies(response: Any) -> list[str]:
    return list(response.headers.getlist("Set-Cookie"))


def test_a_page_without_a_session_has_no_cookie(make_app: MakeApp) -> None:
    """And runs with Redis away; one with a session is then a 503."""
    client = make_app("redis://127.0.0.1:1/0").test_client()
    response = client.get("/plain")
    assert (response.status_code, cookies(response), "Vary" in response.headers) == (200, [], False)
    assert client.get("/get").json == {}  # without a cookie there is nothing to ask for
    response = client.get("/set/a/1")
    assert (response.status_code, response.headers["Retry-After"], cookies(response)) == (503, "1", [])
    assert b"127.0.0.1" not in response.data


def test_a_cookie_is_sent_when_a_session_begins_and_not_when_it_is_read(make_app: MakeApp) -> None:
    """With its flags, and without being cached."""
    client = make_app().test_client()
    response = client.get("/set/a/1")
    (cookie,) = cookies(response)
    assert cookie.startswith(".AIKernel.Session=")
    assert cookie.partition("; ")[2] == "Path=/; HttpOnly; SameSite=Strict; Secure"
    assert (response.headers["Cache-Control"], response.headers["Vary"]) == ("no-store", "Cookie")
    response = client.get("/get")
    assert (response.json, cookies(response), response.headers["Vary"]) == ({"a": "1"}, [], "Cookie")
    assert cookies(client.get("/set/b/2")) == []
    assert "Cache-Control" not in client.get("/in").headers
    assert client.get("/in").headers["Vary"] == "Cookie"


def test_a_login_outlives_the_message_that_it_flashed(make_app: MakeApp) -> None:
    """A session with a subject and no key is not an empty one."""
    app = make_app()

    @app.route("/welcome")
    def welcome() -> str:
        current().bind("ada")
        flash("welcome")
        return "in"

    @app.route("/home")
    def home() -> dict[str, Any]:
        return {"user": current().subject, "shown": get_flashed_messages()}

    client = app.test_client()
    client.get("/welcome")
    for shown in (["welcome"], []):
        response = client.get("/home")
        assert (response.json, cookies(response)) == ({"user": "ada", "shown": shown}, [])
    client.get("/logout")
    assert client.get("/home").json == {"user": None, "shown": []}


def test_the_cookie_is_as_it_is_configured(make_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
    """Name, path, domain, SameSite, the prefix, plain HTTP, and the age of a permanent session."""
    cookie = cookies(make_app(AIKCACHE_SESSION_HOST_PREFIX=True).test_client().get("/set/a/1"))[0]
    assert cookie.startswith("__Host-.AIKernel.Session=")
    config = {"SESSION_COOKIE_NAME": "sid", "SESSION_COOKIE_SAMESITE": "Lax", "SESSION_COOKIE_PATH": "/x",
              "SESSION_COOKIE_DOMAIN": "example.org", "AIKCACHE_SESSION_INSECURE_COOKIE": "true"}  # fmt: skip
    cookie = cookies(make_app(**config).test_client().get("/set/a/1"))[0]
    assert cookie.startswith("sid=")
    assert cookie.partition("; ")[2] == "Path=/x; HttpOnly; SameSite=Lax; Domain=example.org"
    assert "plain HTTP" in caplog.text
    app = make_app(SESSION_COOKIE_SAMESITE="None", SESSION_COOKIE_PARTITIONED=True)
    assert "; SameSite=None; Secure; Partitioned" in cookies(app.test_client().get("/set/a/1"))[0]
    ages = [cookies(make_app(**more).test_client().get("/permanent"))[0].rpartition("Max-Age=")[2] for more in
            ({}, {"PERMANENT_SESSION_LIFETIME": 86_400 * 60})]  # fmt: skip
    assert [0 <= whole - int(age) < 60 for whole, age in zip((43_200, 86_400 * 60), ages, strict=True)] == [True, True]


def test_every_type_that_flask_keeps_comes_back(make_app: MakeApp) -> None:
    """And sets, bytes and keys that are numbers; `session_transaction` sees the same."""
    app = make_app()
    client = app.test_client()
    with client.session_transaction() as outside:
        outside.update(TAGGED)
    with client.session_transaction() as outside:
        found = dict(outside)
    assert found == TAGGED
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in TAGGED.items()}
    assert found["markup"].__html__() == "<b>x</b>"


def test_a_markup_that_changes_is_written(make_app: MakeApp) -> None:
    """Although the codec calls two of them the same."""
    client = make_app().test_client()
    for text in ("one", "two"):
        with client.session_transaction() as outside:
            outside["text"] = Markup(text)
    assert client.get("/get").json == {"text": "two"}


def _beside(app: Flask, client: FlaskClient) -> FlaskClient:
    """Another request of the same browser."""
    other = app.test_client()
    cookie = client.get_cookie(".AIKernel.Session")
    assert cookie is not None
    other.set_cookie(".AIKernel.Session", cookie.value)
    return other


def test_messages_of_concurrent_requests_are_all_shown_once(make_app: MakeApp) -> None:
    """In their order, and one that is flashed while others are shown is kept for the next page."""
    app = make_app()
    client = app.test_client()
    client.get("/set/a/1")
    beside = _beside(app, client)
    with client.session_transaction() as one, beside.session_transaction() as two:
        one["_flashes"] = [*one.get("_flashes", []), ("message", "first")]
        two["_flashes"] = [*two.get("_flashes", []), ("message", "second")]
    with client.session_transaction() as reading:
        assert [text for _, text in reading.pop("_flashes")] == ["first", "second"]
        beside.get("/flash/third")
    assert client.get("/shown").json == ["third"]
    assert client.get("/shown").json == []
    assert client.get("/get").json == {"a": "1"}


def test_logins_and_logouts_change_the_cookie(make_app: MakeApp) -> None:
    """The old one leads nowhere, and a page beside sends none."""
    app = make_app()
    client = app.test_client()
    client.get("/set/cart/tea")
    old = _beside(app, client)
    assert len(cookies(client.get("/login/ann"))) == 1
    response = old.get("/set/x/1")
    assert (response.status_code, cookies(response)) == (200, [])
    assert client.get("/get").json == {"cart": "tea"}
    store: SessionStore = app.extensions["aikcache_sessions"]
    assert [info.label for info in store.sessions("ann")] == ["browser"]
    beside = _beside(app, client)
    assert "Max-Age=0" in cookies(client.get("/logout"))[0]
    response = beside.get("/flash/late")
    assert (cookies(response), beside.get("/get").json, store.sessions("ann")) == ([], {}, [])


def test_a_commit_that_fails_is_a_503_with_nothing_of_the_page(own_server: Server, make_app: MakeApp) -> None:
    """Neither its body nor its cookies; an error handler sees what fails in a view."""
    app = make_app(own_server.url)

    @app.route("/full/<value>")
    def full(value: str) -> Response:
        session["x"] = value
        response = Response("saved")
        response.set_cookie("other", "1")
        return response

    @app.errorhandler(SessionUnavailableError)
    def handled(error: SessionUnavailableError) -> tuple[str, int]:
        return "handled", 503

    client = app.test_client()
    assert client.get("/full/1").data == b"saved"
    with redis.Redis.from_url(own_server.url) as admin:
        admin.config_set("maxmemory", "1")
        response = client.get("/full/2")
        assert (response.status_code, b"saved" in response.data, cookies(response)) == (503, False, [])
        assert client.get("/get").json == {"x": "1"}
    own_server.kill()
    assert client.get("/get").data == b"handled"
    assert client.get("/plain").data == b"plain"


def test_a_change_after_the_response_began_is_reported(make_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
    """It is lost, with one line in the log."""
    client = make_app().test_client()
    assert client.get("/late").data == b"ab"
    assert client.get("/late").data == b"ab"
    assert [record.getMessage() for record in caplog.records if "response had begun" in record.getMessage()] != []
    assert client.get("/get").json == {}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"AIKCACHE_MASTER_KEY": None}, "the key ring needs a master key"),
        ({"AIKCACHE_MASTER_KEY": "c2hvcnQ"}, "a master key must be 32 bytes"),
        ({"AIKCACHE_SESSION_IDLE": 5}, "there is no setting AIKCACHE_SESSION_IDLE. There are: AIKCACHE_SESSION_URL"),
        ({"AIKCACHE_SESSION_IDLE_TIMEOUT": "soon"}, "AIKCACHE_SESSION_IDLE_TIMEOUT must be seconds, got 'soon'"),
        ({"AIKCACHE_SESSION_HOST_PREFIX": "maybe"}, "AIKCACHE_SESSION_HOST_PREFIX must be true or false"),
        ({"AIKCACHE_SESSION_HOST_PREFIX": 1, "AIKCACHE_SESSION_INSECURE_COOKIE": 1}, "needs a Secure cookie"),
        ({"SESSION_COOKIE_SAMESITE": "None", "AIKCACHE_SESSION_INSECURE_COOKIE": 1}, "needs a Secure cookie"),
        ({"AIKCACHE_SESSION_HOST_PREFIX": 1, "SESSION_COOKIE_DOMAIN": "example.org"}, "no domain"),
        ({"PERMANENT_SESSION_LIFETIME": 401 * 86_400}, "at most 400 days, got 401"),
        ({"AIKCACHE_SESSION_ON_UNAVAILABLE": "open"}, "on_unavailable must be one of"),
        ({"AIKCACHE_SESSION_URL": None}, "needs a server"),
    ],
)
def test_a_bad_configuration_is_refused(config: dict[str, Any], message: str) -> None:
    """When the application is made, by its message."""
    app = Flask("shop")
    app.config.update({"AIKCACHE_SESSION_URL": "redis://127.0.0.1:1/0", "AIKCACHE_MASTER_KEY": MASTER, **config})
    with pytest.raises(ConfigError, match=message):
        CacheSessions(app)


def test_an_application_has_one_store_of_sessions(make_app: MakeApp) -> None:
    """A second `init_app` is a mistake, and said to be; the first one's sessions go on."""
    app = make_app()
    before = app.session_interface, app.extensions["aikcache_sessions"]
    with pytest.raises(ConfigError, match="shop has a session store already"):
        CacheSessions(app)
    assert (app.session_interface, app.extensions["aikcache_sessions"]) == before


def test_the_environment_configures_too(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same names, which a cache made from the environment passes over; a misspelt one is an error."""
    make_flask_patient(monkeypatch)
    for name, value in {"SESSION_URL": redis_url, "MASTER_KEY": MASTER, "SESSION_HOST_PREFIX": "1"}.items():
        monkeypatch.setenv(f"AIKCACHE_{name}", value)
    app = Flask("shop")
    CacheSessions(app)
    _pages(app)
    assert cookies(app.test_client().get("/set/a/1"))[0].startswith("__Host-")
    Cache.from_env().close()
    app.extensions["aikcache_sessions"].ring.close()
    monkeypatch.setenv("AIKCACHE_SESSION_URI", redis_url)
    with pytest.raises(ConfigError, match="AIKCACHE_SESSION_URI"):
        CacheSessions(Flask("shop"))


# The middleware


def _wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    here = environ["aikcache.session"]
    match environ["PATH_INFO"]:
        case "/set":
            here["x"] = here.get("x", 0) + 1
        case "/get":
            here.get("x")
        case "/end":
            here.end()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"", str(here.get("x")).encode() if environ["PATH_INFO"] != "/plain" else b"plain"]


def _call(app: Any, path: str, cookie: str = "") -> tuple[str, dict[str, str], bytes]:
    answer: list[Any] = []
    body = app(
        {"PATH_INFO": path, "HTTP_COOKIE": cookie}, lambda status, headers, info=None: answer.extend((status, headers))
    )
    data = b"".join(body)
    return answer[0], dict(answer[1]), data


def test_the_middleware_gives_any_application_sessions(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same cookie, the same rules, and 503 with Redis away."""
    make_rings_patient(monkeypatch)
    with closing(KeyRing(redis_url, instance="shop", master_key=MASTER)) as ring:
        with closing(SessionStore(redis_url, ring=ring, instance="shop", timeout=20, connect_timeout=20)) as store:
            app = SessionMiddleware(_wsgi, store, same_site="Lax", name="sid")
            status, headers, body = _call(app, "/set")
            assert (status, body, headers["Cache-Control"], headers["Vary"]) == ("200 OK", b"1", "no-store", "Cookie")
            cookie = headers["Set-Cookie"].partition(";")[0]
            assert _call(app, "/set", cookie)[2] == b"2"
            assert "Set-Cookie" not in _call(app, "/get", f"sid=x; {cookie}")[1]
            assert "Max-Age=0" in _call(app, "/end", cookie)[1]["Set-Cookie"]
            assert _call(app, "/get", cookie)[2] == b"None"
        away = SessionMiddleware(_wsgi, SessionStore("redis://127.0.0.1:1/0", ring=ring, instance="shop"))
        assert _call(away, "/plain")[0] == "200 OK"
        token = ".AIKernel.Session=" + store.cookie_value(b"i" * 32, ".AIKernel.Session")
        status, headers, body = _call(away, "/set", token)
        assert (status, headers["Retry-After"], "Set-Cookie" in headers) == ("503 Service Unavailable", "1", False)


def test_the_middlewares_cookie_is_partitioned_where_that_is_asked_for(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the one that deletes it, or the browser keeps the other; without HTTPS it is refused."""
    make_rings_patient(monkeypatch)
    with (
        closing(KeyRing(redis_url, instance="shop", master_key=MASTER)) as ring,
        closing(SessionStore(redis_url, ring=ring, instance="shop", timeout=20, connect_timeout=20)) as store,
    ):
        app = SessionMiddleware(_wsgi, store, name="sid", same_site="None", partitioned=True)
        cookie, _, attributes = _call(app, "/set")[1]["Set-Cookie"].partition("; ")
        assert attributes == "Path=/; HttpOnly; SameSite=None; Secure; Partitioned"
        deleted = _call(app, "/end", cookie)[1]["Set-Cookie"]
        assert deleted.startswith(f"sid=; {attributes}; Max-Age=0")
        with pytest.raises(ConfigError, match="got partitioned=True and secure=False"):
            SessionMiddleware(_wsgi, store, partitioned=True, insecure_cookie=True)


class _Body(list[bytes]):
    closed = False

    def close(self) -> None:
        self.closed = True


def test_a_response_that_is_closed_unread_ends_its_session_all_the_same(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a disconnect: the application did its work, so a logout stands; and its own body is closed."""
    make_rings_patient(monkeypatch)
    body = _Body([b"x"])

    def pages(environ: Any, start_response: Any) -> Any:
        _wsgi(environ, start_response)
        return body

    with (
        closing(KeyRing(redis_url, instance="shop", master_key=MASTER)) as ring,
        closing(SessionStore(redis_url, ring=ring, instance="shop", timeout=20, connect_timeout=20)) as store,
    ):
        app: Any = SessionMiddleware(pages, store, name="sid")
        cookie = _call(app, "/set")[1]["Set-Cookie"].partition(";")[0]
        body.closed = False
        app({"PATH_INFO": "/end", "HTTP_COOKIE": cookie}, lambda *_: pytest.fail("it begins")).close()
        assert body.closed
        assert _call(SessionMiddleware(_wsgi, store, name="sid"), "/get", cookie)[2] == b"None"
