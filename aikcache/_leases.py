"""Leases that outlast half their time are extended, by one background thread a process needs only while it loads.

A lease is granted for less than others wait for it, so that a loader that died is noticed while they still wait; a
loader that is merely slow has its lease renewed from here. A renewal that fails is not repeated at once: the lease then
ends by itself, and with it the right to store, which is the safe side.

Threads: `holding` adds to and takes from a dictionary by its own atomic steps. The thread is a daemon, ends when it has
had nothing to do for a while, and is simply absent after `fork` until the next slow load.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

IDLE_ROUNDS = 20


class Leases:
    """The leases that this process holds for one cache."""

    def __init__(self, seconds: float, extend: Callable[[Sequence[tuple[str, bytes]]], object]) -> None:
        self.seconds = seconds
        self._extend = extend
        self._held: dict[tuple[str, bytes], list[int]] = {}  # in how many rounds each was seen
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = 0

    @contextmanager
    def holding(self, leases: Sequence[tuple[str, bytes]]) -> Iterator[None]:
        """Keep `leases`, each a (key, token), alive for as long as the block runs."""
        for lease in leases:
            self._held[lease] = [0]
        if leases:
            self._start()
        try:
            yield
        finally:
            for lease in leases:
                self._held.pop(lease, None)

    def _start(self) -> None:
        thread = self._thread
        if thread is None or not thread.is_alive() or self._pid != os.getpid():
            self._wake = threading.Event()
            self._pid = os.getpid()
            self._thread = threading.Thread(target=self._run, name="aikcache-leases", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        idle = 0
        while idle < IDLE_ROUNDS and self._pid == os.getpid():
            self._wake.wait(self.seconds / 4)
            if self._wake.is_set():
                return
            slow = []
            for lease, rounds in list(self._held.items()):
                if rounds[0]:
                    slow.append(lease)
                rounds[0] += 1
            idle = 0 if self._held else idle + 1
            if slow:
                self._extend(slow)

    def close(self) -> None:
        self._wake.set()
