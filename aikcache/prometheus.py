"""Metrics for `prometheus_client`: a collector, and a WSGI application at `/metrics/cache`.

    REGISTRY.register(CacheCollector())        # beside your own metrics
    app = metrics_app()                        # or by itself, as text or OpenMetrics
    app = metrics_app(scope="host")            # under several worker processes: each of them gives the same totals
    health = health_app(cache)                 # beside it: what `cache.health()` says, as JSON at /health/cache

`scope="process"` reads the memory of this process alone. "host" and "fleet" publish this process's snapshot in Redis
and read those of all, in a background thread and for `WITHIN` seconds at most. Without an answer only this process's
gauges are exported: its own counters would look like totals that have fallen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any, Literal, Protocol

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from aikcache._concurrency.reporter import RateLimitedReporter
from aikcache._engine import reading as _reading
from aikcache._engine.families import FAMILIES, TIMINGS, Family, Timing
from aikcache._engine.fleet import Fleet
from aikcache._engine.reading import Reading
from aikcache._engine.stats import Health, health_as_dict
from aikcache._engine.tally import BOUNDS, Histogram, instead_of, tally_of
from aikcache._settings.checks import check_metrics
from aikcache.errors import ConfigError

PATH, HEALTH_PATH = "/metrics/cache", "/health/cache"
WITHIN = 0.8
"""Seconds that a scrape waits for Redis."""
_reporter = RateLimitedReporter()
Scope = Literal["process", "host", "fleet"]


class Healthy(Protocol):
    """A cache, as far as its health is asked for."""

    def health(self) -> Health:
        """As `Cache.health` gives it."""


class CacheCollector(Collector):
    """What caches did, for a registry of `prometheus_client`.

    Args:
        prefix: that of the caches to export, their setting `metrics`.
        scope: "process": this process. "host": all processes of this machine (by its host name). "fleet": all that
            share url, instance and version of the process's first open cache with a url; then scrape only one of them.

    Raises:
        ConfigError: no metric's name can begin with `prefix`, or there is no such scope.
    """

    def __init__(self, prefix: str = "aikernel", scope: Scope = "process") -> None:
        check_metrics(prefix)
        if scope not in ("process", "host", "fleet"):
            raise ConfigError(f"scope must be 'process', 'host' or 'fleet', got {scope!r}.")
        self._prefix = prefix
        self._tally = tally_of(prefix)
        self._scope = scope

    def collect(self) -> Iterable[Metric]:
        """All metrics as they stand."""
        if others := instead_of(self._prefix):
            _reporter.report(
                f"prefix:{self._prefix}", f"no cache has metrics={self._prefix!r}, but {', '.join(others)}"
            )
        return ReadingCollector(self._prefix, self._reading()).collect()

    def _reading(self) -> Reading:
        engine = next((engine for engine in self._tally.engines() if engine.fleet is not None), None)
        if self._scope == "process" or engine is None or engine.fleet is None:
            return _reading.take(self._tally)
        fleet = engine.fleet
        task = engine.background.submit(lambda: self._ask(fleet))
        if task is not None and task.wait(WITHIN) and isinstance(task.result, Reading):
            return task.result
        mine = _reading.take(self._tally)
        return Reading({name: mine.samples[name] for name in _reading.GAUGES})

    def _ask(self, fleet: Fleet) -> Reading:
        """This process's figures are published first, so no total falls, whichever process answers."""
        fleet.publish(WITHIN / 2)
        return fleet.read(WITHIN / 2, host=self._scope == "host")[0]


class ReadingCollector(Collector):
    """The metrics of one reading."""

    def __init__(self, prefix: str, reading: Reading) -> None:
        self._prefix, self._read = prefix, reading

    def collect(self) -> Iterable[Metric]:
        """All metrics, as they stood."""
        for family in FAMILIES:
            yield _family(self._prefix, family, self._read)
        for timing in TIMINGS:
            yield _timing(self._prefix, timing, self._read)


def metrics_app(
    prefix: str = "aikernel", scope: Scope = "process"
) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """A WSGI application that answers `/metrics/cache`, wherever it is mounted, and nothing else (404)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(CacheCollector(prefix, scope))
    answer = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not _path(environ).endswith(PATH):
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"Metrics are at {PATH}.\n".encode()]
        return answer(environ, start_response)  # type: ignore[no-any-return]

    return app


def health_app(cache: Healthy) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """A WSGI application that answers `/health/cache` with what `cache.health()` says, as JSON; anything else with 404.

    200 as long as the cache answers calls, also with Redis down (`"status": "degraded"`); 503 once it is closed. It
    asks the server, as `cache.health()` does, so it may block for `connect_timeout` and `timeout`.
    """

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not _path(environ).endswith(HEALTH_PATH):
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"Health is at {HEALTH_PATH}.\n".encode()]
        health = cache.health()
        headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
        start_response("200 OK" if health.live and health.ready else "503 Service Unavailable", headers)
        return [json.dumps(health_as_dict(health)).encode()]

    return app


def _path(environ: dict[str, Any]) -> str:
    whole: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return whole.rstrip("/")


def _family(prefix: str, family: Family, reading: Reading) -> Metric:
    make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = make(prefix + family.area + family.name, family.meaning, labels=family.labels)
    for labels, value in reading.samples.get(family.name, {}).items():
        metric.add_metric(labels, value)
    return metric


def _timing(prefix: str, timing: Timing, reading: Reading) -> Metric:
    metric = HistogramMetricFamily(f"{prefix}_cache_{timing.name}", timing.meaning, labels=[timing.label])
    for label, histogram in reading.timings.get(timing.name, {}).items():
        metric.add_metric([label], _buckets(histogram), histogram.total)
    return metric


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative buckets: each also counts what is in all before it."""
    names = [*map(str, BOUNDS), "+Inf"]
    return list(zip(names, map(float, accumulate(list(histogram.counts))), strict=True))
