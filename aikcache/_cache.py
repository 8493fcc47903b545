"""A cache: the object that an application holds. Its decorators are in `_decorators`, its implementation in `_engine`.

Making one starts no thread and connects nowhere; the first call that needs Redis connects. Any thread may call any
method. Only `ping` and `fleet` raise because of Redis.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from aikcache._codec.codec import Codec, load_all
from aikcache._coherence.sweep import Sweep
from aikcache._concurrency.reporter import log
from aikcache._decorators import batch_function, decorators  # noqa: F401  # now, as a decorator imports it: see `load_all`
from aikcache._decorators.registry import Registry
from aikcache._engine import deferred as _deferred
from aikcache._engine import invalidation, many, writes
from aikcache._engine import policy as _policy
from aikcache._engine.build import build
from aikcache._engine.call import MISSING, Call
from aikcache._engine.deferred import Deferred
from aikcache._engine.policy import Policy, Ttl
from aikcache._engine.refreshing import Refreshing
from aikcache._engine.stats import CacheStats, FleetStats, Health
from aikcache._keys import patterns as _patterns
from aikcache._keys import rendering
from aikcache._keys.keyspace import Keyspace
from aikcache._keys.patterns import Invalidation, Target, Template
from aikcache._local.region import Region
from aikcache._settings import config as _config
from aikcache._settings import environment as _environment
from aikcache._settings import url as _url
from aikcache._settings.checks import check_name
from aikcache._settings.settings import LoadOptions, Settings
from aikcache.errors import RemoteUnavailableError

T = TypeVar("T")
D = TypeVar("D")
_BY_KEY = object()
"""In the local key of a value by key, so that no decorated call finds it: its type may be another."""


class Cache(decorators.Decorators):
    """A local tier and, with a URL, Redis behind it.

    Args:
        url: where values are shared (`redis://`, `rediss://`, `unix://`, `embedded://`, and those of Sentinel and
            Cluster); None: this process alone.
        settings: any field of `CacheConfig`; `help(aikcache.CacheConfig)` explains each. Caches with the same url,
            `instance` and `version` share everything. A cache with a url and no `instance` warns, because another
            service may have none either.

    Raises:
        ConfigError: a setting breaks a rule.
    """

    def __init__(self, url: str | None = None, **settings: Unpack[Settings]) -> None:
        given = _config.take(settings, url=url)
        del url
        config = _config.build(given)
        if config.shared and config.url != "embedded://" and "instance" not in given:
            log.warning(
                "This cache shares a server and has no instance, so its keys begin with '%s:%s:'; any other service "
                'that gives none shares them, and its values. Pass instance="<the service\'s name>", or set '
                "AIKCACHE_INSTANCE.", config.instance, config.version,
            )  # fmt: skip
        for weakness in () if config.url is None else _url.weaknesses(config.url):
            log.warning("The url's %s", weakness)
        self._close_ring: Callable[[], object] = _nothing
        if config.shared and config.sealed_by_ring:
            from aikcache._keyring.of_cache import with_ring  # here, because it needs cryptography

            config, self._close_ring = with_ring(config)
        load_all()
        self.config = config
        self.space = Keyspace(config.instance, config.version)
        self._codec = Codec(by_hand=True)
        self._policy = Policy(self._codec)
        self._registry = Registry()
        self.engine = build(config, self.space)
        if config.metrics is not None and "opentelemetry.metrics" in sys.modules:  # else nobody collects
            from aikcache import metrics  # importing it takes long

            metrics.instrument(config.metrics)
        weakref.finalize(self, self.engine.close)  # also when the interpreter ends

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **settings: Unpack[Settings]) -> Self:
        """A cache with the settings of the environment (`AIKCACHE_URL`, `AIKCACHE_INSTANCE`, …). Arguments win."""
        variables, given = _environment.read_env(environ), _config.take(settings)
        del environ
        return cls(**{**_environment.from_env(variables), **given})

    def _cache(self) -> Cache:
        return self

    def _region(self, name: str, expects: object, *, anew: bool = False) -> Region:
        if anew:
            invalidation.invalidate_locally(self.engine, Invalidation(groups=(name,)))
            return self.engine.local.adopt(Region(name, expects))
        return self.engine.local.region(name, expects)

    # Keys

    def key(self, prefix: str, operation: str, *args: object, **kwargs: object) -> str:
        """The key of a call of `operation`: positional arguments as required parameters, named ones as `name|value`."""
        check_name("prefix", prefix)
        check_name("operation", operation)
        return f"{self.space.namespace_prefix}{prefix}:{operation}:{rendering.parameters(args, kwargs.items())}"

    def _call(
        self, key: str, policy: Policy, load: Callable[[], object], tags: Sequence[str] = (), name: str = ""
    ) -> Call:
        full = self.space.full(key)
        _patterns.check_tags(tags)
        short = full[len(self.space.namespace_prefix) :]
        region = self.engine.local.region_by_hand(_patterns.groups_of(full, self.space.namespace_prefix)[-1])
        region.tagged = region.tagged or bool(tags)
        parameters = short.split(":", 2)[2:]
        return Call(
            key=full,
            region=region,
            local_key=(_BY_KEY, short if not region.groups else parameters[0] if parameters else None),
            relink=False,
            by_key=True,
            policy=policy.within(self.config),
            ttl=self.config.ttl_of(short.split(":", 1)[0]),
            load=load,
            groups=self.engine.groups_of(full, region, tags),
            tags=tuple(tags),
        )

    # Values by key

    @overload
    def get(self, key: str, default: D, type: type[T]) -> T | D: ...
    @overload
    def get(self, key: str, default: None = None, *, type: type[T]) -> T | None: ...
    @overload
    def get(self, key: str, default: Any = None, type: Any = None) -> Any: ...

    def get(self, key: str, default: Any = None, type: Any = None) -> Any:
        """The value under a key, or `default` if there is none or Redis is down. It is decoded to `type`.

        A key is `prefix:operation:parameters`. The part before the second colon is a group that a pattern can name, and
        an operation in `stats()`. So put an id into the parameters: `user:by-id:123`. (Of operations that belong to no
        function, `stats()` counts the first 100 each and the others as `other`.) A value that was stored for another
        type counts as none. Without `type`, built-in types come back as they were stored.
        """
        (value,) = many.peek(self.engine, [self._call(key, self._policy_for(type), _nothing)])
        return default if value is MISSING else value

    @overload
    def get_many(self, keys: Iterable[str], type: type[T]) -> dict[str, T]: ...
    @overload
    def get_many(self, keys: Iterable[str], type: Any = None) -> dict[str, Any]: ...

    def get_many(self, keys: Iterable[str], type: Any = None) -> dict[str, Any]:
        """The values that are cached, by key, in one round trip. A key without a value is left out."""
        policy = self._policy_for(type)
        names = list(keys)
        values = many.peek(self.engine, [self._call(key, policy, _nothing) for key in names])
        return {name: value for name, value in zip(names, values, strict=True) if value is not MISSING}

    def set(self, key: str, value: Any, ttl: Ttl = None, tags: Sequence[str] = ()) -> None:
        """Store a value for every process. `ttl` in seconds (None: the prefix's; 0: the old value is invalidated only).
        With Redis down the old value is invalidated and the new one is not stored.

        Raises:
            EncodeError: the value could not come back equal.
        """
        policy = _policy.make("Cache.set", self._codec, ttl=ttl)
        writes.put(self.engine, self._call(key, policy, _nothing, tags), value, self.end)

    def set_many(self, values: Mapping[str, Any], ttl: Ttl = None, tags: Sequence[str] = ()) -> None:
        """`set` for all of `values`, hundreds in a few round trips. If one cannot be encoded, none is stored."""
        policy = _policy.make("Cache.set_many", self._codec, ttl=ttl)
        calls = [(self._call(key, policy, _nothing, tags), value) for key, value in values.items()]
        writes.put_many(self.engine, calls, self.end)

    def get_or_load(
        self,
        key: str,
        loader: Callable[[], T],
        ttl: Ttl = None,
        *,
        tags: Sequence[str] = (),
        type: Any = None,
        **options: Unpack[LoadOptions],
    ) -> T:
        """The value under a key, or else the result of `loader()`, cached. It reads as a decorated call does."""
        codec = self._codec if type is None else Codec(type, by_hand=True)
        policy = _policy.make("Cache.get_or_load", codec, ttl=ttl, **options)
        return self.engine.call(self._call(key, policy, loader, tags))  # type: ignore[no-any-return]

    def _policy_for(self, type: Any) -> Policy:
        return self._policy if type is None else Policy(Codec(type, by_hand=True))

    # Invalidation

    def invalidate(self, *patterns: str, background: bool = False, **fields: object) -> Sweep | None:
        """Invalidate all that matches, in every process. `fields` fill the patterns' `{names}`, escaped.

        `prefix`, `prefix:operation`, either with `:*`, `*`, and a key each take one round trip, whatever they hold. Any
        other glob is swept, which takes time in proportion to the keyspace. With `background=True` a thread sweeps, one
        sweep at a time, and a `Sweep` with its progress is returned; requests that wait meanwhile become one sweep.
        Until it is `done`, what the glob matches may still be read from Redis, here too. Inside a block of `deferred()`
        the block's end sweeps, and None is returned. Redis raises nothing here: an invalidation that cannot be sent is
        kept, and sent before this process reads from Redis again.

        Raises:
            ConfigError: a pattern is malformed, or names a field that was not given.
            InvalidKeyError: a field's value can be in no key.
        """
        targets: list[Target] = []
        for pattern in patterns:
            template = Template(pattern, fields, "invalidate: a pattern")
            targets += map(_patterns.resolve, self._registry.meant(template.fill(fields, rendering.parameter)))
            self._registry.check_prefix("invalidate:", pattern, self.engine.local.regions)
        what = invalidation.of(self.engine, targets)
        if not background or _deferred.blocks(self.engine.local):
            self.end(what)
            return None
        globs, sweeper = Invalidation(globs=what.globs), self.engine.sweeper
        try:
            self.end(what._replace(globs=()))
            invalidation.invalidate_locally(self.engine, globs)
            return sweeper.add(globs)
        except BaseException:  # interrupted: swept all the same
            sweeper.add(globs)
            raise

    def invalidate_key(self, *keys: str) -> None:
        """Invalidate these keys, in every process, in one round trip."""
        self.end(Invalidation(keys=tuple(map(self.space.full, keys))))

    def invalidate_tags(self, *tags: str) -> None:
        """Invalidate all values with one of these tags, in every process, in one round trip whatever their number."""
        self.end(invalidation.of(self.engine, (), tags))

    def clear(self) -> None:
        """Invalidate everything under this instance and version, in every process."""
        self.end(Invalidation(groups=(_patterns.EVERYTHING,)))

    def end(self, what: Invalidation) -> None:
        """Invalidate resolved names: now, or at the end of the block of `deferred()`. Redis raises nothing here."""
        blocks = _deferred.blocks(self.engine.local)
        if blocks:
            blocks[-1].add(what)
        elif what:
            self._invalidate(what)

    def _invalidate(self, what: Invalidation) -> None:
        invalidation.invalidate(self.engine, what)

    def deferred(self) -> Deferred:
        """A block whose invalidations wait for its end, so that they follow a transaction's commit.

        `with cache.deferred(), session.begin(): ...`

        A waiting invalidation already counts inside the block (in the same thread or `contextvars` context): a call
        that it covers runs its function and stores nothing, so it sees the transaction's own writes, and `get` and
        `peek` find nothing. Any tag covers a function whose tags come from its result. So invalidate before you read.
        Other threads see committed data, and what they load meanwhile is invalidated at the end too. A block that
        raises still invalidates. `set` and `store` write at once. An inner block hands its invalidations to the outer.
        `invalidate(..., background=True)` waits like any other, and returns None.
        """
        return Deferred(self.engine.local, self.space.namespace_prefix, self._invalidate)

    def refreshing(self) -> Refreshing:
        """A block in which calls run their functions, and the results replace the cached values: each key once, in
        the same thread or `contextvars` context. `get` and `peek` find what is cached.
        """
        return Refreshing(self.engine.local)

    # State

    def wait_coherent(self, timeout: float | None = None) -> bool:
        """Wait until other processes' invalidations are pushed here, for tests. False: not within `timeout` seconds."""
        if self.engine.channel is None:
            return True
        self.engine.channel.start()
        return self.engine.channel.live.wait(timeout)

    def stats(self) -> CacheStats:
        """A snapshot of what this cache did in this process since it was made. Asks nothing of Redis."""
        return self.engine.stats()

    def fleet(self) -> FleetStats:
        """The counts of all processes that share this cache's url, instance, version and `metrics`; asks Redis.

        Another process's figures are at most `publish_interval` old; this one's are current. Totals include processes
        that have ended. Without a url, or with `metrics=None`, only this process is counted.

        Raises:
            RemoteError: Redis does not answer in time.
        """
        from aikcache._engine import fleet as _fleet

        fleet = self.engine.fleet
        if fleet is None:
            return _fleet.this_process(self.config.metrics)
        fleet.publish(self.config.timeout)
        return _fleet.stats(*fleet.read(self.config.timeout))

    def health(self) -> Health:
        """Whether everything works as it should, and each problem with its cure. Never raises.

        It asks the server, so it may block for `connect_timeout` and `timeout`. If Redis is down the cache is degraded,
        but ready: calls run their functions.
        """
        from aikcache._engine import health as _health

        return _health.check(self.engine)

    def ping(self) -> None:
        """Ask the server for a reply. Raises `RemoteError` if there is none in time. Without a url it does nothing."""
        if self.engine.closed:
            raise RemoteUnavailableError("this cache is closed.")
        if self.engine.remote is not None:
            self.engine.remote.ping()

    def close(self) -> None:
        """Close connections and drop local values. Decorated functions then run uncached. Idempotent."""
        if not self.engine.closed:
            self.engine.close()
            self._close_ring()

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "a client's server" if self.config.shared else "local only"
        if self.config.url is not None:
            where = _url.scheme(self.config.url) + "://…"
        return f"<aikcache.Cache {self.space.namespace_prefix[:-1]} {where} pid={os.getpid()}>"


def _nothing() -> None:
    """Stands for a load that never runs, and for a ring that need not be closed."""
