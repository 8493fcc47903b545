"""Metrics cost a local hit nothing that can be measured, and a remote hit some per cent of its CPU time.

The same function on caches that differ by `metrics` alone, in turns: exported under a prefix and off (`None`); and,
where OpenTelemetry's SDK is installed, with a reader that keeps every round trip for its next collection. A remote hit
is timed by the CPU time of its thread too, because the wall time of a round trip varies by more than this costs. Of
each kind there are several caches, whose mean counts. Two that are alike differ by up to 3 %, by where they lie in
memory: so "on" and "off" are the same caches, whose observer of round trips is switched on and off.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import fmean
from typing import Any

from aikcache import Cache
from benchmarks._harness.measure import Bar, Row, Samples, Settings, interleaved
from benchmarks._harness.server import INSTANCE, places, record

CACHES = 6
KINDS = ("off", "on", "on, SDK")


def run(settings: Settings) -> list[Row]:
    """Local hits, then remote ones where a server is reached first."""
    _export("bench_sdk")
    served = places(settings.url)  # held, because the server ends with it
    place, url = next(iter(served))
    value = record(settings.value_size)
    with ExitStack() as stack:
        rows = _rows("local hit", _means(interleaved(_contenders(stack, None, value, {}), settings)), Bar(1.03))
    with ExitStack() as stack:
        remote = _contenders(stack, url, value, {"local_ttl": 0, "instance": INSTANCE})
        rows += _rows(f"remote hit, {place}", _means(interleaved(remote, settings)), None)
        cpu = _means(interleaved(remote, settings, time.thread_time))
        rows += _rows(f"remote hit, {place}, CPU", cpu, Bar(1.03))
    return rows


def _export(prefix: str) -> None:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from aikcache.metrics import instrument

    instrument(prefix, MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False))


def _contenders(
    stack: ExitStack, url: str | None, value: Any, settings: dict[str, Any]
) -> dict[str, Callable[[], object]]:
    def contenders(prefix: str) -> tuple[Callable[[], object], Callable[[], object]]:
        cache = stack.enter_context(Cache(url, metrics=prefix, publish_interval=None, **settings))
        ours = cache.cached("bench", ttl=600, operation="counted")(lambda key: value if url else key)
        ours("resource-1")
        if not cache.wait_coherent(10):
            raise RuntimeError("the channel did not connect: nothing would be measured")
        events = cache.engine.events

        def on() -> object:
            events.timed = True
            return ours("resource-1")

        def off() -> object:
            events.timed = False
            return ours("resource-1")

        return on, off

    found: dict[str, Callable[[], object]] = {}
    for number in range(CACHES):
        found[f"on/{number}"], found[f"off/{number}"] = contenders("bench_on")
        found[f"on, SDK/{number}"], _ = contenders("bench_sdk")
    return found


def _means(samples: dict[str, Samples]) -> dict[str, Samples]:
    """Of each round the mean of all caches of a kind."""
    kinds = {name: [samples[f"{name}/{number}"].rounds for number in range(CACHES)] for name in KINDS}
    return {name: Samples([fmean(round) for round in zip(*all, strict=True)]) for name, all in kinds.items()}


def _rows(question: str, samples: dict[str, Samples], bar: Bar | None) -> list[Row]:
    return [
        Row(
            question=f"{question}, metrics {name}",
            figure=str(samples[name]),
            rival=f"off: {samples['off']}",
            measured=samples[name].over(samples["off"]),
            bar=bar if name == "on" else None,
        )
        for name in ("on", "on, SDK")
    ]
