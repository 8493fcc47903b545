"""What the real OpenTelemetry SDK collects, without a server."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
from collections.abc import Mapping

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint

from aikcache import Cache, ConfigError
from aikcache._engine.families import FAMILIES
from aikcache._engine.tally import BOUNDS, tally_of
from aikcache.metrics import instrument

_prefixes = itertools.count()
Points = Mapping[str, list[HistogramDataPoint | NumberDataPoint]]


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test counts under."""
    return f"otel{next(_prefixes)}"


@pytest.fixture
def reader(prefix: str) -> InMemoryMetricReader:
    """Collects what is registered under the prefix."""
    reader = InMemoryMetricReader()
    instrument(prefix, MeterProvider([reader], shutdown_on_exit=False))
    return reader


def collect(reader: InMemoryMetricReader, prefix: str) -> Points:
    data = reader.get_metrics_data()
    assert data is not None
    metrics = [m for r in data.resource_metrics for scope in r.scope_metrics for m in scope.metrics]
    return {metric.name.removeprefix(f"{prefix}_cache_"): list(metric.data.data_points) for metric in metrics}  # type: ignore[arg-type]


def value(points: Points, name: str, **labels: str) -> float:
    (found,) = [point.value for point in points[name] if point.attributes == labels]  # type: ignore[union-attr]
    return found


def price(name: str) -> int:
    """Decorated by the tests."""
    return len(name)


def test_counters_and_histograms_are_collected(prefix: str, reader: InMemoryMetricReader) -> None:
    """Counts are exact at each collection, and each load is in the histogram once."""
    with Cache(metrics=prefix) as cache:
        cached = cache.cached("shop", operation="price")(price)
        for expected in (1, 2):
            cached.cache_clear()
            for _ in range(3):
                cached("tea")
            points = collect(reader, prefix)
            assert value(points, "misses", operation="shop:price") == expected
            assert value(points, "hits", operation="shop:price", tier="local") == 2 * expected
            assert value(points, "breaker_changes", state="open") == 0
            (histogram,) = points["load_seconds"]
            assert isinstance(histogram, HistogramDataPoint)
            assert histogram.count == expected
            assert tuple(histogram.explicit_bounds) == BOUNDS


def test_no_instrument_overflows(prefix: str, reader: InMemoryMetricReader) -> None:
    """Of 700 operations, each with seven classes of errors, the SDK folds none: all are counted under their labels."""
    classes = [type(f"Problem{number}", (Exception,), {}) for number in range(7)]
    with Cache(metrics=prefix) as cache:
        for number in range(700):
            cache.cached("shop", operation=f"price{number}")(price)
        collect(reader, prefix)  # all are seeded
        for region in cache.engine.local.all_regions():
            for one in classes:
                region.counters.error(one())
        for _ in range(2):
            points = collect(reader, prefix)
            assert {name: len(found) for name, found in points.items() if len(found) >= 2000} == {}
            assert not [
                one
                for found in points.values()
                for one in found
                if "otel.metric.overflow" in dict(one.attributes or {})
            ]
            assert sum([point.value for point in points["errors"]]) == 4900  # type: ignore[union-attr, misc]
            assert value(points, "errors", operation="shop:price0", error_type="Problem6") == 1
            assert value(points, "errors", operation="shop:price0", error_type="DecodeError") == 0


def test_two_caches_have_one_registration(prefix: str, reader: InMemoryMetricReader) -> None:
    """Their counts are added up, and registering again for a provider changes nothing."""
    with Cache(metrics=prefix) as one, Cache(metrics=prefix) as two:
        for cache in (one, two):
            cache.cached("shop", operation="price")(price)("tea")
        assert value(collect(reader, prefix), "misses", operation="shop:price") == 2
    assert value(collect(reader, prefix), "misses", operation="shop:price") == 2


def test_a_callback_that_fails_costs_no_instrument(
    prefix: str, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be read is logged and missing; all else is collected, and so is it when it can be read again."""
    tally = tally_of(prefix)
    changes, tally.breaker_changes = tally.breaker_changes, None  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING, "aikcache"):
        points = collect(reader, prefix)
    assert "breaker_changes could not be read" in caplog.text
    assert "breaker_changes" not in points
    assert value(points, "local_entries") == 0
    tally.breaker_changes = changes
    assert value(collect(reader, prefix), "breaker_changes", state="open") == 0


def test_every_family_that_has_samples_is_collected(prefix: str, reader: InMemoryMetricReader) -> None:
    """No instrument is dropped for its name or its kind."""
    with Cache(metrics=prefix) as cache:
        cache.cached("shop", operation="price")(price)("tea")
        expected = {family.name for family in FAMILIES if list(family.read(tally_of(prefix)))}
        assert expected <= collect(reader, prefix).keys()


def test_a_cache_is_exported_by_itself_where_opentelemetry_is_in_use() -> None:
    """The global provider, set after the cache was made, collects it; nothing is called for that."""
    code = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from aikcache import Cache
cache = Cache()
cache.cached("shop", operation="price")(lambda name: len(name))("tea")
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
names = [m.name for r in reader.get_metrics_data().resource_metrics for s in r.scope_metrics for m in s.metrics]
assert "aikernel_cache_misses" in names, names
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_a_forked_worker_does_not_export_its_parents_counts(prefix: str) -> None:
    """The sum over all processes is what was called, as with `aikcache.prometheus`."""
    code = f"""
import os
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from aikcache import Cache
from aikcache.metrics import instrument
cache = Cache(metrics={prefix!r})
price = cache.cached("shop", operation="price")(lambda name: len(name))
reader = InMemoryMetricReader()
instrument({prefix!r}, MeterProvider([reader], shutdown_on_exit=False))
price("tea"), price("wine")
pid = os.fork()
if pid:
    assert os.waitpid(pid, 0)[1] == 0
else:
    price("coffee")
    data = reader.get_metrics_data()
    found = {{m.name: m.data for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}}
    assert [p.value for p in found[{prefix + "_cache_misses"!r}].data_points] == [1]
    assert [p.count for p in found[{prefix + "_cache_load_seconds"!r}].data_points] == [1]
    os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_a_cache_does_not_import_opentelemetry() -> None:
    """Where nobody uses it, neither the import nor a cache loads it."""
    code = (
        "import sys, aikcache; aikcache.Cache(); assert not [n for n in sys.modules if n.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_a_prefix_that_no_metric_can_have_is_refused() -> None:
    """The message names the rule."""
    with pytest.raises(ConfigError, match="metrics must be letters"):
        instrument("a-b")
