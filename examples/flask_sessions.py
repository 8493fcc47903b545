"""A small shop with logins: a counter, a cart, a list of devices, and a logout from all of them.

    export AIKCACHE_URL=redis://127.0.0.1:6379/0
    export AIKCACHE_MASTER_KEY=$(python -c 'import secrets; print(secrets.token_urlsafe(32))')
    gunicorn --workers 4 --chdir examples flask_sessions:app

Behind TLS it needs nothing else. On plain HTTP set AIKCACHE_SESSION_INSECURE_COOKIE=1. Each product has a key of
its own, so two tabs that add at once both count. A real application checks a password, and its forms carry CSRF tokens.
"""

from __future__ import annotations

from typing import Any

from flask import Flask, abort, redirect, render_template_string, request, session
from werkzeug.wrappers import Response

from aikcache import cached
from aikcache.flask import Aikcache, CacheSession, CacheSessions
from aikcache.sessions import SessionStore

PRICES = {"tea": 3, "milk": 1, "bread": 2}
PAGE = """<!doctype html><title>Shop</title>
<style>body {font: 16px sans-serif; margin: 2em} form {display: inline} li {margin: .4em 0}</style>
<h1>{{ user or "Nobody" }}</h1>
<p>Visit {{ visits }}. Cart: {{ total }} €</p>
<ul>{% for product, count in cart.items() %}
  <li>{{ count }} × {{ product }} <form method="post" action="/cart/{{ product }}"><button>add</button></form></li>
{% endfor %}</ul>
{% if user %}<p><a href="/devices">Devices</a>
<form method="post" action="/logout"><button>Log out</button></form>
<form method="post" action="/logout-everywhere"><button>Log out everywhere</button></form></p>
{% else %}<form method="post" action="/login"><input name="user" placeholder="name" required>
<button>Log in</button></form>{% endif %}"""


@cached("shop", ttl=60)
def price(product: str) -> int:
    return PRICES[product]


def create_app() -> Flask:
    """Configured by the environment; asks nothing of Redis yet."""
    app = Flask(__name__)
    Aikcache(app)  # the cache of `price`, /metrics/cache, /health/cache, `flask cache stats`
    CacheSessions(app)
    store: SessionStore = app.extensions["aikcache_sessions"]

    def current() -> CacheSession:
        found: CacheSession = session._get_current_object()  # type: ignore[attr-defined]
        return found

    @app.get("/")
    def home() -> str:
        session["visits"] = session.get("visits", 0) + 1
        counts = {product: session.get(f"cart:{product}", 0) for product in PRICES}
        total = sum(count * price(product) for product, count in counts.items() if count)
        return render_template_string(PAGE, user=current().subject, visits=session["visits"], cart=counts, total=total)

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

    @app.get("/health/sessions")
    def health() -> tuple[dict[str, Any], int]:
        found = store.health()
        return {"ok": found.ok, "problems": found.problems}, 200 if found.ok else 503

    return app


def __getattr__(name: str) -> Flask:
    """`app`, for gunicorn: made when it is asked for, so that importing this configures nothing."""
    if name == "app":
        return create_app()
    raise AttributeError(name)
