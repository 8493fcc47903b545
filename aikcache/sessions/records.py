"""A session in Redis: its name, its fields, and how they are sealed.

Redis knows a session by the SHA-256 of its id. The key of its fields is an HMAC of the id under a sub-key of the ring:
somebody with the dump and the ring, but without the cookie, opens nothing. A field is bound to its name and to the
epoch, so it opens neither under another name, nor in another session, nor after `clear()`. Nothing here talks to Redis.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aikcache._keyring.ciphers import ID_BYTES, NONCE_BYTES, TAG_BYTES, Cipher, joined

if TYPE_CHECKING:
    from aikcache._keyring.keyring import KeyRing

SESSION_ID_BYTES: Final = 32
MOST_NAME_BYTES: Final = 256
SEALED_EXTRA: Final = ID_BYTES + NONCE_BYTES + TAG_BYTES
_PURPOSE: Final = "session-record"
_TIMES: Final = (b"~c", b"~a", b"~i", b"~e")
_BYTES: Final = {bytes}


def new_id() -> bytes:
    """A new session id, never taken from a client."""
    return secrets.token_bytes(SESSION_ID_BYTES)


def name_of(id: bytes) -> str:
    """The session's name in Redis; its handle."""
    return text64(hashlib.sha256(id).digest())


def text64(data: bytes) -> str:
    """Unpadded base64url."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class FieldCipher:
    """Seals and opens the fields of one session."""

    __slots__ = ("_ciphers", "_id", "_ring")

    def __init__(self, ring: KeyRing, id: bytes) -> None:
        self._ring = ring
        self._id = id
        self._ciphers: dict[bytes, Cipher] = {}

    def close(self, name: str, epoch: int, data: bytes) -> bytes:
        """Seal a field. Raises what `KeyRing.seal` raises."""
        key = self._ring.subkey(_PURPOSE)
        return key.id + self._cipher(key.id, key.reveal()).close(data, _bound(name, epoch))

    def open(self, name: str, epoch: int, closed: bytes) -> bytes | None:
        """Open a field. None: it was not sealed here, under this name and in this epoch. Raises `RemoteError`: no
        ring.
        """
        id = closed[:ID_BYTES]
        cipher = self._ciphers.get(id)
        if cipher is None:
            key = self._ring.opening_subkey(_PURPOSE, id)
            if key is None:
                return None
            cipher = self._cipher(id, key.reveal())
        return cipher.open(closed[ID_BYTES:], _bound(name, epoch))

    def _cipher(self, id: bytes, key: bytes) -> Cipher:
        found = self._ciphers.get(id)
        if found is None:
            found = self._ciphers[id] = Cipher(hmac.digest(key, self._id, "sha256"))
        return found


def _bound(name: str, epoch: int) -> bytes:
    return joined((name.encode(), b"%d" % epoch))


@dataclass(slots=True)
class Record:
    """A session that was read, never changed. `fields`: the sealed data, by key, of `size` bytes with their keys.

    Times are milliseconds, by the primary's clock. `fixed`: the last noted use since the absolute end determines the
    TTL; 0: it does not yet. Not frozen, which would cost each request 1.5 µs.
    """

    created: int
    finish: int
    idle: int
    epoch: int
    token: bytes
    fields: Mapping[str, bytes] = field(repr=False)
    subject: bytes | None = None
    sealed_subject: bytes | None = field(default=None, repr=False)
    label: bytes | None = field(default=None, repr=False)
    permanent: bool = False
    fixed: int = 0
    ttl: int = 0
    size: int = 0

    def unused(self, touch: int) -> int:
        """How long it has not been used, as far as uses were noted."""
        return self.finish - self.ttl - self.fixed if self.fixed else self.idle + touch - self.ttl


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A session that has just ended. `to`: the id under which it continues, sealed under its own key."""

    to: bytes | None = field(default=None, repr=False)


class DamagedError(ValueError):
    """The stored value is no session."""


def parse(flat: list[Any], ttl: object, max_bytes: int, max_keys: int) -> Record | Tombstone | None:
    """The record in a reply; None: there is none. Raises `DamagedError`."""
    if not flat:
        return None
    if len(flat) % 2 or type(ttl) is not int or ttl < 0 or set(map(type, flat)) != _BYTES:
        raise DamagedError("a record without an end, or none at all")
    found = dict(zip(flat[::2], flat[1::2], strict=True))
    if b"~x" in found:
        return Tombstone(found.get(b"~to"))
    if found.get(b"~v") != b"1":
        raise DamagedError("a record of another form")
    fields: dict[str, bytes] = {}
    size = 0
    try:
        for name, value in found.items():
            if name[:1] == b"f":
                if len(name) > MOST_NAME_BYTES + 1 or len(value) <= SEALED_EXTRA:
                    raise DamagedError("a field of another form")
                size += len(name) - 1 + len(value)
                fields[name[1:].decode()] = value
    except UnicodeDecodeError:
        raise DamagedError("a field whose name is no text") from None
    if size > max_bytes or len(fields) > max_keys:
        raise DamagedError("a record over its limits")
    created, finish, idle, epoch = map(_number, map(found.get, _TIMES))
    fixed = _number(found[b"~f"]) if b"~f" in found else 0
    return Record(
        created, finish, idle, epoch, found.get(b"~w", b""), fields, found.get(b"~s"), found.get(b"~u"),
        found.get(b"~l"), found.get(b"~p") == b"1", fixed, ttl, size,
    )  # fmt: skip


def _number(data: bytes | None) -> int:
    if data is None or not data.isdigit() or len(data) > 15:
        raise DamagedError("a record whose times are no numbers")
    return int(data)


def sizes_of(stored: Mapping[str, bytes], put: Mapping[str, bytes]) -> dict[str, int]:
    """The bytes of each key."""
    sizes = {name: len(name.encode()) + len(closed) for name, closed in stored.items()}
    sizes.update({name: len(name.encode()) + len(data) + SEALED_EXTRA for name, data in put.items()})
    return sizes
