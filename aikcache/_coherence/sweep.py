"""Removing what a glob matches: SCAN in batches, UNLINK, and rests between them so that others are not held up.

A sweep removes leases first, so that a running load cannot store a value from before, and then the values. SCAN
returns everything that was there from its start to its end. Several globs become one sweep, of the pattern that covers
them. The cost is in proportion to the keyspace; a tag does the same in one round trip.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from aikcache._concurrency.thread import Event
from aikcache._keys.globs import covering, matcher
from aikcache._keys.patterns import Invalidation, joined
from aikcache._redis.transport import Server
from aikcache._remote.store import RedisStore
from aikcache.errors import AikcacheError, RemoteUnavailableError

BATCH = 1000
MAX_WAITING = 1000
"""Background sweeps that wait; beyond them the caller sweeps by itself."""
REST = 0.01
"""The longest rest after a batch, in seconds; a batch is followed by as much rest as it took."""


class Sweep:
    """A sweep's progress. `Cache.invalidate(..., background=True)` returns one while a thread sweeps.

    `scanned` counts rounds of about 1000 keys, `removed` counts keys. `error` says why it failed, or is None; the
    invalidation is then kept and sent again. `done` is true when it has finished or failed. Requests that waited
    together are one sweep, so their handles have the same figures.
    """

    def __init__(self) -> None:
        self.scanned = 0
        self.removed = 0
        self.error: AikcacheError | None = None
        self._ended = Event()

    @property
    def done(self) -> bool:
        return self._ended.is_set()

    def end(self, like: Sweep) -> None:
        """It was done as a part of `like`, which is done."""
        self.scanned, self.removed, self.error = like.scanned, like.removed, like.error
        self._ended.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is done, `timeout` seconds at most (None: no limit). False: it is not."""
        return self._ended.wait(timeout)

    def __repr__(self) -> str:
        state = "running" if not self.done else "failed" if self.error else "done"
        return f"<Sweep {state}: {self.removed} keys removed in {self.scanned} rounds>"


class Sweeper:
    """Background sweeps of one cache, one at a time: what is asked for meanwhile becomes one sweep, its globs merged.

    Requests wait in a deque, used by its own atomic steps. Whoever holds `_sweeping` takes all that waits, and looks
    again after letting go, so a request that found it held is not forgotten.
    """

    def __init__(
        self, submit: Callable[[Callable[[], object]], object], sweep: Callable[[Invalidation, Sweep], object]
    ) -> None:
        """`submit` has work done in the background and gives None when it does not take it; `sweep` does one sweep."""
        self._submit = submit
        self._sweep = sweep
        self._waiting: deque[tuple[Invalidation, Sweep]] = deque()
        self._sweeping = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, what: Invalidation) -> Sweep:
        """Sweep soon, and give a handle at once. With `MAX_WAITING` requests waiting the caller sweeps by itself."""
        handle = Sweep()
        if len(self._waiting) >= MAX_WAITING:
            self._run([(what, handle)])
            return handle
        self._waiting.append((what, handle))
        if self._submit(self._work) is None:
            self._run(self._take())
        return handle

    def give_up(self) -> list[Invalidation]:
        """What waited, when the cache is closed, or in the child after a fork: it is the caller's to keep."""
        self._sweeping = threading.Lock()
        left = self._take()
        for _, handle in left:
            handle.error = RemoteUnavailableError("it was not swept before the cache was closed or the process forked.")
            handle.end(handle)
        return [what for what, _ in left]

    def _take(self) -> list[tuple[Invalidation, Sweep]]:
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._waiting.popleft())
        return taken

    def _work(self) -> None:
        """In a background thread, where no signal handler runs between the lock and what gives it back."""
        while self._waiting and self._sweeping.acquire(blocking=False):
            try:
                self._run(self._take())
            finally:
                self._sweeping.release()

    def _run(self, batch: list[tuple[Invalidation, Sweep]]) -> None:
        if not batch:
            return
        progress = batch[0][1]
        try:
            self._sweep(joined([name for what, _ in batch for name in what.names()]), progress)
        finally:
            for _, handle in batch:
                handle.end(progress)


def end(remote: RedisStore, what: Invalidation, progress: Sweep | None = None) -> None:
    """Invalidate groups and keys in one round trip, then what globs match in one sweep. Raises `RemoteError`.

    What one node of a cluster refuses does not keep the others from being told: who reads asks those it reads from.
    """
    steps: list[Callable[[], object]] = [lambda: remote.invalidate(what.groups, what.keys)]
    if what.globs:
        steps.append(lambda: remote.push_globs(what.globs))  # local tiers drop their matches at once …
        steps.append(lambda: _sweep(remote, what.globs, progress or Sweep()))
        steps.append(lambda: remote.push_globs(what.globs))  # … and what they fetched while the sweep was on its way
    _do_all(steps, stop=remote.connections.ordered)


def _do_all(steps: Iterable[Callable[[], object]], *, stop: bool) -> None:
    """Do each; then raise what the first refusal was. `stop`: at once."""
    refusal: RemoteUnavailableError | None = None
    for step in steps:
        try:
            step()
        except RemoteUnavailableError as error:
            if stop:
                raise
            refusal = refusal or error
    if refusal is not None:
        raise refusal


def _sweep(remote: RedisStore, globs: Sequence[str], progress: Sweep) -> None:
    """Unlink every lease, then every value, that matches one of `globs`, below the space's lead. Raises `RemoteError`.

    In one pass over both, a load could store between the look at its key and the look at its lease. (Both are on one
    server; if their slot moves meanwhile, `parts` gives its new owner later.)
    """

    def remove(part: Server) -> None:
        for before, after in ((f"{remote.keyspace.namespace_prefix}!lease:{{", "}"), ("", "")):
            _remove(remote, part, globs, before, after, progress)

    remote.sweeps += 1
    try:
        _do_all((partial(remove, part) for part in remote.parts()), stop=remote.connections.ordered)
    finally:
        remote.sweeps -= 1


def _remove(remote: RedisStore, part: Server, globs: Sequence[str], before: str, after: str, progress: Sweep) -> None:
    """Unlink every name on one server that is a matching key between `before` and `after`."""
    lead = remote.keyspace.namespace_prefix
    matches, pattern = matcher(lead, *globs), f"{before}{lead}{covering(globs)}{after}"
    no_values = (f"{lead}~", f"{lead}!")  # a wildcard in the first place matches stamps as well: they end far more
    cursor: bytes = b"0"
    while True:
        began = time.monotonic()
        cursor, found = remote.scan(part, cursor, pattern, BATCH)
        ended = []
        for raw in found:
            key = raw.decode("utf-8", "surrogateescape").removeprefix(before).removesuffix(after)
            if matches(key) and not key.startswith(no_values):
                ended.append(raw)
        if ended:
            progress.removed += remote.unlink(ended)
        progress.scanned += 1
        if cursor == b"0":
            return
        time.sleep(min(time.monotonic() - began, REST))
