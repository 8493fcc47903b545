"""The classes that users registered with `register_type`: one process-wide table, by class and by name.

The name, not the class's path, is in the stored bytes, so that a class may move to another module. Registrations happen
while modules are imported; a lock orders them, readers take none (a dict look-up is atomic). A second, different
registration is a `ConfigError`: a payload must have one meaning for as long as it is stored.
"""

from __future__ import annotations

import datetime as dt
import decimal
import threading
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from aikcache.errors import ConfigError

__all__ = ["BUILT_IN", "Registered", "by_name", "by_type", "register_type"]

T = TypeVar("T")

BUILT_IN: Final = frozenset(
    {type(None), bool, int, float, str, bytes, list, tuple, set, frozenset, dict, dt.datetime, dt.date, dt.time}
    | {dt.timedelta, dt.timezone, zoneinfo.ZoneInfo, decimal.Decimal, uuid.UUID}
)


class Registered(NamedTuple):
    """One registered class."""

    cls: type
    name: str
    encode: Callable[[Any], object]
    decode: Callable[[Any], object]


by_type: Final[dict[type, Registered]] = {}
by_name: Final[dict[str, Registered]] = {}
_lock = threading.Lock()


def register_type(cls: type[T], *, name: str, encode: Callable[[T], object], decode: Callable[[Any], T]) -> None:
    """Teach the codec a class, for the whole process. Do it where the class is defined, before it is cached.

    Args:
        cls: the class. Its subclasses are not covered: each is registered on its own.
        name: what stands for the class in stored bytes; keep it for as long as values are stored.
        encode: turns an instance into something the codec knows (it may contain other registered classes).
        decode: turns that back into an equal instance of exactly `cls`. The codec trusts it to be equal.

    Raises:
        ConfigError: the class has another name already, the name another class, or the codec knows the class anyway.
    """
    _check(cls, name, encode, decode)
    with _lock:
        named, registered = by_name.get(name), by_type.get(cls)
        if registered is not None and registered.name != name:
            raise ConfigError(
                f"register_type: {cls.__qualname__} is registered as {registered.name!r} already, got name={name!r}. "
                "A class has one name: use the same one everywhere."
            )
        if named is not None and not _is_same_class(named.cls, cls):
            raise ConfigError(
                f"register_type: name {name!r} is taken by {named.cls.__module__}.{named.cls.__qualname__}, "
                f"got {cls.__module__}.{cls.__qualname__}. Choose another name."
            )
        if named is None and (reloaded := _reloaded(cls)) is not None:
            raise ConfigError(
                f"register_type: {cls.__qualname__} is registered as {reloaded.name!r} already, got name={name!r}. "
                "A class has one name: use the same one everywhere."
            )
        if named is not None:
            by_type.pop(named.cls, None)
        by_name[name] = by_type[cls] = Registered(cls, name, encode, decode)


def _check(cls: object, name: object, encode: object, decode: object) -> None:
    if not isinstance(cls, type):
        raise ConfigError(f"register_type: cls must be a class, got an instance of {type(cls).__qualname__}.")
    if cls in BUILT_IN:
        raise ConfigError(f"register_type: {cls.__qualname__} needs no registration, the codec keeps it as it is.")
    if type(name) is not str or not name or not name.isprintable():
        raise ConfigError(f"register_type: name must be a non-empty printable str, for {cls.__qualname__}.")
    if not callable(encode) or not callable(decode):
        raise ConfigError(f"register_type: encode and decode must be callable, for {cls.__qualname__}.")


def _is_same_class(old: type, new: type) -> bool:
    """Whether a class is, or is the reloaded version of, another: same path, other object."""
    return old is new or (_is_path(old) and old.__module__ == new.__module__ and old.__qualname__ == new.__qualname__)


def _is_path(cls: type) -> bool:
    """Whether module and qualified name identify one class; classes made in a function may share them."""
    return "<locals>" not in cls.__qualname__


def _reloaded(cls: type) -> Registered | None:
    return next((registered for registered in by_type.values() if _is_same_class(registered.cls, cls)), None)
