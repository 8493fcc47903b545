"""A key ring's data in Redis, and the states of its keys.

One hash, without TTL: `g`, a counter of changes; `k:<id>`, times and wrapped key; `r:<id>`, time and reason of a
revocation. A key is pending, then active (it seals), expired (it only opens, for `retention` seconds), and finally
retired. A revoked key opens nothing at once. Of the active keys, the one that became active last seals.

A `Ring` is one reading of that hash, and is never changed. Times are milliseconds since 1970 by the primary's clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from aikcache._keyring.ciphers import Wrapper, joined
from aikcache._settings.secret import Secret

State: TypeAlias = Literal["pending", "active", "expired", "retired", "revoked"]
_KEY: Final = re.compile(rb"k:([0-9a-f]{16})")
_REVOKED: Final = re.compile(rb"r:([0-9a-f]{16})")
_VALUE: Final = re.compile(rb"([0-9]{1,15}) ([0-9]{1,15}) ([0-9]{1,15}) ([\x21-\x7e]{1,200})")
_TIME: Final = re.compile(rb"([0-9]{1,15})(?: .*)?", re.DOTALL)
_COUNT: Final = re.compile(rb"[0-9]{1,15}")
_NEVER: Final = 10**15


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key of the ring, without the secret. Times are seconds since 1970 by the primary's clock."""

    id: str
    created: float
    activates: float
    expires: float
    revoked: float | None
    state: State


@dataclass(frozen=True, slots=True)
class RingHealth:
    """`ok`, and the problems if it is not."""

    ok: bool
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RingKey:
    """A key, and its data in Redis."""

    id: str
    created: int
    activates: int
    expires: int
    wrapped: str
    secret: Secret[bytes] = field(repr=False)
    revoked: int | None = None

    def state(self, now: int, retention: int) -> State:
        if self.revoked is not None:
            return "revoked"
        if now < self.activates:
            return "pending"
        if now < self.expires:
            return "active"
        return "expired" if now < self.expires + retention else "retired"

    def info(self, now: int, retention: int) -> KeyInfo:
        revoked = None if self.revoked is None else self.revoked / 1000
        times = self.created / 1000, self.activates / 1000, self.expires / 1000
        return KeyInfo(self.id, *times, revoked, self.state(now, retention))


@dataclass(frozen=True, slots=True)
class Ring:
    """One reading of the hash. `count` was its counter, b"" where there was none.

    `closed`: the keys that do not open here, and when each ends by its record: at once where it is revoked, never where
    its times cannot be parsed.
    """

    count: bytes = b""
    fields: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    keys: Mapping[str, RingKey] = field(default_factory=dict)
    closed: Mapping[str, int] = field(default_factory=dict)

    @property
    def unreadable(self) -> int:
        """The number of keys that do not open here."""
        return len(self.closed)

    def hidden(self, now: int) -> list[str]:
        """The keys that do not open here and may seal elsewhere, now or later. While there are any, no key is made."""
        return sorted(id for id, expires in self.closed.items() if now < expires)

    @property
    def number(self) -> int:
        """The counter, 0 where there was none."""
        return int(self.count or 0)

    def sealing(self, now: int) -> RingKey | None:
        """The key that seals."""
        active = [key for key in self.keys.values() if key.revoked is None and key.activates <= now < key.expires]
        if len(active) == 1:
            return active[0]
        return max(active, key=lambda key: (key.activates, key.created, key.id), default=None)

    def successor_due(self, now: int, propagation: int) -> int:
        """When a key must be made, so that one seals when `propagation` is over."""
        return max((key.expires for key in self.keys.values() if key.revoked is None), default=now) - propagation

    def needs_successor(self, now: int, propagation: int) -> bool:
        """Whether to make a key: none seals, or none will when `propagation` is over, and none is hidden."""
        needed = self.successor_due(now, propagation) <= now or self.sealing(now) is None
        return needed and not self.hidden(now)

    def retired(self, now: int, retention: int) -> set[bytes]:
        """The fields of keys that open nothing any more. A revoked key is kept as long as others."""
        over = [key.id for key in self.keys.values() if now >= key.expires + retention]
        return {name for id in over for name in (_field("k", id), _field("r", id))}

    def created_before(self, when: float) -> list[str]:
        """The keys that were, and are not revoked; with those that do not open here, but may elsewhere."""
        found = [id for id, key in self.keys.items() if key.created < when and key.revoked is None]
        for id in self.hidden(0):
            times = _VALUE.fullmatch(self.fields[_field("k", id)])
            found += [id] if times is None or int(times[1]) < when else []
        return found

    def lost(self, newer: Ring, now: int, retention: int) -> dict[bytes, bytes]:
        """The fields that a newer reading lacks although no process had a reason to remove them."""
        over = self.retired(now, retention)
        ours = (name for name in self.fields if _KEY.fullmatch(name) or _REVOKED.fullmatch(name))
        return {name: self.fields[name] for name in ours if name not in newer.fields and name not in over}


def read(instance: str, fields: Mapping[bytes, bytes], wrapper: Wrapper) -> Ring:
    """The ring in a hash. Fields of another form are ignored; keys that do not open are listed in `closed`."""
    keys, closed = {}, {}
    for name, value in fields.items():
        if (match := _KEY.fullmatch(name)) is None:
            continue
        id = match[1].decode()
        key = _read_key(instance, id, value, wrapper)
        revoked = fields.get(_field("r", id))
        if key is None:
            times = _VALUE.fullmatch(value)
            closed[id] = 0 if revoked is not None else int(times[3]) if times else _NEVER
        else:
            keys[id] = _with_revocation(key, revoked)
    count = fields.get(b"g", b"")
    return Ring(count if _COUNT.fullmatch(count) else b"", dict(fields), keys, closed)


def _read_key(instance: str, id: str, value: bytes, wrapper: Wrapper) -> RingKey | None:
    match = _VALUE.fullmatch(value)
    if match is None:
        return None
    created, activates, expires = int(match[1]), int(match[2]), int(match[3])
    secret = wrapper.unwrap(match[4].decode(), associated(instance, id, (created, activates, expires)))
    return None if secret is None else RingKey(id, created, activates, expires, match[4].decode(), secret)


def _with_revocation(key: RingKey, revocation: bytes | None) -> RingKey:
    if revocation is None:
        return key
    match = _TIME.fullmatch(revocation)
    # A revocation without a valid time counts too.
    when = int(match[1]) if match else 0
    return RingKey(key.id, key.created, key.activates, key.expires, key.wrapped, key.secret, when)


def associated(instance: str, id: str, times: Iterable[int]) -> bytes:
    """The data that a wrapped key is bound to. So no one with access to Redis alone can prolong it or move it to
    another id.
    """
    return joined(part.encode() for part in (instance, id, *map(str, times)))


def key_field(id: str) -> bytes:
    """The field of a key."""
    return _field("k", id)


def revocation_field(id: str) -> bytes:
    """The field of a key's revocation."""
    return _field("r", id)


def key_value(key: RingKey, wrapped: str) -> bytes:
    """The stored value of a key."""
    return f"{key.created} {key.activates} {key.expires} {wrapped}".encode()


def _field(kind: str, id: str) -> bytes:
    return f"{kind}:{id}".encode()
