"""Keys: `{instance}:{version}:{prefix}:{operation}:{parameters}`, readable, and injective.

Each parameter is written in a form that only one value of one type has. Numbers, `None`,
`True` and UUIDs stand bare (`1`, `1.0`, `None`); a string stands bare where it could be nothing else (`redis`), and in
quotes where it could (`'1'`); other scalars carry their type's name (`date'2024-05-01'`). In all of them whatever
separates, matches or groups (`: | * ? [ ] { } %`, spaces, quotes, non-ASCII) is percent-encoded, so no value can act
as a separator, a wildcard or a Redis Cluster hash tag. What is nested, binary, or 64 characters and longer becomes the
SHA-256 of its canonical form, which names every type and length inside. Whatever is long is hashed before anything
else is done to it, and a parameter may have 100 000 parts at most, because an attacker may choose the arguments.

Equal dicts and sets are one parameter whatever their order; nothing else that differs shares a form. A record is all
of its state, whatever its own equality leaves out: fields, attributes besides them, pydantic's private ones and which
fields were set (not what a `cached_property` keeps). Enums and records stand under their class's name, so it must lead
to that class. A class without such a name, or state without a form, is refused; only a `__cache_key__` is trusted.
No function here changes anything.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from functools import lru_cache
from typing import Any
from urllib.parse import quote
from uuid import UUID
from zoneinfo import ZoneInfo

from aikcache._records import RecordType, record_type_of
from aikcache._zones import is_named
from aikcache.errors import InvalidKeyError

LONG = 64
"""Characters from which a parameter is hashed; a SHA-256 in hex is as long, so no string can be taken for one."""
MAX_PARTS = 100_000
"""Values that a parameter may hold, counted deep; and parameters that a call may have."""
_MAX_FORM = 1024
"""Bytes from which a part stands in the canonical form as its SHA-256, so that no level copies what is below it."""
MAX_PARAMETERS = 512
"""Characters of all parameters together from which they are hashed as one."""
_SAFE = "/@+=,"
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-/@+=,~]*")
_PLAIN_LINES = re.compile(rf"{_PLAIN.pattern}(?:\n{_PLAIN.pattern})*")
_WORDS = frozenset({"None", "True", "False", "nan", "inf"})
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UUID_SIZE = 36


def escape(text: str) -> str:
    """Percent-encode all that could separate, match or group."""
    return quote(text, safe=_SAFE, errors="surrogatepass")


def parameter(value: object) -> str:
    """One parameter as it stands in a key. `InvalidKeyError` for a type that has no one form."""
    render = _RENDER.get(type(value))
    text = render(value) if render is not None else _other(value)
    return text if text is not None and len(text) < LONG else digest(canonical(value))


def parameter_of_each(values: Sequence[Any]) -> list[str] | None:
    """`parameter` of many values all at once: of UUIDs, ints, or strings that stand as they are; None: of others."""
    kinds = set(map(type, values))
    if kinds == {UUID} or (kinds == {int} and min(values) > -(10**60) and max(values) < 10**60):
        return list(map(str, values))
    if kinds != {str}:
        return None
    sizes = set(map(len, values))
    if max(sizes) >= LONG or _UUID_SIZE in sizes or not _WORDS.isdisjoint(values):
        return None
    lines = "\n".join(values)
    return [*values] if _PLAIN_LINES.fullmatch(lines) and lines.count("\n") == len(values) - 1 else None


def parameters(bare: Collection[object], named: Iterable[tuple[str, object]] = ()) -> str:
    """All parameters of a call: required ones bare and in order, defaulted ones as `name|value`."""
    return joined(bare, [(label(name), value) for name, value in named])


def label(name: str) -> str:
    """A parameter's name as it stands in a key."""
    return escape(name) if len(name) < LONG else digest(name.encode("utf-8", "surrogatepass"))


def joined(bare: Collection[object], named: Collection[tuple[str, object]]) -> str:
    """The same for names that are labels already."""
    if len(bare) + len(named) > MAX_PARTS:
        raise _too_many()
    parts = [parameter(value) for value in bare]
    for name, value in named:
        parts.append(f"{name}|{parameter(value)}")
    return shortened(":".join(parts))


def shortened(text: str) -> str:
    """All parameters of a key as they stand in it: too long, their SHA-256."""
    return text if len(text) <= MAX_PARAMETERS else digest(b"parameters:" + text.encode())


def digest(data: bytes) -> str:
    """A SHA-256, in hex."""
    return _sha256(data).hex()


def _sha256(data: bytes) -> bytes:
    from hashlib import sha256  # here, because it loads OpenSSL, and few keys are so long

    return sha256(data).digest()


def _too_many() -> InvalidKeyError:
    return InvalidKeyError(
        f"an argument holds more than {MAX_PARTS} values, which is too much to be part of a key. Leave it out with "
        f"ignore=, or choose the key's parameters with key=."
    )


def _string(value: str) -> str | None:
    if len(value) >= LONG:  # escaped it would be no shorter
        return None
    if _PLAIN.fullmatch(value):
        return f"'{value}'" if value in _WORDS or (len(value) == _UUID_SIZE and _UUID.fullmatch(value)) else value
    text = escape(value)
    bare = text and (text[0] == "%" or text[0] == "_" or (text[0].isascii() and text[0].isalpha()))
    return text if bare else f"'{text}'"


def _zone(value: datetime | time) -> str:
    zone = value.tzinfo
    if zone is None:
        return ""
    if type(zone) is timezone and type(zone.tzname(None)) is str:
        return repr(zone)
    if type(zone) is ZoneInfo and is_named(zone):
        return zone.key
    raise InvalidKeyError(
        f"a {type(value).__name__} with the time zone class {type(zone).__qualname__} cannot be part of a key: "
        f"only datetime.timezone and zoneinfo.ZoneInfo name their zone, and of these not what ZoneInfo.from_file made. "
        f"Convert it, or pass key=."
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


def _own_name(cls: type) -> str:
    """The class's name, which must lead to it and, whichever of its dots ends the module, to no other class."""
    name = _name(cls)
    parts = name.split(".")
    known = other = False
    for i in range(1, len(parts)):
        found: object = sys.modules.get(".".join(parts[:i]))
        for part in parts[i:]:
            if found is None:
                break
            found = getattr(found, part, None)
        known = known or found is cls
        other = other or (found is not cls and isinstance(found, type))
    if known and not other:
        return name
    raise InvalidKeyError(
        f"an argument of type {name} cannot be part of a key: this name leads to no class or to another one, so two "
        f"classes could share it. Define the class at a module's top level, leave the argument out with ignore=, "
        f"choose the key's parameters with key=, or give {cls.__qualname__} a method __cache_key__()."
    )


def _other(value: object) -> str | None:
    """Objects that say what they are and Enum members; records are hashed."""
    cls: Any = type(value)
    if hasattr(cls, "__cache_key__"):
        return f"{escape(_name(cls))}'{parameter(value.__cache_key__())}'"  # type: ignore[attr-defined]
    if isinstance(value, type) and hasattr(value, "__cache_key__"):  # a class, as in a classmethod's cls
        return f"@{escape(_name(value))}'{parameter(value.__cache_key__())}'"
    if isinstance(value, Enum):
        member = _member(value)
        if member is not None:
            return f"{escape(_own_name(cls))}'{escape(member)}'"
    elif _place(cls) is not None:
        return None
    raise InvalidKeyError(
        f"an argument of type {_name(cls)} cannot be part of a key. Leave it out with ignore=, choose the "
        f"key's parameters with key= or normalize=, or give {cls.__qualname__} a method __cache_key__()."
    )


def _member(value: Enum) -> str | None:
    """A member's name in its class; for a combination of flags the names of all, if they are unambiguous."""
    name, members = value._name_, type(value)._member_map_
    if members.get(name) is value:
        return name
    if isinstance(value, Flag) and all(map(str.isidentifier, members)):
        return repr(value._value_) if name is None else name
    return None


@lru_cache(maxsize=512)
def _place(cls: type) -> tuple[RecordType, tuple[str, ...]] | None:
    """Where a dataclass, a NamedTuple, an attrs class, a Struct or a model keeps its state, and its fields' names."""
    found = record_type_of(cls)
    if found is None:
        return None
    return found, tuple(f.name for f in dataclasses.fields(cls)) if found.kind == "dataclass" else found.fields


def _record_parts(value: object, record_type: RecordType, names: tuple[str, ...], left: list[int]) -> list[bytes]:
    """The fields in order, and then whatever else the record holds, by name."""
    state = record_type.state(value)
    if isinstance(value, tuple):
        _take(tuple.__len__(value), left)
        parts = [_canonical(item, left) for item in tuple.__iter__(value)]
    else:
        _take(len(names), left)
        parts = []
        for name in names:
            field = getattr(value, name)
            parts.append(_canonical(field, left))
            if name in state and state[name] is field:
                del state[name]
    if state:
        try:
            parts.append(_sized(b"+", _canonical(state, left)))
        except InvalidKeyError as error:
            cls, more = type(value), ", ".join(map(str, [*state][:5]))
            raise InvalidKeyError(
                f"an argument of type {_name(cls)} holds more than its fields ({more}), which cannot be part of a key: "
                f"{error} For {cls.__qualname__}, too, __cache_key__() is a way out."
            ) from error
    return parts


def canonical(value: object) -> bytes:
    """A value as bytes that no other value has: every part with its type and length, sets and dicts sorted."""
    try:
        return _canonical(value, [MAX_PARTS])
    except RecursionError:
        raise InvalidKeyError("an argument is nested too deeply, or in itself, to be part of a key.") from None


def _canonical(value: object, left: list[int]) -> bytes:
    """The form of a part; `left` counts how many more there may be."""
    cls: Any = type(value)
    if cls is str:
        return _sized(b"s", value.encode("utf-8", "surrogatepass"))  # type: ignore[attr-defined]
    if cls is bytes:
        return _sized(b"b", value)  # type: ignore[arg-type]
    if cls is int:
        return _sized(b"i", b"%x" % value)  # type: ignore[str-format]
    if cls in _CONTAINERS:
        return _container(value, cls, left)
    render = _RENDER.get(cls)
    if render is not None:
        return _sized(b"a", f"{cls.__name__} {render(value)}".encode())
    return _record(value, cls, left)


_CONTAINERS: dict[type, bytes] = {list: b"l", tuple: b"t", set: b"S", frozenset: b"F", dict: b"d"}


def _container(value: Any, cls: type, left: list[int]) -> bytes:
    _take(len(value), left)
    if cls is dict:
        pairs = sorted((_canonical(k, left), _canonical(v, left)) for k, v in value.items())
        return _many(b"d", [part for pair in pairs for part in pair])
    parts = [_canonical(item, left) for item in value]
    if cls is set or cls is frozenset:
        parts.sort()
    return _many(_CONTAINERS[cls], parts)


def _record(value: Any, cls: Any, left: list[int]) -> bytes:
    """Enum members, objects that say what they are, and records."""
    _take(1, left)
    itself = isinstance(value, type)  # a class, as in a classmethod's cls
    if hasattr(value if itself else cls, "__cache_key__"):
        tag, named = (b"K", value) if itself else (b"k", cls)
        return _many(tag, [_sized(b"c", _name(named).encode()), _canonical(value.__cache_key__(), left)])
    text = _other(value)  # raises for what has no form
    if text is not None:
        return _sized(b"e", text.encode())
    place = _place(cls)
    assert place is not None
    return _many(b"r", [_sized(b"c", _own_name(cls).encode()), *_record_parts(value, *place, left)])


def _take(count: int, left: list[int]) -> None:
    left[0] -= count
    if left[0] < 0:
        raise _too_many()


def _sized(tag: bytes, data: bytes) -> bytes:
    return b"%s%d:%s" % (tag, len(data), data) if len(data) <= _MAX_FORM else _hashed(tag, len(data), data)


def _many(tag: bytes, parts: list[bytes]) -> bytes:
    data = b"".join(parts)
    return b"%s%d:%s" % (tag, len(parts), data) if len(data) <= _MAX_FORM else _hashed(tag, len(parts), data)


def _hashed(tag: bytes, count: int, data: bytes) -> bytes:
    """A long part: marked, so that no short one has this form."""
    return b"#%s%d:%s" % (tag, count, _sha256(data))
