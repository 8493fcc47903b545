"""Metrics for OpenTelemetry, by its API alone: which SDK and exporter they go to is the application's choice.

On by default: a cache that is made when `opentelemetry.metrics` has been imported is exported by the global meter
provider, also by one that is set later. An application that imports it only after its caches calls `instrument`.

One registration per process and prefix, over all caches; of two observables of one name an SDK drops the second.
Counters and gauges are read when the SDK collects. OpenTelemetry has no histogram that can be read, so the latest
round trips and loads are recorded one by one at each collection: at most 10 000 of each, so that its time is bounded;
with more between two collections these histograms are a sample. (`aikcache.prometheus` has all.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation, get_meter

from aikcache._concurrency.reporter import RateLimitedReporter
from aikcache._engine.families import FAMILIES, INSTRUMENTS, TIMINGS, Family, Instrument
from aikcache._engine.tally import BOUNDS, Recent, Tally, tally_of
from aikcache._settings.checks import check_metrics

__all__ = ["INSTRUMENTS", "Instrument", "instrument"]

_lock = threading.RLock()
_registered: set[tuple[str, MeterProvider | None]] = set()
_reporter = RateLimitedReporter()


def instrument(prefix: str = "aikernel", meter_provider: MeterProvider | None = None) -> None:
    """Export the caches whose setting `metrics` is `prefix`. Again for the same provider, it does nothing.

    Args:
        meter_provider: None: the global one, now or when it is set.

    Raises:
        ConfigError: no metric's name can begin with `prefix`.
    """
    check_metrics(prefix)
    with _lock:
        key = prefix, meter_provider
        if key not in _registered:
            _registered.add(key)
            _register(prefix, tally_of(prefix), get_meter("aikcache", meter_provider=meter_provider))


def _register(prefix: str, tally: Tally, meter: Meter) -> None:
    recent = tally.follow()
    timings = {
        timing.name: meter.create_histogram(
            f"{prefix}_cache_{timing.name}", "s", timing.meaning, explicit_bucket_boundaries_advisory=list(BOUNDS)
        )
        for timing in TIMINGS
    }
    for family in FAMILIES:
        create = meter.create_observable_counter if family.kind == "counter" else meter.create_observable_gauge
        first = family is FAMILIES[0]
        callback = _reading(family, tally, (lambda: _record(tally, recent, timings)) if first else None)
        create(prefix + family.area + family.name, [callback], description=family.meaning)


def _reading(
    family: Family, tally: Tally, before: Callable[[], None] | None
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(options: CallbackOptions) -> Iterable[Observation]:
        try:
            if before is not None:
                before()
            names, base = family.labels, tally.base  # the parent of a forked child exports its counts itself
            past = {} if base is None or family.kind != "counter" else base.samples[family.name]
            return [
                Observation(+value - past.get(labels, 0), dict(zip(names, labels, strict=True)))
                for labels, value in family.read(tally)
            ]
        except Exception as error:  # one that raised would cost the SDK this instrument
            _reporter.report(f"metrics:{family.name}", f"{family.name} could not be read: {type(error).__name__}")
            return []

    return read


def _record(tally: Tally, recent: Recent, timings: dict[str, Histogram]) -> None:
    """Hand over what has been timed since the last collection."""
    tally.flush()
    for _ in range(len(recent.trips)):
        trip = recent.trips.popleft()
        timings["command_seconds"].record(trip.seconds, {"command": trip.command})
        if trip.operation is not None:
            timings["latency_seconds"].record(trip.seconds, {"operation": tally.label(trip.operation)})
    for operation, seconds in recent.reads():
        labels = {"operation": tally.label(operation)}
        for one in seconds:
            timings["command_seconds"].record(one, {"command": "get"})
            timings["latency_seconds"].record(one, labels)
    for _ in range(len(recent.loads)):
        load = recent.loads.popleft()
        timings["load_seconds"].record(load.seconds, {"operation": tally.label(load.operation)})
