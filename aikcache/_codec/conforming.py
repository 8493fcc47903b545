"""Checks whether a value fits an annotation. What is read must fit, and so must what is stored.

Forged bytes may contain any JSON, and any built-in type in the tagged form. A caller that was promised a bool must not
get a dict, at any depth. A check looks at all values of one level at once, so it costs a few calls at C speed a level,
not one a value. What an annotation leaves open (Any, an unresolved name, a user's generic class) fits anything. As for
type checkers an int is a float, and a subclass is its base. A field may be None whatever its type, because many write
`x: int = None`. Checks are immutable; making one twice is harmless.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final, ForwardRef, Literal, NamedTuple, NewType, TypeVar, get_args, get_origin

from aikcache._codec.class_table import Table
from aikcache._concurrency.outside import let_out

__all__ = ["Check", "check_of"]

_NOTHING: Final[frozenset[type]] = frozenset()
_PLAIN: Final[tuple[type, ...]] = (str, int, float, bool, type(None), list, dict)
_WRAPPERS: Final = (typing.Annotated, typing.Required, typing.NotRequired, typing.Final)


class Check(NamedTuple):
    """A test whether several values all fit one hint. The flag says that they are plain JSON, whose keys are all
    str.
    """

    test: Callable[[Collection[Any], bool], bool]
    plain: frozenset[type] = _NOTHING
    """Types of plain JSON that need no test: everything inside them fits."""
    is_of: Callable[[type], bool] | None = None
    """A test of the type alone, where that is enough."""


def check_of(annotation: object, table: Table) -> Check | None:
    """The check of an annotation, whose classes are in `table`; None: anything fits."""
    return _Maker(table).of(annotation)


class _Maker:
    """Makes the checks of one annotation."""

    __slots__ = ("made", "table")

    def __init__(self, table: Table) -> None:
        self.table = table
        self.made: dict[int, Check] = {}

    def of(self, hint: Any) -> Check | None:
        origin, args = get_origin(hint), get_args(hint)
        if hint is None:
            return _kinds(type(None))
        if hint is Any or hint is object or isinstance(hint, str | ForwardRef):
            return None
        if isinstance(hint, NewType):
            return self.of(hint.__supertype__)
        if isinstance(hint, TypeVar):
            return self._union(hint.__constraints__ or (hint.__bound__ or Any,))
        if origin in _WRAPPERS:
            return self.of(args[0])
        if origin is Literal:
            return _literal(args)
        if origin in (typing.Union, types.UnionType):
            return self._union(args)
        if origin is None and isinstance(hint, type):
            return self._class(hint)
        if origin is None and (value := getattr(hint, "__value__", None)) is not None:
            return self._later(value)  # an alias, which may name itself
        return self._generic(origin, args) if isinstance(origin, type) else None

    def _later(self, hint: object) -> Check:
        """Made when it is first used, and once: a hint may contain itself."""
        made: list[Check | None] = []

        def test(values: Collection[Any], json: bool) -> bool:
            if not values:
                return True
            if not made:
                made.append(self.of(hint))
            return _passes(made[0], values, json)

        return self.made.setdefault(id(hint), Check(test))

    def _class(self, cls: Any) -> Check:
        record_type = self.table.record_types.get(cls)
        hints = self.table.hints.get(cls)
        if hints is not None and typing.is_typeddict(cls):
            return self._typed_dict(cls, hints)
        if hints is None or record_type is None or record_type.is_enum:
            return _kinds(cls)
        return self._record(cls, hints)

    def _generic(self, origin: Any, args: tuple[Any, ...]) -> Check | None:
        if origin in self.table.hints:
            return self._class(origin)
        of_kind = _kinds(origin)
        if origin is tuple:
            return self._tuple(of_kind, args) if args else of_kind
        if issubclass(origin, Mapping) and len(args) == 2:
            key, value = map(self.of, args)

            def mapping(values: Collection[Any], json: bool) -> bool:
                return (
                    of_kind.test(values, json)
                    and (key is None or (json and str in key.plain) or key.test(_flat(values), json))
                    and (value is None or value.test(_flat([each.values() for each in values]), json))
                )

            return Check(mapping, of_kind.plain if value is None and (key is None or str in key.plain) else _NOTHING)
        if issubclass(origin, Iterable) and len(args) == 1:
            item = self.of(args[0])
            if item is None:
                return of_kind
            return Check(lambda values, json: of_kind.test(values, json) and item.test(_flat(values), json))
        return None  # a user's generic class: the value may have another type (`Mapped[int]`)

    def _tuple(self, of_kind: Check, args: tuple[Any, ...]) -> Check:
        if args[-1] is Ellipsis:
            item = self.of(args[0])
            return Check(lambda values, json: of_kind.test(values, json) and _passes(item, _flat(values), json))
        places = list(_places(args))
        run = next((i for i, place in enumerate(places) if isinstance(place, _Run)), None)
        checks = [self.of(place.hint if isinstance(place, _Run) else place) for place in places]
        if run is None:
            return Check(lambda values, json: of_kind.test(values, json) and _in_places(checks, values, json))
        middle, after = checks.pop(run), len(places) - run - 1

        def test(values: Collection[Any], json: bool) -> bool:
            if not of_kind.test(values, json) or any(len(value) < len(checks) for value in values):
                return False
            ends = [(*value[:run], *value[len(value) - after :]) for value in values]
            between = [value[run : len(value) - after] for value in values]
            return _in_places(checks, ends, json) and _passes(middle, _flat(between), json)

        return Check(test)

    def _union(self, hints: Iterable[Any]) -> Check | None:
        checks = [self.of(hint) for hint in hints]
        some = [check for check in checks if check is not None]
        if len(some) < len(checks):
            return None
        simple = [check.is_of for check in some if check.is_of is not None]
        if len(simple) == len(some):
            return _by_kind(lambda kind: any(is_of(kind) for is_of in simple))

        def test(values: Collection[Any], json: bool) -> bool:
            for kind in set(map(type, values)):
                alike = [value for value in values if type(value) is kind]
                # Mostly one alternative fits all values; otherwise each value may have its own.
                if not any(check.test(alike, json) for check in some) and not all(
                    any(check.test([value], json) for check in some) for value in alike
                ):
                    return False
            return True

        return Check(test, _NOTHING.union(*(check.plain for check in some)))

    def _typed_dict(self, cls: Any, hints: Mapping[str, object]) -> Check:
        checks = {name: self._later(hint) for name, hint in hints.items()}
        required = frozenset(getattr(cls, "__required_keys__", ()))

        def test(values: Collection[Any], json: bool) -> bool:
            if not set(map(type, values)) <= {dict} or not all(required <= value.keys() for value in values):
                return False
            return all(
                check.test([value[name] for value in values if name in value], json) for name, check in checks.items()
            )

        return Check(test)

    def _record(self, cls: type, hints: Mapping[str, object]) -> Check:
        of_kind, record_types = _kinds(cls), self.table.record_types
        checks = {name: self._later(hint) for name, hint in hints.items()}

        def test(values: Collection[Any], json: bool) -> bool:
            if not of_kind.test(values, json):
                return False
            states = []
            for value in values:
                record_type = record_types.get(type(value))
                if record_type is None:  # a registered subclass
                    continue
                named = record_type.kind == "namedtuple"
                items = zip(record_type.fields, tuple.__iter__(value), strict=True) if named else ()
                states.append({**dict(items), **record_type.state(value)})
            return all(
                check.test([state[name] for state in states if state.get(name) is not None], json)
                for name, check in checks.items()
            )

        return Check(test)


class _Run(NamedTuple):
    """Any number of a tuple's items."""

    hint: Any


def _places(args: Iterable[Any]) -> Iterator[Any]:
    """The hints of a tuple's items, what is unpacked among them (`*tuple[str, ...]`, `*Ts`) in place."""
    for arg in args:
        inner = get_args(arg)[0] if get_origin(arg) is typing.Unpack else arg
        if inner is arg and not getattr(arg, "__unpacked__", False):
            yield arg
        elif get_origin(inner) is not tuple:
            yield _Run(Any)
        elif (inside := get_args(inner))[-1:] == (Ellipsis,):
            yield _Run(inside[0])
        else:
            yield from _places(inside)


def _in_places(checks: Sequence[Check | None], values: Collection[Any], json: bool) -> bool:
    """Whether all values have as many items as there are checks, and each item fits its own."""
    return {len(value) for value in values} <= {len(checks)} and all(
        _passes(check, column, json) for check, column in zip(checks, zip(*values, strict=True), strict=False)
    )


def _flat(values: Collection[Any]) -> Collection[Any]:
    """The contents of all values; quick if there is only one."""
    return next(iter(values)) if len(values) == 1 else list(chain.from_iterable(values))


def _passes(check: Check | None, values: Collection[Any], json: bool) -> bool:
    return check is None or check.test(values, json)


def _kinds(cls: type) -> Check:
    """A check for instances of a class and its subclasses."""
    return _by_kind(lambda kind: _is_subclass(kind, cls))


def _by_kind(is_of: Callable[[type], bool]) -> Check:
    answers: dict[type, bool] = {}

    def remembered(kind: type) -> bool:
        answer = answers.get(kind)
        if answer is None:
            answer = answers[kind] = is_of(kind)
        return answer

    plain = frozenset([kind for kind in _PLAIN if is_of(kind)])

    def test(values: Collection[Any], json: bool) -> bool:
        kinds = set(map(type, values))
        return kinds <= plain or all(map(remembered, kinds))

    return Check(test, plain, remembered)


def _is_subclass(kind: type, cls: type) -> bool:
    try:
        return issubclass(kind, cls) or (cls is float and issubclass(kind, int))
    except Exception as error:  # a protocol, or what a metaclass does
        let_out(error)
        return True


def _literal(args: tuple[Any, ...]) -> Check:
    kinds = {type(arg) for arg in args}
    allowed = {(type(arg), arg) for arg in args}

    def test(values: Collection[Any], json: bool) -> bool:
        return set(map(type, values)) <= kinds and all((type(value), value) in allowed for value in values)

    return Check(test)
