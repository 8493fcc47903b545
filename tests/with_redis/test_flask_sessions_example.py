"""The Flask example: a cart, a login, devices, and a logout from all of them."""

from __future__ import annotations

import secrets
import sys
from contextlib import closing
from pathlib import Path

import pytest
from flask import Flask

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "examples"))

import flask_sessions

import aikcache

from ._rings import make_flask_patient


def test_the_example_does_what_it_shows(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two browsers of one user, one of which logs out both."""
    make_flask_patient(monkeypatch)
    monkeypatch.setenv("AIKCACHE_URL", redis_url)
    monkeypatch.setenv("AIKCACHE_TIMEOUT", "20")
    monkeypatch.setenv("AIKCACHE_CONNECT_TIMEOUT", "20")
    monkeypatch.setenv("AIKCACHE_INSTANCE", "shop")
    monkeypatch.setenv("AIKCACHE_MASTER_KEY", secrets.token_urlsafe(32))
    app = flask_sessions.create_app()
    store = app.extensions["aikcache_sessions"]
    with closing(store.ring), closing(store):
        visit(app)
    aikcache.configure()


def visit(app: Flask) -> None:
    phone, laptop = app.test_client(), app.test_client()
    for browser in (phone, laptop):
        assert b"<h1>Nobody</h1>" in browser.post("/cart/tea", follow_redirects=True).data
        page = browser.post("/login", data={"user": "Ada"}, follow_redirects=True).data
        assert "<h1>Ada</h1>\n<p>Visit 2. Cart: 3 €</p>" in page.decode()
        assert "1 × tea" in page.decode()
    assert len(laptop.get("/devices").json or ()) == 2
    laptop.post("/logout-everywhere")
    assert (phone.get("/devices").status_code, laptop.get("/devices").status_code) == (401, 401)
    assert phone.post("/cart/gold").status_code == 404
    assert b"aikernel_cache_hits_total" in phone.get("/metrics/cache").data
    assert (phone.get("/health/cache").json or {})["server"] == "reachable"
    assert (phone.get("/health/sessions").json or {})["problems"] == [
        "the server keeps no append-only file: a restart ends all sessions. Set appendonly yes"
    ]
