"""Reads the tagged form that `_codec/tagged_writer` writes.

Names in stored bytes select, they never import: a reader makes built-in values, registered classes, and classes that
its own annotation reaches, by their name in that table, and nothing else. Records are made from their state, so of the
user's code only registered decoders, Enum look-ups and `__hash__` run.
Pure functions, for any thread. Malformed bytes may raise anything; the codec, the only caller, makes it a
`DecodeError`.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import enum
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any, Final

from aikcache._codec.class_table import Table
from aikcache._codec.costs import Collisions
from aikcache._codec.registry import by_name

__all__ = ["read"]


def read(payload: bytes, table: Table) -> object:
    """The value. Malformed bytes may raise anything."""
    import orjson

    return _Reader(table).node(orjson.loads(payload))


class _Reader:
    """One pass over the value that orjson has parsed. Anything malformed raises an exception."""

    __slots__ = ("collisions", "table", "zones")

    def __init__(self, table: Table) -> None:
        self.table = table
        self.collisions = Collisions()
        self.zones: dict[str, zoneinfo.ZoneInfo] = {}

    def node(self, node: Any) -> Any:
        # orjson makes exact built-in types. Scalars are kept as they are, without a call for each.
        if type(node) is list:
            return [self.node(item) if type(item) in _CONTAINERS else item for item in node]
        if type(node) is not dict:
            return node
        if len(node) == 1:
            [(tag, content)] = node.items()
            if tag[:1] == "!":  # no dict of the writer's has such a key: it is written as pairs
                return _READERS[tag](self, content)
        return {key: self.node(item) if type(item) in _CONTAINERS else item for key, item in node.items()}

    def items(self, content: Any) -> list[Any]:
        return [self.node(item) for item in _expect(content, list)]

    def unique(self, content: Any) -> frozenset[Any]:
        items = self.items(content)
        # Before the set is made: equal hashes would be compared each with each, while no other thread runs.
        self.collisions.count(items, len(items))
        members = frozenset(items)
        if len(members) != len(items):  # no set has equal members, so this was not written from one
            raise ValueError("repeated member")
        return members

    def pairs(self, content: Any) -> dict[Any, Any]:
        flat = self.items(content)
        self.collisions.count(flat[::2], len(flat) // 2)
        found = dict(zip(flat[::2], flat[1::2], strict=True))
        if 2 * len(found) != len(flat):
            raise ValueError("repeated key")
        return found

    def enum(self, content: Any) -> object:
        name, member = content
        record_type = self.table.by_name[name]
        cls: Any = record_type.cls
        if record_type.kind == "enum":  # by its name: looked up by value, an Enum may run its `_missing_`
            return cls.__members__[member]
        if not issubclass(cls, enum.Flag):  # else a forged name would call the class of a record
            raise TypeError("not an Enum")
        value = self.node(member)
        if value not in cls._value2member_map_ and not record_type.may_combine(value):
            raise ValueError("a combination of flags that is new here")
        return cls(value)

    def record(self, content: Any) -> object:
        name, count, *rest = content
        record_type = self.table.by_name[name]
        if record_type.is_enum or not 0 <= count <= len(rest):
            raise ValueError("not a record")
        state = rest[count:]  # names and values in turn; `build` refuses what is no field
        values = (self.node(value) for value in state[1::2])
        return record_type.build(self.items(rest[:count]), dict(zip(state[::2], values, strict=True)))

    def registered(self, content: Any) -> object:
        name, plain = content
        entry = by_name[name]  # of all that are registered, which bytes may not choose from
        if not self.table.reaches(entry.cls):
            raise TypeError("a class that the annotation does not reach")
        value = entry.decode(self.node(plain))
        if type(value) is not entry.cls:
            raise TypeError("registered decode returned another type")
        return value

    def clock(self, content: Any, parse: Callable[[str], Any]) -> object:
        text, fold, zone = content  # ISO 8601 has neither the fold nor the zone's name
        tzinfo = self.node(zone)
        return parse(text).replace(tzinfo=tzinfo, fold=fold)

    def zone(self, content: Any) -> zoneinfo.ZoneInfo:
        """Each zone is made once, however many there are: `ZoneInfo` caches only some."""
        zone = self.zones.get(content)
        if zone is None:
            zone = self.zones[content] = zoneinfo.ZoneInfo(_expect(content, str))
        return zone

    def timezone(self, content: Any) -> dt.timezone:
        offset, *name = self.items(content)
        return dt.timezone(dt.timedelta(microseconds=_expect(offset, int)), *name)


def _expect(content: Any, kind: type) -> Any:
    if type(content) is not kind:  # exactly: a bool is an int too, and a str can be iterated as a list can
        raise TypeError("malformed")
    return content


def _read_uuid(_: _Reader, content: Any) -> uuid.UUID:
    if type(content) is str:
        return uuid.UUID(hex=content)
    text, safe = content
    return uuid.UUID(hex=text, is_safe=uuid.SafeUUID(safe))


def _read_unset(_: _Reader, content: Any) -> object:
    import msgspec

    return msgspec.UNSET


_CONTAINERS: Final = frozenset({list, dict})

_READERS: Final[dict[str, Callable[[_Reader, Any], object]]] = {
    "!f": lambda _, content: float(_expect(content, str)),
    "!i": lambda _, content: int(_expect(content, str), 16),
    "!s": lambda _, content: base64.b64decode(content, validate=True).decode("utf-8", "surrogatepass"),
    "!b": lambda _, content: base64.b64decode(content, validate=True),
    "!t": lambda reader, content: tuple(reader.items(content)),
    "!S": lambda reader, content: set(reader.unique(content)),
    "!F": _Reader.unique,
    "!d": _Reader.pairs,
    "!D": lambda reader, content: reader.clock(content, dt.datetime.fromisoformat),
    "!T": lambda reader, content: reader.clock(content, dt.time.fromisoformat),
    "!z": _Reader.timezone,
    "!Z": _Reader.zone,
    "!date": lambda _, content: dt.date.fromisoformat(content),
    "!td": lambda _, content: dt.timedelta(*content),
    "!n": lambda _, content: decimal.Decimal(_expect(content, str)),
    "!u": _read_uuid,
    "!U": _read_unset,
    "!x": _Reader.registered,
    "!e": _Reader.enum,
    "!r": _Reader.record,
}
