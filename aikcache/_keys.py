"""Keys: `{instance}:{version}:{prefix}:{operation}:{parameters}`, readable, and injective.

One rule makes them so: each parameter is written in a form that only one value of one type has. Numbers, `None`,
`True` and UUIDs stand bare (`1`, `1.0`, `None`); a string stands bare where it could be nothing else (`redis`), and in
quotes where it could (`'1'`); other scalars carry their type's name (`date'2024-05-01'`). In all of them whatever
separates, matches or groups (`: | * ? [ ] { } %`, spaces, quotes, non-ASCII) is percent-encoded, so no value can act
as a separator, a wildcard or a Redis Cluster hash tag. What is nested, binary, or 64 characters and longer becomes the
SHA-256 of its canonical form, which names every type and length inside.

Equal dicts and sets are one parameter whatever their order; nothing else that differs shares a form. Pure functions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from urllib.parse import quote
from uuid import UUID
from zoneinfo import ZoneInfo

from .errors import InvalidKeyError

LONG = 64
"""Characters from which a parameter is hashed; a SHA-256 in hex is as long, so no string can be taken for one."""
MAX_PARAMETERS = 512
"""Characters of all parameters together from which they are hashed as one."""
_SAFE = "/@+=,"
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-/@+=,~]*")
_WORDS = frozenset({"None", "True", "False", "nan", "inf"})
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_KEY = re.compile(r"[^\s*?\[\]{}\\\x00-\x20\x7f~!:][^\s*?\[\]{}\\\x00-\x20\x7f]*")
MAX_KEY = 1024


def escape(text: str) -> str:
    """Percent-encode all that could separate, match or group."""
    return quote(text, safe=_SAFE, errors="surrogatepass")


def parameter(value: object) -> str:
    """One parameter as it stands in a key. `InvalidKeyError` for a type that has no one form."""
    render = _RENDER.get(type(value))
    text = render(value) if render is not None else _other(value)
    return text if text is not None and len(text) < LONG else _digest(canonical(value))


def parameters(bare: Iterable[object], named: Iterable[tuple[str, object]] = ()) -> str:
    """All parameters of a call: required ones bare and in order, defaulted ones as `name|value`."""
    return joined(bare, [(escape(name), value) for name, value in named])


def joined(bare: Iterable[object], named: Iterable[tuple[str, object]]) -> str:
    """The same for names that are escaped already."""
    parts = [parameter(value) for value in bare]
    for name, value in named:
        parts.append(f"{name}|{parameter(value)}")
    text = ":".join(parts)
    return text if len(text) <= MAX_PARAMETERS else _digest(b"parameters:" + text.encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _string(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return f"'{value}'" if value in _WORDS or (len(value) == 36 and _UUID.fullmatch(value)) else value
    text = escape(value)
    bare = text and (text[0] == "%" or text[0] == "_" or (text[0].isascii() and text[0].isalpha()))
    return text if bare else f"'{text}'"


def _zone(value: datetime | time) -> str:
    zone = value.tzinfo
    if zone is None:
        return ""
    if type(zone) is timezone:
        return repr(zone)
    if type(zone) is ZoneInfo and zone.key:
        return zone.key
    raise InvalidKeyError(
        f"a {type(value).__name__} with the time zone class {type(zone).__qualname__} cannot be part of a key: "
        f"only datetime.timezone and zoneinfo.ZoneInfo name their zone. Convert it, or pass key=."
    )


def _moment(value: datetime | time) -> str:
    zone = _zone(value)
    naive = value.replace(tzinfo=None).isoformat()
    fold = ";fold" if value.fold else ""
    return f"{type(value).__name__}'{escape(naive + fold + (';' + zone if zone else ''))}'"


_RENDER: dict[type, Callable[[Any], str | None]] = {
    str: _string,
    int: lambda v: str(v) if -(10**60) < v < 10**60 else None,
    bool: str,
    type(None): str,
    float: repr,
    UUID: str,
    bytes: lambda v: None,
    datetime: _moment,
    time: _moment,
    date: lambda v: f"date'{v.isoformat()}'",
    timedelta: lambda v: f"timedelta'{v.days},{v.seconds},{v.microseconds}'",
    Decimal: lambda v: f"Decimal'{v}'",
    list: lambda v: None,
    tuple: lambda v: None,
    dict: lambda v: None,
    set: lambda v: None,
    frozenset: lambda v: None,
}


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _other(value: object) -> str | None:
    """Enum members and objects that say what they are; records are hashed."""
    cls = type(value)
    if isinstance(value, Enum):
        member = value.name if value.name is not None else repr(value.value)
        return f"{escape(_name(cls))}'{escape(member)}'"
    if hasattr(cls, "__cache_key__"):
        return f"{escape(_name(cls))}'{parameter(value.__cache_key__())}'"  # type: ignore[attr-defined]
    if isinstance(value, type) and hasattr(value, "__cache_key__"):  # a class, as in a classmethod's cls
        return f"@{escape(_name(value))}'{parameter(value.__cache_key__())}'"
    if fields_of(cls) is not None:
        return None
    raise InvalidKeyError(
        f"an argument of type {_name(cls)} cannot be part of a key. Leave it out with ignore=, choose the key's "
        f"parameters with key=, or give {cls.__qualname__} a method __cache_key__()."
    )


def fields_of(cls: type) -> tuple[str, ...] | None:
    """The names that make up a dataclass, a NamedTuple, an attrs class, a Struct or a model; `None` for others."""
    if dataclasses.is_dataclass(cls):
        return tuple(f.name for f in dataclasses.fields(cls))
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return tuple(cls._fields)
    if "__attrs_attrs__" in cls.__dict__:
        return tuple(a.name for a in cls.__dict__["__attrs_attrs__"])
    named = getattr(cls, "__struct_fields__", None) or getattr(cls, "__pydantic_fields__", None)
    return tuple(named) if named is not None else None


def canonical(value: object) -> bytes:
    """A value as bytes that no other value has: every part with its type and length, sets and dicts sorted."""
    try:
        return _canonical(value)
    except RecursionError:
        raise InvalidKeyError("an argument is nested too deeply, or in itself, to be part of a key.") from None


def _canonical(value: object) -> bytes:
    cls = type(value)
    if cls is str:
        return _sized(b"s", value.encode("utf-8", "surrogatepass"))  # type: ignore[attr-defined]
    if cls is bytes:
        return _sized(b"b", value)  # type: ignore[arg-type]
    if cls is int:
        return _sized(b"i", b"%x" % value)  # type: ignore[str-format]
    if cls is list or cls is tuple:
        return _many(b"l" if cls is list else b"t", [_canonical(item) for item in value])  # type: ignore[attr-defined]
    if cls is set or cls is frozenset:
        return _many(b"S" if cls is set else b"F", sorted(map(_canonical, value)))  # type: ignore[call-overload]
    if cls is dict:
        pairs = sorted((_canonical(k), _canonical(v)) for k, v in value.items())  # type: ignore[attr-defined]
        return _many(b"d", [part for pair in pairs for part in pair])
    render = _RENDER.get(cls)
    if render is not None:
        return _sized(b"a", f"{cls.__name__} {render(value)}".encode())
    text = _other(value)  # raises for what has no form
    if hasattr(value, "__cache_key__"):
        tag, named = (b"K", value) if isinstance(value, type) else (b"k", cls)
        return _many(tag, [_sized(b"c", _name(named).encode()), _canonical(value.__cache_key__())])
    if text is not None:
        return _sized(b"e", text.encode())
    names = fields_of(cls) or ()
    parts = [_canonical(getattr(value, name)) for name in names]
    if extra := getattr(value, "__pydantic_extra__", None):
        parts.append(_canonical(extra))
    return _many(b"r", [_sized(b"c", _name(cls).encode()), *parts])


def _sized(tag: bytes, data: bytes) -> bytes:
    return b"%s%d:%s" % (tag, len(data), data)


def _many(tag: bytes, parts: list[bytes]) -> bytes:
    return b"%s%d:%s" % (tag, len(parts), b"".join(parts))


class Space:
    """The key space of one cache: everything below `{instance}:{version}:`.

    Beside the values it holds leases (`!lease:{KEY}`; the braces are a hash tag, so a lease lives in its value's slot),
    stamps (`~stamp:GROUP`) and marks (`~key:{KEY}:WRITER`, `~glob:WRITER:GLOB`). Only what begins with `~` is pushed.
    """

    __slots__ = ("lead", "pushed", "stamps")

    def __init__(self, instance: str, version: str) -> None:
        self.lead = f"{instance}:{version}:"
        self.pushed = self.lead + "~"
        self.stamps = self.lead + "~stamp:"

    def full(self, key: str) -> str:
        """A key as people may write it, `prefix:operation:parameters`, with or without instance and version."""
        if not isinstance(key, str):
            raise InvalidKeyError(f"a key must be a str, got {type(key).__name__}. `Cache.key(...)` builds one.")
        short = key.removeprefix(self.lead)
        if len(short) > MAX_KEY or not _KEY.fullmatch(short):
            raise InvalidKeyError(
                "a key must be 1 to 1024 characters without spaces, wildcards, braces or control characters, and must "
                f"not begin with ':', '~' or '!', got {short[:80]!r}. `Cache.key(prefix, operation, ...)` escapes."
            )
        return self.lead + short

    def lease(self, key: str) -> str:
        return f"{self.lead}!lease:{{{key}}}"

    def mark(self, key: str, writer: str) -> str:
        return f"{self.pushed}key:{{{key}}}:{writer}"

    def glob_mark(self, glob: str, writer: str) -> str:
        return f"{self.pushed}glob:{writer}:{glob}"

    def stamp(self, group: str) -> str:
        return self.stamps + group
