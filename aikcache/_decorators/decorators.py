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

from aikcache._codec.codec import Codec
from aikcache._decorators import cached_function, method
from aikcache._decorators import invalidates as _invalidating
from aikcache._decorators import wrapper as _wrapper
from aikcache._decorators.cached_function import CachedCall, Tags
from aikcache._decorators.function_methods import FunctionMethods
from aikcache._decorators.registry import Registry
from aikcache._decorators.signature import Signature, item_type, return_type
from aikcache._engine import policy as _policy
from aikcache._engine.policy import Consistency, Ttl
from aikcache._local.region import Region
from aikcache.errors import ConfigError

if typing.TYPE_CHECKING:
    from aikcache._decorators.cached_function import Owner
    from aikcache._decorators.protocols import CachedFunction

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")


class Decorators:
    """The decorators; what they act on is the subclass's to say."""

    _registry: Registry

    def _cache(self) -> Owner:
        raise NotImplementedError

    def _region(self, name: str, expects: object, *, anew: bool = False) -> Region:
        """The region of a prefix:operation, for functions that expect this type.

        `anew`: another, because the function it is for has been defined again.
        """
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
        consistency: Consistency | None = None,
        type: Any = None,
        skip_if: Callable[..., object] | None = None,
        version: int | str | None = None,
    ) -> Callable[[Callable[P, R]], CachedFunction[P, R]]:
        """Cache a function's results under `{instance}:{version}:{prefix}:{operation}:{parameters}`.

        A call is answered from this process, then from Redis, then by the function, which runs once per key at a time
        in all processes together. A call waits for another's load for `lease_wait` seconds at most. Whatever Redis
        does, the call returns what the function would. A hit equals the function's result in value and type; a result
        that would not come back equal is returned and not cached.

        Args:
            prefix: groups functions; also names the default `ttl` in the settings.
            ttl: seconds, or a function from the result to seconds; None: the prefix's; 0: the result is not stored.
            operation: the part of the key after the prefix; None: the function's name.
            key: a function from the call's arguments to the key's parameter, or to a tuple of them.
            ignore: names of parameters that are left out of the key.
            normalize: functions by parameter, applied to its value in the key. Templates of tags are filled with both.
            tags: templates over the arguments (`"resource:{resource_id}"`), or a function `(result, **arguments)` that
                gives an iterable of str.
            local_ttl: seconds in the local tier at most; None: the cache's bound; 0: not in the local tier.
            jitter: a fraction (0.1 is 10 %) by which `ttl` is shortened at random, so that not all expire at once.
            cache_if: called with each result; if false, the result is returned and not stored.
            share: True: every caller gets the same object from the local tier, and must not change it.
            stale_ttl: seconds after `ttl` in which a stale value answers at once and is renewed in the background
                (stale-while-revalidate of RFC 5861).
            error_ttl: seconds after `ttl` in which a stale value answers when the function raises or takes too long
                (stale-if-error of RFC 5861).
            early_refresh: XFetch's beta: a value is renewed in the background shortly before it expires, the earlier
                the longer its load takes. 1 is usual, 0 is off.
            load_timeout: seconds after which a stale value answers while the load goes on in the background; None: no
                limit.
            consistency: "strong": no call gets what any process had invalidated before it; "bounded": nor what was
                invalidated by a push that has arrived here; None: the cache's setting.
            type: what results are decoded to, if the return annotation is missing or too wide. A value that was stored
                for another annotation or `type`, or before one of its classes changed, is a miss.
            skip_if: called with each call's arguments; if true, the call neither reads nor writes the cache, and is
                not counted.
            version: an int or str; a new one leaves behind what was cached. The key then has `operation.version`.
                The group `prefix:operation` has all versions in it, in every process. A pattern for one call
                (`prefix:operation:{id}`) matches the versions that its own process has decorated: while a deploy mixes
                versions, use tags or the group.

        Raises:
            ConfigError: when decorating: an argument breaks a rule.
            TypeError: when decorating: this is not a plain function.
        """
        check_called(prefix, "cached")

        def decorate(fn: Callable[P, R]) -> CachedFunction[P, R]:
            name = cached_function.make_region_name(check_function(fn, "cached"), prefix, operation, version)
            where = f"@cached on {fn.__qualname__}"
            anew = self._registry.declare(name, fn, where)
            self._registry.note_version(name, version)
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
                skip_if=skip_if,
                consistency=consistency,
            )
            signature = Signature(fn, key=key, ignore=ignore, normalize=normalize)
            region = self._region(name, policy.codec.annotation, anew=anew)
            shape = tuple(signature.quick_types().items()) if signature.plain else None
            if None not in (shape, region.shape) and shape != region.shape:  # of one factory, but for other arguments
                region = self._region(name, (policy.codec.annotation, shape))
            region.shape = region.shape or shape
            call = CachedCall(fn, self._cache, region, signature, prefix, policy, tags)
            self._registry.note_tags(name, call.tags_begin)
            skips = None if skip_if is None else call.skips
            wrapper = _wrapper.make(signature, call.miss, call.serve, call.other, skips=skips, beside=call.beside)
            call.attach(wrapper)
            FunctionMethods(call).attach(wrapper)
            if method.is_method(fn, signature.names):
                wrapper = method.CachedMethod(wrapper, signature.check_owner)
            return typing.cast("CachedFunction[P, R]", wrapper)

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
        consistency: Consistency | None = None,
        type: Any = None,
        version: int | str | None = None,
    ) -> Callable[[Callable[P, dict[K, V]]], Callable[P, dict[K, V]]]:
        """Cache `def f(ids: list[K], ...) -> dict[K, V]` id by id.

        One round trip finds all hits; the function is called once, with the missing ids only. An id that it leaves out
        of its result is not cached; an id that it adds is returned and not cached. The entries are those of a `cached`
        function with the same prefix, operation and type whose first parameter is one id. In `tags` the name of the
        first parameter stands for one id as well.

        Args: as for `cached`, with `type` for V.
        """
        check_called(prefix, "cached_many")
        from aikcache._decorators.batch_function import BatchCall

        def decorate(fn: Callable[P, dict[K, V]]) -> Callable[P, dict[K, V]]:
            name = cached_function.make_region_name(check_function(fn, "cached_many"), prefix, operation, version)
            self._registry.prefixes.add(prefix)
            self._registry.note_version(name, version)
            codec = Codec(type if type is not None else item_type(return_type(fn)))
            policy = _policy.make(
                f"@cached_many on {fn.__qualname__}",
                codec,
                ttl=ttl,
                local_ttl=local_ttl,
                jitter=jitter,
                cache_if=cache_if,
                consistency=consistency,
            )
            signature = Signature(fn, ignore=ignore)
            call = BatchCall(fn, self._cache, self._region(name, codec.annotation), signature, prefix, policy, tags)
            self._registry.note_tags(name, call.tags_begin)
            return typing.cast(Callable[P, dict[K, V]], functools.update_wrapper(call.wrapper(), fn))

        return decorate

    def invalidates(
        self, *patterns: str, tags: Sequence[str] = (), when: Literal["after", "before", "both"] = "after"
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Invalidate what a write has changed, in every process, when the function has succeeded.

        If Redis is down, this process sees it at once and sends it later; the call returns the function's result.

        Args:
            patterns: `prefix[:operation[:parameters]]`. `{fields}` are filled from the call's arguments and its
                `{result}`, escaped. A `*` in the template is a wildcard.
            tags: templates of tags, filled the same way.
            when: "after" the function succeeded, "before" it runs, or "both".

        Raises:
            ConfigError: when decorating: a pattern is malformed, or a field names no argument.
        """
        check_called(patterns[0] if patterns else None, "invalidates")

        def decorate(fn: Callable[P, R]) -> Callable[P, R]:
            fn = check_function(method.function_of(fn), "invalidates", coroutines=False)
            return _invalidating.wrap(fn, self._cache, self._registry, patterns, tags, when)

        return decorate


def check_called(first: object, what: str) -> None:
    """A decorator written bare is called with the function itself, as its first argument."""
    if callable(first) or isinstance(first, (classmethod, staticmethod, property)):
        raise ConfigError(
            f'@{what} needs to know what it is about, and was given the function itself: write @{what}("prefix").'
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
    if not _wrapper.is_function(fn):
        kind = type(fn).__name__
        given = kind if name == kind else f"{kind} {name}"
        raise TypeError(f"@{what} decorates plain functions, got {given}. Wrap it in a def.")
    return fn
