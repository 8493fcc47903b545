"""A load of calls, writes and invalidations on several caches, which checks every value that a call gives.

A row's version only grows, and each write is followed by the invalidation of its key or of its tag. The cache that
invalidated may never again answer with an older version; the others may for `bound` seconds after the invalidation
returned. What a call raises, and each answer that is too old, is gathered; `check` looks at both.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from aikcache import Cache

from ._workers import PATIENCE


class Ended(NamedTuple):
    """An invalidation that returned."""

    when: float
    version: int
    by: int


class Load:
    """Threads at several caches; a context manager from `running`."""

    def __init__(self, caches: Sequence[Cache], rows: int, bound: float) -> None:
        self.caches = caches
        self.rows = rows
        self.bound = bound
        self.errors: list[BaseException] = []
        self.stale: list[str] = []
        self.calls = self.writes = 0
        self._versions = [0] * rows
        self._ended: list[list[Ended]] = [[] for _ in range(rows)]
        self._locks = [threading.Lock() for _ in range(rows)]
        self._stop = threading.Event()
        self._gets = [self._function(cache) for cache in caches]

    def _function(self, cache: Cache) -> Callable[[int], int]:
        @cache.cached("row", operation="get", tags=("row:{n}",))
        def get(n: int) -> int:
            return self._versions[n]

        return get

    def write(self, by: int, n: int) -> None:
        """A new version of a row, committed and then invalidated."""
        with self._locks[n]:
            self._versions[n] += 1
            version = self._versions[n]
            if version % 2:
                self.caches[by].invalidate(f"row:get:{n}")
            else:
                self.caches[by].invalidate_tags(f"row:{n}")
            self._ended[n].append(Ended(time.monotonic(), version, by))
        self.writes += 1

    def read(self, by: int, n: int) -> None:
        """A call, checked."""
        began = time.monotonic()
        least = 0
        for ended in reversed(self._ended[n][-200:]):
            if ended.by == by or ended.when < began - self.bound:
                least = ended.version
                break
        version = self._gets[by](n)
        self.calls += 1
        if version < least:
            self.stale.append(f"cache {by} gave version {version} of row {n}, {least} or later was due")

    @contextmanager
    def running(self, readers: int = 2, pause: float = 0.002) -> Iterator[Load]:
        """Read and write while the block runs; then `check`."""

        def work(by: int, writes: bool) -> None:
            some = random.Random(by)
            while not self._stop.wait(pause):
                try:
                    (self.write if writes else self.read)(by, some.randrange(self.rows))
                except BaseException as error:
                    self.errors.append(error)

        threads = [
            threading.Thread(target=work, args=(by, writes), daemon=True)
            for by in range(len(self.caches))
            for writes in (True, *[False] * readers)
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads), "a call hangs"
        self.check()

    def check(self) -> None:
        assert not self.errors, self.errors[:3]
        assert not self.stale, (len(self.stale), self.calls, self.stale[:3])
        assert self.calls > 0
        assert self.writes > 0

    def settled(self) -> bool:
        """Whether every cache gives the last version of every row."""
        return all([get(n) for n in range(self.rows)] == self._versions for get in self._gets)
