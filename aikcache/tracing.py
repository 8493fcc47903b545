"""Spans for OpenTelemetry, by its API alone: loads, exchanges with Redis, and invalidations. Off until `instrument`.

Names and attributes are those of OpenTelemetry's conventions for databases. None holds a key, a value or a query. No
exception's text is recorded, for it may name a key. A local hit has no span. A renewal in the background is a trace of
its own, linked to the call that caused it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanKind,
    StatusCode,
    TracerProvider,
    get_current_span,
    get_tracer,
)

from aikcache._concurrency import spans
from aikcache._concurrency.outside import let_out
from aikcache._concurrency.reporter import RateLimitedReporter

__all__ = ["instrument", "uninstrument"]

_OPERATIONS = {
    "get": "GET", "many": "MGET", "lease": "EVALSHA", "store": "EVALSHA", "invalidate": "PIPELINE", "sweep": "SCAN",
    "ping": "PING",
}  # fmt: skip
_reporter = RateLimitedReporter()
_CODE = re.compile(r"\brefuses: ([A-Z]{3,20})\b")


def instrument(tracer_provider: TracerProvider | None = None) -> None:
    """Make spans from here on, for all caches of this process. None: the global provider."""
    spans.active = _Spans(tracer_provider)


def uninstrument() -> None:
    """Make no more spans."""
    spans.active = None


class _Spans:
    def __init__(self, provider: TracerProvider | None) -> None:
        self._tracer = get_tracer("aikcache", tracer_provider=provider)

    @contextmanager
    def exchange(self, command: str, size: int) -> Iterator[Span]:
        """One exchange with Redis. `command` is what a metric's label calls it; `size`: the keys that it is about."""
        name = _OPERATIONS[command]
        attributes: dict[str, str | int] = {
            "db.system.name": "redis", "db.operation.name": name, "aikcache.command": command,
        }  # fmt: skip
        if size > 1:  # of one the conventions want no size
            attributes["db.operation.batch.size"] = size
        with self._span(name, attributes, SpanKind.CLIENT) as span:
            yield span

    @contextmanager
    def load(self, operation: str) -> Iterator[Span]:
        """A run of the function."""
        with self._span(f"load {operation}", {"aikcache.operation": operation}) as span:
            yield span

    @contextmanager
    def refresh(self, operation: str) -> Iterator[Span]:
        """A renewal in the background: linked to the call that caused it, not its child, because that has returned."""
        cause = get_current_span().get_span_context()
        links = [Link(cause)] if cause.is_valid else []
        with self._span(f"refresh {operation}", {"aikcache.operation": operation}, links=links, root=True) as span:
            yield span

    @contextmanager
    def invalidation(self, names: int) -> Iterator[Span]:
        """An invalidation of so many groups, keys and globs, in every process."""
        with self._span("invalidate", {"aikcache.names": names}) as span:
            yield span

    @contextmanager
    def _span(
        self,
        name: str,
        attributes: dict[str, str | int],
        kind: SpanKind = SpanKind.INTERNAL,
        *,
        links: list[Link] | None = None,
        root: bool = False,
    ) -> Iterator[Span]:
        context = Context() if root else None
        begun: AbstractContextManager[Span] | None = None
        span: Span = INVALID_SPAN
        with _harmless():
            current = self._tracer.start_as_current_span(
                name, context, kind, attributes, links, record_exception=False, set_status_on_exception=False
            )
            span = current.__enter__()
            begun = current
        try:
            yield span
        except BaseException as error:
            with _harmless():
                _mark(span, error, kind)
            raise
        finally:
            if begun is not None:
                with _harmless():
                    begun.__exit__(None, None, None)


def _mark(span: Span, error: BaseException, kind: SpanKind) -> None:
    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", type(error).__qualname__)
    code = _CODE.search(str(error)) if kind is SpanKind.CLIENT else None
    if code is not None:
        span.set_attribute("db.response.status_code", code[1])


@contextmanager
def _harmless() -> Iterator[None]:
    """The application's tracer and span processors run here: what they raise costs a span, and no call its answer."""
    try:
        yield
    except Exception as error:
        let_out(error)
        _reporter.report("span", f"a tracer or a span processor raised {type(error).__name__}")
