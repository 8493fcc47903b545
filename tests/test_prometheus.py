"""The collector and the WSGI application, without a server."""

from __future__ import annotations

import gc
import itertools
import json
import re
import threading
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from aikcache import Cache, ConfigError
from aikcache._default import Default
from aikcache._engine.families import INSTRUMENTS
from aikcache._engine.tally import MAX_OPERATIONS
from aikcache.prometheus import CacheCollector, health_app, metrics_app

_prefixes = itertools.count()


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test counts under."""
    return f"tested{next(_prefixes)}"


def read(prefix: str, name: str, **labels: str) -> float | None:
    """The value of one sample, after the prefix and `_cache_`."""
    registry = CollectorRegistry()
    registry.register(CacheCollector(prefix))
    return registry.get_sample_value(f"{prefix}_cache_{name}", labels)


def total(prefix: str, name: str) -> float:
    """The sum over all labels of a counter."""
    families = {family.name: family for family in CacheCollector(prefix).collect()}
    return sum(sample.value for sample in families[f"{prefix}_cache_{name}"].samples)


def call(cache: Cache, times: int) -> None:
    """A miss, and hits."""
    price = cache.cached("shop", operation="price")(lambda name: len(name))
    for _ in range(times):
        price("tea")


def get(prefix: str, path: str, accept: str = "") -> tuple[str, dict[str, str], str]:
    environ: dict[str, Any] = {"PATH_INFO": path, "HTTP_ACCEPT": accept, "QUERY_STRING": ""}
    setup_testing_defaults(environ)
    started: list[Any] = []
    body = b"".join(metrics_app(prefix)(environ, lambda status, headers: started.extend([status, dict(headers)])))
    return started[0], started[1], body.decode()


def test_hits_misses_and_loads_are_counted_by_operation(prefix: str) -> None:
    """A miss, two hits, and a load of each result appear under their operation; what has not happened yet is 0."""
    with Cache(metrics=prefix) as cache:

        @cache.cached("shop", operation="price")
        def price(name: str) -> int:
            if not name:
                raise KeyError(name)
            return len(name)

        for _ in range(3):
            price("tea")
        with pytest.raises(KeyError):
            price("")
        assert read(prefix, "hits_total", operation="shop:price", tier="local") == 2
        assert read(prefix, "hits_total", operation="shop:price", tier="remote") == 0
        assert read(prefix, "misses_total", operation="shop:price") == 2
        assert read(prefix, "loads_total", operation="shop:price", result="ok") == 1
        assert read(prefix, "loads_total", operation="shop:price", result="error") == 1
        assert read(prefix, "load_seconds_count", operation="shop:price") == 2
        assert read(prefix, "hit_rate") == 0.5
        assert read(prefix, "local_entries") == 1
        assert read(prefix, "coherent") == 1
        assert read(prefix, "breaker_open") == 0


def test_threads_are_counted_exactly(prefix: str) -> None:
    """Eight threads' calls are all there."""
    with Cache(metrics=prefix) as cache:
        price = cache.cached("shop", operation="price")(lambda name: len(name))
        price("tea")

        def work() -> None:
            for _ in range(20_000):
                price("tea")

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert read(prefix, "hits_total", operation="shop:price", tier="local") == 160_000


def test_beyond_500_operations_the_rest_is_other(prefix: str) -> None:
    """Of 3000 operations 500 have labels of their own, and all are in the total."""
    with Cache(metrics=prefix) as cache:
        for i in range(3000):
            cache.cached("shop", operation=f"price{i}")(lambda name: len(name))("tea")
        labels = {
            sample.labels["operation"]
            for family in CacheCollector(prefix).collect()
            for sample in family.samples
            if "operation" in sample.labels
        }
        assert len(labels - {"other"}) == MAX_OPERATIONS
        assert read(prefix, "misses_total", operation="other") == 2500
        assert read(prefix, "load_seconds_count", operation="other") == 2500
        assert total(prefix, "misses") == 3000


def test_what_has_not_failed_yet_is_there_at_0(prefix: str) -> None:
    """A counter that appeared at 1 would show no increase: round trips, and the default cache's uncalled functions."""
    default = Default()
    default.cached("shop", operation="early")(lambda name: len(name))
    for _ in range(2):
        default.configure(metrics=prefix)
    default.cached("shop", operation="late")(lambda name: len(name))
    for operation in ("shop:early", "shop:late"):
        assert read(prefix, "misses_total", operation=operation) == 0
        assert read(prefix, "errors_total", operation=operation, error_type="RemoteTimeoutError") == 0
    for error in ("RemoteTimeoutError", "RemoteUnavailableError"):
        assert read(prefix, "command_errors_total", command="store", error_type=error) == 0
    default.cache().close()


def test_two_caches_are_added_up_and_a_closed_one_stays_counted(prefix: str) -> None:
    """Totals do not fall when a cache is closed and collected."""
    with Cache(metrics=prefix) as kept:
        closed = Cache(metrics=prefix)
        for cache in (kept, closed):
            call(cache, 5)
        assert total(prefix, "hits") == 8
        closed.close()
        assert total(prefix, "hits") == 8
        del cache, closed
        gc.collect()
        assert total(prefix, "hits") == 8
        assert total(prefix, "misses") == 2
        assert read(prefix, "local_entries") == 1


def test_a_cache_that_is_dropped_without_being_closed_stays_counted(prefix: str) -> None:
    """The collection of a cache closes it, and its counts remain."""

    def use() -> None:
        call(Cache(metrics=prefix), 5)

    use()
    gc.collect()
    assert total(prefix, "hits") == 4


def test_a_prefix_that_no_cache_has_is_reported(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """At the scrape, once, with those that there are: before any cache is made it may still come."""
    with Cache(metrics=prefix):
        for _ in range(2):
            list(CacheCollector(prefix + "x").collect())
        list(CacheCollector(prefix).collect())
    lines = [one.getMessage() for one in caplog.records if "no cache has metrics" in one.getMessage()]
    assert len(lines) == 1
    assert f"{prefix}x" in lines[0]
    assert prefix in lines[0].split("but ")[1]


def test_a_cache_without_metrics_is_not_counted(prefix: str) -> None:
    """`metrics=None` exports nothing."""
    with Cache(metrics=None) as cache:
        cache.cached("shop", operation="price")(lambda name: len(name))("tea")
    assert total(prefix, "misses") == 0


def test_the_application_answers_as_text_and_as_openmetrics(prefix: str) -> None:
    """Both formats parse, and hold the same families; another path is not found."""
    with Cache(metrics=prefix) as cache:
        cache.cached("shop", operation="price")(lambda name: len(name))("tea")
        status, headers, text = get(prefix, "/metrics/cache")
        assert status == "200 OK"
        assert headers["Content-Type"].startswith("text/plain")
        plain = {sample.name for family in parse_text(text) for sample in family.samples}
        status, headers, text = get(prefix, "/metrics/cache", "application/openmetrics-text; version=1.0.0")
        assert headers["Content-Type"].startswith("application/openmetrics-text")
        families = parse_openmetrics(text)  # type: ignore[no-untyped-call]
        assert {sample.name for family in families for sample in family.samples} == plain
        assert f"{prefix}_cache_misses_total" in plain
        assert get(prefix, "/metrics")[0] == "404 Not Found"


@pytest.mark.parametrize("bad", ["", "1st", "a-b", "a b", "é"])
def test_a_prefix_that_no_metric_can_have_is_refused(bad: str) -> None:
    """The message names the setting and the way out."""
    with pytest.raises(ConfigError, match="metrics must be letters"):
        Cache(metrics=bad)
    with pytest.raises(ConfigError, match="metrics must be letters"):
        CacheCollector(bad)


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    """The tables of docs/metrics.md and those of the code have the same names, kinds and labels."""
    text = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `aikernel(\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$", text, re.MULTILINE))
    labelled = {(i.name, i.kind, ", ".join(f"`{label}`" for label in i.labels), i.help) for i in INSTRUMENTS}
    assert documented == labelled


def test_the_table_of_instruments_is_what_is_emitted(prefix: str) -> None:
    """Each has its kind, its labels and its help on the wire, and nothing else is there."""
    with Cache(metrics=prefix, local_max_bytes=2**20) as cache:
        call(cache, 2)
        emitted = {metric.name: metric for metric in CacheCollector(prefix).collect()}
        assert {prefix + i.name.removesuffix("_total") for i in INSTRUMENTS} == emitted.keys()
        for instrument in INSTRUMENTS:
            metric = emitted[prefix + instrument.name.removesuffix("_total")]
            assert (metric.type, metric.documentation) == (instrument.kind, instrument.help)
            assert instrument.unit == "" or instrument.unit in instrument.name
            for sample in metric.samples:
                assert set(sample.labels) - {"le"} == set(instrument.labels)


def test_health_is_answered_beside_the_metrics(prefix: str) -> None:
    """As JSON: 200 while the cache answers calls, also where its server is down; 503 when closed; 404 elsewhere."""

    def ask(cache: Cache, path: str = "/health/cache") -> tuple[str, str]:
        environ: dict[str, Any] = {"PATH_INFO": path}
        setup_testing_defaults(environ)
        started: list[str] = []
        body = b"".join(health_app(cache)(environ, lambda status, headers: started.append(status)))
        return started[0], body.decode()

    with Cache(metrics=prefix) as cache:
        status, body = ask(cache)
        assert (status, json.loads(body)["status"]) == ("200 OK", "ok")
        assert ask(cache, "/health")[0] == "404 Not Found"
    status, body = ask(cache)
    assert (status, json.loads(body)["live"]) == ("503 Service Unavailable", False)
    with Cache("unix:///nowhere/at/all", instance=prefix, metrics=prefix, publish_interval=None) as cache:
        status, body = ask(cache)
        answer = json.loads(body)
        assert (status, answer["status"], answer["ready"]) == ("200 OK", "degraded", True)
        assert all(problem["cure"] for problem in answer["problems"])
