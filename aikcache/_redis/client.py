"""Reads from a redis-py client of the application where it connects to, and how.

aikcache opens its own connections with the client's connection class, login and TLS. It does not use the client's pool
and sockets, and sends no command through it. The client's settings for time-outs, retries and decoding do not apply,
because a cache has its own (`CacheConfig`). A setting is refused if a connection without it would be less safe, or
would lead to another server.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import redis
from redis.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.sentinel import SentinelConnectionPool, SentinelManagedConnection, SentinelManagedSSLConnection

from aikcache._settings import url as _url
from aikcache._settings.secret import Opaque, Secret
from aikcache._settings.url import Own, Where
from aikcache.errors import ConfigError

_PLAIN = (
    Connection, SSLConnection, UnixDomainSocketConnection, SentinelManagedConnection, SentinelManagedSSLConnection,
)  # fmt: skip
_TLS = ("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_ciphers")
_REFUSED = ("ssl_validate_ocsp", "ssl_validate_ocsp_stapled", "ssl_include_verify_flags", "ssl_exclude_verify_flags")
_NOT_THEIRS = (
    "db", "host", "port", "username", "password", "credential_provider", "redis_connect_func", "retry",
    "retry_on_timeout", "retry_on_error", "socket_timeout", "socket_connect_timeout", "socket_read_size",
    "parser_class", "protocol", "client_name", "health_check_interval", "decode_responses", "encoding",
    "encoding_errors", "lib_name", "lib_version", "driver_info", "event_dispatcher", "command_packer",
    "connection_pool", "himport_registry", "legacy_responses", "orig_host_address", "orig_socket_timeout",
    "orig_socket_connect_timeout",
)  # fmt: skip
"""Arguments of the client that its connection class does not get: aikcache sets them, or they differ by version."""


def where_of(client: Opaque) -> Where:
    """Where a client connects to. Raises `ConfigError`, with the reason, for an object that is no such client."""
    found = _read(client)
    if isinstance(found, str):
        raise ConfigError(found)
    return found


def _read(client: Opaque) -> Where | str:
    """As `where_of`, but returns the error text: no exception may leave a frame that holds a password."""
    try:
        return _take_apart(client.reveal())
    except ConfigError as error:
        return str(error)


def _take_apart(client: object) -> Where:
    if isinstance(client, redis.RedisCluster):
        return _cluster(client)
    pool = client if isinstance(client, redis.ConnectionPool) else getattr(client, "connection_pool", None)
    if not isinstance(client, redis.Redis | redis.ConnectionPool) or not isinstance(pool, redis.ConnectionPool):
        raise ConfigError(_why_not(client))
    if type(client).__module__.startswith("fakeredis") or not issubclass(pool.connection_class, AbstractConnection):
        raise ConfigError(_why_not(client))
    if isinstance(pool, SentinelConnectionPool):
        return _sentinel(pool)
    given = pool.connection_kwargs
    path = given.get("path", "") if issubclass(pool.connection_class, UnixDomainSocketConnection) else ""
    hosts = () if path else ((str(given.get("host", "localhost")), int(given.get("port", _url.PORT))),)
    return _where(pool, hosts=hosts, path=str(path))


def _why_not(client: object) -> str:
    kind = f"{type(client).__module__}.{type(client).__name__}"
    if "asyncio" in kind:
        return f"client is a {kind}, which works in an event loop; aikcache is synchronous. Pass a redis.Redis like it."
    if kind.startswith("fakeredis"):
        return f"client is a {kind}, which has no server that could push invalidations. In tests use url='embedded://'."
    if "valkey" in kind:
        return f"client is a {kind}; pass a redis.Redis for the same server, or its url."
    return (
        f"client must be a redis.Redis, a redis.RedisCluster, a redis.ConnectionPool or what "
        f"redis.sentinel.Sentinel.master_for gives, got {kind}. Or pass a url."
    )


def _sentinel(pool: SentinelConnectionPool) -> Where:
    if not pool.is_master:
        raise ConfigError("client is of slave_for, and a replica lags: invalidations would be missed. Use master_for.")
    pools = [sentinel.connection_pool for sentinel in pool.sentinel_manager.sentinels]
    first = pools[0].connection_kwargs
    tls = issubclass(pool.connection_class, SSLConnection)
    if any(issubclass(each.connection_class, SSLConnection) is not tls for each in pools):
        raise ConfigError("client's Sentinels and its server must both have TLS or neither: pass sentinel_kwargs={…}.")
    if first.get("credential_provider") is not None:
        raise ConfigError("client's sentinel_kwargs have a credential_provider; for Sentinels pass a password.")
    hosts = tuple((str(each.connection_kwargs["host"]), int(each.connection_kwargs["port"])) for each in pools)
    where = _where(pool, hosts=hosts, service=str(pool.service_name))
    options, secrets = dict(where.options), dict(where.secrets)
    if first.get("username"):
        options["sentinel_username"] = str(first["username"])
    if first.get("password"):
        secrets["sentinel_password"] = Secret(str(first["password"]))
    return where._replace(options=options, secrets=secrets)


def _cluster(client: redis.RedisCluster) -> Where:
    if client.nodes_manager.address_remap is not None:
        raise ConfigError("client has an address_remap; aikcache connects where the nodes say they are. Pass a url.")
    nodes: list[Any] = client.get_nodes()  # type: ignore[no-untyped-call]
    hosts = tuple((str(node.host), int(node.port)) for node in [*client.nodes_manager.startup_nodes.values(), *nodes])
    pool = client.get_redis_connection(nodes[0]).connection_pool
    where = _where(pool, hosts=tuple(dict.fromkeys(hosts)), hook=client.user_on_connect_func)
    return where._replace(clustered=True)


_POOLS = object()


def _where(
    pool: Any, *, hosts: tuple[tuple[str, int], ...], path: str = "", service: str = "", hook: Any = _POOLS
) -> Where:
    given, kind = pool.connection_kwargs, pool.connection_class
    hook = given.get("redis_connect_func") if hook is _POOLS else hook
    if kind not in _PLAIN and issubclass(kind, SentinelManagedConnection):
        raise ConfigError("client has a SentinelManagedConnection of its own, which would ask the Sentinels by itself.")
    tls = issubclass(kind, SSLConnection)
    own = None
    if kind not in _PLAIN or hook is not None:
        theirs = {} if kind in _PLAIN else {k: v for k, v in given.items() if k not in _NOT_THEIRS and "maint" not in k}
        own = Own(None if kind in _PLAIN else kind, Opaque(theirs), hook)
    options, secrets = _tls(given) if tls and kind in _PLAIN else ({}, {})
    provider, password = given.get("credential_provider"), given.get("password")
    return Where(
        tls=tls,
        hosts=hosts,
        path=path,
        username=given.get("username"),
        password=None if not password else Secret(str(password)),
        db=int(given.get("db") or 0),
        service=service,
        options=options,
        secrets=secrets,
        provider=None if provider is None else Opaque(provider),
        own=own,
    )


def _tls(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Secret[str]]]:
    """redis-py's arguments for TLS, in the form of a URL's options."""
    for name in _REFUSED:
        if given.get(name):
            raise ConfigError(f"client has {name}, which aikcache cannot do. Give it a connection_class that does.")
    options: dict[str, Any] = {name: given[name] for name in _TLS if given.get(name)}
    reqs = given.get("ssl_cert_reqs", "required")
    reqs = "none" if reqs is None else reqs if isinstance(reqs, str) else ssl.VerifyMode(reqs).name
    options["ssl_cert_reqs"] = reqs.lower().removeprefix("cert_")
    options["ssl_check_hostname"] = "true" if given.get("ssl_check_hostname", True) else "false"
    if least := given.get("ssl_min_version"):
        options["ssl_min_version"] = str(int(least))
        _url.tls_version(options)
    password = given.get("ssl_password")
    return options, {} if password is None else {"ssl_password": Secret(str(password))}
