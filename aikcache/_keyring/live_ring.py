"""The ring as this process knows it: read from Redis, restored where Redis lost it, and watched in the background.

A reading replaces an earlier one under a lock; no I/O is done inside it. If two readings overlap, the one with the
smaller counter is older and is dropped, whichever was sent or returned first. A key is made only if a reading shows
that one is needed: never because of an error, and never while a key that does not open here may seal elsewhere. If
another process changed the ring first, a change is tried again on a new reading.

Threads: any. After `fork` the child connects again and starts its own thread. Failure: `RemoteError` and
`KeyRingError`; the last reading stays.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from aikcache._concurrency import thread
from aikcache._concurrency.reporter import RateLimitedReporter
from aikcache._keyring import records
from aikcache._keyring.ciphers import KEY_BYTES, Wrapper
from aikcache._keyring.records import Ring, RingKey
from aikcache._keyring.store import RingStore
from aikcache._settings.checks import check_seconds
from aikcache._settings.secret import Secret
from aikcache.errors import ConfigError, KeyRingError, RemoteError

SKEW = 600_000
"""Milliseconds by which the first key's activation precedes its creation."""
WHOLE = 60.0
"""Seconds after which the whole ring is read although its counter is unchanged."""
_TRIES = 32


@dataclass(frozen=True, slots=True)
class Times:
    """The durations of a key's states in milliseconds; `refresh` in seconds."""

    lifetime: int
    propagation: int
    retention: int
    refresh: float


def check_times(
    lifetime: float | timedelta,
    propagation: float | timedelta,
    retention: float | timedelta,
    refresh: float | timedelta,
) -> Times:
    lives = int(check_seconds("lifetime", lifetime) * 1000)
    spreads = int(check_seconds("propagation", propagation) * 1000)
    if not spreads * 2 + SKEW < lives:
        raise ConfigError(
            f"lifetime must be more than twice propagation and {SKEW // 1000} s, got {lives / 1000:g} s and "
            f"{spreads / 1000:g} s: else a key's successor would be due as soon as it is made."
        )
    retained = int(check_seconds("retention", retention) * 1000)
    return Times(
        lives, spreads, retained, check_seconds("refresh", refresh, zero="It is how late a revocation is noticed.")
    )


class LiveRing:
    """The latest reading of one instance's ring, kept up to date."""

    def __init__(
        self, instance: str, store: RingStore, wrapper: Wrapper, times: Times, clock: Callable[[], float] | None
    ) -> None:
        self._instance, self._store, self._wrapper, self._times = instance, store, wrapper, times
        self._clock = clock
        self._reporter = RateLimitedReporter()
        self._order = itertools.count(1)
        self.closed = False
        self._pid: int | None = None
        self._beginning: dict[int, threading.Lock] = {}  # by process
        self._offset = 0.0  # from the monotonic clock to the primary's, in ms
        self._read_at, self._generation = -WHOLE, 0
        self._installed = 0  # the latest reading's end in `_order`; 0 before the first
        self.ring = Ring()
        self.failure: str | None = None
        self._installing = threading.RLock()
        self._stop = thread.Event()

    @property
    def loaded(self) -> bool:
        """Whether the ring has been read."""
        return self._installed > 0

    def now(self) -> int:
        """Milliseconds since 1970, by the primary's clock at the last reading."""
        return int(self._clock() * 1000) if self._clock else int(time.monotonic() * 1000 + self._offset)

    def begin(self) -> None:
        """Called before each use: in a new process, connect again and start the thread that watches the ring."""
        pid = os.getpid()
        if self._pid == pid or self.closed:
            return
        with self._beginning.setdefault(pid, threading.Lock()):  # a parent's may stay locked in its child
            if self._pid == pid:
                return
            if self._pid is not None:
                self._installing = threading.RLock()
                self._stop = thread.Event()
                self._store.forget()
            thread.start(_watch, "aikcache-keyring", weakref.ref(self), self._stop, self._times.refresh)
            self._pid = pid  # last: after an interruption another thread starts, which is harmless

    def load(self) -> None:
        """Read the ring, restore what Redis has lost, and make a key if one is needed."""
        for ring in self.readings():
            now = self.now()
            if not ring.needs_successor(now, self._times.propagation):
                return
            active = ring.sealing(now)
            made = self.made(ring, now, now - SKEW if active is None else active.expires)
            self.put(ring, [made])

    def readings(self) -> Iterator[Ring]:
        """New readings for a caller that changes the ring, until that succeeds: a change is valid only for what was
        read.
        """
        for _ in range(_TRIES):
            ring, lost = self._read()
            if ring is None:
                continue
            if lost:
                # A counter that no process has seen: all others read the ring, and restore what they know.
                self._store.change(ring.count, lost, least=self.ring.number + 1000)
                self._report("keyring:lost", "Redis has lost a part of the key ring, which was put back.")
                continue
            yield ring
        raise KeyRingError(f"the key ring changed {_TRIES} times while it was to be changed here. Try again.")

    def _read(self) -> tuple[Ring | None, dict[bytes, bytes]]:
        """A new reading, which is installed if nothing was lost; else also the fields that Redis has lost.

        None: a later reading was installed meanwhile.
        """
        started_at, generation = next(self._order), self._store.generation
        try:
            reading = self._store.read()
            ring = records.read(self._instance, reading.fields, self._wrapper)
            if not ring.keys and (ring.unreadable or (reading.fields and not self.ring.keys)):
                raise KeyRingError(
                    f"none of the {ring.unreadable} keys of {self._instance}:keyring can be opened. Is "
                    "AIKCACHE_MASTER_KEY the one that wrapped them? No new key was made."
                )
        except (RemoteError, KeyRingError) as error:
            self.failure = str(error)
            raise
        self.failure = None
        if ring.unreadable:
            what = f"{ring.unreadable} entries of {self._instance}:keyring"
            self._report("keyring:unreadable", f"{what} cannot be opened with these master keys: they are left out.")
        offset = reading.time - time.monotonic() * 1000
        with self._installing:
            if started_at < self._installed and ring.number < self.ring.number:
                return None, {}
            self._offset = offset
            lost = self.ring.lost(ring, self.now(), self._times.retention)
            if not lost:
                self._generation, self._read_at = generation, time.monotonic()
                self.ring, self._installed = ring, next(self._order)
        return ring, lost

    def made(self, ring: Ring, now: int, activates: int) -> RingKey:
        """A new key for this ring, not stored yet. Raises `KeyRingError`: see `check_open`."""
        self.check_open(ring, now)
        secret = Secret(os.urandom(KEY_BYTES))
        return RingKey(self._wrapper.new_id(), now, activates, activates + self._times.lifetime, "", secret)

    def check_open(self, ring: Ring, now: int) -> None:
        """Raises `KeyRingError`: a key that does not open here may be the one that seals, so none is made."""
        if hidden := ring.hidden(now):
            raise KeyRingError(
                f"{', '.join(hidden[:3])}: {len(hidden)} of the keys of {self._instance}:keyring cannot be opened, and "
                "may be those that seal. No new key was made. Give all master keys that are in use, as "
                "AIKCACHE_MASTER_KEY=new,old; a key that none of them opens is taken out by `revoke(id)`."
            )

    def put(self, ring: Ring, keys: list[RingKey]) -> bool:
        """Write keys, wrapped, and remove retired ones. False: the ring has changed since it was read."""
        put = {}
        for key in keys:
            bound = records.associated(self._instance, key.id, (key.created, key.activates, key.expires))
            wrapped = self._wrapper.wrap(key.secret.reveal(), bound)
            put[records.key_field(key.id)] = records.key_value(key, wrapped)
        done = self._store.change(ring.count, put, ring.retired(self.now(), self._times.retention))
        self._warn_unconfirmed()
        return done

    def revoke(self, ids: list[str], reason: str) -> None:
        """Revoke keys, whatever else has changed in the ring meanwhile."""
        revocation = f"{self.now()} {reason[:100]}".encode("utf-8", "replace")
        self._store.change(None, {records.revocation_field(id): revocation for id in ids})
        self._warn_unconfirmed()
        self.load()

    def report(self, error: Exception) -> None:
        self._report("keyring", f"The key ring cannot be read: {error}")

    def _warn_unconfirmed(self) -> None:
        if self._store.unconfirmed:
            what = "No replica confirmed a change of the key ring: a failover now may undo it."
            self._report("keyring:unconfirmed", what)

    def _report(self, cause: str, message: str) -> None:
        self._reporter.report(cause, message)

    def check(self) -> None:
        """The background thread's work: ask for the counter, and read the ring when it has changed."""
        old = time.monotonic() - self._read_at >= WHOLE
        try:
            if old or not self.loaded or self._generation != self._store.generation:
                self.load()
                return
            count = self._store.count()
            self.failure = None
            if count != self.ring.count or self.ring.needs_successor(self.now(), self._times.propagation):
                self.load()
        except (RemoteError, KeyRingError) as error:
            self.failure = str(error)
            if not self.closed:
                self.report(error)

    def close(self) -> None:
        self.closed = True
        self._stop.set()
        self._store.close()


def _watch(ring: weakref.ref[LiveRing], stop: thread.Event, refresh: float) -> None:
    while not stop.wait(refresh):
        if (found := ring()) is None:
            return
        found.check()
        del found
