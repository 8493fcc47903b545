"""A decorated function: its key, tags and policy, and what its wrapper can do beside being called.

A `CachedCall` is made when decorating and bound to a cache at the first call, so that a module may decorate before
anything is configured; when the default cache is replaced, it is bound anew. Its region is made at once, because the
generated wrapper looks into it for ever.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from . import _explain, _many, _patterns, _wrapper, _writing
from ._config import check_name
from ._glance import Missed
from ._local import Entry, Region
from ._patterns import Ending, Template
from ._policy import Policy
from ._request import MISSING, Request
from ._signature import Arguments, ReceiverError, Signature
from ._tiers import Tiers
from .errors import ConfigError, InvalidKeyError


class Owner(Protocol):
    """The cache that a function belongs to, as far as a decorated function needs it."""

    @property
    def tiers(self) -> Tiers: ...

    def end(self, what: Ending) -> None: ...


Tags = Sequence[str] | Callable[..., Iterable[str]]


class CacheInfo(NamedTuple):
    """As functools gives it; `maxsize` is the whole local tier's."""

    hits: int
    misses: int
    maxsize: int
    currsize: int


class CachedCall:
    """How one function is cached."""

    def __init__(
        self,
        fn: Callable[..., Any],
        cache: Callable[[], Owner],
        region: Region,
        signature: Signature,
        prefix: str,
        policy: Policy,
        tags: Tags,
    ) -> None:
        self.fn = fn
        self.prefix = prefix
        self.region = region
        self.signature = signature
        self.policy = policy
        self.bind = _wrapper.binder(signature)
        self._cache = cache
        self._tiers: Tiers | None = None
        self._templates: tuple[Template, ...] = ()
        self._tags: Callable[..., Iterable[str]] | None = None
        if callable(tags):
            self._tags = tags
        else:
            where = f"@cached on {fn.__qualname__}: a tag"
            if isinstance(tags, str):
                raise ConfigError(f"{where}s tuple is needed, as in tags=({tags!r},), got a str.")
            self._templates = tuple(Template(text, signature.names, where) for text in tags)
        region.tagged = region.tagged or bool(tags)

    def tiers(self) -> Tiers:
        """The tiers of the cache that this function belongs to, bound at the first call and when it is replaced."""
        tiers = self._tiers
        if tiers is None or tiers.closed:
            tiers = self._cache().tiers
            tiers.local.adopt(self.region)
            self._tiers = tiers
        return tiers

    # What the wrapper asks

    def miss(
        self, local_key: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any], entry: Entry | None = None
    ) -> Any:
        """A call that the wrapper found nothing for under `local_key`, or only an `entry` that is of no use."""
        tiers = self.tiers()
        if tiers.closed:
            return self.fn(*args, **kwargs)
        try:
            text = self.key_text(args, kwargs)
            key, seen = tiers.space.lead + text, None
            if tiers.road and local_key is not None and (entry is not None or key not in tiers.local):
                seen = tiers.road.one(key, self.region, local_key, self.policy)
                if type(seen) is not Missed:
                    return seen
            request = self.request(tiers, args, kwargs, local_key, text=text)
        except InvalidKeyError as error:
            return self.unkeyed(tiers, error, args, kwargs)
        request.first = None if seen is None else seen.first
        return tiers.call(request)

    def late(self, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An entry that the wrapper could not hand out as it is: mutable, expired, or beyond the horizon."""
        tiers = self.tiers()
        value = tiers.serve_late(entry, self.policy)
        if value is not MISSING:
            return value
        self.region.retired -= 1  # the wrapper counted a hit
        return self.miss(entry.local_key, args, kwargs, entry)

    def other(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        """The table's key for arguments that are not of the quick types; nothing is ever found under None."""
        try:
            return self.signature.local_key(args, kwargs)
        except ReceiverError:
            raise
        except Exception:
            return None

    def unkeyed(self, tiers: Tiers, error: InvalidKeyError, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if tiers.config.strict:
            raise error
        self.region.counters.errors += 1
        self.region.counters.misses += 1
        tiers.trouble.report(f"key:{self.region.name}", f"a call of {self.fn.__qualname__} was not cached: {error}")
        return self.fn(*args, **kwargs)

    # Requests

    def key_text(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        try:
            return f"{self.region.name}:{self.signature.parameters(args, kwargs)}"
        except (InvalidKeyError, ReceiverError):
            raise
        except Exception as error:  # of key=, normalize= or __cache_key__
            raise InvalidKeyError(
                f"the key of {self.fn.__qualname__} failed: {type(error).__name__}: {error}"
            ) from error

    def request(
        self,
        tiers: Tiers,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        local_key: Hashable = None,
        *,
        text: str | None = None,
    ) -> Request:
        if text is None:
            text = self.key_text(args, kwargs)
        tags: tuple[str, ...] = ()
        late_tags = None
        if self._templates or self._tags is not None:
            arguments = self.signature.arguments(args, kwargs)
            filled = (template.fill(arguments, _patterns.tag_text) for template in self._templates)
            tags = tuple(dict.fromkeys(filled))
            for tag in tags:  # an empty or endless one is found here, where the call can go on without the cache
                _patterns.tag_group(tag)
            if self._tags is not None:
                late_tags = functools.partial(_call_with, self._tags, arguments)
        return Request(
            key=tiers.space.lead + text,
            region=self.region,
            local_key=self._table_key(args, kwargs, text) if local_key is None else local_key,
            policy=self.policy,
            ttl=tiers.config.ttl_of(self.prefix),
            load=functools.partial(self.fn, *args, **kwargs),
            tags=tags,
            late_tags=late_tags,
        )

    def _table_key(self, args: tuple[Any, ...], kwargs: dict[str, Any], text: str) -> Hashable:
        """The key that the wrapper will look this call up by."""
        if self.signature.plain:
            quick = self.quick
            arguments = self.signature.arguments(args, kwargs)
            values = [arguments[name] for name in quick]
            if all(type(value) is kind for value, kind in zip(values, quick.values(), strict=True)):
                parts = tuple(value.int if hasattr(value, "int") else value for value in values)
                return parts[0] if len(parts) == 1 else parts
            return self.signature.local_key(args, kwargs)
        return (text[len(self.region.name) + 1 :],)

    @functools.cached_property
    def quick(self) -> dict[str, type]:
        return self.signature.quick_types()

    # The wrapper's attributes

    def attach(self, wrapper: Callable[..., Any]) -> None:
        """Give the wrapper its methods."""
        for name in ("key", "peek", "invalidate", "refresh", "store", "explain", "many", "cache_info", "cache_clear"):
            setattr(wrapper, name, getattr(self, name))
        wrapper.bypass = self.fn  # type: ignore[attr-defined]

    def _requested(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tiers, Request]:
        tiers = self.tiers()
        return tiers, self.request(tiers, *self.bind(*args, **kwargs))

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The key of this call, in full."""
        return self.tiers().space.lead + self.key_text(*self.bind(*args, **kwargs))

    def peek(self, *args: Any, default: Any = None, **kwargs: Any) -> Any:
        """The value that is cached for this call, or `default`; the function is not run."""
        tiers, request = self._requested(args, kwargs)
        (value,) = _many.peek(tiers, [request])
        return default if value is MISSING else value

    def invalidate(self, *args: Any, **kwargs: Any) -> None:
        """End what is cached for this call, everywhere."""
        self._cache().end(Ending(keys=(self.key(*args, **kwargs),)))

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function and cache its result in place of what is cached now."""
        try:
            tiers, request = self._requested(args, kwargs)
        except InvalidKeyError as error:
            return self.unkeyed(self.tiers(), error, *self.bind(*args, **kwargs))
        return _writing.reload(tiers, request)

    def store(self, value: Any, *args: Any, **kwargs: Any) -> None:
        """Cache `value` as the result of this call."""
        tiers, request = self._requested(args, kwargs)
        _writing.put(tiers, request, value, self._cache().end)

    def explain(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Where this call would be answered from, and why; for people and logs, no contract on the details."""
        return _explain.explain(*self._requested(args, kwargs))

    def many(self, calls: Iterable[Any]) -> list[Any]:
        """The results of many calls, hits in one round trip. Each is a tuple of arguments, a dict, or the only one."""
        bind, key_text, tiers = self.bind, self.key_text, self.tiers()
        bounds: list[Arguments] = []
        texts: list[str] = []
        apart: dict[int, Any] = {}  # results of what cannot be cached, by their place
        for call in calls:
            bound = bind(**call) if type(call) is dict else bind(*call) if type(call) is tuple else bind(call)
            try:
                texts.append(key_text(*bound))
                bounds.append(bound)
            except InvalidKeyError as error:
                apart[len(bounds) + len(apart)] = self.unkeyed(tiers, error, *bound)
        local_keys: list[Hashable] = []
        if self.held(tiers):
            local_keys = [self._table_key(*bound, text) for bound, text in zip(bounds, texts, strict=True)]
        found = _many.glance(tiers, self.region, self.policy, texts, local_keys)
        if Missed in map(type, found):
            self._fetch(tiers, bounds, texts, found)
        for place, result in sorted(apart.items()):
            found.insert(place, result)
        return found

    def _fetch(self, tiers: Tiers, bounds: list[Arguments], texts: list[str], found: list[Any]) -> None:
        """What was not found at a glance."""
        rest: list[int] = []
        requests: list[Request] = []
        for i, missed in enumerate(found):
            if type(missed) is Missed:
                try:
                    requests.append(self.request(tiers, *bounds[i], text=texts[i]))
                except InvalidKeyError as error:  # of a tag
                    found[i] = self.unkeyed(tiers, error, *bounds[i])
                else:
                    requests[-1].first = missed.first
                    rest.append(i)
        values = _many.fetch(tiers, requests, lambda places: [requests[i].load() for i in places])
        for i, value in zip(rest, values, strict=True):
            found[i] = value

    def held(self, tiers: Tiers) -> bool:
        """Whether results are held locally."""
        return tiers.keeper.bound(self.policy) > 0

    def cache_info(self) -> CacheInfo:
        """Hits (of both tiers) and misses so far, and the local tier's bound and what it holds of this operation."""
        self.tiers()
        c = self.region.counters
        hits = self.region.local_hits() + c.remote_hits + c.joined
        return CacheInfo(hits, c.misses, self.tiers().config.local_max_entries, len(self.region.table))

    def cache_clear(self) -> None:
        """End everything that is cached of this operation, everywhere."""
        self._cache().end(Ending(groups=(self.region.name,)))


def _call_with(tags: Callable[..., Iterable[str]], arguments: Mapping[str, Any], result: object) -> Iterable[str]:
    found = tags(result, **arguments)
    if isinstance(found, str):
        raise TypeError("tags must give an iterable of str, got a str")
    return found


def make_region_name(fn: Callable[..., Any], prefix: str, operation: str | None) -> str:
    where = f"@cached on {fn.__qualname__}"
    check_name(f"{where}: prefix", prefix)
    if operation is None and not fn.__name__.isidentifier():
        raise ConfigError(f"{where}: a function without a name of its own needs operation=, got {fn.__name__!r}.")
    return f"{prefix}:{check_name(f'{where}: operation', operation or fn.__name__)}"
