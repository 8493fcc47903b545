"""`aikcache serve-metrics`: the metrics of all processes of a cache, for Prometheus, from one that is none of them.

Each scrape reads what the processes have published. An own HTTP server of the standard library answers; a scrape
without an answer of Redis is a 503, so that no total seems to fall.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import click

from aikcache._cache import Cache
from aikcache.cli import fleet as _fleet
from aikcache.cli.failures import Failure, need
from aikcache.cli.live import ended_by_sigterm
from aikcache.cli.output import say
from aikcache.cli.target import Target, targeted
from aikcache.errors import RemoteError

LONGEST = 0.45
"""Seconds to wait for Redis, and as many for a connection: an answer is there within a second, whatever it is."""
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@click.command("serve-metrics")
@targeted
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 is all.")
@click.option("--port", type=click.IntRange(0, 65535), default=9464, show_default=True, help="0: any that is free.")
def serve_metrics(target: Target, host: str, port: int) -> None:
    """Serve the metrics of all processes at /metrics/cache, and the health of the server at /health/cache.

    Scrape only one of these for a cache. A process publishes its figures every `publish_interval` (60 s).
    """
    wait = min(target.timeout, LONGEST)
    with (
        target.cache(timeout=wait, connect_timeout=wait) as cache,
        server(cache, host, port) as listening,
        ended_by_sigterm(),
    ):
        place = f"[{host}]" if ":" in host else host
        say(f"http://{place}:{listening.server_port}/metrics/cache (Ctrl-C ends it)")
        try:
            listening.serve_forever()
        except KeyboardInterrupt:
            say("Ended.")


class Listening(ThreadingMixIn, WSGIServer):
    """A thread for each request, which does not keep the process alive."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Without a look-up of the host's name, which the standard library does here."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away, or says nothing, is no news."""


class Listening6(Listening):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = 30.0  # a client that says nothing gives its thread back

    def log_message(self, format: str, *args: object) -> None:
        """A line for each scrape helps nobody."""


def server(cache: Cache, host: str, port: int) -> Listening:
    """A server that listens already. Raises `Failure`: it cannot."""
    answering = app(cache)
    try:
        made = (Listening6 if ":" in host else Listening)((host, port), _Quiet)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Failure(f"port {port} of {host} is in use: pass another --port, or end who listens there.") from None
        raise Failure(f"cannot listen on port {port} of {host}: {error.strerror or error}.") from None
    made.set_app(answering)
    return made


def app(cache: Cache) -> App:
    """`/metrics/cache` and `/health/cache`. Raises `Misuse`: prometheus_client is missing."""
    try:
        from prometheus_client import CollectorRegistry, make_wsgi_app

        from aikcache.prometheus import HEALTH_PATH, PATH, ReadingCollector, health_app
    except ImportError:
        raise need("prometheus", "prometheus_client") from None
    prefix = cache.config.metrics or "aikernel"
    health = health_app(cache)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "").rstrip("/")
        if path == HEALTH_PATH:
            return health(environ, start_response)
        if path not in (PATH, "/metrics"):
            return _say(start_response, "404 Not Found", f"Metrics are at {PATH}, health is at {HEALTH_PATH}.")
        try:
            total = _fleet.read(cache).total
        except RemoteError as error:
            return _say(start_response, "503 Service Unavailable", f"Redis does not tell the figures: {error}")
        registry = CollectorRegistry(auto_describe=False)
        registry.register(ReadingCollector(prefix, total))
        found: Iterable[bytes] = make_wsgi_app(registry)(environ, start_response)
        return found

    return answer


def _say(start_response: Callable[..., Any], status: str, text: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]
