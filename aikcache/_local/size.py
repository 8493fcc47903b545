"""How many bytes a value takes in this process: what `local_max_bytes` counts.

A tuple of short strings takes ten times its encoded form, so that says nothing. Here the objects are walked, each
counted once; what many values share (classes, enum members, time zones, small integers) costs nothing, and the keys of
a dict, which are names that many values share or names of its own, count half. Of a long container a hundred are looked
at, evenly spread, and stand for the others; of any value some ten thousand objects at most. No code of the objects'
classes runs. What is counted is within a factor of 1.5 of what is taken, either way, for values whose parts are alike
(tested with tracemalloc).
"""

from __future__ import annotations

import datetime
import enum
import types
from collections.abc import Callable
from functools import lru_cache
from gc import get_referents
from sys import getsizeof
from typing import Any

SAMPLE = 100
"""Parts of a container that are looked at."""
MOST = 10_000
"""Objects of one value that are looked at."""
GUESS = 40
"""Bytes of one that is not."""
_LEAVES = frozenset({str, bytes, int, float, complex, bytearray, range})
_SHARED = (
    type, type(None), bool, enum.Enum, datetime.tzinfo, types.ModuleType, types.FunctionType, types.BuiltinFunctionType,
    types.CodeType, property,
)  # fmt: skip
_HASH: Any = type.__hash__
_HEAP_TYPE, _HAS_GC = 1 << 9, 1 << 14
_GC_HEAD = 16


def held_bytes(*things: object) -> int:
    """The bytes that `things` take together."""
    total = 0.0
    seen: set[int] = set()
    todo: list[tuple[Any, float, int]] = [
        (thing, 1.0, MOST) for thing in things
    ]  # with its weight, and its share of MOST
    while todo:
        thing, weight, share = todo.pop()
        kind = type(thing)
        if type(kind).__hash__ is not _HASH:  # a metaclass's own would run below, or there is none
            total += weight * GUESS
            continue
        if kind in _LEAVES:
            if not (kind is int and -5 <= thing <= 256) and id(thing) not in seen:
                seen.add(id(thing))
                total += weight * getsizeof(thing)
            continue
        own = _own_size(kind)  # type: ignore[arg-type]
        if own is None or id(thing) in seen:
            continue
        seen.add(id(thing))
        total += weight * own(thing)
        if issubclass(kind, dict):
            # The referents of a dict whose keys are all str are its values alone, before Python 3.12.
            groups = [([*dict.keys(thing)], weight / 2), ([*dict.values(thing)], weight)]
            share //= 2
        else:
            groups = [(get_referents(thing), weight)]
            total += weight * 8 * len(groups[0][0]) if kind.__dictoffset__ else 0
        for parts, each in groups:
            if share <= 0:
                total += each * GUESS * len(parts)
            elif parts:
                most = min(SAMPLE, share)
                chosen = parts[:: len(parts) // most] if len(parts) > most else parts
                each_share = (share - len(chosen)) // len(chosen)
                each_weight = each * len(parts) / len(chosen)
                todo.extend((part, each_weight, each_share) for part in chosen)
    return int(total)


@lru_cache(maxsize=512)
def _own_size(kind: type) -> Callable[[Any], int] | None:
    """What an object of this class takes without its parts; None: nothing, for it is shared by many values."""
    if issubclass(kind, _SHARED):
        return None
    builtin: Any = next(base for base in kind.__mro__ if not base.__flags__ & _HEAP_TYPE)
    sizeof = builtin.__sizeof__
    head = _GC_HEAD if kind.__flags__ & _HAS_GC else 0
    return lambda thing: int(sizeof(thing)) + head
