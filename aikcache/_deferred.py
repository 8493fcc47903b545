"""Invalidations that wait for a transaction: carried out together when its block succeeds, dropped when it raises.

Before the commit other readers still see the old rows, and would cache them again under the new stamps. The block that
is open belongs to the context (thread, or `contextvars` context) that opened it. Blocks nest: an inner one hands what
it collected to the outer one, which decides.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType

from ._patterns import Ending, joined

_open: ContextVar[tuple[Deferred, ...]] = ContextVar("aikcache_deferred", default=())


class Deferred:
    """The block: `with cache.deferred(): ...`. One use each."""

    __slots__ = ("_end", "_names", "_token", "owner")

    def __init__(self, owner: object, end: Callable[[Ending], object]) -> None:
        self.owner = owner
        self._end = end
        self._names: dict[tuple[str, str], None] = {}
        self._token: Token[tuple[Deferred, ...]] | None = None

    def __enter__(self) -> Deferred:
        self._token = _open.set((*_open.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _open.reset(self._token)
        if error is not None or not self._names:
            return
        outer = current(self.owner)
        what = joined(list(self._names))
        if outer is not None:
            outer.add(what)
        else:
            self._end(what)

    def add(self, what: Ending) -> None:
        """End this, too, when the block succeeds."""
        self._names.update(dict.fromkeys(what.names()))


def current(owner: object) -> Deferred | None:
    """The innermost open block of this context, for `owner`."""
    return next((block for block in reversed(_open.get()) if block.owner is owner), None)
