"""Removes the keys that match a glob: SCAN in batches, UNLINK, and pauses between them so that others are not held up.

A sweep removes leases first, so that a running load cannot store an old value, and then the values. SCAN returns every
key that exists from its start to its end. Several globs become one sweep, of a pattern that covers them. The cost is
proportional to the keyspace; invalidating a tag takes one round trip instead.
"""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from aikcache._concurrency.thread import Daemon, Event
from aikcache._keys.globs import MOST_GLOBS, covering, matcher
from aikcache._keys.patterns import Invalidation, joined
from aikcache.errors import AikcacheError, RemoteUnavailableError

if TYPE_CHECKING:
    from aikcache._redis.transport import Server
    from aikcache._remote.store import RedisStore

BATCH = 1000
MAX_WAITING = 1000
"""Background sweeps that wait; a caller beyond that number sweeps by itself."""
PAUSE = 0.1
"""Seconds after a failed attempt to sweep what is pending."""
LOOK = 1.0
"""Seconds after which the thread looks for requests by itself: a caller may have been interrupted before waking it."""
REST = 0.01
"""The longest pause after a batch, in seconds; the pause is as long as the batch took."""


class ReplayingError(RemoteUnavailableError):
    """Redis is not read now, because invalidations are being replayed first."""

    def __init__(self) -> None:
        super().__init__("invalidations are being replayed first.")


class Sweep:
    """The progress of a sweep. `Cache.invalidate(..., background=True)` returns one while a thread sweeps.

    `scanned` counts rounds of about 1000 keys, `removed` counts keys. `error` says why it failed, or is None; the
    invalidation is then kept and sent again. `done` is true when it has finished or failed. Requests that waited
    together are one sweep, so their handles have the same figures.
    """

    def __init__(self) -> None:
        self.scanned = 0
        self.removed = 0
        self.error: AikcacheError | None = None
        self._finished = Event()

    @property
    def done(self) -> bool:
        """Whether it has finished or failed."""
        return self._finished.is_set()

    def finish(self, like: Sweep) -> None:
        """It was done as a part of `like`, which is finished."""
        self.scanned, self.removed, self.error = like.scanned, like.removed, like.error
        self._finished.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is done, at most `timeout` seconds (None: no limit). False: it is not done."""
        return self._finished.wait(timeout)

    def __repr__(self) -> str:
        state = "running" if not self.done else "failed" if self.error else "done"
        return f"<Sweep {state}: {self.removed} keys removed in {self.scanned} rounds>"


class Request(NamedTuple):
    """A sweep that somebody has asked for, and whose context it runs in."""

    what: Invalidation
    handle: Sweep
    context: contextvars.Context


class Sweeper:
    """Background sweeps of one cache, one at a time, in a thread of their own. Requests that arrive meanwhile are
    merged into one sweep.

    Requests wait in a deque, used by its own atomic steps, until they are done.
    """

    def __init__(self, sweep: Callable[[Invalidation, Sweep], object], replay: Callable[[], object]) -> None:
        """`sweep` does one sweep, and `replay` those that are pending; it returns whether it could."""
        self._sweep = sweep
        self._replay = replay
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._replaying = False  # whether `replay` is to be called
        self._wake = Event()
        self._daemon = Daemon(self._work, "aikcache-sweeper", lambda: self._waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    def replay(self) -> None:
        """Sweep soon what is pending."""
        self._replaying = True
        self.look()

    def look(self) -> None:
        """Look for requests now."""
        self._daemon.start()
        self._wake.set()

    def add(self, what: Invalidation) -> Sweep:
        """Sweep soon, and return a handle at once: done when there is nothing to sweep. With `MAX_WAITING` requests
        waiting the caller sweeps by itself.
        """
        handle = Sweep()
        if not what:
            handle.finish(handle)
            return handle
        mine = Request(what, handle, contextvars.copy_context())
        if len(self._waiting) >= MAX_WAITING:
            self._run([mine])
            return handle
        # First: interrupted after this, it is found by the next look, a heartbeat's at latest.
        self._waiting.append(mine)
        self.look()
        if self._daemon.stopping.is_set() or not self._daemon.available():  # one that was stopped ends after its sweep
            self._run([mine])
        return handle

    def give_up(self) -> list[Invalidation]:
        """Return the requests that are not done, when the cache is closed. The caller keeps them as pending."""
        left = []
        with contextlib.suppress(IndexError):
            while True:
                left.append(self._waiting.popleft())
        for one in left:
            one.handle.error = RemoteUnavailableError(
                "it was not swept before the cache was closed or the process forked."
            )
            one.handle.finish(one.handle)
        return [one.what for one in left]

    def after_fork(self) -> list[Invalidation]:
        """Reset in the child, and return the requests that the parent had not begun."""
        self._wake = Event()
        begun, self._running = self._running, []
        return [what for what in self.give_up() if all(what is not one.what for one in begun)]

    def stop(self) -> None:
        """The cache is closed: end the thread. Does not wait."""
        self._daemon.stop()
        self._wake.set()

    def _work(self) -> None:
        while not self._daemon.stopping.is_set():
            self._wake.wait(LOOK)
            self._wake.clear()
            if self._replaying:
                self._replaying = False
                if not self._replay():
                    self._daemon.stopping.wait(PAUSE)  # every read asks for another attempt
            if batch := list(self._waiting):
                self._running = batch
                self._run(batch)
                self._running = []
                self._wake.set()  # look again, first for what is pending

    def _run(self, batch: list[Request]) -> None:
        progress = batch[0].handle
        what = joined([name for one in batch for name in one.what.names()])
        context = batch[0].context.copy()  # because who asked may be in the context, sweeping by himself
        try:
            context.run(self._sweep, what, progress)
        finally:
            for one in batch:
                one.handle.finish(progress)
                with contextlib.suppress(ValueError):  # given up
                    self._waiting.remove(one)  # last, so that it waits until it is done


def few_globs(what: Invalidation) -> Invalidation:
    """The same, or a covering one: each glob is compared with every local key of every process."""
    return what if len(what.globs) <= MOST_GLOBS else what._replace(globs=(covering(what.globs),))


def invalidate(remote: RedisStore, what: Invalidation, progress: Sweep | None = None) -> None:
    """Invalidate groups and keys in one round trip, then the matches of globs in one sweep. Raises `RemoteError`.

    If one node of a cluster refuses, the others are still sent theirs: a reader asks only the nodes that it reads from.
    """
    steps: list[Callable[[], object]] = [lambda: remote.invalidate(what.groups, what.keys)]
    if what.globs:
        steps.append(lambda: remote.push_globs(what.globs))  # local tiers drop their matches at once …
        steps.append(lambda: _sweep(remote, what.globs, progress or Sweep()))
        steps.append(lambda: remote.push_globs(what.globs))  # … and again what they fetched during the sweep
    _do_all(steps, stop=remote.connections.ordered)


def _do_all(steps: Iterable[Callable[[], object]], *, stop: bool) -> None:
    """Run each step, then raise the first failure. `stop`: raise it at once."""
    failure: RemoteUnavailableError | None = None
    for step in steps:
        try:
            step()
        except RemoteUnavailableError as error:
            if stop:
                raise
            failure = failure or error
    if failure is not None:
        raise failure


def _sweep(remote: RedisStore, globs: Sequence[str], progress: Sweep) -> None:
    """Unlink every lease, then every value, that matches one of `globs` in this key space. Raises `RemoteError`.

    In a single pass over both, a load could store between the look at its key and the look at its lease. (Both are on
    one server; if their slot moves meanwhile, `parts` gives its new owner later.)
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
    """Unlink every name on one server that is `before`, a matching key, and `after`."""
    prefix = remote.keyspace.namespace_prefix
    matches, pattern = matcher(prefix, *globs), f"{before}{prefix}{covering(globs)}{after}"
    no_values = (f"{prefix}~", f"{prefix}!")  # a glob that begins with a wildcard matches stamps too
    cursor: bytes = b"0"
    while True:
        started_at = time.monotonic()
        cursor, found = remote.scan(part, cursor, pattern, BATCH)
        matched = []
        for raw in found:
            key = raw.decode("utf-8", "surrogateescape").removeprefix(before).removesuffix(after)
            if matches(key) and not key.startswith(no_values):
                matched.append(raw)
        if matched:
            progress.removed += remote.unlink(matched)
        progress.scanned += 1
        if cursor == b"0":
            return
        time.sleep(min(time.monotonic() - started_at, REST))
