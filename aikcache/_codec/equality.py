"""Exact deep equality, and deep immutability: the two questions asked of a value that was encoded.

`same` is the proof behind "a hit equals a miss": `==` calls 1, 1.0 and True equal, 0.0 and -0.0, a datetime in Rome and
one in UTC, and a dataclass and whatever its `__eq__` likes; `same` tells them all apart, at every node. Two nan are the
same. Containers of atoms are compared at C speed. Types that neither built-ins nor the class table cover are not the
same, with one exception: instances of registered classes are, by contract of `register_type`.
Both functions are pure; on cyclic or very deep values they raise RecursionError, which the codec catches.
"""

from __future__ import annotations

import datetime as dt
import decimal
import math
import uuid
import zoneinfo
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from aikcache._codec.registry import by_type
from aikcache._records import RecordType

__all__ = ["immutable", "same"]

_NO_SHAPES: Final[Mapping[type, RecordType]] = {}

# Where type and == say it all.
_PLAIN_EQUAL: Final = frozenset({type(None), bool, int, str, bytes, dt.date, dt.timedelta})
_ATOMS: Final = _PLAIN_EQUAL | {float, dt.datetime, dt.time, dt.timezone, zoneinfo.ZoneInfo, decimal.Decimal, uuid.UUID}

_MISSING: Final = object()


def same(a: Any, b: Any, shapes: Mapping[type, RecordType] = _NO_SHAPES) -> bool:
    """Whether nobody could tell the two apart, but by identity."""
    kind = type(a)
    if kind is not type(b):
        return False
    if kind in _PLAIN_EQUAL:
        return bool(a == b)
    if kind in by_type:
        return True
    if (compare := _COMPARE.get(kind)) is not None:
        return compare(a, b, shapes)
    shape = shapes.get(kind)
    if shape is None or shape.is_enum:
        # Members of Enums, and singletons such as msgspec.UNSET.
        return a is b
    if shape.kind == "namedtuple" and not _same_items(a, b, shapes):
        return False
    return _same_dict(shape.state(a), shape.state(b), shapes)


def immutable(value: Any, shapes: Mapping[type, RecordType] = _NO_SHAPES) -> bool:
    """Whether one object can be handed to everybody: nothing in it can be changed, however deep."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if kind in by_type:
        return False
    if kind is tuple or kind is frozenset:
        return set(map(type, value)) <= _ATOMS or all(immutable(item, shapes) for item in value)
    shape = shapes.get(kind)
    if shape is None or not shape.frozen:
        return False
    if shape.is_enum:
        return True
    if shape.kind == "namedtuple" and not all(immutable(item, shapes) for item in value):
        return False
    return all(immutable(item, shapes) for item in shape.state(value).values())


def _same_items(a: Collection[object], b: Collection[object], shapes: Mapping[type, RecordType]) -> bool:
    if len(a) != len(b):
        return False
    if set(map(type, a)) <= _PLAIN_EQUAL:
        return list(map(type, a)) == list(map(type, b)) and a == b
    return all(same(x, y, shapes) for x, y in zip(a, b, strict=True))


def _same_dict(a: dict[Any, object], b: dict[Any, object], shapes: Mapping[type, RecordType]) -> bool:
    # Order counts: callers iterate.
    return _same_items(list(a), list(b), shapes) and _same_items(list(a.values()), list(b.values()), shapes)


def _same_set(a: Collection[object], b: Collection[object], shapes: Mapping[type, RecordType]) -> bool:
    if len(a) != len(b):
        return False
    twins = {item: item for item in b}
    odd = []
    for item in a:
        twin = twins.get(item, _MISSING)
        if twin is _MISSING or not same(item, twin, shapes):
            odd.append(item)
        else:
            del twins[item]
    # nan, and records compared by identity, do not find their twin by ==.
    rest = list(twins.values())
    for item in odd:
        match = next((index for index, twin in enumerate(rest) if same(item, twin, shapes)), None)
        if match is None:
            return False
        del rest[match]
    return True


def _same_float(a: float, b: float, _: object) -> bool:
    return (a == b and math.copysign(1.0, a) == math.copysign(1.0, b)) or (math.isnan(a) and math.isnan(b))


def _same_clock(a: Any, b: Any, _: object) -> bool:
    """datetime and time: the reading, the fold, and the zone by type and name."""
    zone, other = a.tzinfo, b.tzinfo
    return bool(a.replace(tzinfo=None) == b.replace(tzinfo=None)) and a.fold == b.fold and _same_zone(zone, other)


def _same_zone(a: object, b: object) -> bool:
    if a is b:
        return True
    if type(a) is dt.timezone and type(b) is dt.timezone:
        return _same_timezone(a, b, None)
    return type(a) is zoneinfo.ZoneInfo and type(b) is zoneinfo.ZoneInfo and _same_zoneinfo(a, b, None)


def _same_timezone(a: Any, b: Any, _: object) -> bool:
    return bool(a.__getinitargs__() == b.__getinitargs__())


def _same_zoneinfo(a: zoneinfo.ZoneInfo, b: zoneinfo.ZoneInfo, _: object) -> bool:
    # One read from a file has no key, whatever the annotation of `key` says.
    return a is b or (type(a.key) is str and a.key == b.key)


def _same_decimal(a: decimal.Decimal, b: decimal.Decimal, _: object) -> bool:
    return a.as_tuple() == b.as_tuple()


def _same_uuid(a: uuid.UUID, b: uuid.UUID, _: object) -> bool:
    return a.int == b.int and a.is_safe is b.is_safe


_COMPARE: Final[dict[type, Callable[[Any, Any, Mapping[type, RecordType]], bool]]] = {
    float: _same_float,
    list: _same_items,
    tuple: _same_items,
    dict: _same_dict,
    set: _same_set,
    frozenset: _same_set,
    dt.datetime: _same_clock,
    dt.time: _same_clock,
    dt.timezone: _same_timezone,
    zoneinfo.ZoneInfo: _same_zoneinfo,
    decimal.Decimal: _same_decimal,
    uuid.UUID: _same_uuid,
}
