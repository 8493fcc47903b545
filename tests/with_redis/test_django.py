"""Django's sessions on a real server: the cookie, logins, requests that a login overtook, and a server that is away."""

from __future__ import annotations

import inspect
import secrets
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("django")
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "examples"))

import django_sessions
from django.conf import settings
from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings

import aikcache.django as ours
from aikcache.errors import ConfigError

from ._rings import make_rings_patient
from ._workers import PATIENCE

MASTER = secrets.token_urlsafe(32)
if not settings.configured:
    apps = ["django.contrib.auth", "django.contrib.contenttypes"]
    django_sessions.configure(LOGGING_CONFIG=None, INSTALLED_APPS=apps)
    user_logged_in.disconnect(dispatch_uid="update_last_login")  # it would want a database

Configure = Callable[..., None]


@pytest.fixture
def configure(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """A process with these settings."""
    make_rings_patient(monkeypatch)
    patches: list[Any] = []

    def end() -> None:
        while patches:
            if ours.store.cache_info().currsize:
                ours.store().ring.close()
                ours.store().close()
            ours.store.cache_clear()
            patches.pop().disable()

    def configured(sessions: dict[str, Any] | None = None, **more: Any) -> None:
        end()
        patient = {"timeout": PATIENCE, "connect_timeout": PATIENCE}
        given = {"url": redis_url, "instance": "shop", "master_key": MASTER, **patient, **(sessions or {})}
        patches.append(override_settings(AIKCACHE_SESSIONS=given, **more))
        patches[-1].enable()

    configured()
    yield configured
    end()


def request(view: Callable[[Any], object], cookie: str = "") -> Any:
    """A response of our middleware around a view that returns nothing."""
    asked = RequestFactory().get("/", **({"HTTP_COOKIE": f"sessionid={cookie}"} if cookie else {}))

    def answer(request: Any) -> HttpResponse:
        view(request)
        return HttpResponse("done")

    return ours.SessionMiddleware(answer)(asked)


def begun(**data: Any) -> str:
    return str(request(lambda asked: asked.session.update(data)).cookies["sessionid"].value)


def held(cookie: str) -> dict[str, Any]:
    return dict(ours.SessionStore(cookie))


def test_the_example_does_what_it_shows(configure: Configure) -> None:
    """Two browsers of one user; the cookie comes when a session begins and at the login, and one logs out both."""
    phone, laptop = Client(HTTP_USER_AGENT="Phone"), Client(HTTP_USER_AGENT="Laptop")
    assert phone.post("/cart/tea", secure=True).status_code == 204
    (morsel,) = phone.cookies.values()
    flags = {name: morsel[name] for name in ("secure", "httponly", "samesite", "path", "domain")}
    assert flags == {"secure": True, "httponly": True, "samesite": "Strict", "path": "/", "domain": ""}
    response = phone.get("/", secure=True)
    assert (response.json(), response.cookies) == ({"user": None, "visits": 1, "cart": ["tea"]}, {})
    assert response["Vary"] == "Cookie"
    before = morsel.value
    for browser in (phone, laptop):
        response = browser.post("/login", {"user": "ada"}, secure=True)
        assert response["Cache-Control"] == "no-store"
    assert phone.cookies["sessionid"].value != before
    assert held(before) == {}
    assert phone.get("/", secure=True).json() == {"user": "ada", "visits": 2, "cart": ["tea"]}
    devices = phone.get("/devices", secure=True).json()["devices"]
    assert sorted((one["label"], one["this"]) for one in devices) == [("Laptop", False), ("Phone", True)]
    phone.post("/logout-everywhere", secure=True)
    assert phone.cookies["sessionid"].value == ""
    assert laptop.get("/", secure=True).json()["user"] is None


def test_a_request_that_a_login_overtook_takes_no_cookie_away(configure: Configure) -> None:
    """Its changes go on under the new id; after a logout they are dropped."""
    cookie = begun(cart=1)
    fresh = []

    def overtaken(asked: Any) -> None:
        asked.session["late"] = asked.session["cart"]
        fresh.append(request(lambda login: login.session.cycle_key(), cookie).cookies["sessionid"].value)

    assert request(overtaken, cookie).cookies == {}
    assert held(fresh[0]) == {"cart": 1, "late": 1}

    def ended(asked: Any) -> None:
        asked.session["late"] = asked.session["cart"] + 1
        request(lambda logout: logout.session.flush(), fresh[0])

    assert request(ended, fresh[0]).cookies == {}
    assert held(fresh[0]) == {}


def test_djangos_own_login_and_logout(configure: Configure) -> None:
    """`login` gives a new id and keeps the cart, `logout` ends the session; a test client may be logged in by force."""
    from django.contrib.auth import SESSION_KEY, login, logout
    from django.contrib.auth.models import User

    ada = User(pk=7, username="ada", password="!")
    backend = "django.contrib.auth.backends.ModelBackend"
    cookie = begun(cart=1)
    response = request(lambda asked: login(asked, ada, backend), cookie)
    fresh = response.cookies["sessionid"].value
    assert (held(cookie), held(fresh)["cart"], held(fresh)[SESSION_KEY]) == ({}, 1, "7")
    assert request(logout, fresh).cookies["sessionid"].value == ""
    assert held(fresh) == {}
    client = Client()
    client.force_login(ada, backend)
    assert client.session[SESSION_KEY] == "7"


def test_what_djangos_settings_say_counts(configure: Configure) -> None:
    """How long the cookie lives, and its flags where they are set; what is misspelt or cannot be is an error."""
    assert request(lambda asked: asked.session.update(a=1)).cookies["sessionid"]["max-age"] in range(43_190, 43_201)
    assert request(lambda asked: (asked.session.set_expiry(0), asked.session.update(a=1))).cookies["sessionid"][
        "max-age"
    ] in ("", None)
    configure({"insecure_cookie": True}, SESSION_COOKIE_SAMESITE="Lax", SESSION_COOKIE_AGE=60)
    morsel = request(lambda asked: asked.session.update(a=1)).cookies["sessionid"]
    assert (morsel["samesite"], morsel["secure"]) == ("Lax", "")
    assert morsel["max-age"] in range(50, 61)
    configure(SESSION_COOKIE_SAMESITE=False)
    assert request(lambda asked: asked.session.update(a=1)).cookies["sessionid"]["samesite"] == "Lax"
    with pytest.raises(ConfigError, match="set_expiry takes 0 or None, got 60"):
        ours.SessionStore().set_expiry(60)
    configure({"idle_time": 60})
    with pytest.raises(ConfigError, match=r"AIKCACHE_SESSIONS.*idle_time"):
        ours.store()


def test_with_redis_away_only_who_uses_a_session_gets_a_503(configure: Configure) -> None:
    """Whether it fails in the view or when it is written. What ends as a server error writes nothing."""
    cookie = begun(a=1)

    def broken(asked: Any) -> HttpResponse:
        asked.session["a"] = 2
        return HttpResponse(status=500)

    asked = RequestFactory().get("/", HTTP_COOKIE=f"sessionid={cookie}")
    assert ours.SessionMiddleware(broken)(asked).status_code == 500
    assert held(cookie) == {"a": 1}
    configure({"url": "unix:///nobody/is/here.sock"})
    client = Client(raise_request_exception=False)
    client.cookies["sessionid"] = cookie
    response = client.get("/")
    assert (response.status_code, response["Retry-After"], response.cookies) == (503, "1", {})
    assert request(lambda asked: None, cookie).status_code == 200


def test_the_session_has_djangos_methods(configure: Configure) -> None:
    """All but the asynchronous ones, and those in which Django's own classes implement them."""
    inner = {"create", "load", "encode", "decode", "key_salt", "get_session_cookie_age"}
    constants = {"TEST_COOKIE_NAME", "TEST_COOKIE_VALUE"}
    theirs = {name for name in dir(SessionBase) if not name.startswith("_")}
    synchronous = {name for name in theirs if not inspect.iscoroutinefunction(getattr(SessionBase, name))}
    assert {name for name in synchronous if not hasattr(ours.SessionStore(), name)} == inner | constants

    cookie = begun(cart=1)
    session = ours.SessionStore(cookie)
    assert session.exists(cookie)
    assert not session.exists("x")
    assert 0 < session.get_expiry_age() <= 43_200
    assert session.get_expiry_date() > datetime.now(UTC)
    assert ours.SessionStore().get_expiry_age() in range(43_199, 43_201)
    session.set_test_cookie()
    session.save()
    again = ours.SessionStore(cookie)
    assert again.test_cookie_worked()
    again.delete_test_cookie()
    again.save()
    assert not ours.SessionStore(cookie).test_cookie_worked()
    ours.SessionStore.clear_expired()
    assert held(cookie) == {"cart": 1}
    ours.SessionStore().delete(cookie)
    assert held(cookie) == {}
    other = ours.SessionStore(begun(cart=2))
    other.delete()
    assert other.session_key is None
