"""A cached method: what stands in the class for a cached function whose first parameter is `self`.

The class gives the function itself, an instance gives it bound; and so are its helpers: `repo.get.invalidate(1)`, or
`Repo.get.invalidate(repo, 1)`. A plain function would bind at no cost, but Python's own method object takes attributes
from the function alone, which does not know the instance. So only what is defined in a class pays for this.

It learns its class when that is complete, the first moment at which it can be known whether an instance can stand in a
key: a method for which that is not settled is refused then.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any


class BoundMethod(functools.partial[Any]):
    """A cached function with its instance. A `partial`, for the interpreter calls that without another frame."""

    __slots__ = ()

    @property
    def __self__(self) -> Any:
        return self.args[0]

    @property
    def __func__(self) -> Any:
        return self.func

    @property
    def __signature__(self) -> inspect.Signature:
        signature = inspect.signature(self.func)
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.func, name)

    def __get__(self, instance: object, owner: type | None = None) -> BoundMethod:
        return self

    def __eq__(self, other: object) -> bool:
        return type(other) is BoundMethod and self.func is other.func and self.args[0] is other.args[0]

    def __hash__(self) -> int:
        return hash((self.func, id(self.args[0])))

    def __reduce__(self) -> Any:
        return getattr, (self.args[0], self.func.__name__)

    def __repr__(self) -> str:
        return f"<bound cached method {self.func.__qualname__} of {self.args[0]!r}>"

    def key(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.func.key(*self.args, *args, **kwargs)  # type: ignore[attr-defined]

    def peek(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.func.peek(*self.args, *args, **kwargs)  # type: ignore[attr-defined]

    def invalidate(self, /, *args: Any, **kwargs: Any) -> None:
        self.func.invalidate(*self.args, *args, **kwargs)  # type: ignore[attr-defined]

    def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.func.refresh(*self.args, *args, **kwargs)  # type: ignore[attr-defined]

    def store(self, value: Any, /, *args: Any, **kwargs: Any) -> None:
        self.func.store(value, *self.args, *args, **kwargs)  # type: ignore[attr-defined]

    def bypass(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.func.bypass(*self.args, *args, **kwargs)  # type: ignore[attr-defined]

    def explain(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.func.explain(*self.args, *args, **kwargs)  # type: ignore[attr-defined]

    def many(self, calls: Iterable[Any], /) -> list[Any]:
        found: list[Any] = self.func.many(map(self._with_self, calls))  # type: ignore[attr-defined]
        return found

    def _with_self(self, call: Any) -> Any:
        if type(call) is dict:
            return {next(iter(inspect.signature(self.func).parameters)): self.args[0], **call}
        return (*self.args, *(call if type(call) is tuple else (call,)))


class CachedMethod:
    """A cached function in a class's namespace. Called, it is the function."""

    __slots__ = ("__dict__", "__weakref__", "_check", "_function")

    def __init__(self, function: Callable[..., Any], check: Callable[[type], object]) -> None:
        functools.update_wrapper(self, function)
        self.__wrapped__ = function.__wrapped__  # type: ignore[attr-defined]
        self._function = function
        self._check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self._check(owner)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self._function if instance is None else BoundMethod(self._function, instance)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<cached method {self._function.__qualname__}>"


def is_method(fn: Callable[..., Any], names: tuple[str, ...]) -> bool:
    """Whether a function is defined in a class's body and takes its instance first."""
    where, _, _ = fn.__qualname__.rpartition(".")
    return names[:1] == ("self",) and bool(where) and not where.endswith("<locals>")


def function_of(thing: Any) -> Any:
    """The function behind a cached method, for another decorator on top of it; anything else as it is."""
    return thing._function if type(thing) is CachedMethod else thing
