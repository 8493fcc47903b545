"""Seals a frame: AES-256-GCM over all but its first four bytes, under its own key, with an expiry by the wall clock.

Layout: magic, version, flags | 24 random bytes | ciphertext of (expiry u64, ms since 1970 | the rest of the frame),
with magic, version, flags and key as associated data. Keyed BLAKE2b derives the frame's own key and nonce from the
random bytes, so no number of frames makes a nonce repeat and breaks the seal (a plain 96-bit random nonce is good for
2**32). AES-GCM-SIV would do as well, and takes four to twelve times as long (9 µs for 1 kB, 140 for 20 kB).

Under a key ring (`RingSeal`) the id of the ring's key precedes the random bytes, in clear; the rest is the same.

Somebody who can write to Redis can put an older sealed value back in its place. The expiry bounds that: `SKEW_MS` after
it the value is refused, whatever its life in Redis. This is the one place where the wall clocks of two hosts meet. If
they differ by more, values expire early (a miss), or late by the difference. Immutable, and for any thread.
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
"""The accepted difference between the clocks of two hosts."""
_SALT_BYTES: Final = 24
_KEY_BYTES: Final = 32
_EXPIRY: Final = struct.Struct("<Q")
_ID_BYTES: Final = 8
_RING_HEAD: Final = PREFIX_BYTES + _ID_BYTES
SEAL_BYTES: Final = _ID_BYTES + _SALT_BYTES + _EXPIRY.size + 16
"""The most bytes that a seal adds."""
_EXPIRY_MAX: Final = 2**64 - 1


class Seal:
    """Seals frames with the first of its secrets, and opens those that were sealed with any.

    Args:
        secret: one, or several, all of which are accepted while they are being replaced. Keys, not passwords: 32 random
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
        """The frame `data` of the key `name`, sealed, valid for `redis_ttl_ms`."""
        prefix = data[:PREFIX_BYTES]
        return prefix + self._cipher.close(self._masters[0], prefix + name, data, redis_ttl_ms)

    def open(self, key: str, name: bytes, data: bytes) -> tuple[bytes, int]:
        """The frame in clear, and the milliseconds that it stays valid. Nothing is parsed before it is verified.

        Raises:
            DecodeError: it was not sealed with one of the secrets, is of another key, or has expired.
        """
        for master in self._masters:
            clear = self._cipher.open(master, data[:PREFIX_BYTES] + name, data, PREFIX_BYTES)
            if clear is not None:
                return data[:PREFIX_BYTES] + clear[_EXPIRY.size :], self._cipher.left(key, clear)
        raise DecodeError(f"the frame of {key!r} is not sealed with this secret, or has been tampered with.")


class RingSeal:
    """Seals frames with the ring's current key, and opens those of every key that is known and may open.

    Where the ring cannot be read, nothing is sealed (`RemoteError`), and a stored value is a miss.
    """

    __slots__ = ("_cipher", "_ring")

    def __init__(self, ring: KeySource, wall: Callable[[], float]) -> None:
        self._cipher = _Cipher(wall)
        self._ring = ring

    def close(self, name: bytes, data: bytes, redis_ttl_ms: int) -> bytes:
        """The frame `data` of the key `name`, sealed, valid for `redis_ttl_ms`.

        Raises:
            RemoteError: the ring has no usable key for sealing.
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
                return data[:PREFIX_BYTES] + clear[_EXPIRY.size :], self._cipher.left(key, clear)
        raise DecodeError(f"the frame of {key!r} is not sealed with a key of this ring, or has been tampered with.")


class _Cipher:
    """AES-256-GCM with a key for each frame."""

    __slots__ = ("_aes", "_invalid", "_wall")

    def __init__(self, wall: Callable[[], float]) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise ConfigError(
                "secret needs the package cryptography, which is not installed. To seal values: "
                "pip install 'aikcache[crypto]'. To store them unsealed, pass secret=None."
            ) from error
        self._aes = AESGCM
        self._invalid = (InvalidTag, ValueError)
        self._wall = wall

    def close(self, master: Secret[bytes], associated: bytes, data: bytes, redis_ttl_ms: int) -> bytes:
        """Random bytes, followed by the ciphertext of `data` after its prefix."""
        salt = os.urandom(_SALT_BYTES)
        expiry = _EXPIRY.pack(min(int(self._wall() * 1000) + redis_ttl_ms, _EXPIRY_MAX))
        own = _own_key(master, salt)
        return salt + self._aes(own[:_KEY_BYTES]).encrypt(own[_KEY_BYTES:], expiry + data[PREFIX_BYTES:], associated)

    def open(self, master: Secret[bytes], associated: bytes, data: bytes, at: int) -> bytes | None:
        """The clear text of what begins at `at`, with its expiry first; None: it does not open."""
        own = _own_key(master, data[at : at + _SALT_BYTES])
        try:
            return self._aes(own[:_KEY_BYTES]).decrypt(own[_KEY_BYTES:], data[at + _SALT_BYTES :], associated)
        except self._invalid:
            return None

    def left(self, key: str, clear: bytes) -> int:
        """The milliseconds that it stays valid. Raises `DecodeError` if there are none."""
        return _checked(key, _EXPIRY.unpack_from(clear)[0] + SKEW_MS - int(self._wall() * 1000))


def _checked(key: str, left: int) -> int:
    if left > 0:
        return left
    raise DecodeError(
        f"the frame of {key!r} was sealed to expire {(SKEW_MS - left) // 1000} seconds ago: an older value was put "
        f"back, or two hosts' clocks differ by more than {SKEW_MS // 1000} seconds."
    )


def _master(secret: Any) -> Secret[bytes]:
    """A key derived from a secret; empty for an empty one."""
    text = secret.reveal() if isinstance(secret, Secret) else secret
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
    return Secret(hashlib.blake2b(raw, digest_size=32, person=b"aikcache frame").digest() if raw else b"")


def _own_key(master: Secret[bytes], salt: bytes) -> bytes:
    """A frame's own key and nonce."""
    return hashlib.blake2b(salt, key=master.reveal(), digest_size=_KEY_BYTES + 12).digest()
