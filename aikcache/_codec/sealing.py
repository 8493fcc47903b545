"""The seal of a frame: AES-256-GCM over all but its first four bytes, under a key of its own, and an end by the clock.

Layout: magic, version, flags | 24 random bytes | ciphertext of (end u64, ms since 1970 | the rest of the frame), with
magic, version, flags and key as associated data. Keyed BLAKE2b makes of the random bytes the frame's own key and nonce,
so there is no number of frames after which a nonce may come again and the seal breaks (a plain 96-bit random nonce is
good for 2**32). AES-GCM-SIV would do as well, and takes four to twelve times as long (9 µs for 1 kB, 140 for 20 kB).

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

from aikcache._settings.secret import Keys, Secret
from aikcache.errors import ConfigError, DecodeError

PREFIX_BYTES: Final = 4  # magic, version, flags: what stays readable
SKEW_MS: Final = 60_000
"""By how much the clocks of two hosts may differ."""
_SALT_BYTES: Final = 24
_KEY_BYTES: Final = 32
_END: Final = struct.Struct("<Q")
_BODY_AT: Final = PREFIX_BYTES + _SALT_BYTES
SEAL_BYTES: Final = _SALT_BYTES + _END.size + 16
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

    __slots__ = ("_aes", "_invalid", "_masters", "_wall")

    def __init__(self, secret: Keys, wall: Callable[[], float]) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise ConfigError(
                "secret needs the package cryptography, which is not installed. To seal values: "
                "pip install aikcache[crypto]. To store them unsealed, pass secret=None."
            ) from error
        masters = tuple(map(_master, secret if isinstance(secret, list | tuple) else (secret,)))
        if not masters or not all(len(master.reveal()) for master in masters):
            raise ConfigError("secret must not be empty. To store values unsealed, pass secret=None.")
        self._aes = AESGCM
        self._invalid = (InvalidTag, ValueError)
        self._masters = masters
        self._wall = wall

    def close(self, name: bytes, data: bytes, keep_ms: int) -> bytes:
        """The frame `data` of the key `name`, sealed, to be read for `keep_ms`."""
        prefix, salt = data[:PREFIX_BYTES], os.urandom(_SALT_BYTES)
        end = _END.pack(min(int(self._wall() * 1000) + keep_ms, _END_MAX))
        own = _own_key(self._masters[0], salt)
        cipher = self._aes(own[:_KEY_BYTES])
        return prefix + salt + cipher.encrypt(own[_KEY_BYTES:], end + data[PREFIX_BYTES:], prefix + name)

    def open(self, key: str, name: bytes, data: bytes) -> tuple[bytes, int]:
        """The frame in clear, and the milliseconds that it may still be read. Nothing is parsed before it is verified.

        Raises:
            DecodeError: it was not sealed with one of the secrets, is of another key, or has ended.
        """
        for master in self._masters:
            clear = self._opened(master, name, data)
            if clear is not None:
                left = _END.unpack_from(clear)[0] + SKEW_MS - int(self._wall() * 1000)
                return data[:PREFIX_BYTES] + clear[_END.size :], _checked(key, left)
        raise DecodeError(f"the frame of {key!r} is not sealed with this secret, or has been tampered with.")

    def _opened(self, master: Secret[bytes], name: bytes, data: bytes) -> bytes | None:
        own = _own_key(master, data[PREFIX_BYTES:_BODY_AT])
        try:
            cipher = self._aes(own[:_KEY_BYTES])
            return cipher.decrypt(own[_KEY_BYTES:], data[_BODY_AT:], data[:PREFIX_BYTES] + name)
        except self._invalid:
            return None


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
