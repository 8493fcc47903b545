"""Writes the closed, tagged form over JSON: built-in types that JSON lacks, registered classes, records of one table.

Plain JSON is written as it is. Everything else is an object with one key that begins with "!", for example
`{"!t": [1, 2]}` for a tuple. A real dict with such a key, or with keys that are no str, is written as pairs under "!d".
So the form is readable, and nothing in it is a class path or code. Types are matched exactly: a subclass is another
type. Pure functions, for any thread. Depth and size are bounded, so a cycle is an `EncodeError` like anything not
covered.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import math
import sys
import uuid
import zoneinfo
from collections.abc import Callable, Iterable
from typing import Any, Final

from aikcache._codec.class_table import Table
from aikcache._codec.registry import by_type
from aikcache._concurrency.outside import let_out
from aikcache._records import RecordType
from aikcache._zones import is_named
from aikcache.errors import EncodeError

__all__ = ["cannot_store", "write"]

# Each level takes two levels of JSON, which stays under orjson's limit of 254.
MAX_DEPTH: Final = 120
# Each takes some 10 bytes, so more would exceed the default max_value_bytes. This stops structures that share their
# parts, and are exponentially large as a tree.
MAX_CONTAINERS: Final = 1 << 20

_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1
_MICROSECOND: Final = dt.timedelta(microseconds=1)


class _RefusedError(Exception):
    """A part that cannot be stored. The steps to it are collected on the way up, innermost first."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.steps: list[str] = []


def cannot_store(what: str, path: str, hint: str = "") -> EncodeError:
    """The error for a value that would not come back equal: where, what, and what to do about it."""
    hint = hint or (
        "Use built-in types, or register its class with aikcache.register_type. For a function's result that is a "
        "dataclass, NamedTuple, Enum, attrs, msgspec or pydantic class, annotate the return type, or pass type=."
    )
    return EncodeError(f"{path}: {what} cannot be stored and come back equal. {hint}", path)


def _of_sqlalchemy(kind: type) -> str:
    """The way out for a model or a row, which people try to keep."""
    if hasattr(kind, "__mapper__"):
        return "It belongs to a SQLAlchemy session: return a dataclass of the columns that you need."
    if kind.__module__.startswith("sqlalchemy."):
        return "Return plain data of it: tuple(row), or dict(row._mapping)."
    return ""


def write(value: object, table: Table) -> bytes:
    """The tagged form. Raises `EncodeError` with the path of the first part that it does not cover."""
    import orjson

    try:
        try:
            return orjson.dumps(_Writer(table, careful=False).node(value, 0))
        except orjson.JSONEncodeError:
            # There is a long int or a lone surrogate: check every int and str. Rare, so most values are walked once.
            return orjson.dumps(_Writer(table, careful=True).node(value, 0))
    except _RefusedError as refused:
        path = "result" + "".join(reversed(refused.steps))
        raise cannot_store(refused.what, path, refused.hint) from refused.__cause__


class _Writer:
    """One pass over one value. Not careful, it does not check ints and strs, because nearly all are plain."""

    __slots__ = ("atoms", "careful", "left", "table")

    def __init__(self, table: Table, *, careful: bool) -> None:
        self.table = table
        self.careful = careful
        self.atoms = frozenset({type(None), bool} | (set() if careful else {int, str}))
        self.left = MAX_CONTAINERS

    def node(self, value: Any, depth: int) -> object:
        kind = type(value)  # exactly: a subclass would come back as its base
        if kind in self.atoms:
            return value
        if depth > MAX_DEPTH:
            raise _RefusedError(f"what is nested {MAX_DEPTH} levels deep, or in itself,", "Return a flatter structure.")
        # Before records: of a class that is both, the registration decides. The reader's table has to reach it, too.
        if (entry := by_type.get(kind)) is not None and self.table.reaches(kind):
            return {"!x": [entry.name, self._registered(entry.encode, value, depth)]}
        if (put := _WRITERS.get(kind)) is not None:
            return put(self, value, depth)
        if (record_type := self.table.record_types.get(kind)) is not None:
            return self._enum(value, record_type) if record_type.is_enum else self._record(value, record_type, depth)
        # Not imported: only a program that has imported msgspec can have this value.
        if (msgspec := sys.modules.get("msgspec")) is not None and value is msgspec.UNSET:
            return {"!U": None}
        raise _RefusedError(kind.__qualname__, _of_sqlalchemy(kind))

    def items(self, values: Iterable[object], depth: int, step: str = "[{}]") -> list[object]:
        """The nodes of a container. An error gets the failing item's step in its path."""
        self.left -= 1  # over the whole value: shared parts are written, and count, each time
        if self.left < 0:
            raise _RefusedError(f"a structure of more than {MAX_CONTAINERS} containers", "Return less.")
        done: list[object] = []
        try:
            for value in values:
                done.append(value if type(value) in self.atoms else self.node(value, depth + 1))
        except _RefusedError as refused:
            refused.steps.append(step.format(len(done)))
            raise
        return done

    def _registered(self, encode: Callable[[Any], object], value: object, depth: int) -> object:
        try:
            plain = encode(value)
        except Exception as error:  # the user's code may raise anything
            let_out(error)
            what = f"{type(value).__qualname__} (its registered encode raised {type(error).__name__})"
            raise _RefusedError(what, "Correct the function given to aikcache.register_type.") from error
        return self.node(plain, depth + 1)

    def _enum(self, member: Any, record_type: RecordType) -> object:
        name = self.table.names[record_type.cls]
        if record_type.kind == "enum":
            return {"!e": [name, member._name_]}
        if not record_type.has_bits(member._value_):
            raise _RefusedError(f"a {type(member).__qualname__} with more bits than its class", "Declare them.")
        # Flags in combination have no name.
        return {"!e": [name, self.node(member._value_, 0)]}

    def _record(self, record: Any, record_type: RecordType, depth: int) -> object:
        # A NamedTuple has items and, in a subclass without slots, attributes: the number of items keeps the two apart.
        values = record if record_type.kind == "namedtuple" else ()
        node: list[object] = [self.table.names[record_type.cls], len(values)]
        node += self.items(tuple.__iter__(values), depth)  # not by its own `__iter__`, which may give others
        state = record_type.state(record)
        for name in record_type.required - state.keys():
            what = f"{type(record).__qualname__} without a value for its field {name}"
            raise _RefusedError(what, "Give the field a value: without one a reader meets an AttributeError.")
        for name, value in state.items():
            if name not in record_type.state_names:  # left out, it would be missing when it comes back
                what = f"{type(record).__qualname__}.{name}, which is no field,"
                raise _RefusedError(what, "Declare it as a field of the class, or do not set it.")
            try:
                node += name, self.node(value, depth + 1)
            except _RefusedError as refused:
                refused.steps.append(f".{name}")
                raise
        return {"!r": node}

    def put_float(self, value: float, depth: int) -> object:
        return value if math.isfinite(value) else {"!f": str(value)}

    def put_int(self, value: int, depth: int) -> object:
        # Hexadecimal: Python refuses more than 4300 decimal digits, and they take quadratic time.
        return value if _INT_MIN <= value <= _INT_MAX else {"!i": hex(value)}

    def put_str(self, value: str, depth: int) -> object:
        return value if _is_utf8(value) else {"!s": _base64(value.encode("utf-8", "surrogatepass"))}

    def put_bytes(self, value: bytes, depth: int) -> object:
        return {"!b": _base64(value)}

    def put_list(self, value: list[object], depth: int) -> object:
        return self.items(value, depth)

    def put_tuple(self, value: tuple[object, ...], depth: int) -> object:
        return {"!t": self.items(value, depth)}

    def put_set(self, value: set[object], depth: int) -> object:
        return {"!S": self.items(value, depth, "{{member}}")}

    def put_frozenset(self, value: frozenset[object], depth: int) -> object:
        return {"!F": self.items(value, depth, "{{member}}")}

    def put_dict(self, value: dict[Any, object], depth: int) -> object:
        self.left -= 1
        if self.left < 0:
            raise _RefusedError(f"a structure of more than {MAX_CONTAINERS} containers", "Return less.")
        named = set(map(type, value)) <= {str} and not any(key.startswith("!") for key in value)
        if named and self.careful:
            named = all(map(_is_utf8, value))
        fields: dict[str, object] = {}
        pairs: list[object] = []
        for key, item in value.items():
            try:
                node = item if type(item) in self.atoms else self.node(item, depth + 1)
            except _RefusedError as refused:
                refused.steps.append(f"[{_key_text(key)}]")
                raise
            if named:
                fields[key] = node
            else:
                pairs += self._key(key, depth), node
        return fields if named else {"!d": pairs}

    def _key(self, key: object, depth: int) -> object:
        try:
            return self.node(key, depth + 1)
        except _RefusedError as refused:
            refused.steps.append("{key}")
            raise

    def put_datetime(self, value: dt.datetime, depth: int) -> object:
        # ISO 8601 keeps an offset, but neither the zone's name nor the fold.
        return {"!D": [value.replace(tzinfo=None).isoformat(), value.fold, self._zone(value.tzinfo, depth)]}

    def put_time(self, value: dt.time, depth: int) -> object:
        return {"!T": [value.replace(tzinfo=None).isoformat(), value.fold, self._zone(value.tzinfo, depth)]}

    def _zone(self, zone: dt.tzinfo | None, depth: int) -> object:
        # No reader could make one of another class, because bytes never name a class.
        if zone is None or type(zone) in (dt.timezone, zoneinfo.ZoneInfo):
            return self.node(zone, 0)
        raise _RefusedError(
            f"a time zone of type {type(zone).__qualname__}", "Use datetime.timezone or zoneinfo.ZoneInfo."
        )

    def put_timezone(self, zone: Any, depth: int) -> object:
        offset, *name = zone.__getinitargs__()
        return {"!z": [offset // _MICROSECOND, *(self.put_str(text, depth) for text in name)]}

    def put_zoneinfo(self, zone: zoneinfo.ZoneInfo, depth: int) -> object:
        if not is_named(zone):
            raise _RefusedError("a ZoneInfo from a file", "Make it by its name: ZoneInfo(key).")
        return {"!Z": zone.key}  # by name, as pickle has it: the reader's rules of the zone apply

    def put_uuid(self, value: uuid.UUID, depth: int) -> object:
        safe = value.is_safe is uuid.SafeUUID.unknown
        return {"!u": value.hex if safe else [value.hex, value.is_safe.value]}


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _key_text(key: object) -> str:
    """A dict's key in a path: names and numbers only, long ones cut."""
    # The path is logged: anything else could show data, or run code of the key's class.
    if type(key) is str:
        return repr(key if len(key) <= 40 else key[:40] + "…")
    return str(key) if type(key) is int and -(10**9) < key < 10**9 else f"<{type(key).__qualname__}>"


_WRITERS: Final[dict[type, Callable[[_Writer, Any, int], object]]] = {
    float: _Writer.put_float,
    int: _Writer.put_int,
    str: _Writer.put_str,
    bytes: _Writer.put_bytes,
    list: _Writer.put_list,
    tuple: _Writer.put_tuple,
    set: _Writer.put_set,
    frozenset: _Writer.put_frozenset,
    dict: _Writer.put_dict,
    dt.datetime: _Writer.put_datetime,
    dt.time: _Writer.put_time,
    dt.timezone: _Writer.put_timezone,
    zoneinfo.ZoneInfo: _Writer.put_zoneinfo,
    uuid.UUID: _Writer.put_uuid,
    dt.date: lambda _, value, depth: {"!date": value.isoformat()},
    dt.timedelta: lambda _, value, depth: {"!td": [value.days, value.seconds, value.microseconds]},
    decimal.Decimal: lambda _, value, depth: {"!n": str(value)},
}
