"""The static face of a decorated function: its own parameters and result, and the wrapper's methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from ._call import CacheInfo

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")
S = TypeVar("S", contravariant=True)


class CachedFunction(Protocol[P, R]):
    """What `@cached` makes of a function: the same to call, and more to do.

    As a method it binds like any function; the methods below are then reached through the class and take the instance
    first: `Shop.price.invalidate(shop, "tea")`.
    """

    __name__: str
    __qualname__: str
    __wrapped__: Callable[P, R]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function's result, cached."""

    @overload
    def __get__(self, instance: None, owner: type, /) -> CachedFunction[P, R]: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[S, Q], R], instance: S, owner: type | None = None, /
    ) -> Callable[Q, R]: ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of this call, in full."""

    def peek(self, *args: Any, default: Any = None, **kwargs: Any) -> Any:
        """The value cached for this call, or `default`; never runs the function."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """End what is cached for this call, everywhere."""

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function now and cache its result."""

    def store(self, value: Any, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Cache `value` as the result of this call."""

    def bypass(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function itself."""

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        """Where this call would be answered from, and why."""

    def many(self, calls: Iterable[Any], /) -> list[R]:
        """The results of many calls; all hits come in one round trip."""

    def cache_info(self) -> CacheInfo:
        """As in functools."""

    def cache_clear(self) -> None:
        """End everything cached of this operation, everywhere."""
