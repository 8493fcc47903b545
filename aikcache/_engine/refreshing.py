"""Blocks in which calls run their functions again, and the results replace the cached values.

Each key is loaded once in a block: a second call gets the result of the first. So a page that asks for one value in
many places loads it once, and a function that calls itself does not run again for each branch. (Of two threads that
share a block each loads what the other has not finished.)

A block belongs to the context (thread, or `contextvars` context) that opened it, and to copies of that. While one is
open, wrappers of the cache answer no call themselves, as with `deferred`. A block that is dropped ends.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING

from aikcache._keys.patterns import EVERYTHING

if TYPE_CHECKING:
    from aikcache._local.tier import LocalTier

_open: ContextVar[tuple[Block, ...]] = ContextVar("aikcache_refreshing", default=())
loading: ContextVar[tuple[Loading, ...]] = ContextVar("aikcache_refreshing_loading", default=())
"""The loads of blocks that this context is inside: a function that calls itself is answered from the cache."""


class Refreshing:
    """The block of `with cache.refreshing(): ...`. Use it once."""

    __slots__ = ("__weakref__", "_block")

    def __init__(self, owner: LocalTier) -> None:
        self._block = Block(owner)

    def __enter__(self) -> Refreshing:
        block = self._block
        if block.done or block.net is not None:
            raise RuntimeError("a block of refreshing() is entered once; call refreshing() again for another block.")
        block.net = weakref.ref(self, block.finish)
        block.owner.turn_away(id(block), frozenset({EVERYTHING}))
        _open.set((*(one for one in _open.get() if not one.done), block))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._block.finish()
        except BaseException:  # perhaps a signal handler's
            self._block.finish()
            raise


class Block:
    """The cache of a block, and the keys that were loaded in it."""

    __slots__ = ("done", "keys", "net", "owner")

    def __init__(self, owner: LocalTier) -> None:
        self.owner = owner
        self.keys: set[str] = set()
        self.done = False  # copies of its context may outlive it
        self.net: weakref.ref[Refreshing] | None = None

    def finish(self, dropped: object = None) -> None:
        """It may be repeated, and must be if it was interrupted."""
        self.done = True
        _open.set(tuple(block for block in _open.get() if not block.done))
        self.owner.turn_away(id(self), frozenset())
        self.net = None

    def new(self, keys: Iterable[str]) -> list[str]:
        """Which of these must be loaded. Also what another thread is loading, because its result is not here yet."""
        inside = [one.keys for one in loading.get() if one.block is self and not one.over]
        return [key for key in keys if key not in self.keys and not any(key in mine for mine in inside)]


class Loading:
    """A load of a block's, with all that begins in it; copies of its context may outlive it."""

    __slots__ = ("block", "keys", "over")

    def __init__(self, block: Block, keys: frozenset[str]) -> None:
        self.block, self.keys, self.over = block, keys, False


def blocks(owner: LocalTier) -> list[Block]:
    """The open blocks of this context for one cache, the innermost last."""
    return [block for block in _open.get() if block.owner is owner and not block.done]
