"""A redis-py client or credential provider of the application's: what is taken from it, and what is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.credentials import CredentialProvider, StreamingCredentialProvider

from aikcache import Cache
from aikcache.errors import ConfigError, RemoteError
from aikcache.testing import Server, wait_until
from aikcache.testing.sentinel import ask
from tests._canary import shown

from ._workers import PATIENCE, PATIENT

CANARY = "canary-4711"


def round_trip(instance: str, **settings: Any) -> None:
    """What one cache stores, another reads: neither by the local tier."""
    with (
        Cache(instance=instance, local_ttl=0, **PATIENT, **settings) as one,
        Cache(instance=instance, local_ttl=0, **PATIENT, **settings) as other,
    ):
        one.ping()
        one.set("thing:x:1", {"a": 1})
        assert other.get("thing:x:1") == {"a": 1}
        assert one.wait_coherent(PATIENCE)


def unix(server: Server, **options: Any) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(server.socket), **options)


class Rotating(CredentialProvider):
    """Gives the password of the moment."""

    def __init__(self, password: str) -> None:
        self.password = password

    def get_credentials(self) -> tuple[str, str]:
        return "default", self.password


class Streaming(Rotating, StreamingCredentialProvider):
    def on_next(self, callback: Callable[[Any], None]) -> None:
        raise AssertionError("its one place is the client's")

    def on_error(self, callback: Callable[[Exception], None]) -> None:
        raise AssertionError("its one place is the client's")

    def is_streaming(self) -> bool:
        return True


def protect(server: Server, password: str, *login: str) -> None:
    ask(server, "CONFIG", "SET", "requirepass", password, login=login)


@pytest.mark.parametrize("kind", ["client", "pool"])
def test_a_client_or_its_pool_says_where_redis_is(redis_url: str, instance: str, kind: str) -> None:
    """A cache with a client uses the client's server, and none of the client's connections."""
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    round_trip(instance, client=client if kind == "client" else client.connection_pool)
    assert not client.connection_pool._available_connections


def test_a_clients_password_is_used_and_not_shown(own_server: Server, instance: str) -> None:
    """The client's login is the cache's, and a wrong one stands in no variable of a traceback."""
    protect(own_server, CANARY)
    round_trip(instance, client=unix(own_server, password=CANARY))
    wrong = CANARY[::-1]
    with Cache(client=unix(own_server, password=wrong), instance=instance, **PATIENT) as cache:
        assert wrong not in repr(cache.config)
        with pytest.raises(RemoteError, match="WRONGPASS") as refused:
            cache.ping()
        assert wrong not in shown(refused.value)


@pytest.mark.parametrize("beside", ["url", "client"])
def test_a_rotating_provider_is_asked_before_each_connection(own_server: Server, instance: str, beside: str) -> None:
    """After the password has changed, new connections log in with the new one."""
    provider = Rotating("first")
    protect(own_server, "first")
    settings: dict[str, Any] = (
        {"url": f"unix://{own_server.socket}", "credential_provider": provider}
        if beside == "url"
        else {"client": unix(own_server, credential_provider=provider)}
    )
    with Cache(instance=instance, local_ttl=0, **PATIENT, **settings) as cache:
        cache.ping()
        protect(own_server, "second", "first")
        provider.password = "second"
        ask(own_server, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes", login=("second",))
        cache.ping()


def test_a_streaming_providers_new_token_begins_a_new_generation(own_server: Server, instance: str) -> None:
    """The new token is noticed at a heartbeat, and connections of the old one are not used again."""
    provider = Streaming("first")
    protect(own_server, "first")
    url = f"unix://{own_server.socket}"
    with Cache(url, instance=instance, credential_provider=provider, **PATIENT) as cache:
        assert cache.wait_coherent(PATIENCE)
        assert cache.engine.remote is not None
        pool: Any = cache.engine.remote.connections
        before = pool.generation
        protect(own_server, "second", "first")
        provider.password = "second"
        wait_until(lambda: pool.generation > before, PATIENCE, "a new generation")
        cache.ping()


def test_a_provider_that_hangs_holds_no_call(own_server: Server, instance: str) -> None:
    """A call runs its function when the provider gives nothing within connect_timeout."""
    go_on = threading.Event()

    class Hanging(CredentialProvider):
        def get_credentials(self) -> tuple[str]:
            go_on.wait()
            return ("",)

    url = f"unix://{own_server.socket}"
    with Cache(
        url, instance=instance, credential_provider=Hanging(), connect_timeout=0.2, breaker_failures=99
    ) as cache:
        assert cache.get_or_load("thing:x:1", lambda: 7) == 7
        with pytest.raises(RemoteError, match="credential provider gave no credentials"):
            cache.ping()
        go_on.set()


@pytest.mark.parametrize("kind", [LookupError, asyncio.CancelledError])
def test_a_provider_that_raises_is_named_by_its_error_alone(
    own_server: Server, instance: str, kind: type[BaseException]
) -> None:
    """What a provider raises is no application's affair, its text may quote a token, and no login is none to use."""

    class Raising(CredentialProvider):
        def get_credentials(self) -> tuple[str]:
            raise kind(CANARY)

    with Cache(f"unix://{own_server.socket}", instance=instance, credential_provider=Raising(), **PATIENT) as cache:
        with pytest.raises(RemoteError, match=f"raised {kind.__name__}") as failed:
            cache.ping()
        assert CANARY not in shown(failed.value)


def test_an_own_connection_class_connects_for_us(tcp_server: Server, instance: str) -> None:
    """A connection class of the application's makes the connections, with its own arguments, and makes each once."""
    met: list[str] = []

    class Tunnel(redis.Connection):
        def __init__(self, *, via: str, **options: Any) -> None:
            super().__init__(**options)  # type: ignore[no-untyped-call]
            self.via = via

        def _connect(self) -> Any:
            met.append(self.via)
            return super()._connect()  # type: ignore[no-untyped-call]

    pool = redis.ConnectionPool(
        connection_class=Tunnel, host="127.0.0.1", port=tcp_server.port, via="somewhere", retry_on_timeout=True
    )
    round_trip(instance, client=redis.Redis(connection_pool=pool))
    assert set(met) == {"somewhere"}


def test_an_own_connect_function_is_called_first(redis_server: Server, instance: str) -> None:
    """`redis_connect_func` is called with each connection, before our own first words."""
    answers: list[object] = []

    def greet(connection: Any) -> None:
        connection.send_command("PING")
        answers.append(connection.read_response())

    round_trip(instance, client=unix(redis_server, redis_connect_func=greet))
    assert set(answers) == {b"PONG"}


def test_an_own_connect_function_that_raises_stops_no_call(redis_server: Server, instance: str) -> None:
    """A call runs its function when the application's connect function fails, whatever it raises."""

    def fail(connection: Any) -> None:
        raise KeyError(CANARY)

    with Cache(client=unix(redis_server, redis_connect_func=fail), instance=instance, **PATIENT) as cache:
        assert cache.get_or_load("thing:x:1", lambda: 7) == 7
        with pytest.raises(RemoteError, match="KeyError"):
            cache.ping()


class Fake:
    __module__ = "fakeredis._server"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"client": redis.asyncio.Redis()}, "aikcache is synchronous"),
        ({"client": Fake()}, "no server that could push invalidations"),
        ({"client": object()}, "must be a redis.Redis"),
        ({"client": redis.Redis(ssl=True, ssl_validate_ocsp=True, password=CANARY)}, "ssl_validate_ocsp"),
        ({"client": redis.Redis(), "url": "redis://h"}, "pass one of them"),
        ({"credential_provider": Rotating("x")}, "goes with a url"),
        ({"credential_provider": Rotating("x"), "url": f"redis://:{CANARY}@h"}, "without a password"),
        ({"credential_provider": object(), "url": "redis://h"}, "must have get_credentials"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(settings: dict[str, Any], why: str) -> None:
    """A client that could not be used safely is a `ConfigError` when the cache is made, and shows no password."""
    with pytest.raises(ConfigError, match=why) as refused:
        Cache(instance="i", **settings)
    assert CANARY not in shown(refused.value)


def test_a_replicas_client_is_refused() -> None:
    """A client of `slave_for` reads from replicas, which lag."""
    sentinel = redis.Sentinel([("127.0.0.1", 1)])  # type: ignore[no-untyped-call]
    with pytest.raises(ConfigError, match="a replica lags"):
        Cache(client=sentinel.slave_for("mine"), instance="i")  # type: ignore[no-untyped-call]
