"""Leases that outlast half their time are extended, and those that nobody holds any more are given back.

A lease is granted for less than others wait for it, so that a loader that died is noticed while they still wait; a
loader that is merely slow has its lease renewed from here. A renewal that fails is not repeated at once: the lease then
ends by itself, and with it the right to store, which is the safe side.

A lease is lost when Redis may hold it for us and we do not know: its grant, or its return, was not answered. Everybody
would wait for a loader that does not exist, so it is given back as soon as Redis answers, or when this process asks for
the key again. It is not taken up under its old token: the request that was not answered may yet be carried out, after
an invalidation, and must not then revive what that ended.

Threads: dictionaries, changed by their own atomic steps; what is given back has been taken out first. The thread is a
daemon, ends when it has had nothing to do for a while, and is simply absent after `fork` until it is needed again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from aikcache._concurrency.thread import Daemon
from aikcache.errors import RemoteError

IDLE_ROUNDS = 20
MAX_LOST = 1000
"""Leases remembered as lost; those beyond end by themselves."""

Lease = tuple[str, bytes]
"""A key and the token of who loads it."""


class Leases:
    """The leases of this process for one cache. `hold(leases, ms)` extends them in Redis, or ends them (0)."""

    def __init__(
        self, seconds: float, hold: Callable[[Sequence[Lease], int], object], report: Callable[[str, str], object]
    ) -> None:
        self.seconds = seconds
        self._closed = False
        self._hold = hold
        self._report = report
        self._daemon = Daemon(self._run, "aikcache-leases")
        self.forget()

    def forget(self) -> None:
        """After a fork, in the child: they are the parent's."""
        self.held: dict[object, tuple[Sequence[Lease], list[int]]] = {}
        """By who keeps them, and takes them out again, by one call into C; and in how many rounds they were seen."""
        self._lost: dict[str, tuple[bytes, ...]] = {}

    def keep(self, by: object, leases: Sequence[Lease]) -> None:
        """Keep `leases` alive from here on, until `by` is taken out of `held`."""
        self._daemon.start()
        self.held[by] = leases, [0]

    def end(self, leases: Sequence[Lease]) -> None:
        """Give leases back. What cannot be told now will be."""
        try:
            self._hold(leases, 0)
        except BaseException as error:
            self.lose(leases)
            if not isinstance(error, RemoteError):
                raise
            self._report(f"redis:{type(error).__name__}", f"a lease could not be given up: {error}")

    def lose(self, leases: Sequence[Lease]) -> None:
        """Redis may hold these, and nobody will use them."""
        if self._closed:
            return
        for key, token in leases:
            if len(self._lost) < MAX_LOST:
                self._lost[key] = (*self._lost.get(key, ()), token)[-4:]
        self._daemon.start()

    def reclaim(self, keys: Sequence[str]) -> None:
        """Before leases for `keys` are asked for: give back what was lost of them. May raise `RemoteError`."""
        if self._lost:
            self._give_back(keys)

    def _give_back(self, keys: Sequence[str]) -> None:
        lost = [(key, token) for key in keys for token in self._lost.pop(key, ())]
        if lost:
            try:
                self._hold(lost, 0)
            except BaseException:
                self.lose(lost)
                raise

    def _run(self) -> None:
        idle = 0
        while idle < IDLE_ROUNDS and not self._daemon.stopping.wait(self.seconds / 4):
            slow: list[Lease] = []
            for leases, rounds in list(self.held.values()):
                if rounds[0]:
                    slow += leases
                rounds[0] += 1
            idle = 0 if self.held or self._lost else idle + 1
            if slow:
                self._extend(slow)
            with contextlib.suppress(RemoteError):  # then later
                self._give_back(list(self._lost))

    def _extend(self, leases: Sequence[Lease]) -> None:
        try:
            self._hold(leases, int(self.seconds * 1000))
        except RemoteError as error:
            self._report(f"redis:{type(error).__name__}", f"a lease could not be extended: {error}")

    def close(self) -> None:
        self._closed = True
        self._daemon.stop()
