"""Where a URL says that Redis is, and how to connect: taken apart once, so that nothing below reads a URL again.

The forms are redis-py's, and those of several hosts (Sentinel, Cluster), which it has no form for:

    redis[s]://[[user]:password@]host[:port][/database]         unix://[[user]:password@]/path[?db=0]
    redis[s]+sentinel://[[user]:password@]host[:port],…/SERVICE[/database]
    redis[s]+cluster://[[user]:password@]host[:port],…

The query takes redis-py's names. Those of its client that have no meaning here are accepted and ignored; a name that
nobody knows is an error, for it may be what was to make the connection safe. Pure; every error is a `ConfigError` that
shows neither values nor names out of the URL: an unescaped '?' makes a password look like a name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from .errors import ConfigError

PORT, SENTINEL_PORT = 6379, 26379
_TLS = frozenset(
    {"ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_cert_reqs",
     "ssl_check_hostname", "ssl_min_version", "ssl_ciphers"}
)  # fmt: skip
_SENTINEL = frozenset({"sentinel_username", "sentinel_password"})
_USED = frozenset({"db", "username", "password", "socket_connect_timeout"})
_IGNORED = frozenset(
    {"socket_timeout", "timeout", "socket_keepalive", "socket_read_size", "retry_on_timeout", "retry_on_error",
     "max_connections", "health_check_interval", "protocol", "decode_responses", "encoding", "client_name", "lib_name",
     "lib_version", "legacy_responses"}
)  # fmt: skip
_YES, _NO = ("1", "true", "yes", "on", "t", "y"), ("0", "false", "no", "off", "f", "n")


class Where(NamedTuple):
    """What a URL says. `hosts` is empty for a unix socket, `path` for all others; `service` is Sentinel's."""

    tls: bool
    hosts: tuple[tuple[str, int], ...]
    path: str
    username: str | None
    password: str | None
    db: int
    service: str
    options: Mapping[str, str]


def parse(url: str) -> Where:
    """A URL's parts. Raises `ConfigError` without any of them."""
    scheme, _, _ = url.partition("://")
    form = _form(scheme)
    try:
        parts = urlsplit(url)
        login, _, places = parts.netloc.rpartition("@")
        username, password = _login(login)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if scheme == "unix":
            hosts: tuple[tuple[str, int], ...] = ()
            segments, service, path = [], "", unquote(parts.path)
        else:
            several = "+" in scheme
            port = SENTINEL_PORT if scheme.endswith("+sentinel") else PORT
            hosts = tuple(_host(place, port) for place in (places.split(",") if several else [places]))
            segments, service, path = [unquote(part) for part in parts.path.split("/")[1:] if part], "", ""
            if scheme.endswith("+sentinel"):
                service = segments.pop(0)
        if len(segments) > 1 or (scheme == "unix" and not path):
            raise ValueError
        db = int(segments[0] if segments else options.get("db") or "0")
        if db < 0 or (scheme.endswith("+cluster") and db):
            raise ValueError
    except (ValueError, IndexError):  # says what it stumbled on, which may be a part of the password
        raise ConfigError(
            f"url must look like {form}, with numbers for ports and database. "
            f"In user and password percent-encode ':', '/', '@', '?', '#', '[', ']' and ','."
        ) from None
    where = Where(
        tls=scheme.startswith("rediss"),
        hosts=hosts,
        path=path,
        username=username or options.get("username"),
        password=password if password is not None else options.get("password"),
        db=db,
        service=service,
        options=options,
    )
    _check_options(where, scheme)
    return where


def _form(scheme: str) -> str:
    login = "[[user]:password@]"
    if scheme == "unix":
        return f"unix://{login}/path/of/the.sock?db=0"
    if scheme.endswith("+sentinel"):
        return f"{scheme}://{login}host:26379,host:26379/SERVICE/database"
    if scheme.endswith("+cluster"):
        return f"{scheme}://{login}host:port,host:port"
    return f"{scheme}://{login}host:port/database"


def _login(text: str) -> tuple[str | None, str | None]:
    username, colon, password = text.partition(":")
    return unquote(username) or None, unquote(password) if colon else None


def _host(text: str, port: int) -> tuple[str, int]:
    host, colon, number = text.rpartition(":")
    if text.endswith("]") or not colon:  # an IPv6 address without a port, or no port at all
        host, number = text, ""
    host = unquote(host.removeprefix("[").removesuffix("]"))
    port = int(number) if number else port
    if "@" in host or "]" in host or "[" in host or not 0 < port < 65536:
        raise ValueError
    return host or "localhost", port


def _check_options(where: Where, scheme: str) -> None:
    known = _USED | _IGNORED | (_TLS if where.tls else frozenset()) | (_SENTINEL if where.service else frozenset())
    for name in where.options:
        if name in known:
            continue
        if name in _TLS:
            raise ConfigError(f"the url's {name} is for TLS, and {scheme}:// is without: begin it with 'rediss'.")
        if name in _SENTINEL:
            raise ConfigError(f"the url's {name} is for Sentinel: redis+sentinel://host:26379/SERVICE.")
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known - _IGNORED))}."
        raise ConfigError(f"the url's query has a name that is not known here: {hint}")
    if where.options.get("ssl_cert_reqs", "required") not in ("none", "optional", "required"):
        raise ConfigError("the url's ssl_cert_reqs must be none, optional or required.")
    flag(where.options, "ssl_check_hostname", default=True)
    number(where.options, "socket_connect_timeout")
    number(where.options, "ssl_min_version")
    if "ssl_keyfile" in where.options and "ssl_certfile" not in where.options:
        raise ConfigError("the url's ssl_keyfile needs ssl_certfile beside it.")


def flag(options: Mapping[str, str], name: str, *, default: bool) -> bool:
    """An option that is yes or no."""
    text = options.get(name, "").lower()
    if text and text not in _YES + _NO:
        raise ConfigError(f"the url's {name} must be true or false.")
    return default if not text else text in _YES


def number(options: Mapping[str, str], name: str) -> float | None:
    """An option that is a number greater than 0; None when it is not given."""
    try:
        value = float(options[name]) if options.get(name) else None
        if value is not None and not 0 < value < 1e6:
            raise ValueError
    except ValueError:
        raise ConfigError(f"the url's {name} must be a number greater than 0.") from None
    return value
