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
import os
import threading
from collections.abc import Callable, Sequence

from aikcache._concurrency.thread import Event, start
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
        self.forget()

    def forget(self) -> None:
        """After a fork, in the child: they are the parent's."""
        self.held: dict[object, tuple[Sequence[Lease], list[int]]] = {}
        """By who keeps them, and takes them out again, by one call into C; and in how many rounds they were seen."""
        self._lost: dict[str, tuple[bytes, ...]] = {}
        self._wake = Event()
        self._thread: threading.Thread | None = None
        self._pid = 0

    def keep(self, by: object, leases: Sequence[Lease]) -> None:
        """Keep `leases` alive from here on, until `by` is taken out of `held`."""
        self._start()
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
        self._start()

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

    def _start(self) -> None:
        thread = self._thread
        if thread is None or not thread.is_alive() or self._pid != os.getpid():
            self._wake = Event()
            self._pid = os.getpid()
            with contextlib.suppress(RuntimeError):  # the interpreter ends
                self._thread = start(self._run, "aikcache-leases")

    def _run(self) -> None:
        idle = 0
        while idle < IDLE_ROUNDS and self._pid == os.getpid():
            self._wake.wait(self.seconds / 4)
            if self._wake.is_set():
                return
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
        self._wake.set()
