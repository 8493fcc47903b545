"""Exact deep equality, and deep immutability: the two questions about a value that was encoded.

`exactly_equal` is the proof behind "a hit equals a miss". For `==`, 1, 1.0 and True are equal, 0.0 and -0.0, a datetime
in Rome and one in UTC, and a dataclass and whatever its `__eq__` accepts; `exactly_equal` distinguishes them all, at
every node. Two nan are equal. Containers of atoms are compared at C speed. Values of types that neither built-ins nor
the class table cover are not equal, with one exception: instances of registered classes, by contract of
`register_type`. Both functions are pure; on cyclic or very deep values they raise RecursionError, which the codec
catches.
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
from aikcache._zones import is_named

__all__ = ["exactly_equal", "immutable"]

_NO_TYPES: Final[Mapping[type, RecordType]] = {}

# Where type and == say it all.
_PLAIN_EQUAL: Final = frozenset({type(None), bool, int, str, bytes, dt.date, dt.timedelta})
ATOMS: Final = _PLAIN_EQUAL | {float, dt.datetime, dt.time, dt.timezone, zoneinfo.ZoneInfo, decimal.Decimal, uuid.UUID}

_MISSING: Final = object()
_TRIED: Final = 64
"""Members of a set that are compared in turn, as their hashes are the same and they are not equal."""


def exactly_equal(a: Any, b: Any, types: Mapping[type, RecordType] = _NO_TYPES) -> bool:
    """Whether the two cannot be told apart, except by identity."""
    kind = type(a)
    if kind is not type(b):
        return False
    if kind in _PLAIN_EQUAL:
        return bool(a == b)
    if kind in by_type:
        return True
    if (compare := _COMPARE.get(kind)) is not None:
        return compare(a, b, types)
    record_type = types.get(kind)
    if record_type is None or record_type.kind == "enum":
        # Members of Enums, and singletons such as msgspec.UNSET.
        return a is b
    if record_type.kind == "flag":  # CPython 3.11.2 makes those with unknown bits anew each time
        return bool(a._value_ == b._value_)
    if record_type.kind == "namedtuple" and not _equal_items(_own_items(a), _own_items(b), types):
        return False
    return _equal_dict(record_type.state(a), record_type.state(b), types)


def immutable(value: Any, types: Mapping[type, RecordType] = _NO_TYPES) -> bool:
    """Whether all callers may get one object: nothing in it can be changed, at any depth."""
    kind = type(value)
    if kind in ATOMS:
        return True
    if kind in by_type:
        return False
    if kind is tuple or kind is frozenset:
        return set(map(type, value)) <= ATOMS or all(immutable(item, types) for item in value)
    record_type = types.get(kind)
    if record_type is None or not record_type.frozen:
        return False
    if record_type.is_enum:
        return True
    if record_type.kind == "namedtuple" and not all(immutable(item, types) for item in _own_items(value)):
        return False
    return all(immutable(item, types) for item in record_type.state(value).values())


def _own_items(value: Any) -> tuple[object, ...]:
    """What a tuple of any class holds, whatever its `__iter__`, `__len__` or `__eq__` say."""
    return tuple(tuple.__iter__(value))


def _equal_items(a: Collection[object], b: Collection[object], types: Mapping[type, RecordType]) -> bool:
    if len(a) != len(b):
        return False
    if set(map(type, a)) <= _PLAIN_EQUAL:
        return list(map(type, a)) == list(map(type, b)) and a == b
    return all(exactly_equal(x, y, types) for x, y in zip(a, b, strict=True))


def _equal_dict(a: dict[Any, object], b: dict[Any, object], types: Mapping[type, RecordType]) -> bool:
    # Order counts: callers iterate.
    return _equal_items(list(a), list(b), types) and _equal_items(list(a.values()), list(b.values()), types)


def _equal_set(a: Collection[object], b: Collection[object], types: Mapping[type, RecordType]) -> bool:
    if len(a) != len(b):
        return False
    candidates = {item: item for item in b}
    unmatched = []
    for item in a:
        other = candidates.get(item, _MISSING)
        if other is _MISSING or not exactly_equal(item, other, types):
            unmatched.append(item)
        else:
            del candidates[item]
    # nan, and records compared by identity, find no counterpart by ==.
    rest: dict[int, list[Any]] = {}
    for other in candidates.values() if unmatched else ():
        rest.setdefault(_hash(other, types), []).append(other)
    for item in unmatched:
        others = rest.get(_hash(item, types), [])
        match = next((index for index, other in enumerate(others[:_TRIED]) if exactly_equal(item, other, types)), None)
        if match is None:
            return False
        del others[match]
    return True


def _hash(value: Any, types: Mapping[type, RecordType]) -> int:
    """The same for all that is exactly equal. Else a large set of records without `__eq__` costs quadratic time."""
    kind = type(value)
    if kind in _PLAIN_EQUAL or kind is uuid.UUID:
        return hash((kind, value))
    if kind is dt.datetime or kind is dt.time:
        return hash((value.replace(tzinfo=None), value.fold, _hash(value.tzinfo, types)))
    if kind in ATOMS:  # numbers and zones; two nan have two hashes
        return hash((kind, str(value)))
    if kind in by_type:
        return hash(kind)
    if kind is dict:
        return hash((kind, *(_hash(part, types) for pair in value.items() for part in pair)))
    if kind is set or kind is frozenset:
        return hash((kind, sum(_hash(item, types) for item in value)))
    if kind is list or kind is tuple:
        return hash((kind, *(_hash(item, types) for item in value)))
    record_type = types.get(kind)
    if record_type is None or record_type.kind == "enum":
        return id(value)
    if record_type.kind == "flag":
        return hash((kind, value._value_))
    items = _own_items(value) if record_type.kind == "namedtuple" else ()
    return hash((kind, _hash(items, types), _hash(record_type.state(value), types)))


def _equal_float(a: float, b: float, _: object) -> bool:
    return (a == b and math.copysign(1.0, a) == math.copysign(1.0, b)) or (math.isnan(a) and math.isnan(b))


def _equal_clock(a: Any, b: Any, _: object) -> bool:
    """datetime and time: the reading, the fold, and the zone by type and name."""
    zone, other = a.tzinfo, b.tzinfo
    return bool(a.replace(tzinfo=None) == b.replace(tzinfo=None)) and a.fold == b.fold and _equal_zone(zone, other)


def _equal_zone(a: object, b: object) -> bool:
    if a is b:
        return True
    if type(a) is dt.timezone and type(b) is dt.timezone:
        return _equal_timezone(a, b, None)
    return type(a) is zoneinfo.ZoneInfo and type(b) is zoneinfo.ZoneInfo and _equal_zoneinfo(a, b, None)


def _equal_timezone(a: Any, b: Any, _: object) -> bool:
    return bool(a.__getinitargs__() == b.__getinitargs__())


def _equal_zoneinfo(a: zoneinfo.ZoneInfo, b: zoneinfo.ZoneInfo, _: object) -> bool:
    return a is b or (a.key == b.key and is_named(a) and is_named(b))


def _equal_decimal(a: decimal.Decimal, b: decimal.Decimal, _: object) -> bool:
    return a.as_tuple() == b.as_tuple()


def _equal_uuid(a: uuid.UUID, b: uuid.UUID, _: object) -> bool:
    return a.int == b.int and a.is_safe is b.is_safe


_COMPARE: Final[dict[type, Callable[[Any, Any, Mapping[type, RecordType]], bool]]] = {
    float: _equal_float,
    list: _equal_items,
    tuple: _equal_items,
    dict: _equal_dict,
    set: _equal_set,
    frozenset: _equal_set,
    dt.datetime: _equal_clock,
    dt.time: _equal_clock,
    dt.timezone: _equal_timezone,
    zoneinfo.ZoneInfo: _equal_zoneinfo,
    decimal.Decimal: _equal_decimal,
    uuid.UUID: _equal_uuid,
}
