"""Where tracing is switched on: one module variable, looked at before each load, exchange and invalidation.

`aikcache.tracing` puts there what makes spans; nothing below it knows OpenTelemetry. None: nobody traces, and the look
is all that it costs.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol


class Spans(Protocol):
    """Makes a span for what happens in a block; what the block raises is its error."""

    def exchange(self, command: str, size: int) -> AbstractContextManager[object]: ...
    def load(self, operation: str) -> AbstractContextManager[object]: ...
    def refresh(self, operation: str) -> AbstractContextManager[object]: ...
    def invalidation(self, names: int) -> AbstractContextManager[object]: ...


active: Spans | None = None
