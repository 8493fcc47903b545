"""Which server a command asks, and as which instance: options, and behind them the library's own environment.

Nothing of an application is taken over that would make the command one of its processes: no snapshots are published
and no journal is opened.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import click

from aikcache._cache import Cache
from aikcache._settings import environment
from aikcache._settings import url as _url
from aikcache._settings.secret import Secret, hidden
from aikcache.cli.failures import Misuse, at

Command = Callable[..., None]
_APPLICATION = "aikcache.application"
TIMEOUT = 5.0
"""Seconds for one answer: a person waits longer than a request may."""


@dataclass(frozen=True, slots=True)
class Target:
    """The settings that say where, as the options and the environment give them."""

    settings: dict[str, Any]
    asked: Secret[str] | None = None
    """The URL of the option."""

    @property
    def url(self) -> Secret[str]:
        """The server's URL. Raises `Misuse`: there is none."""
        url = self.settings.get("url")
        if url is None:
            raise Misuse("which server? Pass --url redis://host:6379/0, or set AIKCACHE_URL.")
        found: Secret[str] = hidden(url)
        return found

    @property
    def session_url(self) -> Secret[str]:
        """Where sessions and their key ring lie. Raises `Misuse`: nothing says where."""
        there = variable("AIKCACHE_SESSION_URL")
        if self.asked is not None or not there:
            return self.url
        found: Secret[str] = hidden(there)
        return found

    @property
    def instance(self) -> str:
        return str(self.settings.get("instance", "aikernel"))

    @property
    def timeout(self) -> float:
        return float(self.settings["timeout"])

    @property
    def place(self) -> str:
        """The server, as it may be shown."""
        return shown(self.url)

    @contextmanager
    def cache(self, **settings: Any) -> Iterator[Cache]:
        """A cache there, closed at the end. It connects when it is first used."""
        _ = self.url
        given = {**self.settings, "instance": self.instance, **settings}
        cache = Cache(**{**given, "enabled": True, "journal": None, "publish_interval": None, "local_ttl": 0})
        if cache.engine.recovery is not None:  # a server that is full, or waits for its replicas, is looked at as well
            cache.engine.recovery.only_looks = True
        try:
            yield cache
        finally:
            cache.close()


class Application(NamedTuple):
    """Whose configuration stands in for the environment: its cache's settings, and a look-up of the others."""

    settings: Mapping[str, Any]
    variable: Callable[[str], Any]


def ask_application(ctx: click.Context, settings: Mapping[str, Any], variable: Callable[[str], Any]) -> None:
    """Have the commands below this context ask an application's server, where no option says otherwise."""
    ctx.meta[_APPLICATION] = Application(settings, variable)


def _application() -> Application | None:
    ctx = click.get_current_context(silent=True)
    return None if ctx is None else ctx.meta.get(_APPLICATION)


def _configured() -> Mapping[str, Any]:
    application = _application()
    return environment.from_env(environment.read_env()) if application is None else application.settings


def variable(name: str) -> Any:
    """What is no setting of a cache, from where those are."""
    application = _application()
    return os.environ.get(name) if application is None else application.variable(name)


def targeted(command: Command) -> Command:
    """Options that say which server; the command gets a `Target` as its first argument."""

    @click.option("--url", metavar="URL", help="The server, as for `Cache` (default: AIKCACHE_URL).")
    @click.option("--instance", metavar="NAME", help="Whose keys (default: AIKCACHE_INSTANCE, else aikernel).")
    @click.option("--keys-version", metavar="NAME", help="Which version of them (default: AIKCACHE_VERSION, else v1).")
    @click.option("--timeout", type=click.FloatRange(0, 3600, min_open=True), default=TIMEOUT, show_default=True,
                  metavar="SECONDS", help="How long to wait for each answer.")  # fmt: skip
    @functools.wraps(command)
    def with_target(
        url: str | None, instance: str | None, keys_version: str | None, timeout: float, **rest: Any
    ) -> None:
        asked = None if url is None else hidden(url)
        options = {"url": asked, "instance": instance, "version": keys_version}
        given = {name: value for name, value in options.items() if value is not None}
        settings = {**_configured(), **given}
        target = Target({**settings, "timeout": timeout, "connect_timeout": timeout}, asked)
        with at(lambda: target.place):
            command(target, **rest)

    return with_target


def shown(url: Secret[str]) -> str:
    """A URL without user, password and options. Raises `ConfigError`."""
    kind = _url.scheme(url)
    if kind == "embedded":
        return "embedded://"
    where = _url.parse(url)
    hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in where.hosts)
    return f"{kind}://{hosts}{where.path}{where.service and '/' + where.service}" + (
        f"/{where.db}" if hosts and not where.clustered else ""
    )
