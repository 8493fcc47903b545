"""`cached`, `cached_many` and `invalidates`, for a cache and for the default cache alike.

Everything that can be wrong in a decoration is found while decorating. The function is never changed: the wrapper is
another function, with the original as `__wrapped__`.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, ParamSpec, TypeVar

from . import _call, _invalidating, _policy, _wrapper
from ._batch_function import BatchCall
from ._call import CachedCall, Owner, Tags
from ._codec import Codec
from ._local import Region
from ._policy import Ttl
from ._signature import Signature, return_type
from ._typing import CachedFunction
from .errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")


class Decorators:
    """The decorators; what they act on is the subclass's to say."""

    _declared: dict[str, tuple[str, str]]

    def _cache(self) -> Owner:
        raise NotImplementedError

    def _region(self, name: str) -> Region:
        raise NotImplementedError

    def cached(
        self,
        prefix: str,
        ttl: Ttl = None,
        *,
        operation: str | None = None,
        key: Callable[..., Any] | None = None,
        ignore: Collection[str] = (),
        normalize: Mapping[str, Callable[[Any], Any]] | None = None,
        tags: Tags = (),
        local_ttl: float | timedelta | None = None,
        jitter: float = 0.0,
        cache_if: Callable[[Any], object] | None = None,
        share: bool = False,
        stale_ttl: float | timedelta = 0.0,
        error_ttl: float | timedelta = 0.0,
        early_refresh: float = 0.0,
        load_timeout: float | timedelta | None = None,
        type: Any = None,
    ) -> Callable[[Callable[P, R]], CachedFunction[P, R]]:
        """Cache a function's results under `{instance}:{version}:{prefix}:{operation}:{parameters}`.

        A call is answered from this process, then from Redis, then by the function, which at any time runs once per key
        in all processes together. Whatever Redis does, the call returns what the function would. A hit equals the
        function's result in value and type; a result that cannot be kept so is returned and not cached.

        Args:
            prefix: groups functions; also names the default `ttl` in the settings.
            ttl: seconds, or a function of the result; None: the prefix's; 0: do not store.
            operation: the third part of the key; None: the function's name.
            key: from the call's arguments to the key's parameter, or a tuple of them.
            ignore: parameters left out of the key.
            normalize: functions by parameter, applied to its value in the key.
            tags: templates over the arguments (`"resource:{resource_id}"`), or a function `(result, **arguments)`.
            local_ttl: seconds in the local tier at most; None: the cache's own bound; 0: not there.
            jitter: a fraction of `ttl` by which it is shortened at random, so that not all expire at once.
            cache_if: asked with each result; false: returned, not stored.
            share: the local tier hands every caller the same object. They must not change it.
            stale_ttl: seconds after `ttl` in which a stale value answers at once and is renewed in the background.
            error_ttl: seconds after `ttl` in which a stale value answers when the function raises or takes too long.
            early_refresh: XFetch's beta: a value is renewed in the background shortly before its end, the earlier the
                longer its load takes; 1 is usual, 0 is off.
            load_timeout: seconds after which a stale value answers while the load goes on in the background.
            type: what results are decoded to, where the return annotation is missing or too wide.

        Raises:
            ConfigError: when decorating, with what is wrong.
            TypeError: when decorating, for what is no plain function.
        """

        def decorate(fn: Callable[P, R]) -> CachedFunction[P, R]:
            name = _call.make_region_name(check_function(fn, "cached"), prefix, operation)
            where = f"@cached on {fn.__qualname__}"
            self._declare(name, fn, where)
            policy = _policy.make(
                where,
                Codec(type if type is not None else return_type(fn)),
                ttl=ttl,
                local_ttl=local_ttl,
                jitter=jitter,
                cache_if=cache_if,
                share=share,
                stale_ttl=stale_ttl,
                error_ttl=error_ttl,
                early_refresh=early_refresh,
                load_timeout=load_timeout,
            )
            signature = Signature(fn, key=key, ignore=ignore, normalize=normalize)
            region = self._region(name)
            call = CachedCall(fn, self._cache, region, signature, prefix, policy, tags)
            wrapper = _wrapper.make(signature, region, call.miss, call.late, call.other)
            call.attach(wrapper)
            return typing.cast(CachedFunction[P, R], wrapper)

        return decorate

    def cached_many(
        self,
        prefix: str,
        ttl: Ttl = None,
        *,
        operation: str | None = None,
        ignore: Collection[str] = (),
        tags: Sequence[str] = (),
        local_ttl: float | timedelta | None = None,
        jitter: float = 0.0,
        cache_if: Callable[[Any], object] | None = None,
        type: Any = None,
    ) -> Callable[[Callable[P, dict[K, V]]], Callable[P, dict[K, V]]]:
        """Cache `def f(ids: list[K], ...) -> dict[K, V]` id by id.

        One round trip finds all hits; the function is called once, with the missing ids only. What it leaves out of its
        result is not cached. The entries are those of a `cached` function of the same prefix and operation whose first
        parameter is one id; in `tags` the first parameter's name stands for one id as well.

        Args: as for `cached`, with `type` for V.
        """

        def decorate(fn: Callable[P, dict[K, V]]) -> Callable[P, dict[K, V]]:
            name = _call.make_region_name(check_function(fn, "cached_many"), prefix, operation)
            annotation = typing.get_args(return_type(fn))
            codec = Codec(type if type is not None else annotation[1] if len(annotation) == 2 else None)
            policy = _policy.make(
                f"@cached_many on {fn.__qualname__}",
                codec,
                ttl=ttl,
                local_ttl=local_ttl,
                jitter=jitter,
                cache_if=cache_if,
            )
            signature = Signature(fn, ignore=ignore)
            call = BatchCall(fn, self._cache, self._region(name), signature, prefix, policy, tags)
            return typing.cast(Callable[P, dict[K, V]], functools.update_wrapper(call.wrapper(), fn))

        return decorate

    def invalidates(
        self, *patterns: str, tags: Sequence[str] = (), when: Literal["after", "before", "both"] = "after"
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """End what a write has changed, in every process, when the function has succeeded.

        Args:
            patterns: `prefix[:operation[:parameters]]`; `{fields}` come from the call's arguments and its `{result}`,
                and are escaped; a `*` in the template is a wildcard.
            tags: templates of tags, filled the same way.
            when: "after" the function succeeded, "before" it runs, or "both".

        Raises:
            ConfigError: when decorating: a malformed pattern, a field that is no argument.
        """

        def decorate(fn: Callable[P, R]) -> Callable[P, R]:
            check_function(fn, "invalidates", coroutines=False)
            return _invalidating.wrap(fn, self._cache, patterns, tags, when)

        return decorate

    def _declare(self, name: str, fn: Callable[..., Any], where: str) -> None:
        """Two functions of one name would answer for each other."""
        code = inspect.unwrap(fn).__code__
        mine = (fn.__qualname__, code.co_filename)
        other = self._declared.setdefault(name, mine)
        if other != mine:
            raise ConfigError(
                f"{where}: {name} is already the key of {other[0]}, so each would answer for the other. "
                f"Pass operation= with another name."
            )


def check_function(fn: Any, what: str, *, coroutines: bool = True) -> Any:
    """A plain function, or a `TypeError` that says what was given and what to do instead."""
    name = getattr(fn, "__qualname__", None) or type(fn).__name__
    if isinstance(fn, type):
        raise TypeError(
            f"@{what} decorates functions, and {name} is a class. Decorate its methods, or a factory function."
        )
    if isinstance(fn, (classmethod, staticmethod, property)):
        kind = type(fn).__name__
        raise TypeError(f"@{what} goes below @{kind}, next to the function: put @{kind} on the outside.")
    if inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn):
        raise TypeError(f"@{what} is synchronous, and {name} is `async def`. Decorate the function that does the work.")
    if inspect.isgeneratorfunction(fn):
        raise TypeError(f"@{what} cannot keep a generator, and {name} is one. Let it return a list.")
    if not inspect.isfunction(fn):
        raise TypeError(f"@{what} decorates plain functions, got {type(fn).__name__} {name}. Wrap it in a def.")
    return fn
