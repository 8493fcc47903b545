"""Spans, as the real OpenTelemetry SDK gets them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Tracer

from aikcache import Cache, tracing
from aikcache._concurrency import spans
from aikcache.testing import Server, wait_until

from ._workers import PATIENCE, PATIENT


class Traced:
    """What was traced, and a tracer for the application's own spans."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer: Tracer = provider.get_tracer("tests")
        tracing.instrument(provider)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def exchanges(self) -> int:
        return sum(span.kind is SpanKind.CLIENT for span in self._exporter.get_finished_spans())

    def everything(self) -> str:
        return " ".join(span.to_json() for span in self._exporter.get_finished_spans())


@pytest.fixture
def traced() -> Iterator[Traced]:
    try:
        yield Traced()
    finally:
        tracing.uninstrument()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_loads_exchanges_and_invalidations_have_spans(redis_url: str, instance: str, traced: Traced) -> None:
    """The function's own spans are the load's children, attributes follow the conventions, and no key is in any."""
    with Cache(redis_url, instance=instance, local_ttl=0, **PATIENT) as cache:
        assert cache.wait_coherent(PATIENCE)

        @cache.cached("shop", operation="price")
        def price(name: str) -> int:
            with traced.tracer.start_as_current_span("select"):
                return len(name)

        price("secret-tea")
        price("secret-tea")
        price.many([("secret-tea",), ("secret-milk",)])
        cache.invalidate("shop:*")
        (load, *_), (select, *_) = traced.named("load shop:price"), traced.named("select")
        assert select.parent is not None
        assert load.context is not None
        assert select.parent.span_id == load.context.span_id
        got = attributes(traced.named("GET")[-1])
        assert (got["db.system.name"], got["db.operation.name"]) == ("redis", "GET")
        assert "db.operation.batch.size" not in got
        assert attributes(traced.named("MGET")[0])["db.operation.batch.size"] == 2
        (invalidate,) = traced.named("invalidate")
        (span,) = traced.named("PIPELINE")
        assert invalidate.context is not None
        assert span.parent is not None
        assert span.parent.span_id == invalidate.context.span_id
        assert "secret" not in traced.everything()


def test_a_refresh_is_linked_to_the_call_that_caused_it(redis_url: str, instance: str, traced: Traced) -> None:
    """It is a trace of its own."""
    with Cache(redis_url, instance=instance, **PATIENT) as cache:
        price = cache.cached("shop", operation="price", ttl=0.02, stale_ttl=3600)(lambda name: len(name))
        price("tea")
        with traced.tracer.start_as_current_span("request") as request:
            wait_until(lambda: bool(price("tea")) and bool(traced.named("refresh shop:price")), PATIENCE, "a refresh")
        refresh = traced.named("refresh shop:price")[0]
        assert refresh.parent is None
        assert [link.context.trace_id for link in refresh.links] == [request.get_span_context().trace_id]


def test_an_exchange_that_fails_says_why(own_server: Server, instance: str, traced: Traced) -> None:
    """Its error's class is there, and its text, which may name a key, is not; a load that raises says so as well."""
    settings: Any = {"timeout": 0.2, "connect_timeout": 0.2}
    with Cache(own_server.url, instance=instance, **settings) as cache:

        @cache.cached("shop", operation="price")
        def price(name: str) -> int:
            raise KeyError(name)

        own_server.pause()
        try:
            with pytest.raises(KeyError):
                price("secret-tea")
        finally:
            own_server.resume()
        assert attributes(traced.named("load shop:price")[0])["error.type"] == "KeyError"
        errors = {attributes(span).get("error.type") for name in ("GET", "MGET") for span in traced.named(name)}
        assert errors & {"RemoteTimeoutError", "RemoteUnavailableError"}
        assert "secret" not in traced.everything()


def test_what_the_open_breaker_refuses_has_no_span(own_server: Server, instance: str, traced: Traced) -> None:
    """The function's own run has one."""
    settings: Any = {"timeout": 0.2, "connect_timeout": 0.2, "breaker_failures": 1, "breaker_reset": 3600}
    with Cache(own_server.url, instance=instance, **settings) as cache:
        price = cache.cached("shop", operation="price")(lambda name: len(name))
        own_server.pause()
        try:
            while not cache.health().breaker_open:
                price("tea")
            before = traced.exchanges()
            for number in range(20):
                price(f"a{number}")
                price.invalidate(f"a{number}")
            assert traced.exchanges() == before
            assert len(traced.named("load shop:price")) >= 20
        finally:
            own_server.resume()


@pytest.mark.parametrize("kind", [RuntimeError, ConnectionError, Exception])
@pytest.mark.parametrize("moment", ["on_start", "on_end"])
def test_a_span_processor_that_fails_costs_no_answer(moment: str, kind: type[Exception]) -> None:
    """The function runs once and its value is returned; what the function raises is raised all the same."""

    def fail(*arguments: object, **more: object) -> None:
        raise kind("the exporter is away")

    provider = TracerProvider(shutdown_on_exit=False)
    processor = SimpleSpanProcessor(InMemorySpanExporter())
    setattr(processor, moment, fail)
    provider.add_span_processor(processor)
    tracing.instrument(provider)
    runs = []
    try:
        with Cache() as cache:

            @cache.cached("shop")
            def price(name: str) -> int:
                runs.append(name)
                return {"tea": 3}[name]

            assert (price("tea"), price("tea"), runs) == (3, 3, ["tea"])
            with pytest.raises(KeyError):
                price("wine")
            cache.invalidate("shop:*")
    finally:
        tracing.uninstrument()


class Away:
    """Nothing of it works."""

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError("the agent is away")


@pytest.mark.parametrize("span", [False, True])
def test_a_tracer_that_fails_costs_no_answer(span: bool) -> None:
    """Nor does what it gives as a span: the function runs once, and what that raises is raised all the same."""
    provider: Any = Away()
    tracer = SimpleNamespace(start_as_current_span=lambda *_, **__: nullcontext(Away())) if span else Away()
    provider.get_tracer = lambda *_, **__: tracer
    tracing.instrument(provider)
    runs = []
    try:
        with Cache() as cache:

            @cache.cached("shop")
            def price(name: str) -> int:
                runs.append(name)
                return {"tea": 3}[name]

            assert (price("tea"), price("tea"), runs) == (3, 3, ["tea"])
            with pytest.raises(KeyError):
                price("wine")
            cache.invalidate("shop:*")
    finally:
        tracing.uninstrument()


@pytest.mark.parametrize("moment", ["on_start", "on_end"])
def test_a_time_limit_gets_out_of_a_span_processor(moment: str) -> None:
    """It is the call's, although it is raised there."""

    def over(*_: object) -> None:
        raise TimeoutError("of the job")

    provider = TracerProvider(shutdown_on_exit=False)
    processor = SimpleSpanProcessor(InMemorySpanExporter())
    setattr(processor, moment, lambda *_, **__: signal.raise_signal(signal.SIGUSR1))
    provider.add_span_processor(processor)
    before = signal.signal(signal.SIGUSR1, over)
    tracing.instrument(provider)
    try:
        with Cache() as cache, pytest.raises(TimeoutError, match="of the job"):
            cache.cached("shop", operation="price")(lambda name: len(name))("tea")
    finally:
        tracing.uninstrument()
        signal.signal(signal.SIGUSR1, before)


def test_without_a_tracer_nothing_is_traced() -> None:
    """The flag is what it is without `instrument`."""
    assert spans.active is None
