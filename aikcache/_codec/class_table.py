"""Reads a return annotation: the classes that its values may contain, by name, and a digest of everything it says.

One walk covers the annotation and the fields of every class it reaches. A stored record names its class only by its
entry in this table, so stored bytes can never make any other class. The digest changes with the annotation and with
every field, type or enum member below it. So a value that was stored for another annotation, or by another version of a
class, is a miss: not a value of the old type, not a half-filled object. It is the same in every process and Python
version. Nothing here raises: what cannot be resolved (a name imported for type checkers only, a class of an unknown
kind) is left out, and values that need it are refused when they are stored. Tables are immutable.
"""

from __future__ import annotations

import enum
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import InitVar
from typing import Any, Final, ForwardRef, Literal, NewType, TypeVar, get_args, get_origin

from aikcache._codec.costs import hashes_what_is_chosen
from aikcache._codec.registry import BUILT_IN
from aikcache._concurrency.outside import let_out
from aikcache._records import RecordType, record_type_of

__all__ = ["Table"]

# Their own annotations are machinery, and name what only type checkers import.
_CONTAINERS: Final = (list, tuple, set, frozenset, dict)
_MACHINERY: Final = frozenset({"attr", "attrs", "builtins", "enum", "msgspec", "pydantic", "typing"})


class Table:
    """The record classes and Enums reachable from an annotation; `digest` covers them and the annotation itself."""

    __slots__ = (
        "_classes",
        "_text",
        "by_name",
        "flags",
        "hashes_chosen",
        "hints",
        "hooked",
        "names",
        "open",
        "record_types",
    )

    def __init__(self, annotation: object) -> None:
        self.record_types: dict[type, RecordType] = {}
        self.names: dict[type, str] = {}
        self.by_name: dict[str, RecordType] = {}
        self.hints: dict[type, dict[str, object]] = {}
        """The fields of each class with their types."""
        all_hints: list[object] = [annotation]
        texts: list[str] = []
        for cls, hints in _reachable(all_hints):
            self.hints[cls] = hints
            name = self._name(cls)
            texts.append(f"{name} {_describe_class(cls, hints)}")
            if (record_type := record_type_of(cls)) is not None:
                self.record_types[cls] = self.by_name[name] = record_type
        self._classes = tuple({hint for hint in all_hints if isinstance(hint, type)})
        self.open = any(map(_is_open, all_hints))
        # Whether msgspec would hash values that the writer of the bytes chooses. With `open` it may too.
        self.hashes_chosen = any(_guarded(_hashing, hint) for hint in all_hints)
        self.hooked = any(record_type.hooked for record_type in self.record_types.values())
        self.flags = tuple(record_type for record_type in self.record_types.values() if record_type.is_endless)
        self._text = "\n".join([_describe(annotation), *sorted(texts)])

    @property
    def digest(self) -> bytes:
        from hashlib import blake2b  # here, because it loads OpenSSL, and decorating asks for no digest

        return blake2b(self._text.encode("utf-8", "surrogatepass"), digest_size=8).digest()

    def reaches(self, cls: type) -> bool:
        """Whether the annotated value can contain an instance of a registered class."""
        return self.open or any(_guarded(_within, (cls, other)) for other in self._classes)

    def _name(self, cls: type) -> str:
        """The class's path; classes made in one function may share it and get a number, in the order of the walk."""
        path, number = f"{_module(cls)}.{cls.__qualname__}", 1
        name, taken = path, set(self.names.values())
        while name in taken:
            number += 1
            name = f"{path}#{number}"
        self.names[cls] = name
        return name


def _reachable(todo: list[object]) -> Iterator[tuple[type, dict[str, object]]]:
    """Every class of interest with its resolved hints, breadth first, each once. All hints are added to `todo`."""
    classes: dict[str, type] = {}
    seen: set[int] = set()  # ids stay unique because `todo` keeps the objects alive
    for hint in todo:
        if id(hint) in seen:
            continue
        seen.add(id(hint))
        if isinstance(hint, type) and get_origin(hint) is None:
            if _is_of_interest(hint):
                classes[hint.__name__] = hint
                hints = _hints(hint, classes)
                todo.extend(hints.values())
                yield hint, hints
        else:
            todo.extend(_guarded(_parts, hint))


def _is_of_interest(cls: type) -> bool:
    if cls in BUILT_IN:
        return False
    return typing.is_typeddict(cls) or _guarded(_record_types, cls) != []


def _record_types(cls: type) -> Iterator[object]:
    if (record_type := record_type_of(cls)) is not None:
        yield record_type


def _guarded(function: Callable[[Any], Iterator[object]], argument: object) -> list[object]:
    """The results of a function that looks at an annotation, which may run code (lazy aliases, descriptors). Empty
    if it raises.
    """
    try:
        return list(function(argument))
    except Exception as error:
        let_out(error)
        return []


def _parts(hint: Any) -> Iterator[object]:
    """The hints inside a hint that is no plain class."""
    origin = get_origin(hint)
    if isinstance(hint, NewType):
        yield hint.__supertype__
    elif isinstance(hint, TypeVar):
        yield hint.__bound__
        yield from hint.__constraints__
    elif isinstance(hint, InitVar):
        yield hint.type
    elif origin is Literal:
        yield from (type(value) for value in get_args(hint))
    elif origin is typing.Annotated:
        yield get_args(hint)[0]
    elif origin is None:
        yield from (value for value in [getattr(hint, "__value__", None)] if value is not None)
    elif origin is not type:
        if get_args(hint) == () or not _is_container(origin):  # of a container with arguments only the arguments
            yield origin
        yield from get_args(hint)


def _is_container(cls: object) -> bool:
    return cls in BUILT_IN or getattr(cls, "__module__", "") in ("collections", "collections.abc", "typing", "types")


def _is_open(hint: Any) -> bool:
    """Whether a hint accepts anything."""
    if hint is None or hint is Any or hint is object or isinstance(hint, str | ForwardRef):
        return True
    if isinstance(hint, TypeVar):
        return hint.__bound__ is None and not hint.__constraints__
    return hint in _CONTAINERS or (isinstance(hint, type) and hint.__module__ == "collections.abc")


def _hashing(hint: Any) -> Iterator[object]:
    if hashes_what_is_chosen(hint):
        yield hint


def _within(pair: tuple[type, type]) -> Iterator[object]:
    if issubclass(*pair):
        yield pair


def _hints(cls: Any, classes: dict[str, type]) -> dict[str, object]:
    """Field types, each resolved alone, so that one broken forward reference costs one field."""
    if issubclass(cls, enum.Enum):
        return {}
    found: dict[str, object] = {}
    for klass in reversed(cls.__mro__):
        if klass.__module__.partition(".")[0] in _MACHINERY:
            continue
        for name, hint in _own_annotations(klass).items():
            found[name] = _resolve(klass, name, hint, classes)
    # Generic pydantic classes and attrs' `field(type=...)` have types that no annotation shows.
    for name, field in (getattr(cls, "__pydantic_fields__", None) or {}).items():
        found[name] = field.annotation
    for attribute in getattr(cls, "__attrs_attrs__", ()):
        found.setdefault(attribute.name, attribute.type)
    return {name: hint for name, hint in found.items() if get_origin(hint) is not typing.ClassVar}


def _own_annotations(klass: type) -> dict[str, object]:
    try:
        return inspect.get_annotations(klass)
    except Exception as error:
        let_out(error)
        return {}


def _resolve(owner: type, name: str, hint: object, classes: dict[str, type]) -> object:
    module = getattr(sys.modules.get(owner.__module__), "__dict__", {})
    stand_in = types.SimpleNamespace(__annotations__={name: hint})
    # Classes made in functions are in no module: those seen so far, and the owner itself, are tried last.
    names = {**vars(owner), **classes, owner.__name__: owner, **module}
    try:
        return typing.get_type_hints(stand_in, names, {owner.__name__: owner}, include_extras=True)[name]
    except Exception as error:
        let_out(error)
        return hint


def _describe(hint: Any, within: tuple[Any, ...] = ()) -> str:
    """The hint as text that is the same in every process: no addresses, no metadata, no values but literals.

    `within`: the aliases and type variables that contain it, which may refer to themselves.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return _describe(args[0], within)
    if origin is Literal:
        return f"Literal[{','.join(map(_value_text, args))}]"
    if origin in (typing.Union, types.UnionType):  # `Optional[X]`, `Union[X, None]` and `X | None` say the same
        return f"Union[{','.join(_describe(arg, within) for arg in args)}]"
    if origin is not None:
        star = "*" if getattr(hint, "__unpacked__", False) else ""
        return f"{star}{_describe(origin, within)}[{','.join(_describe(arg, within) for arg in args)}]"
    if isinstance(hint, list | tuple):
        return f"[{','.join(_describe(item, within) for item in hint)}]"
    if isinstance(hint, NewType):
        return _describe(hint.__supertype__, within)
    if isinstance(hint, ForwardRef):
        return hint.__forward_arg__
    if isinstance(hint, str):
        return hint
    if isinstance(hint, InitVar):
        return f"InitVar[{_describe(hint.type, within)}]"
    if isinstance(hint, type):
        return f"{_module(hint)}.{hint.__qualname__}"
    if hint is None or hint is Ellipsis:
        return repr(hint)
    name = getattr(hint, "__name__", None)
    text = name if isinstance(name, str) else type(hint).__qualname__
    if any(hint is outer for outer in within):
        return text
    inside = [_describe(part, (*within, hint)) for part in _guarded(_parts, hint)]
    return f"{text}={','.join(inside)}" if inside else text


def _module(cls: type) -> str:
    """The module of a class. The standard library moves its own (`pathlib.Path`, `pathlib._local.Path`)."""
    parts = cls.__module__.split(".")
    if parts[0] in sys.stdlib_module_names:
        parts = [part for part in parts if not part.startswith("_")] or parts
    return ".".join(parts)


def _describe_class(cls: Any, hints: dict[str, object]) -> str:
    if issubclass(cls, enum.Enum):
        return "enum " + ",".join(f"{name}={_value_text(member.value)}" for name, member in cls.__members__.items())
    fields = ",".join(f"{name}:{_describe(hint)}" for name, hint in hints.items())
    if typing.is_typeddict(cls):
        required = ",".join(sorted(getattr(cls, "__required_keys__", ())))
        return f"typeddict {fields} required {required}"
    record_type = record_type_of(cls)
    if record_type is None:
        return fields
    slots = ",".join(name for name, _ in record_type.members)
    text = f"{record_type.kind} {fields} fields {','.join(record_type.fields)} slots {slots}"
    if record_type.kind == "struct":
        config = cls.__struct_config__
        text += f" {cls.__struct_encode_fields__} {config.array_like} {config.tag_field} {_value_text(config.tag)}"
        # An UNSET field is left out of the payload, and its default comes back.
        text += f" defaults {','.join(map(_value_text, cls.__struct_defaults__))}"
    return text


def _value_text(value: object) -> str:
    if isinstance(value, enum.Enum):
        return f"{type(value).__module__}.{type(value).__qualname__}.{value.name}"
    if isinstance(value, tuple):
        return f"({','.join(map(_value_text, value))})"
    if isinstance(value, str | bytes | int | float | None):
        return f"{type(value).__name__} {value!r}"
    # Anything else may show its address, which differs from process to process.
    return type(value).__qualname__
