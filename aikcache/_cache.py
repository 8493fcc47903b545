"""A cache: what an application holds. Its decorators are in `_decorators`, its inside is `_tiers` and below.

Making one starts nothing and contacts nobody: the first call that needs Redis connects. Methods may be called from any
thread; none raises because of Redis but `ping`, which is there to ask.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from types import TracebackType
from typing import Any

from . import _config, _deferred, _invalidation, _keys, _many, _patterns, _policy, _stats, _writing
from ._channel import Channel
from ._channels import Channels
from ._cluster import Cluster
from ._codec import Codec
from ._connections import Connections
from ._decorators import Decorators
from ._deferred import Deferred
from ._invalidation import Hearing
from ._journal import Journal
from ._keys import Space
from ._local import Region
from ._patterns import Ending, Template
from ._policy import Policy, Ttl
from ._recovery import Recovery
from ._remote import Remote
from ._request import MISSING, Request
from ._stats import CacheStats, Health
from ._sweep import Sweep
from ._tiers import Tiers
from .errors import RemoteError, RemoteUnavailableError


class Cache(Decorators):
    """A local tier and, with a URL, Redis behind it.

    Args:
        url: where the values are shared (`redis://`, `rediss://`, `unix://`, `embedded://`); None: this process alone.
        instance: the first part of every key; caches with the same URL, instance and version share everything.
        version: the second; raise it to leave all that was cached behind.
        settings: any other field of `CacheConfig`.

    Raises:
        ConfigError: a setting breaks a rule.
    """

    def __init__(
        self, url: str | None = None, *, instance: str = "aikernel", version: str = "v1", **settings: Any
    ) -> None:
        config = _config.build({"url": url, "instance": instance, "version": version, **settings})
        self.config = config
        self.space = Space(config.instance, config.version)
        self._started = monotonic()
        self._codec = Codec()
        self._policy = Policy(self._codec)
        self._declared: dict[str, tuple[str, str]] = {}
        self.tiers = self._open()

    def _open(self) -> Tiers:
        config = self.config
        tiers = Tiers(config, self.space, monotonic)
        if config.url is not None:
            clustered = config.url.split("://", 1)[0].endswith("+cluster")
            connections = Cluster(config) if clustered else Connections(config)
            remote = Remote(connections, self.space, tiers.stamps)
            hearing = Hearing(tiers)
            journal = None if config.journal is None else Journal(config.journal)
            forget, limit = hearing.everything_ended, config.max_pending_invalidations
            recovery = Recovery(remote, tiers.trouble, tiers.clock, limit, journal, forget)
            connections.greet = recovery.greet
            channel: Channel | Channels
            if isinstance(connections, Cluster):
                channel = Channels(connections, remote, hearing, tiers.trouble, tiers.clock)
            else:
                beat, check = connections.heartbeat
                channel = Channel(remote, hearing, tiers.trouble, tiers.clock, heartbeat=beat, check=check)
            connections.on_move = channel.reconnect
            if connections.sentinels is not None:
                connections.sentinels.report = tiers.trouble.report
            tiers.back(remote, recovery, channel)
        weakref.finalize(self, tiers.close)  # also when the interpreter ends
        return tiers

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **settings: Any) -> Cache:
        """A cache as the environment says (`AIKCACHE_URL`, `AIKCACHE_INSTANCE`, …); arguments win over it."""
        return cls(**{**_config.from_env(environ), **settings})

    def _cache(self) -> Cache:
        return self

    def _region(self, name: str) -> Region:
        return self.tiers.local.region(name)

    # Keys

    def key(self, prefix: str, operation: str, *args: object, **kwargs: object) -> str:
        """The key of a call of `operation`: positional arguments as required parameters, named ones as `name|value`."""
        _config.check_name("prefix", prefix)
        _config.check_name("operation", operation)
        return f"{self.space.lead}{prefix}:{operation}:{_keys.parameters(args, kwargs.items())}"

    def _request(
        self, key: str, policy: Policy, load: Callable[[], Any], tags: Sequence[str] = (), name: str = ""
    ) -> Request:
        full = self.space.full(key)
        short = full[len(self.space.lead) :]
        region = self.tiers.local.region(_patterns.groups_of(full, self.space.lead)[-1])
        region.tagged = region.tagged or bool(tags)
        parameters = short.split(":", 2)[2:]
        return Request(
            key=full,
            region=region,
            local_key=(parameters[0] if parameters else None,),
            relink=False,
            policy=policy,
            ttl=self.config.ttl_of(short.split(":", 1)[0]),
            load=load,
            tags=tuple(tags),
        )

    # Values by key

    def get(self, key: str, default: Any = None, type: Any = None) -> Any:
        """The value under a key, or `default`. `type` is what it is decoded to, as a return annotation would say."""
        (value,) = _many.peek(self.tiers, [self._request(key, self._policy_for(type), _nothing)])
        return default if value is MISSING else value

    def get_many(self, keys: Iterable[str], type: Any = None) -> dict[str, Any]:
        """The values there are, by the keys they were asked for under; one round trip."""
        policy = self._policy_for(type)
        names = list(keys)
        requests = [self._request(key, policy, _nothing) for key in names]
        values = _many.peek(self.tiers, requests)
        return {name: value for name, value in zip(names, values, strict=True) if value is not MISSING}

    def set(self, key: str, value: Any, ttl: Ttl = None, tags: Sequence[str] = ()) -> None:
        """Put a value under a key, for every process. `ttl` in seconds (None: its prefix's; 0: only end what is there).

        Raises:
            EncodeError: the value cannot be kept and come back equal.
        """
        policy = _policy.make("Cache.set", self._codec, ttl=ttl)
        _writing.put(self.tiers, self._request(key, policy, _nothing, tags), value, self.end)

    def set_many(self, values: Mapping[str, Any], ttl: Ttl = None, tags: Sequence[str] = ()) -> None:
        """`set` for each of `values`."""
        for key, value in values.items():
            self.set(key, value, ttl, tags)

    def get_or_load(
        self,
        key: str,
        loader: Callable[[], Any],
        ttl: Ttl = None,
        *,
        tags: Sequence[str] = (),
        type: Any = None,
        **options: Any,
    ) -> Any:
        """The value under a key, or what `loader()` gives, cached: the same road as a decorated call."""
        policy = _policy.make("Cache.get_or_load", self._codec if type is None else Codec(type), ttl=ttl, **options)
        return self.tiers.call(self._request(key, policy, loader, tags))

    def _policy_for(self, type: Any) -> Policy:
        return self._policy if type is None else Policy(Codec(type))

    # Invalidation

    def invalidate(self, *patterns: str, background: bool = False, **fields: object) -> Sweep | None:
        """End all that matches, in every process. `fields` fill the patterns' `{names}`, escaped.

        `prefix`, `prefix:operation`, either with `:*`, and `*` take one round trip whatever they hold; so does a key.
        Any other glob is swept, which takes time in proportion to the keyspace: with `background=True` a thread does
        it, and the handle returned tells how far it is. Never raises because of Redis: what Redis could not be told is
        kept, and told before this process reads from it again.

        Raises:
            ConfigError: a pattern is malformed, or names a field that was not given.
        """
        targets = []
        for pattern in patterns:
            template = Template(pattern, fields, "invalidate: a pattern")
            targets.append(_patterns.resolve(template.fill(fields, _keys.parameter)))
        what = _invalidation.ending(self.tiers, targets)
        if not background:
            self.end(what)
            return None
        progress = Sweep()

        def work(progress: Sweep) -> None:
            _invalidation.end(self.tiers, what, progress)

        threading.Thread(target=progress.run, args=(work,), name="aikcache-sweep", daemon=True).start()
        return progress

    def invalidate_key(self, *keys: str) -> None:
        """End what is cached under these keys, in every process."""
        self.end(Ending(keys=tuple(map(self.space.full, keys))))

    def invalidate_tags(self, *tags: str) -> None:
        """End all that carries one of these tags, in every process: one round trip, whatever their number."""
        self.end(_invalidation.ending(self.tiers, (), tags))

    def clear(self) -> None:
        """End everything under this instance and version, in every process."""
        self.end(Ending(groups=(_patterns.EVERYTHING,)))

    def end(self, what: Ending) -> None:
        """End what was resolved already, now or when the block of `deferred()` succeeds; never raises."""
        block = _deferred.current(self)
        if block is not None:
            block.add(what)
        elif what:
            _invalidation.end(self.tiers, what)

    def deferred(self) -> Deferred:
        """A block whose invalidations wait for its success, and are dropped when it raises.

        Put it around the transaction, so that they follow the commit: `with cache.deferred(), session.begin(): ...`
        """
        return Deferred(self, lambda what: _invalidation.end(self.tiers, what))

    # State

    def wait_coherent(self, timeout: float | None = None) -> bool:
        """Wait until others' invalidations arrive at once; for scripts and tests. False: not in `timeout` seconds."""
        if self.tiers.channel is None:
            return True
        self.tiers.channel.start()
        return self.tiers.channel.live.wait(timeout)

    def stats(self) -> CacheStats:
        """What this cache did in this process since it was made."""
        return _stats.snapshot(self.tiers, self._started)

    def health(self) -> Health:
        """Whether the server answers now. Never raises."""
        server = "none"
        ok = True
        if self.tiers.remote is not None:
            try:
                self.ping()
                server = "reachable"
            except RemoteError as error:
                ok, server = False, str(error)
        breaker = self.tiers.remote.connections.breaker.is_open if self.tiers.remote is not None else False
        stats = self.stats()
        return Health(
            ok=ok,
            server=server,
            coherent=stats.coherent,
            breaker_open=breaker,
            pending_invalidations=stats.pending_invalidations,
        )

    def ping(self) -> None:
        """Ask the server for an answer. Raises `RemoteError` when there is none; without a URL it returns at once."""
        if self.tiers.closed:
            raise RemoteUnavailableError("this cache is closed.")
        if self.tiers.remote is not None:
            self.tiers.remote.ping()

    def close(self) -> None:
        """Close connections and forget what is local; decorated functions then simply run. Idempotent."""
        if not self.tiers.closed:
            self.tiers.close()

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "local only" if self.config.url is None else self.config.url.split("://", 1)[0] + "://…"
        return f"<aikcache.Cache {self.space.lead[:-1]} {where} pid={os.getpid()}>"


def _nothing() -> None:
    """The load of a request that never loads."""
