"""Django with sessions in Redis, in one file: a cart, a login, a list of devices, and a logout from all of them.

    export AIKCACHE_URL=redis://127.0.0.1:6379/0
    export AIKCACHE_MASTER_KEY=$(python -c 'import secrets; print(secrets.token_urlsafe(32))')
    gunicorn --workers 4 --chdir examples django_sessions:application

A real application uses `django.contrib.auth`, whose `login` and `logout` work unchanged; bind the user to the session
in a receiver of `user_logged_in`. Keep Django's CsrfViewMiddleware there.
"""

from __future__ import annotations

import os
from typing import Any

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST


def configure(**more: Any) -> None:
    """Settings; a project has them in its settings module."""
    settings.configure(
        SECRET_KEY=os.urandom(32).hex(),
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        SESSION_ENGINE="aikcache.django",
        MIDDLEWARE=["aikcache.django.SessionMiddleware"],
        **more,
    )
    django.setup()


def home(request: Any) -> HttpResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    cart = [name.removeprefix("cart:") for name in request.session if name.startswith("cart:")]
    return JsonResponse({"user": request.session.subject, "visits": request.session["visits"], "cart": cart})


def add(request: Any, product: str) -> HttpResponse:
    request.session[f"cart:{product}"] = request.session.get(f"cart:{product}", 0) + 1
    return HttpResponse(status=204)


def login(request: Any) -> HttpResponse:
    request.session.bind(request.POST["user"], request.headers.get("User-Agent", "")[:80])
    return HttpResponse(status=204)


def devices(request: Any) -> HttpResponse:
    from aikcache.django import store

    found = store().sessions(request.session.subject or "")
    return JsonResponse({"devices": [{"label": i.label, "this": i.handle == request.session.handle} for i in found]})


def logout(request: Any) -> HttpResponse:
    request.session.end_all()
    return HttpResponse(status=204)


urlpatterns = [
    path("", home),
    path("cart/<slug:product>", require_POST(add)),
    path("login", require_POST(login)),
    path("devices", devices),
    path("logout-everywhere", require_POST(logout)),
]


def __getattr__(name: str) -> Any:
    """`application`, for gunicorn: made when it is asked for, so that importing this configures nothing."""
    if name == "application":
        configure()
        return get_wsgi_application()
    raise AttributeError(name)
