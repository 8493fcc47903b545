"""The seal of a frame: AES-256-GCM over all but its first four bytes, under a key of its own, and an end by the clock.

Layout: magic, version, flags | 24 random bytes | ciphertext of (end u64, ms since 1970 | the rest of the frame), with
magic, version, flags and key as associated data. Keyed BLAKE2b makes of the random bytes the frame's own key and nonce,
so there is no number of frames after which a nonce may come again and the seal breaks (a plain 96-bit random nonce is
good for 2**32). AES-GCM-SIV would do as well, and takes four to twelve times as long (9 µs for 1 kB, 140 for 20 kB).

Under a key ring (`RingSeal`) the id of the ring's key stands before the random bytes, in clear; else it is the same.

Whoever writes to Redis can put an older sealed value back in its place. The end bounds that: `SKEW_MS` after it the
value is refused, whatever Redis says of its life. It is the one place where the wall clocks of two hosts meet; clocks
that differ by more make values end early (a miss), or late by the difference. Immutable, and for any thread.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from typing import Any, Final

from aikcache._settings.secret import Keys, KeySource, Secret
from aikcache.errors import ConfigError, DecodeError, KeyRingError, RemoteError, RemoteUnavailableError

PREFIX_BYTES: Final = 4  # magic, version, flags: what stays readable
SKEW_MS: Final = 60_000
"""By how much the clocks of two hosts may differ."""
_SALT_BYTES: Final = 24
_KEY_BYTES: Final = 32
_END: Final = struct.Struct("<Q")
_ID_BYTES: Final = 8
_RING_HEAD: Final = PREFIX_BYTES + _ID_BYTES
SEAL_BYTES: Final = _ID_BYTES + _SALT_BYTES + _END.size + 16
"""At most."""
_END_MAX: Final = 2**64 - 1


class Seal:
    """Closes frames with the first of its secrets, and opens what was closed with any.

    Args:
        secret: one, or several, which are read while they are exchanged for one another. Keys, not passwords: 32 random
            bytes each.
        wall: seconds since 1970.

    Raises:
        ConfigError: a secret is empty, there is none, or the package that seals is not installed.
    """

    __slots__ = ("_cipher", "_masters")

    def __init__(self, secret: Keys, wall: Callable[[], float]) -> None:
        self._cipher = _Cipher(wall)
        masters = tuple(map(_master, secret if isinstance(secret, list | tuple) else (secret,)))
        if not masters or not all(len(master.reveal()) for master in masters):
            raise ConfigError("secret must not be empty. To store values unsealed, pass secret=None.")
        self._masters = masters

    def close(self, name: bytes, data: bytes, redis_ttl_ms: int) -> bytes:
        """The frame `data` of the key `name`, sealed, to be read for `redis_ttl_ms`."""
        prefix = data[:PREFIX_BYTES]
        return prefix + self._cipher.close(self._masters[0], prefix + name, data, redis_ttl_ms)

    def open(self, key: str, name: bytes, data: bytes) -> tuple[bytes, int]:
        """The frame in clear, and the milliseconds that it may still be read. Nothing is parsed before it is verified.

        Raises:
            DecodeError: it was not sealed with one of the secrets, is of another key, or has ended.
        """
        for master in self._masters:
            clear = self._cipher.open(master, data[:PREFIX_BYTES] + name, data, PREFIX_BYTES)
            if clear is not None:
                return data[:PREFIX_BYTES] + clear[_END.size :], self._cipher.left(key, clear)
        raise DecodeError(f"the frame of {key!r} is not sealed with this secret, or has been tampered with.")


class RingSeal:
    """Closes frames with the key of a ring that seals now, and opens those of each key that is known and may open.

    Where the ring cannot be had, nothing is closed (`RemoteError`), and what is found is taken for a miss.
    """

    __slots__ = ("_cipher", "_ring")

    def __init__(self, ring: KeySource, wall: Callable[[], float]) -> None:
        self._cipher = _Cipher(wall)
        self._ring = ring

    def close(self, name: bytes, data: bytes, redis_ttl_ms: int) -> bytes:
        """The frame `data` of the key `name`, sealed, to be read for `redis_ttl_ms`.

        Raises:
            RemoteError: no key of the ring can be had that seals.
        """
        try:
            key = self._ring.value_key()
        except KeyRingError as error:
            raise RemoteUnavailableError(f"the value was not sealed, so it is not stored: {error}") from error
        head = data[:PREFIX_BYTES] + key.id
        return head + self._cipher.close(key.secret, head + name, data, redis_ttl_ms)

    def open(self, key: str, name: bytes, data: bytes) -> tuple[bytes, int]:
        """As `Seal.open`; a key of the ring that is not known here yet opens nothing."""
        head = data[:_RING_HEAD]
        try:
            found = self._ring.value_key_of(head[PREFIX_BYTES:])
        except (RemoteError, KeyRingError) as error:
            raise DecodeError(f"the frame of {key!r} cannot be opened: the key ring cannot be read.") from error
        if found is not None:
            clear = self._cipher.open(found.secret, head + name, data, _RING_HEAD)
            if clear is not None:
                return data[:PREFIX_BYTES] + clear[_END.size :], self._cipher.left(key, clear)
        raise DecodeError(f"the frame of {key!r} is not sealed with a key of this ring, or has been tampered with.")


class _Cipher:
    """AES-256-GCM under a key for each frame."""

    __slots__ = ("_aes", "_invalid", "_wall")

    def __init__(self, wall: Callable[[], float]) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise ConfigError(
                "secret needs the package cryptography, which is not installed. To seal values: "
                "pip install aikcache[crypto]. To store them unsealed, pass secret=None."
            ) from error
        self._aes = AESGCM
        self._invalid = (InvalidTag, ValueError)
        self._wall = wall

    def close(self, master: Secret[bytes], associated: bytes, data: bytes, redis_ttl_ms: int) -> bytes:
        """Random bytes, and what comes in `data` after its prefix, closed."""
        salt = os.urandom(_SALT_BYTES)
        end = _END.pack(min(int(self._wall() * 1000) + redis_ttl_ms, _END_MAX))
        own = _own_key(master, salt)
        return salt + self._aes(own[:_KEY_BYTES]).encrypt(own[_KEY_BYTES:], end + data[PREFIX_BYTES:], associated)

    def open(self, master: Secret[bytes], associated: bytes, data: bytes, at: int) -> bytes | None:
        """What stands from `at` on, beginning with its end by the clock; None: it does not open."""
        own = _own_key(master, data[at : at + _SALT_BYTES])
        try:
            return self._aes(own[:_KEY_BYTES]).decrypt(own[_KEY_BYTES:], data[at + _SALT_BYTES :], associated)
        except self._invalid:
            return None

    def left(self, key: str, clear: bytes) -> int:
        """The milliseconds that it may still be read. Raises `DecodeError`: none."""
        return _checked(key, _END.unpack_from(clear)[0] + SKEW_MS - int(self._wall() * 1000))


def _checked(key: str, left: int) -> int:
    if left > 0:
        return left
    raise DecodeError(
        f"the frame of {key!r} was sealed to expire {(SKEW_MS - left) // 1000} seconds ago: an older value was put "
        f"back, or two hosts' clocks differ by more than {SKEW_MS // 1000} seconds."
    )


def _master(secret: Any) -> Secret[bytes]:
    """Of an empty one it is empty."""
    text = secret.reveal() if isinstance(secret, Secret) else secret
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
    return Secret(hashlib.blake2b(raw, digest_size=32, person=b"aikcache frame").digest() if raw else b"")


def _own_key(master: Secret[bytes], salt: bytes) -> bytes:
    """A frame's key and nonce."""
    return hashlib.blake2b(salt, key=master.reveal(), digest_size=_KEY_BYTES + 12).digest()
