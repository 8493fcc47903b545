"""A small shop with logins: a counter, a cart, a list of devices, and a logout from all of them.

    export AIKCACHE_URL=redis://127.0.0.1:6379/0
    export AIKCACHE_MASTER_KEY=$(python -c 'import secrets; print(secrets.token_urlsafe(32))')
    gunicorn --workers 4 --chdir examples flask_sessions:app

Behind TLS it needs nothing else. On plain HTTP set AIKCACHE_SESSION_INSECURE_COOKIE=1. Each product has a key of
its own, so two tabs that add at once both count. A real application checks a password, and its forms carry CSRF tokens.
"""

from __future__ import annotations

from typing import Any

from flask import Flask, abort, redirect, request, session
from markupsafe import escape
from werkzeug.wrappers import Response

from aikcache import Cache
from aikcache.flask import CacheSession, CacheSessions
from aikcache.prometheus import metrics_app
from aikcache.sessions import SessionStore

PRICES = {"tea": 3, "milk": 1, "bread": 2}


def create_app() -> Flask:
    """Configured by the environment; asks nothing of Redis yet."""
    app = Flask(__name__)
    CacheSessions(app)
    cache = app.extensions["aikcache"] = Cache.from_env()
    store: SessionStore = app.extensions["aikcache_sessions"]

    def current() -> CacheSession:
        found: CacheSession = session._get_current_object()  # type: ignore[attr-defined]
        return found

    @cache.cached("price", ttl=60)
    def price(product: str) -> int:
        return PRICES[product]

    @app.get("/")
    def home() -> str:
        session["visits"] = session.get("visits", 0) + 1
        chosen = sorted(product for product in PRICES if f"cart:{product}" in session)
        cart = ", ".join(f"{product} ({price(product)} €)" for product in chosen)
        return f"<h1>{escape(current().subject or 'Nobody')}</h1><p>Visit {session['visits']}. Cart: {escape(cart)}</p>"

    @app.post("/cart/<product>")
    def add(product: str) -> Response:
        if product not in PRICES:
            abort(404)
        session[f"cart:{product}"] = session.get(f"cart:{product}", 0) + 1
        return redirect("/")

    @app.post("/login")
    def login() -> Response:
        current().bind(request.form["user"], request.user_agent.string[:80])  # a new id; the cart stays
        session.pop("csrf_token", None)
        return redirect("/")

    @app.get("/devices")
    def devices() -> list[dict[str, Any]]:
        here = current()
        if here.subject is None:
            abort(401)
        return [
            {"label": info.label, "last seen": info.last_seen, "this": info.handle == here.handle}
            for info in store.sessions(here.subject)
        ]

    @app.post("/logout")
    def logout() -> Response:
        current().end()
        return redirect("/")

    @app.post("/logout-everywhere")
    def logout_everywhere() -> Response:
        current().end_all()
        return redirect("/")

    @app.get("/health/cache")
    def health() -> tuple[dict[str, Any], int]:
        found = store.health()
        return {"ok": found.ok, "problems": found.problems}, 200 if found.ok else 503

    metrics = metrics_app()

    def serve(environ: Any, start_response: Any, inner: Any = app.wsgi_app) -> Any:
        return (metrics if environ["PATH_INFO"] == "/metrics/cache" else inner)(environ, start_response)

    app.wsgi_app = serve  # type: ignore[method-assign]
    return app


def __getattr__(name: str) -> Flask:
    """`app`, for gunicorn: made when it is asked for, so that importing this configures nothing."""
    if name == "app":
        return create_app()
    raise AttributeError(name)
