"""The frames of one batch: mostly they begin alike, so one of them is unpacked, and the others are compared with it.

Offsets are those of the layout in `_codec/frame`. `_fast.c` has the same in C. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from aikcache._compiled import fast

__all__ = ["alike", "alike_in_python"]

_HEADER_BYTES: Final = 57
_HEAD: Final = 29
"""It says how to decode a payload, and by which stamps it is fresh. The cost follows, a float."""
_LIFE: Final = slice(33, 49)
_TTL: Final = slice(33, 41)
_REDIS_TTL: Final = slice(41, 49)
_SIZES: Final = struct.Struct("<II")
_SIZES_AT: Final = 49
_NOT_FINITE: Final = 0x7F
"""The last byte of a float from 2**127 on. From 0x80 on it is negative."""
_CRC_BYTES: Final = 4


def alike_in_python(
    first: bytes, names: Sequence[bytes], frames: Sequence[bytes], largest: int, longest: int, timed: bool
) -> list[bytes | None]:
    """The payloads of frames that begin as the intact frame `first` does; None: it has to be unpacked.

    All is checked that `unpack` checks, but the checksum. Left to it are frames that have tags, and those that live
    otherwise: `timed`: than `first`, else than Redis keeps them.

    Args:
        names: of each frame the key.
        largest: the bytes of a payload, as it is stored; `longest`: of a frame.
    """
    head, life = first[:_HEAD], first[_LIFE]
    found: list[bytes | None] = []
    for name, data in zip(names, frames, strict=True):
        start = _HEADER_BYTES + len(name)
        if (
            start + _CRC_BYTES <= len(data) <= longest
            and len(data) - start - _CRC_BYTES <= largest
            and data.startswith(head)
            and data[_LIFE.start - 1] < _NOT_FINITE
            and data.startswith(_SIZES.pack(len(name), 0) + name, _SIZES_AT)
            and (data[_LIFE] == life or (not timed and data[_TTL] == data[_REDIS_TTL]))
        ):
            found.append(data[start:-_CRC_BYTES])
        else:
            found.append(None)
    return found


alike: Callable[[bytes, Sequence[bytes], Sequence[bytes], int, int, bool], list[bytes | None]] = (
    alike_in_python if fast is None else fast.alike
)
