"""The cryptography of the key ring: sealing under a key's sub-keys, and wrapping keys under master keys.

It uses AES-256-GCM and HKDF-SHA256 of the package `cryptography`. A nonce is 12 random bytes, which is good for 2**32
seals of one purpose under one key. Associated data is length-prefixed, so two different lists of parts never look the
same. Everything here is immutable, and for any thread; nothing here shows a key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import struct
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from aikcache._settings.secret import Secret
from aikcache.errors import ConfigError

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError as error:
    raise ConfigError(
        "aikcache.sessions needs the package cryptography, which is not installed: pip install 'aikcache[sessions]'."
    ) from error

ID_BYTES: Final = 8
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
_LENGTH: Final = struct.Struct(">I").pack
WRAPPED: Final = "aikw1"
PLAIN: Final = "aikp1"
MasterKeys: TypeAlias = "str | bytes | list[str | bytes] | Callable[[], str | bytes | list[str | bytes]]"
"""32 bytes as base64url, or several: the first wraps, all of them unwrap. Or a function that returns them."""
MAKE_ONE: Final = (
    "Make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))', and keep it outside of Redis, "
    "the same in every process."
)


def joined(parts: Iterable[bytes]) -> bytes:
    """The parts as one, each preceded by its length."""
    return b"".join([_LENGTH(len(part)) + part for part in parts])


def derive(key: bytes, info: str) -> bytes:
    """HKDF-SHA256 of a key, for one use."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info.encode()).derive(key)


class Cipher:
    """AES-256-GCM under one key: nonce, ciphertext and tag in one."""

    __slots__ = ("_aes",)

    def __init__(self, key: bytes) -> None:
        self._aes = AESGCM(key)

    def close(self, data: bytes, associated: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aes.encrypt(nonce, data, associated)

    def open(self, closed: bytes, associated: bytes) -> bytes | None:
        """The clear text; None: it was not closed under this key with this associated data."""
        if len(closed) < NONCE_BYTES + TAG_BYTES:
            return None
        try:
            return self._aes.decrypt(closed[:NONCE_BYTES], closed[NONCE_BYTES:], associated)
        except InvalidTag:
            return None


class Wrapper:
    """Wraps the ring's keys for Redis under the first master key, and unwraps keys that any of them wrapped."""

    __slots__ = ("_ciphers", "_marks", "_plain", "first")

    def __init__(self, masters: list[Secret[bytes]], *, allow_plaintext: bool) -> None:
        self._marks = [derive(master.reveal(), f"{_WRAP}/key-id") for master in masters]
        self._ciphers = {_master_id(master): Cipher(derive(master.reveal(), f"{_WRAP}/v1")) for master in masters}
        self._plain = allow_plaintext
        self.first = _master_id(masters[0]) if masters else ""

    def new_id(self) -> str:
        """A key's id. Half of it is a mark by the first master key: see `made`."""
        chosen = os.urandom(_MARK_BYTES)
        mark = _mark(self._marks[0], chosen) if self._marks else os.urandom(_MARK_BYTES)
        return (chosen + mark).hex()

    def made(self, id: str) -> bool:
        """Whether a key's id bears the mark of one of the master keys, without which no one can make such an id."""
        chosen, mark = bytes.fromhex(id)[:_MARK_BYTES], bytes.fromhex(id)[_MARK_BYTES:]
        return any(hmac.compare_digest(_mark(key, chosen), mark) for key in self._marks)

    def wrap(self, key: bytes, associated: bytes) -> str:
        if not self.first:
            return f"{PLAIN}..{_text(key)}"
        return f"{WRAPPED}.{self.first}.{_text(self._ciphers[self.first].close(key, associated))}"

    def unwrap(self, wrapped: str, associated: bytes) -> Secret[bytes] | None:
        """The key; None: it is wrapped under none of the master keys, is another key's, or is plain where that is
        not allowed.
        """
        form, _, rest = wrapped.partition(".")
        master, _, text = rest.partition(".")
        closed = _bytes(text)
        if closed is None:
            return None
        if form == PLAIN and self._plain:
            return Secret(closed) if len(closed) == KEY_BYTES else None
        cipher = self._ciphers.get(master)
        key = cipher.open(closed, associated) if form == WRAPPED and cipher is not None else None
        return Secret(key) if key is not None and len(key) == KEY_BYTES else None

    def is_current(self, wrapped: str) -> bool:
        """Whether the first master key wrapped it."""
        return wrapped.startswith(f"{WRAPPED}.{self.first}." if self.first else f"{PLAIN}.")


def wrapper(keys: MasterKeys | None, *, allow_plaintext: bool) -> Wrapper:
    """A `Wrapper`. Raises `ConfigError`: there is no master key, or one that is not 32 bytes as base64url."""
    given = keys() if callable(keys) else keys
    many = given if isinstance(given, (list, tuple)) else [given or ""]
    masters = [_master(text) for one in many for text in _split(one)]
    if not masters and not allow_plaintext:
        raise ConfigError(
            "the key ring needs a master key, which wraps its keys in Redis: set AIKCACHE_MASTER_KEY or pass "
            f"master_key=. {MAKE_ONE} For an experiment without one, pass allow_plaintext=True."
        )
    return Wrapper(masters, allow_plaintext=allow_plaintext)


_WRAP: Final = "aikcache/keyring/wrap"
_MARK_BYTES: Final = 4


def _mark(key: bytes, chosen: bytes) -> bytes:
    return hmac.digest(key, chosen, "sha256")[:_MARK_BYTES]


def _split(given: object) -> list[str]:
    if isinstance(given, bytes):
        given = given.decode("ascii", "replace")
    if not isinstance(given, str):
        raise ConfigError(f"a master key must be text (base64url) or bytes of it, got {type(given).__name__}.")
    return [part.strip() for part in given.split(",") if part.strip()]


def _master(text: str) -> Secret[bytes]:
    raw = _bytes(text.rstrip("="))
    if raw is None or len(raw) != KEY_BYTES:
        what = "no base64url" if raw is None else f"{len(raw)} bytes"
        raise ConfigError(f"a master key must be {KEY_BYTES} bytes as base64url, got {what}. {MAKE_ONE}")
    return Secret(raw)


def _master_id(master: Secret[bytes]) -> str:
    return hashlib.sha256(derive(master.reveal(), f"{_WRAP}/id")).hexdigest()[:8]


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes | None:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
