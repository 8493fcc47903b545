"""The switch for tracing: one module variable, checked before each load, exchange and invalidation.

`aikcache.tracing` sets it to an object that makes spans; nothing below knows OpenTelemetry. None: tracing is off, and
the check is all it costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Protocol

    class Spans(Protocol):
        """Makes a span for a block; an exception of the block is the span's error."""

        def exchange(self, command: str, size: int) -> AbstractContextManager[object]: ...
        def load(self, operation: str) -> AbstractContextManager[object]: ...
        def refresh(self, operation: str) -> AbstractContextManager[object]: ...
        def invalidation(self, names: int) -> AbstractContextManager[object]: ...


active: Spans | None = None
