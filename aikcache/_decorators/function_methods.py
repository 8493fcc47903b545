"""What a cached function can do beside being called: the attributes of its wrapper."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from aikcache._decorators.cached_function import CachedCall
from aikcache._decorators.signature import Arguments
from aikcache._engine import many as _many
from aikcache._engine.batch import Batch
from aikcache._engine.call import MISSING, Attempt, carry_out
from aikcache._engine.fast_path import FastPathMiss
from aikcache._engine.load import answer
from aikcache._keys.patterns import Invalidation
from aikcache.errors import InvalidKeyError

if TYPE_CHECKING:
    from aikcache._engine.engine import Engine
    from aikcache._engine.stats import CacheInfo

METHODS = ("key", "peek", "invalidate", "refresh", "store", "explain", "many", "cache_info", "cache_clear")


class Bound(NamedTuple):
    """Calls by their arguments and keys."""

    arguments: list[Arguments]
    texts: list[str]
    apart: dict[int, Any]
    """Results of what cannot be cached, by their place among all."""


def _alone(calls: list[Any]) -> list[Arguments]:
    """Calls with one argument each, bound."""
    return [((call,), {}) for call in calls]


class FunctionMethods:
    """The methods of one cached function."""

    def __init__(self, of: CachedCall) -> None:
        self._of = of

    def attach(self, wrapper: Callable[..., Any]) -> None:
        """Give the wrapper its methods."""
        for name in METHODS:
            setattr(wrapper, name, getattr(self, name))
        wrapper.bypass = self._of.fn  # type: ignore[attr-defined]

    def key(self, /, *args: Any, **kwargs: Any) -> str:
        """The full key of this call."""
        return self._of.engine().keyspace.namespace_prefix + self._of.key_text(*self._of.bind(*args, **kwargs))

    def peek(self, /, *args: Any, default: Any = None, **kwargs: Any) -> Any:
        """The value cached for this call, or `default` (also when Redis is down). Never runs the function."""
        engine, call = self._of.called(args, kwargs)
        (value,) = _many.peek(engine, [call])
        return default if value is MISSING else value

    def invalidate(self, /, *args: Any, **kwargs: Any) -> None:
        """Invalidate this call's value in every process."""
        self._of.end(Invalidation(keys=(self.key(*args, **kwargs),)))

    def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function now, cache its result in place of the old one, and return it."""
        bound = self._of.bind(*args, **kwargs)
        if self._of.skips(*bound):
            return self._of.beside(*bound)
        try:
            engine, call = self._of.called(args, kwargs)
        except InvalidKeyError as error:
            return self._of.unkeyed(self._of.engine(), error, *self._of.bind(*args, **kwargs))
        from aikcache._engine import writes

        return writes.reload(engine, call, self._of.end)

    def store(self, value: Any, /, *args: Any, **kwargs: Any) -> None:
        """Cache `value` as the result of this call. Raises `EncodeError` if it could not come back equal, unless it is
        shared (`share=True`, no URL).
        """
        engine, call = self._of.called(args, kwargs)
        from aikcache._engine import writes

        writes.put(engine, call, value, self._of.end)

    def explain(self, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Where this call would be answered from, and why. For people and logs; the details may change."""
        from aikcache._engine.explain import explain

        explained = explain(*self._of.called(args, kwargs))
        return {**explained, "answer": "skipped"} if self._of.skips(*self._of.bind(*args, **kwargs)) else explained

    def many(self, calls: Iterable[Any]) -> list[Any]:
        """The results of many calls, hits in one round trip. Each is a tuple of arguments, a dict, or the only one."""
        calls, engine = [*calls], self._of.engine()
        quick = None if engine.passive or self._of.policy.skip_if is not None else self._of.key_texts(calls)
        bounds, texts, apart = self._bound(engine, calls) if quick is None else Bound([], quick, {})
        local_keys: list[Hashable] = []
        if self._of.kept_locally(engine):
            bounds = bounds if quick is None else _alone(calls)
            local_keys = self._of.table_keys(bounds, texts)
        looked = engine.local.changes
        found = _many.fast_read(engine, self._of.region, self._of.policy, texts, local_keys)
        if FastPathMiss in map(type, found):
            self._fetch(engine, bounds if quick is None else _alone(calls), texts, found, looked)
        for place, result in sorted(apart.items()):
            found.insert(place, result)
        return found

    def _bound(self, engine: Engine, calls: list[Any]) -> Bound:
        """The arguments of calls, each bound by itself."""
        of, bind = self._of, self._of.bind
        passive, selective = engine.passive, of.policy.skip_if is not None
        bounds: list[Arguments] = []
        texts: list[str] = []
        apart: dict[int, Any] = {}
        for call in calls:
            bound = bind(**call) if type(call) is dict else bind(*call) if type(call) is tuple else bind(call)
            if passive or (selective and of.skips(*bound)):
                past = of.run(engine, *bound) if passive else of.beside(*bound)
                apart[len(bounds) + len(apart)] = past
                continue
            try:
                texts.append(of.key_text(*bound))
                bounds.append(bound)
            except InvalidKeyError as error:
                apart[len(bounds) + len(apart)] = of.unkeyed(engine, error, *bound)
        return Bound(bounds, texts, apart)

    def _fetch(self, engine: Engine, bounds: list[Arguments], texts: list[str], found: list[Any], looked: int) -> None:
        """What was not found at a fast-path read."""
        rest: list[int] = []
        attempts: list[Attempt] = []
        for i, missed in enumerate(found):
            if type(missed) is FastPathMiss:
                try:
                    call = self._of.call(engine, *bounds[i], text=texts[i])
                except InvalidKeyError as error:  # of a tag
                    found[i] = self._of.unkeyed(engine, error, *bounds[i])
                else:
                    attempts.append(Attempt(call, engine.clock(), missed.first, looked if missed.looked else -1))
                    rest.append(i)
        batch = Batch(engine, attempts, lambda places: [attempts[i].call.load() for i in places])
        for i, value in zip(rest, carry_out(answer(batch), batch.run), strict=True):
            found[i] = value

    def cache_info(self) -> CacheInfo:
        """Hits (of both tiers) and misses so far, and the local tier's bound and what it holds of this operation."""
        from aikcache._engine.stats import CacheInfo

        self._of.engine()
        c = self._of.region.counters
        hits = self._of.region.local_hits() + c.remote_hits + c.joined
        return CacheInfo(hits, c.misses, self._of.engine().config.local_max_entries, len(self._of.region.table))

    def cache_clear(self) -> None:
        """Invalidate all values of this operation in every process."""
        self._of.end(Invalidation(groups=(self._of.region.name,)))
