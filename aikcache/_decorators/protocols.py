"""The type of a decorated function: its own parameters and result, and the wrapper's methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, overload

from aikcache._engine.stats import CacheInfo

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
D = TypeVar("D")
S = TypeVar("S")
MYPY = False  # as Python and pyright see it; mypy takes it for true


class CachedFunction(Protocol[P, R]):
    """What `@cached` makes of a function: you call it as before, and it has the methods below.

    On an instance the methods are bound too: `repo.get.invalidate(1)`, or `Repo.get.invalidate(repo, 1)`. Of a
    `@classmethod` only the call is bound; the methods take the class first. A call that no key can hold raises
    `InvalidKeyError` from the methods that need a key.
    """

    __name__: str
    __qualname__: str
    __wrapped__: Callable[P, R]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function's result, cached."""

    if MYPY:
        # It does not look at the type of `self`, and so cannot tell a classmethod or a staticmethod from a method:
        # either way to call it is right.
        @overload
        def __get__(
            self: CachedFunction[Concatenate[S, Q], R], instance: None, owner: type, /
        ) -> EitherWay[P, Q, R]: ...
        @overload
        def __get__(self: CachedFunction[Concatenate[S, Q], R], instance: S, owner: type, /) -> EitherWay[Q, P, R]: ...
        @overload
        def __get__(self, instance: object, owner: type, /) -> CachedFunction[P, R]: ...
        def __get__(self, instance: Any, owner: Any, /) -> Any: ...
    else:
        # As a classmethod (its first parameter takes the owner), through the class, as a method, as a staticmethod.
        @overload
        def __get__(self: CachedFunction[Concatenate[S, Q], R], instance: object, owner: S, /) -> Callable[Q, R]: ...
        @overload
        def __get__(self, instance: None, owner: type, /) -> Self: ...
        @overload
        def __get__(
            self: CachedFunction[Concatenate[S, Q], R], instance: S, owner: type, /
        ) -> CachedFunction[Q, R]: ...
        @overload
        def __get__(self, instance: object, owner: type, /) -> Self: ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The full key of this call."""

    @overload
    def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | None: ...
    @overload
    def peek(self, *args: Any, default: D, **kwargs: Any) -> R | D:
        """The value cached for this call, or `default` (also when Redis is down). Never runs the function."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Invalidate this call's value in every process."""

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function now, cache its result in place of the old one, and return it."""

    def store(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Cache `value` as the result of this call. Raises `EncodeError` if it could not come back equal, unless it is
        shared (`share=True`, no URL).
        """

    def bypass(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function itself: neither reads nor writes the cache."""

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        """Where this call would be answered from, and why. For people and logs; the details may change."""

    def many(self, calls: Iterable[Any], /) -> list[R]:
        """The results of many calls, in order; one round trip finds all hits.

        Each call is a tuple of arguments, a dict of named ones, or the only argument itself.
        """

    def cache_info(self) -> CacheInfo:
        """Hits and misses so far, `maxsize` and `currsize` in entries, as `functools.lru_cache` has them."""

    def cache_clear(self) -> None:
        """Invalidate all values of this operation in every process."""


class EitherWay(CachedFunction[P, R], Protocol[P, Q, R]):
    """What mypy, which cannot tell a classmethod or a staticmethod from a method here, takes either call of."""

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(self, *args: Q.args, **kwargs: Q.kwargs) -> R: ...
