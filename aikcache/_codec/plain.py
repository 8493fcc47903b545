"""Whether JSON keeps a value exactly. `_fast.c` has the same in C. Pure.

orjson silently turns tuples into lists, UUIDs and Enums into their values and nan into null, so every type is checked
first. It refuses too long ints, lone surrogates and too deep nesting itself.
"""

from __future__ import annotations

from itertools import chain
from math import isfinite
from typing import Any, Final

from aikcache._compiled import fast

__all__ = ["ATOMS", "DEPTH", "MAX_ITEMS", "PLAIN", "is_plain", "is_plain_in_python"]

ATOMS: Final = frozenset({str, int, float, bool, type(None)})
PLAIN: Final[frozenset[Any]] = ATOMS | {list, dict}
_STR: Final = frozenset({str})
DEPTH: Final = 255
"""Containers in one another: one more than orjson takes."""
MAX_ITEMS: Final = 1 << 23
"""More than fit 16 MiB of JSON. It stops structures that share their parts, and are exponentially large as a tree."""


def is_plain(value: Any) -> int:
    """1: orjson keeps the value exactly, or refuses it; 0: perhaps not; -1: it has more than `MAX_ITEMS` items."""
    answer: int = _is_plain(value, DEPTH, MAX_ITEMS)
    return answer


def is_plain_in_python(value: Any, depth: int, left: int) -> int:
    """Level by level, each in a few calls at C speed."""
    kind = type(value)
    if kind in ATOMS:
        return kind is not float or isfinite(value)
    lists, dicts = ([value], []) if kind is list else ([], [value])
    if kind is not list and kind is not dict:
        return 0
    for _ in range(depth):
        if dicts and not set(map(type, chain.from_iterable(dicts))) <= _STR:
            return 0
        items = list(chain.from_iterable(lists))
        for mapping in dicts:
            items += mapping.values()
        left -= len(items)
        if left < 0:
            return -1
        kinds = set(map(type, items))
        if not kinds <= PLAIN or (float in kinds and not _all_finite(items)):
            return 0
        if list not in kinds and dict not in kinds:
            return 1
        lists = [item for item in items if type(item) is list] if list in kinds else []
        dicts = [item for item in items if type(item) is dict] if dict in kinds else []
    return 0


def _all_finite(items: list[Any]) -> bool:
    floats = [item for item in items if type(item) is float]
    # If their sum is not finite, one of them is not, or the sum overflowed: then each is checked.
    return isfinite(sum(floats)) or all(map(isfinite, floats))


_is_plain: Any = is_plain_in_python if fast is None else fast.is_plain
