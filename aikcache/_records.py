"""Where record classes keep their state, and how to make an instance again without running any of their code.

Dataclasses, NamedTuples, attrs and pydantic classes keep everything in three places: tuple items, slots, `__dict__`. A
copy of all three is an equal object, whatever `__init__`, `__post_init__`, validators or properties do. So one
`RecordType` serves them all, and no third-party package is imported. A msgspec Struct can only be made by calling it.
Left out on purpose: what `functools.cached_property` has stored (it is computed again) and `__orig_class__` of typing.
Record types are immutable and may be used by any thread. A class without one is not a record.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

__all__ = ["RecordType", "record_type_of"]

MAX_COMBINATIONS: Final = 1 << 14
"""Values of a flag class from which bytes make no new one: Enum keeps each for ever. An IntFlag takes any bits."""
_FLAG_BITS: Final = 64
# attrs' cache_hash keeps the hash in the instance, and hashes of str differ between processes: None means "not yet".
_ATTRS_HASH: Final = "_attrs_cached_hash"


class RecordType(NamedTuple):
    """One record class or Enum: where its state is, whether it is immutable, and whether msgspec would run its
    hooks.
    """

    cls: type
    kind: str
    fields: tuple[str, ...] = ()
    members: tuple[tuple[str, types.MemberDescriptorType], ...] = ()
    has_dict: bool = False
    transient: frozenset[str] = frozenset()
    frozen: bool = False
    hooked: bool = False
    state_names: frozenset[str] = frozenset()
    """The names of its state. An instance with others hides something of its class behind them, or is misused."""
    required: frozenset[str] = frozenset()
    """Those that its `__init__` sets. An instance without them raises AttributeError where they are read."""

    @property
    def is_enum(self) -> bool:
        return self.kind in ("enum", "flag")

    @property
    def is_endless(self) -> bool:
        """Whether it is a flag class that could get too many values."""
        cls: Any = self.cls
        if self.kind != "flag":
            return False
        return cls._boundary_ is enum.KEEP or 1 << cls._flag_mask_.bit_count() > MAX_COMBINATIONS

    def may_combine(self, value: int) -> bool:
        """Whether bytes may make this value of a flag class, which it does not have yet."""
        cls: Any = self.cls
        return len(cls._value2member_map_) < MAX_COMBINATIONS and self.has_bits(value)

    def has_bits(self, value: int) -> bool:
        """Whether a value of a flag class has no bits but those that every process takes."""
        cls: Any = self.cls
        longest: int = max(cls._flag_mask_.bit_length(), _FLAG_BITS)
        return value.bit_length() <= longest

    def state(self, record: object) -> dict[str, object]:
        """All attributes by name, slots first; unset ones are not there."""
        found: dict[str, object] = {}
        for name, member in self.members:
            try:
                found[name] = member.__get__(record)
            except AttributeError:
                continue
        if self.has_dict:
            found.update(record.__dict__)
        for name in self.transient & found.keys():
            del found[name]
        if _ATTRS_HASH in found:
            found[_ATTRS_HASH] = None
        return found

    def build(self, items: Sequence[object], state: dict[str, object]) -> object:
        """An instance with exactly these tuple items and attributes. Raises some exception if they do not fit."""
        if not self.state_names.issuperset(state):
            raise ValueError("state that is no field")
        if self.kind == "struct":
            return self._call(state)
        if not self.required <= state.keys():
            raise ValueError("a field without a value")
        if self.kind == "pydantic" and not _is_pydantic(state):
            raise ValueError("not what pydantic keeps")
        record: object
        if self.kind == "namedtuple":
            if len(items) != len(self.fields):
                raise ValueError("number of items")
            record = tuple.__new__(self.cls, items)
        else:
            record = object.__new__(self.cls)
        members = dict(self.members)
        for name, value in state.items():
            if (member := members.get(name)) is not None:
                member.__set__(record, value)
            else:
                record.__dict__[name] = value
        return record

    def _call(self, state: dict[str, object]) -> object:
        """A Struct can be made only by a call; changes by `__post_init__` are undone afterwards."""
        import msgspec

        fields = {name: state[name] for name in self.fields}
        record = self.cls(**fields)
        for name, value in fields.items():
            msgspec.structs.force_setattr(record, name, value)
        if self.has_dict:
            record.__dict__.clear()
        return record


def record_type_of(cls: type) -> RecordType | None:
    """The record type of a class; None for a class that is no Enum and cannot be made from its state alone."""
    if issubclass(cls, enum.Enum):
        return RecordType(cls, "flag" if issubclass(cls, enum.Flag) else "enum", frozen=True)
    kind = _kind(cls)
    # A class with a finaliser holds something besides its state, and every copy would run it.
    if kind is None or hasattr(cls, "__del__") or not _can_be_made(cls, kind):
        return None
    fields, members = _fields(cls, kind), _members(cls)
    cached = _cached_names(cls, kind, fields)
    has_dict = cls.__dictoffset__ != 0
    # What a cached property stores may be mutable, and sharing the record would share it.
    frozen = _is_frozen(cls, kind, open_ended=has_dict or bool(members)) and not cached
    return RecordType(
        cls,
        kind,
        fields,
        tuple(members.items()),
        has_dict,
        cached | {"__orig_class__", "__msgspec_cached_hash__"},
        frozen,
        _is_hooked(cls, kind),
        frozenset(_state_names(cls, kind, fields)) | members.keys(),
        frozenset(_required(cls, kind, fields)),
    )


def _kind(cls: type) -> str | None:
    if issubclass(cls, tuple):
        return "namedtuple" if isinstance(getattr(cls, "_fields", None), tuple) else None
    attributes = {
        "struct": "__struct_fields__",
        "pydantic": "__pydantic_fields_set__",
        "attrs": "__attrs_attrs__",
        "dataclass": "__dataclass_fields__",
    }
    return next((kind for kind, attribute in attributes.items() if hasattr(cls, attribute)), None)


def _can_be_made(cls: type, kind: str) -> bool:
    """False for abstract classes and those with a built-in base (list, Exception), whose state is elsewhere."""
    if kind == "struct":
        return True
    try:
        tuple.__new__(cls) if kind == "namedtuple" else object.__new__(cls)
    except TypeError:
        return False
    return True


def _fields(cls: Any, kind: str) -> tuple[str, ...]:
    if kind == "namedtuple":
        return tuple(cls._fields)
    if kind == "struct":
        return tuple(cls.__struct_fields__)
    if kind == "pydantic":
        return tuple(cls.__pydantic_fields__)
    if kind == "attrs":
        return tuple(attribute.name for attribute in cls.__attrs_attrs__)
    return tuple(cls.__dataclass_fields__)


def _state_names(cls: Any, kind: str, fields: tuple[str, ...]) -> tuple[str, ...]:
    if kind == "namedtuple":
        return ()
    if kind == "dataclass":  # without class variables
        return tuple(field.name for field in dataclasses.fields(cls))
    return (*fields, _ATTRS_HASH) if kind == "attrs" else fields


def _required(cls: Any, kind: str, fields: tuple[str, ...]) -> tuple[str, ...]:
    if kind == "dataclass":
        return tuple(field.name for field in dataclasses.fields(cls) if field.init)
    if kind == "attrs":
        return tuple(attribute.name for attribute in cls.__attrs_attrs__ if attribute.init)
    return (*fields, "__pydantic_fields_set__") if kind == "pydantic" else ()


def _is_pydantic(state: dict[str, Any]) -> bool:
    """Whether what pydantic keeps of its own, of which no annotation speaks, is of the types that it relies on."""
    for name in ("__pydantic_extra__", "__pydantic_private__"):
        kept = state.get(name)
        if kept is not None and (type(kept) is not dict or not set(map(type, kept)) <= {str}):
            return False
    names = state["__pydantic_fields_set__"]
    return type(names) in (set, frozenset) and set(map(type, names)) <= {str}


def _members(cls: type) -> dict[str, types.MemberDescriptorType]:
    """Slots, the most derived first; `__dict__` and `__weakref__` are descriptors of another type."""
    found: dict[str, types.MemberDescriptorType] = {}
    for klass in cls.__mro__:
        for name, attribute in vars(klass).items():
            if type(attribute) is types.MemberDescriptorType:
                found.setdefault(name, attribute)
    return found


def _cached_names(cls: type, kind: str, fields: tuple[str, ...]) -> frozenset[str]:
    names = {
        name
        for klass in cls.__mro__
        for name, attribute in vars(klass).items()
        if isinstance(attribute, functools.cached_property)
    }
    if kind == "attrs":
        # A slotted attrs class turns its cached properties into slots that are no fields, and fills them on demand.
        own = [klass for klass in cls.__mro__ if {"__attrs_attrs__", "__getattr__"} <= vars(klass).keys()]
        slots = {name for klass in own for name, a in vars(klass).items() if type(a) is types.MemberDescriptorType}
        names |= slots - set(fields) - {_ATTRS_HASH}
    return frozenset(names)


def _is_frozen(cls: Any, kind: str, *, open_ended: bool) -> bool:
    """By the class's own declaration only: a plain subclass of a frozen class takes new attributes."""
    if kind == "namedtuple":
        return not open_ended
    if kind == "struct":
        return bool(cls.__struct_config__.frozen)
    if kind == "attrs":
        return "__attrs_attrs__" in vars(cls) and cls.__setattr__.__name__ == "_frozen_setattrs"
    if kind == "dataclass":
        return "__dataclass_params__" in vars(cls) and bool(cls.__dataclass_params__.frozen)
    return False


def _is_hooked(cls: Any, kind: str) -> bool:
    """Whether msgspec would run code of the class on every hit, or use defaults that may change."""
    if kind == "namedtuple":
        maker = next(klass for klass in cls.__mro__ if "__new__" in vars(klass))
        return "_fields" not in vars(maker) or cls.__init__ is not object.__init__
    if kind == "struct":
        return hasattr(cls, "__post_init__") or bool(cls.__struct_config__.omit_defaults)
    if kind == "attrs":
        hooks = ("__attrs_pre_init__", "__attrs_post_init__")
        # msgspec leaves private attrs fields out, and fills in their defaults.
        return any(hasattr(cls, hook) for hook in hooks) or any(
            field.validator is not None or field.converter is not None or field.name.startswith("_")
            for field in cls.__attrs_attrs__
        )
    return kind == "pydantic" or hasattr(cls, "__post_init__")
