"""Extends the leases of running loads, and releases leases that were lost.

A lease is granted for less time than other callers wait for it, so that they notice a loader's death in time. This
module extends the lease of a loader that is merely slow. An extension that fails is not repeated at once: the lease
then expires, and with it the right to store, which is safe.

A lease is lost when Redis may hold it for this process, but the reply to its grant or release did not arrive. All
callers would wait for a loader that does not exist. So it is released as soon as Redis answers, or when this process
asks for the key again. It is not used under its old token: the unanswered request may still be carried out after an
invalidation, and must not then restore what that removed.

Threads: dictionaries, changed by their own atomic steps; an entry is taken out before it is released. The thread is a
daemon. It ends after a while without work, and is absent after `fork` until it is needed again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from aikcache._concurrency.thread import Daemon
from aikcache.errors import RemoteError

IDLE_ROUNDS = 20  # else a busy cache would start a thread for nearly every load
MAX_LOST = 1000
"""Lost leases that are remembered; the others expire."""

Lease = tuple[str, bytes]
"""A key and its loader's token."""


class Leases:
    """The leases of this process for one cache. `hold(leases, ms)` extends them in Redis, or releases them (0)."""

    def __init__(
        self, seconds: float, hold: Callable[[Sequence[Lease], int], object], report: Callable[[str, str], object]
    ) -> None:
        self.seconds = seconds
        self._closed = False
        self._hold = hold
        self._report = report
        self._daemon = Daemon(self._run, "aikcache-leases", lambda: self.held or self._lost)
        self.forget()

    def forget(self) -> None:
        """Reset after a fork, in the child: the leases are the parent's."""
        self.held: dict[object, tuple[Sequence[Lease], list[int]]] = {}
        """Leases by their owner, which takes them out by one call into C; and in how many rounds they were seen."""
        self._lost: dict[str, tuple[bytes, ...]] = {}

    def keep_alive(self, by: object, leases: Sequence[Lease]) -> None:
        """Extend `leases` from here on, until `by` is taken out of `held`."""
        self.held[by] = leases, [0]  # a list, so that `_run` can count in place and never puts an owner back
        self._daemon.start()

    def release(self, leases: Sequence[Lease]) -> None:
        """Release leases. If Redis cannot be reached, they are released later."""
        try:
            self._hold(leases, 0)
        except BaseException as error:
            self.add_lost(leases)  # also for a signal handler's exception: Redis may have done it or not
            if not isinstance(error, RemoteError):
                raise
            self._report(f"redis:{type(error).__name__}", f"a lease could not be given up: {error}")

    def add_lost(self, leases: Sequence[Lease]) -> None:
        """Redis may hold these leases, and no caller will use them."""
        if self._closed:
            return
        for key, token in leases:
            if len(self._lost) < MAX_LOST:
                self._lost[key] = (*self._lost.get(key, ()), token)[-4:]  # Redis has one at most, likely a late one
        self._daemon.start()

    def reclaim(self, keys: Sequence[str]) -> None:
        """Release lost leases of `keys`, before new ones are requested. May raise `RemoteError`."""
        if self._lost:
            self._release_lost(keys)

    def _release_lost(self, keys: Sequence[str]) -> None:
        # `pop` gives each lease to one thread, which puts it back where the release fails.
        lost = [(key, token) for key in keys for token in self._lost.pop(key, ())]
        if lost:
            try:
                self._hold(lost, 0)
            except BaseException:
                self.add_lost(lost)
                raise

    def _run(self) -> None:
        idle = 0
        while idle < IDLE_ROUNDS and not self._daemon.stopping.wait(self.seconds / 4):
            slow: list[Lease] = []
            for leases, rounds in list(self.held.values()):
                if rounds[0]:  # else it is younger than a round, and most loads end by then
                    slow += leases
                rounds[0] += 1
            idle = 0 if self.held or self._lost else idle + 1
            if slow:
                self._extend(slow)
            with contextlib.suppress(RemoteError):  # tried again in the next round
                self._release_lost(list(self._lost))

    def _extend(self, leases: Sequence[Lease]) -> None:
        try:
            self._hold(leases, int(self.seconds * 1000))
        except RemoteError as error:
            self._report(f"redis:{type(error).__name__}", f"a lease could not be extended: {error}")

    def close(self) -> None:
        self._closed = True
        self._daemon.stop()
