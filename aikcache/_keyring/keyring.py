"""A ring of keys in Redis, shared by all processes, that rotates by itself.

`seal` and `unseal` work from memory; a background thread asks every `refresh` seconds whether the ring has changed.
Before the active key expires, the first process to notice makes a successor; the script that adds it fails for all
others. A key is never made because of an error: a ring that cannot be read, or opened by any master key, raises. If
Redis has lost the ring, or a part of it, a process that knows it restores it.

Threads: any. After `fork` the child connects again. `live_ring` holds this process's reading of the ring.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from aikcache._engine.tally import tally_of
from aikcache._keyring.ciphers import ID_BYTES, NONCE_BYTES, TAG_BYTES, Cipher, MasterKeys, derive, joined, wrapper
from aikcache._keyring.live_ring import LiveRing, check_times
from aikcache._keyring.records import KeyInfo, RingHealth, RingKey, State
from aikcache._keyring.store import RingStore, config_of
from aikcache._settings.checks import check_metrics, check_name
from aikcache._settings.config import CacheConfig
from aikcache._settings.secret import Secret, SubKey
from aikcache.errors import ConfigError, KeyRingError, RemoteUnavailableError, SealError

DAY = 86_400.0
NOTICE = 5_000
"""Milliseconds until a key made by `rotate` seals: by then every process knows it."""
FORCED = 1.0
"""Seconds between two readings for one unknown key id, or for all ids without our mark together."""
_MOST_CIPHERS = 256
_VALUES = "cached-value"
_FORM = b"\x01"
_UNSEALED = "this was not sealed by this key ring for this purpose, has been changed, or its key has been retired."


class KeyRing:
    """Seals and opens under keys that all processes with the same Redis, instance and master key share.

    Args:
        url: where the ring is, in every form that `Cache` takes. None: `AIKCACHE_SESSION_URL`, else `AIKCACHE_URL`.
        instance: rings of different instances are independent.
        master_key: wraps the keys in Redis: 32 bytes as base64url, or several, the first of which wraps. None:
            `AIKCACHE_MASTER_KEY`. To exchange it, deploy `new,old`, call `rewrap()`, deploy `new`.
        lifetime: seconds for which a key seals.
        propagation: seconds before a key's expiry at which its successor is made.
        retention: seconds for which an expired key still opens.
        refresh: seconds between two checks of the ring; other processes' revocations are noticed that late.
        allow_plaintext: without a master key, store keys in Redis unwrapped. For experiments.
        clock: seconds since 1970, in place of the primary's time; for tests.
        metrics: the prefix of its metrics' names, as for `Cache`. None: it has none.
        config: in place of `url`, how a cache reaches its server.

    Raises:
        ConfigError: an argument breaks a rule, or there is no master key. Redis is not asked yet.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        instance: str = "aikernel",
        master_key: MasterKeys | None = None,
        lifetime: float | timedelta = 90 * DAY,
        propagation: float | timedelta = 2 * DAY,
        retention: float | timedelta = 31 * DAY,
        refresh: float | timedelta = 2.0,
        allow_plaintext: bool = False,
        clock: Callable[[], float] | None = None,
        metrics: str | None = "aikernel",
        config: CacheConfig | None = None,
    ) -> None:
        self._instance = check_name("instance", instance)
        self._times = check_times(lifetime, propagation, retention, refresh)
        self._wrapper = wrapper(master_key or os.environ.get("AIKCACHE_MASTER_KEY"), allow_plaintext=allow_plaintext)
        store = RingStore(config or config_of(url, instance))
        self._live = LiveRing(instance, store, self._wrapper, self._times, clock)
        self._forced: dict[str, float] = {}
        self._reading: dict[int, threading.Lock] = {}
        self._tried_at = -FORCED  # by `_first_reading`
        self._ciphers: dict[tuple[str, str], Cipher] = {}
        self._subkeys: dict[tuple[str, str], SubKey] = {}
        check_metrics(metrics)
        if metrics is not None:
            tally_of(metrics).sessions.add_ring(self)

    def __repr__(self) -> str:
        return f"KeyRing(instance={self._instance!r}, keys={len(self._live.ring.keys)})"

    # Sealing

    def seal(self, data: bytes, purpose: str, aad: bytes = b"") -> bytes:
        """`data` sealed for one purpose: only `unseal` with the same purpose and `aad` opens it, in every process.

        Asks Redis only if no sealing key is known.

        Raises:
            RemoteError: no sealing key is known, and Redis cannot be reached.
            KeyRingError: the ring exists, and this process's master keys do not open it.
        """
        key = self._sealing()
        head = _FORM + bytes.fromhex(key.id)
        return head + self._cipher(key, purpose).close(data, self._associated(head, purpose, aad))

    def unseal(self, token: bytes, purpose: str, aad: bytes = b"") -> bytes:
        """The data that was sealed. If its key is not known yet, the ring is read.

        Raises:
            SealError: it cannot be opened, whatever the cause.
            RemoteError: its key is not known, and Redis cannot be reached.
        """
        head_bytes = 1 + ID_BYTES
        if len(token) < head_bytes + NONCE_BYTES + TAG_BYTES or token[:1] != _FORM:
            raise SealError(_UNSEALED)
        key = self._opening(token[1:head_bytes].hex())
        head = token[:head_bytes]
        if key is not None:
            data = self._cipher(key, purpose).open(token[head_bytes:], self._associated(head, purpose, aad))
            if data is not None:
                return data
        raise SealError(_UNSEALED)

    def _associated(self, head: bytes, purpose: str, aad: bytes) -> bytes:
        return joined((head, self._instance.encode(), purpose.encode(), aad))

    def _cipher(self, key: RingKey, purpose: str) -> Cipher:
        found = self._ciphers.get((key.id, purpose))
        if found is None:
            if len(self._ciphers) >= _MOST_CIPHERS:
                self._ciphers = {}
            found = Cipher(derive(key.secret.reveal(), f"aikcache/v1/{purpose}"))
            self._ciphers[key.id, purpose] = found
        return found

    def _sealing(self) -> RingKey:
        live = self._live
        live.begin()
        key = live.ring.sealing(live.now())
        if key is None:  # usually the background thread has made a successor long before
            live.check_open(live.ring, live.now())  # not read for each call: the thread notices a change
            live.load()
            key = live.ring.sealing(live.now())
        if key is None:
            live.check_open(live.ring, live.now())
            raise KeyRingError("no key of the ring seals: the one that did was revoked just now. Try again.")
        return key

    def _opening(self, id: str) -> RingKey | None:
        live = self._live
        live.begin()
        if id not in live.ring.keys:
            self._read_for(id)
        key = live.ring.keys.get(id)
        return key if key is not None and self._opens(key) else None

    def _opens(self, key: RingKey) -> bool:
        return key.state(self._live.now(), self._times.retention) in ("pending", "active", "expired")

    def _read_for(self, id: str) -> None:
        """Read the ring for an unknown key, unless that was done a moment ago.

        An id with our mark allows one reading each second, for which other callers with it wait. All other ids share
        one: foreign tokens do not use up the reading for a key that was just made.
        """
        live, now = self._live, time.monotonic()
        if not self._wrapper.made(id):
            if self._has_turn("", now):
                live.load()
            return
        # One for each process: a lock that another thread holds during a fork stays locked in the child.
        with self._reading.setdefault(os.getpid(), threading.Lock()):
            if id not in live.ring.keys and self._forced.get(id, -FORCED) < now and self._has_turn(id, now):
                live.load()

    def _has_turn(self, id: str, now: float) -> bool:
        live = self._live
        if now - self._forced.get(id, -FORCED) < FORCED and live.loaded:
            if live.failure is not None:
                raise RemoteUnavailableError(f"the key ring could not be read: {live.failure}")
            return False
        if len(self._forced) >= _MOST_CIPHERS:
            self._forced = {}
        self._forced[id] = now
        return True

    # For cached values

    def value_key(self) -> SubKey:
        """The key that seals values now. Asks Redis as `seal` does, and once a second until the ring has been read."""
        self._first_reading()
        if not self._live.loaded:
            raise RemoteUnavailableError(f"the key ring could not be read: {self._live.failure}")
        return self._subkey(self._sealing(), _VALUES)

    def value_key_of(self, id: bytes) -> SubKey | None:
        """The key that opens the values which this key id has sealed. None: it opens nothing, or is not known here yet.

        An unknown key is not read from Redis: the value is only a miss, and the background thread soon reads the key.
        """
        self._first_reading()
        key = self._live.ring.keys.get(id.hex())
        return self._subkey(key, _VALUES) if key is not None and self._opens(key) else None

    def _first_reading(self) -> None:
        """Read the ring for the first time. Only the caller that reads gets the exception."""
        live = self._live
        live.begin()
        if live.loaded:
            return
        with self._reading.setdefault(os.getpid(), threading.Lock()):
            now = time.monotonic()
            if not live.loaded and now - self._tried_at >= FORCED:
                self._tried_at = now
                live.load()

    # Sub-keys, for sessions

    def subkey(self, purpose: str) -> SubKey:
        """The sub-key of the key that seals. Raises what `seal` raises."""
        return self._subkey(self._sealing(), purpose)

    def opening_subkey(self, purpose: str, id: bytes) -> SubKey | None:
        """The sub-key of the key with this id; None: it opens nothing. Raises `RemoteError` as `unseal` does."""
        key = self._opening(id.hex())
        return None if key is None else self._subkey(key, purpose)

    def known_subkeys(self, purpose: str) -> list[SubKey]:
        """The sub-keys of all keys but retired ones, revoked ones too: to find what was filed under them."""
        sealing = self._sealing()
        now, retained = self._live.now(), self._times.retention
        keys = [key for key in self._live.ring.keys.values() if now < key.expires + retained and key is not sealing]
        return [self._subkey(key, purpose) for key in (sealing, *keys)]

    def seals_under(self, token: bytes) -> bool:
        """Whether the key that sealed `token` is the one that seals now."""
        return token[1 : 1 + ID_BYTES].hex() == self._sealing().id

    def now(self) -> float:
        """Seconds since 1970 by the primary's clock, at the last reading."""
        return self._live.now() / 1000

    def must_outlive(self, what: str, seconds: float) -> None:
        """Raises `ConfigError` if something that is sealed for so long would not open until it expires."""
        if seconds * 1000 > self._times.retention:
            raise ConfigError(
                f"{what} must not be longer than the key ring's retention, got {seconds:g} s and "
                f"{self._times.retention / 1000:g} s: what was sealed just before a key's end would not open until its "
                "own. Pass KeyRing(retention=...) that long."
            )

    def _subkey(self, key: RingKey, purpose: str) -> SubKey:
        found = self._subkeys.get((key.id, purpose))
        if found is None:
            if len(self._subkeys) >= _MOST_CIPHERS:
                self._subkeys = {}
            derived = Secret(derive(key.secret.reveal(), f"aikcache/v1/{purpose}"))
            found = self._subkeys[key.id, purpose] = SubKey(bytes.fromhex(key.id), derived)
        return found

    # The ring

    def keys(self) -> tuple[KeyInfo, ...]:
        """All keys, by the time at which they become active."""
        live = self._live
        live.begin()
        if not live.loaded:
            live.load()
        infos = [self._info(key) for key in live.ring.keys.values()]
        return tuple(sorted(infos, key=lambda info: (info.activates, info.created, info.id)))

    def _info(self, key: RingKey) -> KeyInfo:
        return key.info(self._live.now(), self._times.retention)

    def refresh(self) -> None:
        """Read the ring, and make a key if one is needed. Raises `RemoteError` or `KeyRingError`."""
        self._live.begin()
        self._live.load()

    def rotate(self) -> KeyInfo:
        """Make a key, which seals in 5 seconds, when every process knows it. Data sealed by the others still opens."""
        self._live.begin()
        for ring in self._live.readings():
            now = self._live.now()
            made = self._live.made(ring, now, now + NOTICE)
            if self._live.put(ring, [made]):
                self._live.load()
                return self._info(made)
        raise AssertionError("`readings` raises when it ends")

    def revoke(self, id: str, reason: str = "") -> None:
        """From now on the key opens nothing here, and within `refresh` nowhere. If no other seals, a key is made.

        The reason is stored in Redis in clear.
        """
        self.refresh()
        if id not in self._live.ring.keys and id not in self._live.ring.closed:
            raise KeyRingError(f"the ring has no key {id[:16]!r}. `keys()` lists those that it has.")
        self._live.revoke([id], reason)

    def revoke_before(self, when: float) -> int:
        """Revoke all keys that were created before `when` (seconds since 1970), also those that do not open here.
        Returns their number.
        """
        self.refresh()
        ids = self._live.ring.created_before(when * 1000)
        if ids:
            self._live.revoke(ids, "")
        return len(ids)

    def rewrap(self) -> int:
        """Wrap every key under the first master key. Returns the number of keys that were under another one."""
        self._live.begin()
        old: list[RingKey] = []
        for ring in self._live.readings():
            old = [key for key in ring.keys.values() if not self._wrapper.is_current(key.wrapped)]
            if not old or self._live.put(ring, old):
                break
        self._live.load()
        return len(old)

    def health(self) -> RingHealth:
        """The ring's problems, as far as they are known here. Asks nothing of Redis."""
        live = self._live
        problems = [] if live.failure is None else [f"the ring could not be read: {live.failure}"]
        if unreadable := live.ring.unreadable:
            problems.append(f"{unreadable} of its entries cannot be opened with these master keys")
        return RingHealth(not problems, tuple(problems))

    def key_states(self) -> dict[str, State]:
        """The state of each key by its id, as far as it is known here. Asks nothing of Redis."""
        live = self._live
        if not live.loaded or live.closed:
            return {}
        now, retention = live.now(), self._times.retention
        return {id: key.state(now, retention) for id, key in live.ring.keys.items()}

    def next_rotation(self) -> float | None:
        """Seconds until a key must be made, below 0 if it is overdue; None: not known. Asks nothing of Redis."""
        live = self._live
        if not live.loaded or live.closed:
            return None
        now = live.now()
        return (live.ring.successor_due(now, self._times.propagation) - now) / 1000

    def close(self) -> None:
        """Stop the background thread, close the connections. Known keys go on opening, and seal until they expire."""
        self._live.close()
