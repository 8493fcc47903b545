"""What a function's signature means for its keys: which parameters stand in them, and how.

Required parameters stand bare and in order, those with a default as `name|value` (always, so that a changed default is
another key), keyword arguments of `**kwargs` after them, in the order of the call: the function sees it, so two orders
are two calls, as to `functools.lru_cache`. `ignore` leaves parameters out, `normalize` changes their value in the key
alone (`{"kwargs": lambda kwargs: dict(sorted(kwargs.items()))}` makes all orders one), `key` replaces all of this by a
function of the call's arguments.

`self` or `cls` as the first parameter is in the way of every key: it must be left out, or its class must say with
`__cache_key__()` what it stands for in one.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import types
import typing
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from datetime import date
from types import NoneType
from typing import Any
from uuid import UUID

from aikcache._concurrency.outside import let_out
from aikcache._keys import rendering
from aikcache.errors import ConfigError

DISTINCT: tuple[type, ...] = (str, int, UUID, NoneType, bool, bytes, date)
"""Types of which equal values are one parameter; a float is not (0.0 == -0.0), nor a datetime (equal in two zones)."""
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class ReceiverError(ConfigError, TypeError):
    """A method's `self` or `cls` that no key can hold: a mistake in the program, raised whatever `strict` says."""


class Signature:
    """The parameters of one function, for its keys."""

    __slots__ = (
        "_bare_at", "_key", "_named_at", "_normalize", "_places", "alone", "bare", "fn", "named", "names", "normalizes",
        "owned", "plain", "receiver", "sig", "star", "starstar",
    )  # fmt: skip

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        key: Callable[..., Any] | None = None,
        ignore: Collection[str] = (),
        normalize: Mapping[str, Callable[[Any], Any]] | None = None,
    ) -> None:
        self.fn = fn
        self.sig = inspect.signature(fn)
        self._key = key
        self._normalize = dict(normalize or {})
        self.normalizes = bool(self._normalize)
        self.names = tuple(self.sig.parameters)
        where = f"@cached on {fn.__qualname__}"
        if isinstance(ignore, str):
            raise ConfigError(f"{where}: ignore must be a collection of parameter names, as in ignore=({ignore!r},).")
        for what, names in (("ignore", ignore), ("normalize", self._normalize)):
            for name in names:
                if name not in self.sig.parameters:
                    raise ConfigError(
                        f"{where}: {what} names {name!r}, which is no parameter; there are {self._list()}."
                    )
        for name, function in self._normalize.items():
            if not callable(function):
                raise ConfigError(f"{where}: normalize[{name!r}] must be a function, got {type(function).__name__}.")
        if key is not None and not callable(key):
            raise ConfigError(f"{where}: key must be a function of the call's arguments, got {type(key).__name__}.")
        if key is not None and (ignore or normalize):
            raise ConfigError(f"{where}: key= decides the key by itself; ignore= and normalize= do not go with it.")
        kept = [p for p in self.sig.parameters.values() if p.name not in ignore]
        self.bare = [p.name for p in kept if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        self.named = [p.name for p in kept if p.default is not p.empty]
        self.star = next((p.name for p in kept if p.kind is p.VAR_POSITIONAL), None)
        self.starstar = next((p.name for p in kept if p.kind is p.VAR_KEYWORD), None)
        first = self.names[0] if self.names else ""
        named = first in ("self", "cls") and first not in ignore and first not in self._normalize
        self.receiver = first if named and key is None else None
        self.plain = not (key or self._normalize or self.star or self.starstar or self.receiver)
        # Where the parameters in the key stand in a call's arguments, if all of them have a place there.
        placed = not any(p.kind is p.KEYWORD_ONLY for p in kept)
        self._places = self.plain and placed
        # Whether its only parameter, which is required, is the key.
        self.alone = self._places and len(self.names) == len(self.bare) == 1
        # Whether this would be plain but for its `self`, which says what it stands for.
        self.owned = placed and self.bare[:1] == [self.receiver] and not (normalize or self.star or self.starstar)
        self._bare_at = [self.names.index(name) for name in self.bare]
        self._named_at = [(rendering.label(name), self.names.index(name)) for name in self.named]

    def _list(self) -> str:
        return ", ".join(self.names) or "none"

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """By name, from arguments in that order."""
        found: dict[str, Any] = {}
        rest = dict(kwargs)
        at = 0
        for name, p in self.sig.parameters.items():
            if p.kind is p.VAR_POSITIONAL:
                found[name] = args[at:]
                at = len(args)
            elif p.kind is p.VAR_KEYWORD:
                found[name] = rest
            elif p.kind is p.KEYWORD_ONLY:
                found[name] = rest.pop(name)
            else:
                found[name] = args[at]
                at += 1
        return found

    def normalized(self, values: dict[str, Any]) -> dict[str, Any]:
        """Arguments as they stand in the key."""
        return {**values, **{name: function(values[name]) for name, function in self._normalize.items()}}

    def parameters(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The key's last part. `InvalidKeyError` for an argument without a form, `TypeError` for a bare `self`."""
        if self._places:
            if len(self._bare_at) == 1 and not self._named_at:
                return rendering.parameter(args[self._bare_at[0]])
            return rendering.joined([args[i] for i in self._bare_at], [(name, args[i]) for name, i in self._named_at])
        if self._key is not None:
            chosen = self._key(*args, **kwargs)
            return rendering.parameters(chosen if type(chosen) is tuple else (chosen,))
        values = self.arguments(args, kwargs)
        self.check_receiver(values)
        values = self.normalized(values)
        bare = [values[name] for name in self.bare]
        if self.star:
            bare += values[self.star]
        named = [(name, values[name]) for name in self.named]
        if self.starstar:
            named += values[self.starstar].items()
        return rendering.parameters(bare, named)

    def parameters_of_each(self, calls: Sequence[object]) -> list[str] | None:
        """`parameters` of many calls with one argument each, all at once; None: that is not possible."""
        return rendering.parameter_of_each(calls) if self.alone else None

    def check_receiver(self, values: Mapping[str, Any]) -> None:
        if self.receiver is not None:
            value = values[self.receiver]
            self.check_owner(value if isinstance(value, type) else type(value))

    def check_owner(self, cls: type) -> None:
        """Whether instances of a class, or the class itself, can stand in the key of this method."""
        if self.receiver is not None and not hasattr(cls, "__cache_key__"):
            raise ReceiverError(
                f"{self.fn.__qualname__} is a method, and its {self.receiver!r} cannot stand in a key. If the result "
                f"does not depend on it, pass ignore=({self.receiver!r},); if it does, give {cls.__qualname__} a "
                f"method __cache_key__() that returns what it depends on."
            )

    def local_key(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Hashable:
        """A key for the local tier where the wrapper's quick one does not do: two calls share it as they share a key.

        Values of distinct types stand with their types, and so does what a method's `self` says of itself. Anything
        else is represented by the parameters' text.
        """
        if self.plain:
            arguments = self.arguments(args, kwargs)
            values = tuple(arguments[name] for name in (*self.bare, *self.named))
            if _distinct(types := tuple(map(type, values))):
                return (
                    *types,
                    *(value.int if kind is UUID else value for kind, value in zip(types, values, strict=True)),
                )
        return (self._owned_key(args) if self.owned else None) or (self.parameters(args, kwargs),)

    def _owned_key(self, args: tuple[Any, ...]) -> tuple[Hashable, ...] | None:
        """The local key of a method's call, without its text; None: some value is not of a distinct type."""
        owner = args[0]
        cls: Any = type(owner)
        if isinstance(owner, type) or not hasattr(cls, "__cache_key__"):
            return None
        said = owner.__cache_key__()
        several = type(said) is tuple
        values = [*said] if several else [said]
        size = len(values) if several else -1
        values += [args[i] for i in self._bare_at[1:]]
        values += [args[i] for _, i in self._named_at]
        kinds = [*map(type, values)]
        if not _distinct(kinds):
            return None
        return (f"{cls.__module__}.{cls.__qualname__}", size, *kinds, *values)  # flat, for `keys/chosen` to look into

    def quick_types(self) -> dict[str, type]:
        """For each parameter in the key the one type whose values the wrapper uses as they are."""
        try:
            hints = typing.get_type_hints(self.fn)
        except Exception as error:  # an annotation that cannot be resolved says nothing
            let_out(error)
            hints = {}
        quick: dict[str, type] = {}
        for name in (*self.bare, *self.named):
            hint = hints.get(name)
            default = self.sig.parameters[name].default
            options = [t for t in typing.get_args(hint) if t is not NoneType] or [hint]
            known = [t for t in (*options, type(default)) if isinstance(t, type) and t in DISTINCT]
            found = next((t for t in known if t not in (NoneType, date)), str)
            quick[name] = found
        return quick


def _distinct(kinds: Iterable[type]) -> bool:
    return all(kind in DISTINCT for kind in kinds)


def return_type(fn: Callable[..., Any]) -> Any:
    """The resolved return annotation; its text where it cannot be resolved, and `None` where there is none."""
    annotations = getattr(fn, "__annotations__", {})
    if "return" not in annotations:
        return None
    annotation = annotations["return"]
    alone = types.SimpleNamespace(__annotations__={"return": annotation})  # whatever the parameters' are
    try:
        return typing.get_type_hints(alone, inspect.unwrap(fn).__globals__, include_extras=True)["return"]
    except Exception as error:
        let_out(error)
        return annotation


def item_type(annotation: Any) -> Any:
    """The `V` of `dict[K, V]`, also where that is text; `None` where it is none."""
    if isinstance(annotation, str):
        with contextlib.suppress(SyntaxError):
            match ast.parse(annotation, mode="eval").body:
                case ast.Subscript(slice=ast.Tuple(elts=[_, value])):
                    return ast.unparse(value)
        return None
    arguments = typing.get_args(annotation)
    return arguments[1] if len(arguments) == 2 else None
