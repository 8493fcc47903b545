"""The bytes stored in Redis: a header, the whole key, the tags, the payload, a checksum.

Layout, little endian: magic "ak", version 2, flags, codec, digest 16s, schema 8s, cost f32, ttl_ms u64,
redis_ttl_ms u64, key length u32, tags length u32 | key | tags, each terminated by 0xFF | payload | crc32 of all
before it. There is no wall clock: a reader derives the age from the entry's remaining life in Redis. `_codec/sealing`
describes the sealed form.

Other programs may write to the place that frames come from. So the configuration, not the frame, says whether frames
are sealed. The seal is verified before anything is parsed, sizes are checked before anything is inflated, and the key
must be the requested one. `unpack` raises `DecodeError` and nothing else. Any number of threads may use a framer.
"""

from __future__ import annotations

import struct
import sys
import threading
import time
from collections.abc import Callable
from itertools import repeat
from typing import Any, Final, NamedTuple
from zlib import crc32

from aikcache._codec.alike import alike
from aikcache._codec.sealing import SEAL_BYTES, RingSeal, Seal
from aikcache._concurrency.outside import BUGS, let_out
from aikcache._settings.limits import MAX_EXTRA
from aikcache._settings.secret import Keys, KeySource
from aikcache.errors import DecodeError, EncodeError

__all__ = ["Frame", "Framer"]

MAGIC: Final = b"ak"
VERSION: Final = 2
ZSTD: Final = 1
SEALED: Final = 2

_HEADER: Final = struct.Struct("<2sBBB16s8sfQQII")
_CRC: Final = struct.Struct("<I")
_CRC_OF_ALL: Final = 0x2144DF1C  # what crc32 gives of anything that is followed by its own crc32
# Never part of UTF-8, with or without surrogates, so it can end every str.
_TAG_END: Final = b"\xff"
_INFINITY: Final = float("inf")
_WORTH_IT: Final = 0.9
# A payload that inflates by more is not compressed, and not inflated, unless it stays small. Otherwise a few forged
# kilobytes in Redis would cost each reader megabytes, and a batch reads hundreds of them.
_INFLATES_AT_MOST: Final = 64
_SMALL: Final = 1 << 12
MAX_TAGS: Final = 4096
# Payloads below _LARGE bytes are compressed at this level, whose literals are not entropy-coded: reading the tables of
# that coding takes three times as long as inflating so small a value (1 to 2 KiB: 3.6 µs at 0.44×, 1.3 µs at 0.57×).
_QUICK: Final = -1
_LARGE: Final = 2048

_new = tuple.__new__  # half the time of Frame(...), on the path of every remote hit
_unpack_header = _HEADER.unpack_from
_HEADER_BYTES: Final = _HEADER.size
_FRAME_MIN: Final = _HEADER.size + _CRC.size


ENDLESS = -1
"""The PTTL of a value without expiry."""


class Frame(NamedTuple):
    """An intact frame with its payload inflated."""

    codec: int
    schema: bytes
    digest: bytes
    cost: float
    """Seconds the load took (as a 32-bit float)."""
    ttl_ms: int
    """How long after storing the value is fresh."""
    redis_ttl_ms: int
    """How long after storing Redis keeps it: its age is at most this minus the remaining PTTL."""
    tags: tuple[str, ...]
    payload: bytes
    sealed_ms: int | None = None
    """The longest PTTL that the seal allows; None where it is not sealed."""

    def put_back(self, pttl: int) -> bool:
        """Whether it is sealed, and Redis would keep it for longer than it was sealed for. Such a value has expired."""
        return self.sealed_ms is not None and not 0 <= pttl <= self.sealed_ms

    def seconds_left(self, pttl: int) -> tuple[float, float]:
        """Seconds that it is fresh from when Redis replied `pttl` (below 0: stale for so long), and that it may be
        kept.

        A value whose expiry was removed in Redis may be kept once more for its whole life.
        """
        if self.put_back(pttl):
            pttl = 0  # expired: neither fresh nor kept as a stale value
        kept = pttl / 1000 if pttl >= 0 else self.redis_ttl_ms / 1000 if pttl == ENDLESS else 0.0
        return kept - (self.redis_ttl_ms - self.ttl_ms) / 1000, kept


class Framer:
    """Packs and unpacks the frames of one cache.

    Args:
        compress_min_bytes: payloads of at least this many bytes are compressed, if that saves a tenth or more.
        compress_level: zstd's, for payloads of 2 KiB or more; smaller ones are compressed for quick reading.
        max_value_bytes: the largest payload, before compression, that is written or read.
        secret: seals every frame, and refuses those that are not. Of several the first seals, and each is read; a key
            ring says by itself which.
        wall: the time in seconds since 1970, by which a sealed frame ends.

    Raises:
        ConfigError: an empty secret, or the package that seals is not installed.
    """

    __slots__ = ("_compress_min", "_kind", "_level", "_local", "_max_data", "_max_value", "_seal")

    def __init__(
        self,
        *,
        compress_min_bytes: int = 1024,
        compress_level: int = 3,
        max_value_bytes: int = 16 * 2**20,
        secret: Keys | KeySource | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        import zstandard  # noqa: F401  # with the first framer, not in a call: see `codec.load_all`

        self._compress_min = compress_min_bytes
        self._level = compress_level
        self._max_value = max_value_bytes
        self._max_data = max_value_bytes + MAX_EXTRA
        self._seal: Seal | RingSeal | None = None
        if secret is not None:
            self._seal = RingSeal(secret, wall) if isinstance(secret, KeySource) else Seal(secret, wall)
        self._kind = 0 if self._seal is None else SEALED
        self._local = threading.local()

    @property
    def seals(self) -> bool:
        """Whether every frame is sealed."""
        return self._seal is not None

    def pack(
        self,
        key: str,
        *,
        codec: int,
        schema: bytes,
        digest: bytes,
        cost: float,
        ttl_ms: int,
        redis_ttl_ms: int,
        tags: tuple[str, ...],
        payload: bytes,
    ) -> bytes:
        """The frame of a value stored under `key`.

        Raises:
            EncodeError: the payload is larger than `max_value_bytes`, or key and tags are beyond 1 MiB.
            RemoteError: frames are sealed by a key ring, and no key of it can be had.
        """
        if len(payload) > self._max_value:  # before it is compressed, as a reader judges it after inflating
            raise EncodeError(
                f"result: {len(payload)} bytes encoded > max_value_bytes {self._max_value}. "
                "Return less, store it in parts, or raise max_value_bytes."
            )
        if len(digest) != 16 or len(schema) != 8:
            raise ValueError("digest must have 16 bytes and schema 8")  # struct would silently pad or cut
        flags = self._kind
        if len(payload) >= self._compress_min and (smaller := self._deflate(payload)) is not None:
            payload, flags = smaller, flags | ZSTD
        if len(tags) > MAX_TAGS:
            raise EncodeError(f"a value has at most {MAX_TAGS} tags, got {len(tags)}. Tag what they have in common.")
        name = _utf8(key)
        tag_bytes = b"".join([_utf8(tag) + _TAG_END for tag in tags])
        if len(name) + len(tag_bytes) > MAX_EXTRA - _FRAME_MIN - SEAL_BYTES:
            raise EncodeError(f"key and tags have {len(name) + len(tag_bytes)} bytes, more than a frame may hold.")
        header = _HEADER.pack(
            MAGIC, VERSION, flags, codec, digest, schema, cost, ttl_ms, redis_ttl_ms, len(name), len(tag_bytes)
        )
        body = b"".join((header, name, tag_bytes, payload))
        data = body + _CRC.pack(crc32(body))
        return data if self._seal is None else self._seal.close(name, data, redis_ttl_ms)

    def unpack(self, key: str, data: bytes, name: bytes | None = None) -> Frame:
        """The frame stored under `key`. `name`: the key's bytes, where they are known already.

        Raises:
            DecodeError: it is cut, damaged, forged, of another key or version, sealed when it should not be or not
                sealed when it should, or too large. Nothing else is raised, whatever the bytes.
        """
        try:
            if name is None:
                name = _utf8(key)
            sealed_ms = None
            if self._seal is not None:
                if len(data) > self._max_data:  # before it is opened, which takes time and memory in proportion
                    raise DecodeError(f"the frame of {key!r} has {len(data)} bytes > {self._max_data}.")
                data, sealed_ms = self._seal.open(key, name, data)
            size = len(data)
            if not _FRAME_MIN <= size <= self._max_data:
                raise DecodeError(f"the frame of {key!r} has {size} bytes, not {_FRAME_MIN} to {self._max_data}.")
            header = _unpack_header(data)
            magic, version, flags, codec, digest, schema, cost, ttl_ms, redis_ttl_ms, key_bytes, tag_bytes = header
            if magic != MAGIC or version != VERSION:
                raise DecodeError(f"what is stored under {key!r} is no frame of wire version {VERSION}.")
            if flags & ~ZSTD != self._kind:  # as configured: a forger could leave the seal out
                raise DecodeError(f"the frame of {key!r} is not of the kind configured (flags {flags}).")
            if crc32(data) != _CRC_OF_ALL:
                raise DecodeError(f"the frame of {key!r} is damaged: its checksum is wrong.")
            tags_at = _HEADER_BYTES + key_bytes
            payload_at = tags_at + tag_bytes
            if data[_HEADER_BYTES:tags_at] != name:  # such as another command's reply, on a connection out of step
                raise DecodeError(f"the frame found under {key!r} is of another key.")
            if payload_at > size - 4 or not 0.0 <= cost < _INFINITY:  # in this form, because NaN fails every comparison
                raise DecodeError(f"the frame of {key!r} has an impossible header.")
            payload = data[payload_at:-4]
            if flags & ZSTD:
                payload = self._inflate(key, payload)
            elif len(payload) > self._max_value:
                raise DecodeError(f"the frame of {key!r} has a payload > max_value_bytes {self._max_value}.")
            tags = _tags(data[tags_at:payload_at]) if tag_bytes else ()
            return _new(Frame, (codec, schema, digest, cost, ttl_ms, redis_ttl_ms, tags, payload, sealed_ms))
        except DecodeError:  # first: it is a ValueError, and so among `_damage()`
            raise
        except _damage() as error:
            let_out(error)
            # Its class alone: the text of an error may quote the bytes.
            raise DecodeError(f"the frame of {key!r} cannot be read: {type(error).__name__}.") from None

    def alike(self, first: bytes, names: list[bytes], frames: list[bytes], *, timed: bool) -> list[bytes | None]:
        """The payloads of frames that begin as the intact frame `first` does, for batches; None: it has to be unpacked.

        It checks what `unpack` checks. Frames have to be unpacked that are sealed, have tags, or live otherwise:
        `timed`: than `first`, else than Redis keeps them.
        """
        if self._seal is not None:
            return [None] * len(frames)
        found = alike(first, names, frames, self._max_value, self._max_data, timed)
        checksums = list(map(crc32, frames))
        if set(checksums) != {_CRC_OF_ALL}:  # seldom, so only then a list is built anew
            found = [payload if crc == _CRC_OF_ALL else None for payload, crc in zip(found, checksums, strict=True)]
        return self._inflate_all(found) if first[3] & ZSTD else found

    def _inflate_all(self, payloads: list[Any]) -> list[bytes | None]:
        """As `_inflate`; None stays None, and stands for what that refuses."""
        zstd, largest = self._zstd(), self._max_value
        try:
            sizes = list(map(zstd.content_size, payloads))
            # So small that no ratio counts. zstd itself refuses what does not inflate to its declared size.
            if min(sizes) >= 0 and max(sizes) <= min(largest, _SMALL):
                return list(map(zstd.inflate, payloads, sizes, repeat(False), repeat(False)))
        except _damage() as error:  # of one of them; or it is None
            let_out(error)
        found: list[bytes | None] = []
        for payload in payloads:
            try:
                found.append(None if payload is None else self._inflate("", payload))
            except _damage() as error:
                let_out(error)
                found.append(None)
        return found

    def _deflate(self, payload: bytes) -> bytes | None:
        """The payload compressed, or None where that is not worth a decompression per hit."""
        zstd = self._zstd()
        smaller = (zstd.compressor if len(payload) >= _LARGE else zstd.quick).compress(payload)
        much = len(payload) > max(_SMALL, len(smaller) * _INFLATES_AT_MOST)  # no reader would inflate it
        return None if much or len(smaller) > len(payload) * _WORTH_IT else smaller

    def _inflate(self, key: str, payload: bytes) -> bytes:
        zstd = self._zstd()
        # The declared size is checked first: max_output_size does not bind a frame that declares one.
        size = zstd.content_size(payload)
        if not 0 <= size <= self._max_value:
            raise DecodeError(f"the frame of {key!r} inflates to {size} bytes > max_value_bytes {self._max_value}.")
        if size > max(_SMALL, len(payload) * _INFLATES_AT_MOST):
            raise DecodeError(f"the frame of {key!r} inflates to {size} bytes, from {len(payload)}: that is too much.")
        inflated = zstd.inflate(payload, size, False, False)  # positional: keywords cost a tenth more
        if len(inflated) != size:
            raise DecodeError(f"the frame of {key!r} inflates to {len(inflated)} bytes, but declares {size}.")
        return inflated

    def _zstd(self) -> _Zstd:
        """This thread's codec: zstandard's contexts are not thread-safe, and making one costs more than using it."""
        zstd: _Zstd | None = getattr(self._local, "zstd", None)
        if zstd is None:
            zstd = self._local.zstd = _Zstd(self._level)
        return zstd


class _Zstd:
    """One thread's codec."""

    __slots__ = ("compressor", "content_size", "inflate", "quick")

    def __init__(self, level: int) -> None:
        import zstandard

        self.compressor = zstandard.ZstdCompressor(level=level, write_content_size=True)
        self.quick = zstandard.ZstdCompressor(level=_QUICK, write_content_size=True)
        self.inflate = zstandard.ZstdDecompressor().decompress
        self.content_size = zstandard.frame_content_size


def _damage() -> tuple[type[Exception], ...]:
    """Exceptions that reading a foreign frame can raise."""
    zstandard = sys.modules.get("zstandard")  # while nothing has imported it, nothing raises its error
    return (struct.error, *BUGS) if zstandard is None else (struct.error, *BUGS, zstandard.ZstdError)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _tags(data: bytes) -> tuple[str, ...]:
    if data.count(_TAG_END) > MAX_TAGS:  # before they are split: a forged frame may have millions
        raise ValueError("too many tags")
    *tags, rest = data.split(_TAG_END)
    if rest:
        raise ValueError("a tag is not terminated")
    return tuple([tag.decode("utf-8", "surrogatepass") for tag in tags])
