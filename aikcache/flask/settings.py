"""An application's configuration: `app.config`, and for what is not in it the environment.

A cache's settings are `AIKCACHE_` and their name, as in the environment: `AIKCACHE_URL`, `AIKCACHE_TTLS`. Their values
may be of their type, or texts as the environment has them. `AIKCACHE_FLASK_` begins what only the extension has.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

from flask import Flask

from aikcache._settings import environment
from aikcache._settings.config import FIELDS, MIN_DISTINCT, MIN_SECRET, is_key
from aikcache._settings.secret import Secret, hidden
from aikcache.errors import ConfigError

ENV: Final = environment.ENV
TOKEN, HEADER = "AIKCACHE_FLASK_BYPASS_TOKEN", "AIKCACHE_FLASK_BYPASS_HEADER"
DEFERRED, ENDPOINTS = "AIKCACHE_FLASK_DEFERRED", "AIKCACHE_FLASK_ENDPOINTS"
SCOPE = "AIKCACHE_FLASK_METRICS_SCOPE"
OF_FLASK: Final = (TOKEN, HEADER, DEFERRED, ENDPOINTS, SCOPE)
MASTER_KEY: Final = "AIKCACHE_MASTER_KEY"
OF_SESSIONS: Final = (
    "AIKCACHE_SESSION_URL", "AIKCACHE_SESSION_IDLE_TIMEOUT", "AIKCACHE_SESSION_ABSOLUTE_TIMEOUT",
    "AIKCACHE_SESSION_ON_UNAVAILABLE", "AIKCACHE_SESSION_INSECURE_COOKIE", "AIKCACHE_SESSION_HOST_PREFIX",
    "AIKCACHE_SESSION_ALLOW_PLAINTEXT_RING",
)  # fmt: skip
OF_CACHE: Final = tuple(f"{ENV}{name.upper()}" for name in FIELDS)
_HEADER: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,99}")
_FLAGS: Final = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


class Configured:
    """What an application and its environment say."""

    def __init__(self, app: Flask) -> None:
        self.config = app.config

    def names(self) -> list[str]:
        """The keys of `app.config` that begin with `AIKCACHE_`."""
        return [name for name in self.config if isinstance(name, str) and name.startswith(ENV)]

    def check(self, prefix: str, known: Sequence[str]) -> None:
        """Raises `ConfigError`: a name with this prefix is not known."""
        for name in (*self.names(), *os.environ):
            if name.startswith(prefix) and name not in known:
                raise ConfigError(f"there is no setting {name}. There are: {', '.join(known)}.")

    def get(self, name: str) -> Any:
        value = self.config.get(name)
        return os.environ.get(name) if value is None else value

    def seconds(self, name: str, default: float) -> float:
        value = self.get(name)
        if value is None:
            return default
        try:
            return value.total_seconds() if isinstance(value, timedelta) else float(value)
        except (TypeError, ValueError):
            raise ConfigError(f"{name} must be seconds, got {str(value)[:40]!r}.") from None

    def flag(self, name: str, *, default: bool = False) -> bool:
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        if (flag := _FLAGS.get(str(value).strip().lower())) is None:
            raise ConfigError(f"{name} must be true or false, got {str(value)[:40]!r}.")
        return flag


class Extension(NamedTuple):
    """What the extension does beside making a cache."""

    token: Secret[str] | None
    header: str
    deferred: bool
    endpoints: bool
    scope: Any


def of_cache(app: Flask) -> dict[str, Any]:
    """The settings of an application's cache; what is secret hidden. Raises `ConfigError`."""
    found = environment.from_env(environment.read_env())
    configured = Configured(app)
    known = (*OF_CACHE, *OF_FLASK, *OF_SESSIONS, MASTER_KEY)
    for name in configured.names():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]}?" if near else f"A cache has: {', '.join(OF_CACHE)}."
            raise ConfigError(f"app.config has {name}, and there is no such setting. {hint}")
        if name in OF_CACHE:
            found.update(_parsed(name, app.config[name]))
    return found


def _parsed(name: str, value: object) -> dict[str, Any]:
    """Text is read as in the environment, which also hides what is secret. `from_prefixed_env` makes numbers of it."""
    setting = name[len(ENV) :].lower()
    if type(value) is int and FIELDS[setting].type in ("bool", "str"):
        value = str(value)
    if isinstance(value, str):
        return environment.from_env(environment.read_env({name: value}))
    return {setting: hidden(value) if setting in ("url", "secret") else value}


def of_extension(app: Flask) -> Extension:
    """Raises `ConfigError`: a setting breaks a rule or is unknown."""
    configured = Configured(app)
    configured.check(f"{ENV}FLASK_", OF_FLASK)
    header = configured.get(HEADER) or "X-Cache-Bypass"
    if not isinstance(header, str) or not _HEADER.fullmatch(header):
        raise ConfigError(f"{HEADER} must be the name of a header: letters, digits and '-'.")
    given = configured.get(TOKEN) or None
    token = hidden(given)
    if given is not None and not (isinstance(given, str) and is_key(token)):
        raise ConfigError(
            f"{TOKEN} must be at least {MIN_SECRET} random characters, {MIN_DISTINCT} of them different: who knows it "
            "can have every call run its function. `secrets.token_urlsafe(32)` makes one."
        )
    scope = configured.get(SCOPE) or "host"
    if scope not in ("process", "host", "fleet"):
        raise ConfigError(f"{SCOPE} must be 'process', 'host' or 'fleet', got {str(scope)[:40]!r}.")
    return Extension(
        token if isinstance(token, Secret) else None,
        header,
        configured.flag(DEFERRED),
        configured.flag(ENDPOINTS, default=True),
        scope,
    )
