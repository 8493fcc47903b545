"""Invalidations that wait for a transaction. They are carried out together when the block ends, also if it fails.

Before the commit other readers still see the old rows, and would cache them again under the new stamps. An open block
belongs to the context (thread, or `contextvars` context) that opened it. An inner block passes its invalidations to the
outer one.

In the block's own context a waiting invalidation already counts: that context may see rows that no other sees, and that
a rollback undoes. So a call that it covers neither reads nor writes the cache there. A block that fails still
invalidates: a call may have cached such a row before the invalidation was named.

Threads: a thread with a copy of the context may add an invalidation while the block ends, and then carries it out
itself. A signal handler's exception may prevent `__exit__` from running: a `Deferred` that is dropped ends its block.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING

from aikcache._keys.globs import matcher
from aikcache._keys.patterns import ANY_TAG, EVERYTHING, Invalidation, groups_of, joined

if TYPE_CHECKING:
    from aikcache._local.tier import LocalTier

_open: ContextVar[tuple[Block, ...]] = ContextVar("aikcache_deferred", default=())


class Deferred:
    """The block of `with cache.deferred(): ...`, which delays invalidations until its end. Use it once.

    `Cache.deferred` says what calls inside it see. Leaving it takes one round trip, or as long as its sweeps. With
    Redis down the invalidations apply here and are sent later.
    """

    __slots__ = ("__weakref__", "_block")

    def __init__(self, owner: LocalTier, prefix: str, invalidate: Callable[[Invalidation], object]) -> None:
        self._block = Block(owner, prefix, invalidate)

    def __enter__(self) -> Deferred:
        if self._block.done or self._block.net is not None:
            raise RuntimeError("a block of deferred() is entered once; call deferred() again for another block.")
        self._block.net = weakref.ref(self, self._block.finish)
        _open.set((*(block for block in _open.get() if not block.done), self._block))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._block.finish()
        except BaseException:  # perhaps a signal handler's: the invalidations must not be lost
            self._block.finish()
            raise


class Block:
    """The invalidations that wait, and their cache."""

    __slots__ = ("_concerns", "_invalidate", "_matchers", "_names", "_prefix", "done", "net", "owner")

    def __init__(self, owner: LocalTier, prefix: str, invalidate: Callable[[Invalidation], object]) -> None:
        self.owner = owner
        self._prefix = prefix
        self._invalidate = invalidate
        self._names: dict[tuple[str, str], None] = {}
        self._matchers: dict[str, Callable[[str], object]] = {}
        self._concerns: frozenset[str] = frozenset()  # groups that a waiting invalidation concerns
        self.done = False  # copies of its context may outlive it
        self.net: weakref.ref[Deferred] | None = None

    def finish(self, dropped: object = None) -> None:
        """Invalidate what waits, or pass it to the outer block. It may be repeated, and must be if it was
        interrupted.
        """
        _open.set(tuple(block for block in _open.get() if block is not self and not block.done))
        self.done = True  # before the names are taken: see `add`
        if self._names:
            self._hand_on(joined(list(self._names)))
            self._names.clear()
        if id(self) in self.owner.waiting:
            self.owner.turn_away(id(self), frozenset())
        self.net = None

    def _hand_on(self, what: Invalidation) -> None:
        outer = blocks(self.owner)[-1:]
        (outer[0].add if outer else self._invalidate)(what)

    def add(self, what: Invalidation) -> None:
        """Invalidate this too when the block ends."""
        self._matchers.update((glob, matcher(self._prefix, glob)) for glob in what.globs)
        self._names.update(dict.fromkeys(what.names()))
        concerns = {group for group in what.groups if group == ANY_TAG or not group.startswith(ANY_TAG)}
        concerns.update(groups_of(key, self._prefix)[-1] for key in what.keys)
        concerns |= {EVERYTHING} if what.globs else set()
        if not concerns <= self._concerns:
            self.owner.turn_away(id(self), self._concerns | concerns)
            self._concerns |= concerns
        if self.done:  # another thread has finished it meanwhile, and may have cleared these names unread
            self._hand_on(what)
            self.finish()

    @property
    def names_tags(self) -> bool:
        """Whether any tag is waiting."""
        return ("groups", ANY_TAG) in self._names

    def covers(self, key: str, more: Iterable[str]) -> bool:
        """Whether a waiting invalidation covers a key, which is in the groups of its form and in `more`."""
        names, groups = self._names, (*groups_of(key, self._prefix), *more)
        if ("keys", key) in names or any(("groups", group) in names for group in groups):
            return True
        return any(matches(key) for matches in list(self._matchers.values()))


def blocks(owner: LocalTier) -> list[Block]:
    """The open blocks of this context for one cache, the innermost last."""
    return [block for block in _open.get() if block.owner is owner and not block.done]
