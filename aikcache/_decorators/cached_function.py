"""A decorated function: its key, tags and policy, and what its wrapper can do beside being called.

A `CachedCall` is made when decorating and bound to a cache at the first call, so that a module may decorate before
anything is configured; when the default cache is replaced, it is bound anew. Its region is made at once, because the
generated wrapper looks into it for ever.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from aikcache._concurrency.outside import let_out
from aikcache._decorators import wrapper as _wrapper
from aikcache._decorators.signature import Arguments, ReceiverError, Signature
from aikcache._engine import refreshing
from aikcache._engine.call import MISSING, Attempt, Call, StoppedError
from aikcache._engine.fast_path import FastPathMiss
from aikcache._engine.policy import Policy
from aikcache._keys import patterns
from aikcache._keys.patterns import Invalidation, Template
from aikcache._local.entry import Entry
from aikcache._local.region import Region
from aikcache._settings.checks import check_name
from aikcache.errors import AikcacheError, ConfigError, InvalidKeyError

if TYPE_CHECKING:
    from typing import Protocol

    from aikcache._engine.engine import Engine

    class Owner(Protocol):
        """The cache that a function belongs to, as far as a decorated function needs it."""

        @property
        def engine(self) -> Engine: ...

        def end(self, what: Invalidation) -> None: ...


CALL = "_aikcache_call"
"""What has a wrapper's `CachedCall` or `BatchCall`, whose `fn` is the function that runs."""

Tags = Sequence[str] | Callable[..., Iterable[str]]


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
        self.policy = self._declared = policy
        self.bind = _wrapper.binder(signature)
        self._cache = cache
        self._engine: Engine | None = None
        self._readers: tuple[Any, ...] = ()
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

    @property
    def tags_begin(self) -> list[str]:
        """How its tags begin; what a function gives may begin in any way."""
        return [""] if self._tags is not None else [template.fixed for template in self._templates]

    def engine(self) -> Engine:
        """The engine of the cache that this function belongs to, bound at the first call and when it is replaced."""
        engine = self._engine
        if engine is None or engine.closed:
            engine = self._cache().engine
            engine.local.adopt(self.region)
            self.policy = self._declared.within(engine.config)
            self._look_into(engine)
            self._engine = engine
        return engine

    def _look_into(self, engine: Engine) -> None:
        """Let the wrapper find what is kept locally, unless its reads are strong or the cache is closed."""
        for reader in self._readers:
            timed = _wrapper.set_clock(reader, engine.clock)
            if timed and not (self.policy.strong or engine.closed):
                self.region.read_by(reader)
            if not timed or self.policy.strong or engine.closed:  # maybe just now
                self.region.unread_by(reader)

    # What the wrapper asks

    def miss(
        self, local_key: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any], entry: Entry | None = None
    ) -> Any:
        """A call that the wrapper found nothing for under `local_key`, or only an `entry` that is of no use."""
        engine = self._engine
        if engine is None or engine.closed:
            engine = self.engine()
        if engine.passive:
            return self.run(engine, args, kwargs)
        try:
            text = self.key_text(args, kwargs)
            key, seen, looked = engine.keyspace.namespace_prefix + text, None, -1
            if engine.local.waiting and engine.in_block():
                pass  # it depends on what the block says
            elif self.policy.strong:
                if engine.strong_path:
                    more = self._tags is not None
                    seen = engine.strong_path.one(
                        key, self.region, self._filled(args, kwargs)[0], self.policy, result_tags=more
                    )
                    if type(seen) is not FastPathMiss:
                        return seen
            elif engine.fast_path and local_key is not None:
                changes = engine.local.changes
                if entry is not None or key not in engine.local:
                    seen = engine.fast_path.one(key, self.region, local_key, self.policy)
                    if type(seen) is not FastPathMiss:
                        return seen
                    looked = changes if entry is None else -1  # an entry that has aged has a part in what follows
            call = self.call(engine, args, kwargs, local_key, text=text)
        except InvalidKeyError as error:
            return self.unkeyed(engine, error, args, kwargs)
        steps = engine.steps(Attempt(call, engine.clock(), None if seen is None else seen.first, looked))
        stopped: StopIteration | None = None
        try:  # as `carry_out` does: here, so that there are few frames between two runs of a function that calls itself
            next(steps)
            while True:
                try:
                    result = self.fn(*args, **kwargs)
                except StopIteration as stop:
                    steps.throw(StoppedError(stop))
                except BaseException as error:
                    steps.throw(error)
                else:
                    steps.send((result,))
        except StopIteration as done:
            return done.value[0]
        except StoppedError as error:
            stopped = error.stop
        finally:
            steps.close()
        assert stopped is not None
        raise stopped

    def serve(self, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An entry that the wrapper could not hand out as it is: mutable, expired, or not trusted any more."""
        engine = self.engine()
        if engine.passive:  # since a moment
            return self.run(engine, args, kwargs)
        if self.region.diverted and engine.in_block() and self._apart(engine, args, kwargs):
            return self.miss(None, args, kwargs)
        value = engine.freshness.serve(entry, self.policy)
        return value if value is not MISSING else self.miss(entry.local_key, args, kwargs, entry)

    def _apart(self, engine: Engine, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        try:
            return bool(refreshing.blocks(engine.local)) or engine.covered(self.call(engine, args, kwargs))
        except InvalidKeyError:
            return True

    def other(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        """The table's key for arguments that are not of the quick types; nothing is ever found under None."""
        try:
            return self.signature.local_key(args, kwargs)
        except ReceiverError:
            raise
        except Exception as error:
            let_out(error)
            return None

    def run(self, engine: Engine, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The function itself, for a cache that is closed or not enabled."""
        self.region.counters.misses += not engine.closed
        result = self.fn(*args, **kwargs)
        self.region.counters.loads += not engine.closed
        return result

    def skips(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call goes past the cache."""
        return self.policy.skip_if is not None and bool(self.policy.skip_if(*args, **kwargs))

    def beside(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """A call past the cache: nothing is looked up, kept or counted."""
        return self.fn(*args, **kwargs)

    def unkeyed(self, engine: Engine, error: InvalidKeyError, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if engine.config.strict:
            raise error
        self.region.counters.error(error)
        self.region.counters.misses += 1
        engine.reporter.report(f"key:{self.region.name}", f"a call of {self.fn.__qualname__} was not cached: {error}")
        return self.fn(*args, **kwargs)

    # Calls

    def key_text(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        try:
            return f"{self.region.name}:{self.signature.parameters(args, kwargs)}"
        except (InvalidKeyError, ReceiverError):
            raise
        except Exception as error:  # of key=, normalize= or __cache_key__
            let_out(error)
            raise InvalidKeyError(
                f"the key of {self.fn.__qualname__} failed: {type(error).__name__}: {error}"
            ) from error

    def key_texts(self, calls: Sequence[object]) -> list[str] | None:
        """`key_text` of many calls with one argument each, all at once; None: that is not possible."""
        found, begin = self.signature.parameters_of_each(calls), f"{self.region.name}:"
        return None if found is None else [begin + parameter for parameter in found]

    def call(
        self,
        engine: Engine,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        local_key: Hashable = None,
        *,
        text: str | None = None,
    ) -> Call:
        if text is None:
            text = self.key_text(args, kwargs)
        tags, arguments = self._filled(args, kwargs)
        result_tags = None if self._tags is None else functools.partial(_call_with, self._tags, arguments)
        key = engine.keyspace.namespace_prefix + text
        return Call(
            key=key,
            region=self.region,
            local_key=self.table_key(args, kwargs, text) if local_key is None else local_key,
            policy=self.policy,
            ttl=engine.config.ttl_of(self.prefix),
            load=functools.partial(self.fn, *args, **kwargs),
            groups=engine.groups_of(key, self.region, tags),
            tags=tags,
            result_tags=result_tags,
        )

    def _filled(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[str, ...], Mapping[str, Any]]:
        """The tags that are known before the load, and the arguments, where there are any tags."""
        if not self._templates and self._tags is None:
            return (), {}
        arguments = self.signature.arguments(args, kwargs)
        tags = tuple(dict.fromkeys([*(one.fill_tag(arguments) for one in self._templates), *self._shared(arguments)]))
        for tag in tags:  # an empty or endless one is found here, where the call can go on without the cache
            patterns.tag_group(tag)
        return tags, arguments

    def _shared(self, arguments: dict[str, Any]) -> list[str]:
        """The tags of what `normalize=` makes of the arguments, which all calls with this key have in common."""
        found: list[str] = []
        if not self.signature.normalizes:
            return found
        try:
            values = self.signature.normalized(arguments)
        except Exception as error:  # though it did not fail for the key
            let_out(error)
            return found
        for template in self._templates:
            with contextlib.suppress(AikcacheError):  # a field that only the argument has
                found.append(template.fill_tag(values))
        return found

    def table_key(self, args: tuple[Any, ...], kwargs: dict[str, Any], text: str) -> Hashable:
        """The key that the wrapper will look this call up by."""
        if self.signature.plain:
            quick = self.quick
            arguments = self.signature.arguments(args, kwargs)
            values = [arguments[name] for name in quick]
            if all(type(value) is kind for value, kind in zip(values, quick.values(), strict=True)):
                parts = tuple(value.int if hasattr(value, "int") else value for value in values)
                return parts[0] if len(parts) == 1 else parts
            return self.signature.local_key(args, kwargs)
        if self.signature.owned:
            return self.signature.local_key(args, kwargs)
        return (text[len(self.region.name) + 1 :],)

    def table_keys(self, bounds: Sequence[Arguments], texts: Sequence[str]) -> list[Hashable]:
        """`table_key` of each of many calls."""
        if self.signature.alone and bounds:
            (kind,) = self.quick.values()
            values = [value for (value,), _ in bounds]
            if set(map(type, values)) == {kind}:
                return [value.int for value in values] if kind is UUID else values
        return [self.table_key(*bound, text) for bound, text in zip(bounds, texts, strict=True)]

    @functools.cached_property
    def quick(self) -> dict[str, type]:
        return self.signature.quick_types()

    def attach(self, wrapper: Callable[..., Any]) -> None:
        """Answer for this wrapper."""
        setattr(wrapper, CALL, self)
        self._readers = _wrapper.readers(wrapper)

    def kept_locally(self, engine: Engine) -> bool:
        """Whether results are kept locally."""
        return engine.filler.bound(self.policy) > 0

    def end(self, what: Invalidation) -> None:
        """Invalidate in the cache that this function belongs to."""
        self._cache().end(what)

    def called(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Engine, Call]:
        engine = self.engine()
        return engine, self.call(engine, *self.bind(*args, **kwargs))


def _call_with(tags: Callable[..., Iterable[str]], arguments: Mapping[str, Any], result: object) -> Iterable[str]:
    found = tags(result, **arguments)
    if isinstance(found, str):
        raise TypeError("tags must give an iterable of str, got a str")
    return found


def make_region_name(fn: Callable[..., Any], prefix: str, operation: str | None, version: int | str | None) -> str:
    where = f"@cached on {fn.__qualname__}"
    check_name(f"{where}: prefix", prefix)
    if operation is None and not fn.__name__.isidentifier():
        raise ConfigError(f"{where}: a function without a name of its own needs operation=, got {fn.__name__!r}.")
    name = f"{prefix}:{check_name(f'{where}: operation', operation or fn.__name__)}"
    if version is None:
        return name
    if isinstance(version, bool) or not isinstance(version, (int, str)):
        raise ConfigError(f"{where}: version must be an int or a str, got {type(version).__name__}.")
    return f"{name}.{check_name(f'{where}: version', str(version))}"
