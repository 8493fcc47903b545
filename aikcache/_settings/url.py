"""Parses a URL: where Redis is, and how to connect. It is parsed once, so nothing below reads a URL again.

The forms are redis-py's, and those with several hosts (Sentinel, Cluster), for which redis-py has none:

    redis[s]://[[user]:password@]host[:port][/database]         unix://[[user]:password@]/path[?db=0]
    redis[s]+sentinel://[[user]:password@]host[:port],…/SERVICE[/database]
    redis[s]+cluster://[[user]:password@]host[:port],…

The query takes redis-py's names. Those of its client that have no meaning here are accepted and ignored; an unknown
name is an error, because it may be a misspelt option that was to make the connection safe. Pure; every error is a
`ConfigError` that shows neither values nor names out of the URL: an unescaped '?' makes a password look like a name.
Nor do the local variables of the frames that it leaves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from aikcache._settings.secret import Opaque, Secret, hidden
from aikcache.errors import ConfigError

SCHEMES = (
    "embedded", "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip
_WORD = re.compile(r"[a-z+]{1,20}")
_OTHERS = ("http", "https", "tcp", "valkey", "valkeys", "memcached", "mongodb", "postgresql", "file")
PORT, SENTINEL_PORT = 6379, 26379
_TLS = frozenset(
    {"ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_cert_reqs",
     "ssl_check_hostname", "ssl_min_version", "ssl_ciphers"}
)  # fmt: skip
_SECRETS = ("password", "sentinel_password", "ssl_password")
_SENTINEL = frozenset({"sentinel_username", "sentinel_password"})
_USED = frozenset({"db", "username", "password", "socket_connect_timeout"})
_IGNORED = frozenset(
    {"socket_timeout", "timeout", "socket_keepalive", "socket_read_size", "retry_on_timeout", "retry_on_error",
     "max_connections", "health_check_interval", "protocol", "decode_responses", "encoding", "client_name", "lib_name",
     "lib_version", "legacy_responses"}
)  # fmt: skip
_SCHEME = re.compile(r"rediss?(\+sentinel|\+cluster)?|unix")
_TLS_VERSIONS = {"1.2": 0x303, "771": 0x303, "1.3": 0x304, "772": 0x304}
"""As people write them, and as `ssl.TLSVersion` counts them, which is redis-py's way."""
_WEAK_CIPHERS = re.compile(r"(?:^|[:, +])(?![!-])[^:, ]*(?:NULL|ADH|AECDH|\bALL\b|COMPLEMENTOF|SECLEVEL=[01])", re.I)
_OPEN_SENTINEL = (
    "password goes to whatever server the Sentinels name, and whoever reaches one that has no password of its own can "
    "have it name his. Set requirepass there and sentinel_password here, or use rediss+sentinel."
)
_HOST = re.compile(r"[A-Za-z0-9_.:%-]{1,255}")
_YES, _NO = ("1", "true", "yes", "on", "t", "y"), ("0", "false", "no", "off", "f", "n")


class Own(NamedTuple):
    """What an application's client connects with that is not redis-py's own: a connection class (None: redis-py's),
    its arguments, and what is called with each new connection."""

    kind: Any
    arguments: Opaque
    hook: Any


class Where(NamedTuple):
    """What a URL says. `hosts` is empty for a unix socket, `path` for all others; `service` is Sentinel's.

    `secrets` are the `options` that are secret, by their names. `provider` gives the login.
    """

    tls: bool
    hosts: tuple[tuple[str, int], ...]
    path: str
    username: str | None
    password: Secret[str] | None
    db: int
    service: str
    options: Mapping[str, str]
    secrets: Mapping[str, Secret[str]]
    clustered: bool = False
    provider: Opaque | None = None
    own: Own | None = None


def check(url: object) -> None:
    """None, or a url of a known form. Raises `ConfigError`."""
    if url is None:
        return
    if not isinstance(url, Secret) or not isinstance(url.reveal(), str) or "://" not in url.reveal():
        raise ConfigError("url must look like redis://host:6379/0. Leave it out for a cache in this process alone.")
    if scheme(url) not in SCHEMES:
        raise ConfigError(_unknown_scheme(url))
    if scheme(url) != "embedded":
        parse(url)


def _nearest(word: str, known: Iterable[str]) -> list[str]:
    import difflib  # here, because only two messages need it

    return difflib.get_close_matches(word, list(known), 1)


def _unknown_scheme(url: Secret[str]) -> str:
    found = scheme(url)
    near = _nearest(found, SCHEMES) if _WORD.fullmatch(found) else []
    shown = repr(found) if near or found in _OTHERS else "(not shown, for it may be a password)"
    hint = f" Did you mean {near[0]}://?" if near else ""
    return f"url has the unknown scheme {shown}; known are {', '.join(SCHEMES)}.{hint}"


def parse(url: str | Secret[str]) -> Where:
    """A URL's parts. Raises `ConfigError` without any of them."""
    where = _read(url := hidden(url))
    if isinstance(where, str):
        raise ConfigError(where)
    return where


def scheme(url: str | Secret[str]) -> str:
    """The scheme: the part before `://`, which is no secret once the URL is known to be valid."""
    return hidden(url).reveal().partition("://")[0]


def _read(url: Secret[str]) -> Where | str:
    """A URL's parts, or what is wrong with them: no exception leaves a frame in which they are."""
    kind = scheme(url)
    if not _SCHEME.fullmatch(kind):  # which may be a part of the password
        return f"url must look like {_form('redis')}."
    try:
        where = _take_apart(kind, url.reveal().partition("://")[2])
        _check_options(where, kind)
    except ConfigError as error:
        return str(error)
    except (ValueError, IndexError):  # says what it stumbled on, which may be a part of the password
        return (
            f"url must look like {_form(kind)}, with numbers for ports and database. "
            f"In user and password percent-encode ':', '/', '@', '?', '#', '[', ']' and ','."
        )
    return where


def _take_apart(scheme: str, rest: str) -> Where:
    rest.encode()  # text that cannot be sent has no place in it
    netloc, path, query = _split(rest)
    login, _, places = netloc.rpartition("@")
    username, password = _login(login)
    options = dict(parse_qsl(query, keep_blank_values=True))
    if scheme == "unix":
        hosts: tuple[tuple[str, int], ...] = ()
        segments, service, path = [], "", unquote(path)
    else:
        several = "+" in scheme
        port = SENTINEL_PORT if scheme.endswith("+sentinel") else PORT
        hosts = tuple(_host(place, port) for place in (places.split(",") if several else [places]))
        segments, service, path = [unquote(part) for part in path.split("/")[1:] if part], "", ""
        if scheme.endswith("+sentinel"):
            service = segments.pop(0)
    if len(segments) > 1 or (scheme == "unix" and not path) or "\0" in path:
        raise ValueError
    db = int(segments[0] if segments else options.get("db") or "0")
    if db < 0 or (scheme.endswith("+cluster") and db):
        raise ValueError
    secrets = {name: Secret(options[name]) for name in _SECRETS if name in options}
    return Where(
        tls=scheme.startswith("rediss"),
        hosts=hosts,
        path=path,
        username=username or options.get("username"),
        password=Secret(password) if password is not None else secrets.get("password"),
        db=db,
        service=service,
        options={name: "" if name in secrets else value for name, value in options.items()},
        secrets=secrets,
        clustered=scheme.endswith("+cluster"),
    )


def _form(scheme: str) -> str:
    login = "[[user]:password@]"
    if scheme == "unix":
        return f"unix://{login}/path/of/the.sock?db=0"
    if scheme.endswith("+sentinel"):
        return f"{scheme}://{login}host:26379,host:26379/SERVICE/database"
    if scheme.endswith("+cluster"):
        return f"{scheme}://{login}host:port,host:port"
    return f"{scheme}://{login}host:port/database"


class _Parts(NamedTuple):
    netloc: str
    path: str
    query: str


def _split(rest: str) -> _Parts:
    """Hosts with login, path, and query of what follows the scheme, as `urlsplit` would give them.

    `urlsplit` itself takes the hosts for one, and since CVE-2025-0938 was fixed it refuses a list with an IPv6 address
    behind a comma.
    """
    rest = rest.rstrip().translate({ord(char): None for char in "\t\r\n"}).partition("#")[0]
    rest, _, query = rest.partition("?")
    netloc, slash, path = rest.partition("/")
    return _Parts(netloc, slash + path, query)


def _login(text: str) -> tuple[str | None, str | None]:
    username, colon, password = text.partition(":")
    return unquote(username) or None, unquote(password) if colon else None


def _host(text: str, port: int) -> tuple[str, int]:
    host, colon, number = text.rpartition(":")
    if text.endswith("]") or not colon:  # an IPv6 address without a port, or no port at all
        host, number = text, ""
    bracketed = host.startswith("[") and host.endswith("]")
    host = unquote(host[1:-1] if bracketed else host)
    if bracketed:
        IPv6Address(host)
    port = int(number) if number else port
    if "@" in host or "]" in host or "[" in host or not host.isprintable() or " " in host or not 0 < port < 65536:
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
        near = _nearest(name, known)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known - _IGNORED))}."
        raise ConfigError(f"the url's query has a name that is not known here: {hint}")
    if where.options.get("ssl_cert_reqs", "required") not in ("none", "optional", "required"):
        raise ConfigError("the url's ssl_cert_reqs must be none, optional or required.")
    flag(where.options, "ssl_check_hostname", default=True)
    number(where.options, "socket_connect_timeout")
    tls_version(where.options)
    if "ssl_keyfile" in where.options and "ssl_certfile" not in where.options:
        raise ConfigError("the url's ssl_keyfile needs ssl_certfile beside it.")


def weaknesses(url: str | Secret[str]) -> list[str]:
    """Options in a URL that weaken its security: each with what it allows, and the remedy."""
    if not scheme(url).startswith("rediss"):
        return [_OPEN_SENTINEL] if scheme(url) == "redis+sentinel" and _hands_out_password(parse(url)) else []
    options = parse(url).options
    unchecked = options.get("ssl_cert_reqs") == "none"
    found = []
    if unchecked:
        found.append("ssl_cert_reqs=none takes any certificate, so whoever is on the way can read and change all")
    elif not flag(options, "ssl_check_hostname", default=True):
        found.append("ssl_check_hostname=false takes a certificate of any host that the authority has signed")
    if _WEAK_CIPHERS.search(options.get("ssl_ciphers", "")):
        found.append("ssl_ciphers allows ciphers that are weak, or that prove nothing of who is there")
    return [f"{weakness}. Leave it out where it is not needed." for weakness in found]


def _hands_out_password(where: Where) -> bool:
    return where.password is not None and where.secrets.get("sentinel_password", Secret("")) == ""


def tls_version(options: Mapping[str, str]) -> int:
    """The least version of TLS, as `ssl.TLSVersion` counts."""
    found = _TLS_VERSIONS.get(options.get("ssl_min_version") or "1.2")
    if found is None:
        raise ConfigError("the url's ssl_min_version must be 1.2 or 1.3: what was before is broken.")
    return found


def announced(host: object, port: object, *, otherwise: tuple[str, int]) -> tuple[str, int]:
    """An address in a server's reply; `otherwise` replaces a missing part. It is input, so it may raise `ValueError`.

    A node sends `?` if it does not know its own name.
    """
    text = host.decode("utf-8", "replace") if isinstance(host, bytes) else str(host or "")
    text = "" if text in ("?", "None") else text.removeprefix("[").removesuffix("]")
    number = otherwise[1] if not port else int(port) if isinstance(port, (int, bytes, str)) else 0
    if (text and not _HOST.fullmatch(text)) or not 0 < number < 65536:
        raise ValueError("no address")
    return text or otherwise[0], number


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
