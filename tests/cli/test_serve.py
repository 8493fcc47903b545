"""`aikcache serve-metrics`: the totals of all processes over HTTP, and what stands in its way."""

from __future__ import annotations

import itertools
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest
from click.testing import CliRunner

from aikcache import Cache
from aikcache.cli import serve
from aikcache.cli.failures import Failure, Misuse
from aikcache.testing import Server

pytestmark = pytest.mark.servers

_names = itertools.count()
SLOW: dict[str, Any] = {"instance": "shop", "timeout": 60, "connect_timeout": 60}


@contextmanager
def serving(cache: Cache) -> Iterator[Callable[[str], tuple[HTTPResponse, str]]]:
    """Fetches a path of a server for `cache`."""
    with serve.server(cache, "127.0.0.1", 0) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def fetch(path: str) -> tuple[HTTPResponse, str]:
            with closing(HTTPConnection("127.0.0.1", listening.server_port, timeout=60)) as connection:
                connection.request("GET", path)
                response = connection.getresponse()
                return response, response.read().decode()

        try:
            yield fetch
        finally:
            listening.shutdown()
            thread.join()


def test_it_serves_what_all_processes_have_published(redis_url: str) -> None:
    """Itself it is none of them; other paths say where to look."""
    name = f"served_{next(_names)}"
    with (
        Cache(redis_url, metrics=name, publish_interval=3600, **SLOW) as application,
        Cache(redis_url, metrics=name, publish_interval=None, **SLOW) as cache,
        serving(cache) as fetch,
    ):
        twice = application.cached("p", operation="twice")(lambda x: x * 2)
        twice(1)
        application.fleet()
        twice(2)  # not published yet
        for _ in range(2):
            response, text = fetch("/metrics/cache")
            assert response.status == 200
            assert name + '_cache_misses_total{operation="p:twice"} 1.0' in text
            assert f"{name}_cache_processes 1.0" in text
        response, text = fetch("/health/cache")
        assert (response.status, json.loads(text)["server"]) == (200, "reachable")
        assert fetch("/")[0].status == 404


def test_without_redis_a_scrape_fails(own_server: Server) -> None:
    """Totals that fell to nothing would look like a restart."""
    with Cache(own_server.url, metrics="served", **SLOW) as cache, serving(cache) as fetch:
        assert fetch("/metrics/cache")[0].status == 200
        own_server.kill()
        response, text = fetch("/metrics/cache")
        assert (response.status, "Redis does not tell" in text) == (503, True)


def test_redis_is_waited_for_less_than_prometheus_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever --timeout allows other commands: half a second for a connection, and as much for an answer."""
    waited: list[tuple[float, float]] = []

    def server(cache: Cache, host: str, port: int) -> Any:
        waited.append((cache.config.timeout, cache.config.connect_timeout))
        raise Failure("seen")

    monkeypatch.setattr(serve, "server", server)
    for timeout in ("5", "0.1"):
        CliRunner().invoke(serve.serve_metrics, ["--url", "redis://127.0.0.1:1", "--timeout", timeout])
    assert waited == [(serve.LONGEST, serve.LONGEST), (0.1, 0.1)]
    assert serve.LONGEST < 0.5


def test_a_port_in_use_is_named(run: Callable[..., Any]) -> None:
    """Before anything is asked of Redis."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        said = run("serve-metrics", "--url", "redis://127.0.0.1:1", "--port", port)
    assert (said.exit_code, f"port {port} of 127.0.0.1 is in use" in said.stderr) == (1, True)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra to install."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with Cache("redis://127.0.0.1:1", instance="shop") as cache, pytest.raises(Misuse, match=r"aikcache\[prometheus\]"):
        serve.app(cache)
