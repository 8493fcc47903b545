"""What is changed inside a worker of the checker: probes that log, a channel that goes silent, and broken variants.

All of it by replacing functions of aikcache in the worker's own process; the package itself knows nothing of it. A
broken variant removes one rule, to show that the checker notices.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from random import random
from types import ModuleType
from typing import Any

from aikcache._coherence.pending import PendingInvalidations
from aikcache._coherence.recent import Recent
from aikcache._engine.engine import Engine
from aikcache._engine.invalidation import InvalidationListener
from aikcache._engine.policy import Policy
from aikcache._engine.single_flight import Flights
from aikcache._keys.patterns import Invalidation
from aikcache._local.tier import LocalTier
from aikcache._redis.cluster.client import Cluster
from aikcache._redis.cluster.exchange import Exchange
from aikcache._redis.cluster.topology import slot_of
from aikcache._redis.connection import Connection
from aikcache._redis.majority import Majority
from aikcache._redis.pool import Pool
from aikcache._redis.transport import NewServer
from aikcache._remote import scripts as _scripts
from aikcache._remote.commands import Commands
from aikcache._remote.stamps import Stamps
from aikcache._remote.store import RedisStore
from aikcache.errors import RemoteTimeoutError
from benchmarks.consistency.records import Log, clock

Function = Callable[..., Any]
DAWDLING = 0.05


def _around(owner: type | ModuleType, name: str, wrap: Callable[[Function], Function]) -> None:
    setattr(owner, name, wrap(getattr(owner, name)))


class Probes:
    """Logs when the channel came and went, and when an invalidation was pending and when it was sent.

    And for each run of a primary when it was met, and when it was first of use: a value was read from it, or stored.
    Of a cluster also which port owned how many slots, whenever this process came to believe something else.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._mine = threading.local()
        self._silent_until = 0.0
        self._unused: set[str] = set()
        _around(InvalidationListener, "channel_live", self._channel_live)
        _around(InvalidationListener, "channel_lost", self._channel_lost)
        _around(PendingInvalidations, "add", self._keep)
        _around(PendingInvalidations, "sent", self._sent)
        _around(PendingInvalidations, "send", self._send)
        _around(PendingInvalidations, "send_globs", self._send)
        _around(PendingInvalidations, "on_new_server", self._new_server)
        _around(Cluster, "_install", self._install)
        _around(RedisStore, "fast_get", self._use(lambda name: name, lambda answer: answer[0] is not None))
        _around(RedisStore, "fast_read", self._use(lambda names: names[0], lambda answer: any(answer[0])))
        _around(RedisStore, "read", self._use(lambda keys: keys[0], lambda answer: answer[0][0].data is not None))
        _around(RedisStore, "consult", self._use(lambda name: name, lambda answer: answer[0] is not None))
        _around(RedisStore, "consult_many", self._use(lambda names: names[0], lambda answer: any(answer[0])))
        _around(RedisStore, "store", self._use(lambda items: items[0][0], any))
        _around(Connection, "poll", self._poll)
        _around(Pool, "connect", self._connect)
        _around(Pool, "exchange", _dawdling)
        _around(Pool, "send", _dawdling)
        _around(Exchange, "run", _dawdling)

    def outcome(self) -> tuple[float | None, list[int] | None]:
        """When this thread's invalidations were kept, if any was since it asked last, and the slots they were for.

        None for slots: all of them.
        """
        mine = self._mine.__dict__
        slots: set[int] | None = mine.pop("slots", set())
        return mine.pop("kept", None), None if slots is None else sorted(slots)

    def silence(self, seconds: float) -> None:
        """From now on the channel receives nothing and cannot reconnect. What is sent to it arrives late, if ever."""
        until = clock() + seconds
        self._log.event("silent", began=clock(), ended=until)
        self._silent_until = until

    def _channel_live(self, original: Function) -> Function:
        def channel_live(listener: InvalidationListener, *, emptied: bool, alive_at: float) -> None:
            original(listener, emptied=emptied, alive_at=alive_at)
            if emptied:
                self._log.event("live")
            self._log.event("alive", as_of=alive_at)

        return channel_live

    def _channel_lost(self, original: Function) -> Function:
        def channel_lost(listener: InvalidationListener) -> None:
            self._log.event("lost")
            original(listener)

        return channel_lost

    def _keep(self, original: Function) -> Function:
        def keep(recovery: PendingInvalidations, what: Invalidation) -> None:
            original(recovery, what)
            self._mine.kept = clock()
            self._note_slots(recovery, what)

        return keep

    def _sent(self, original: Function) -> Function:
        def sent(recovery: PendingInvalidations, what: Invalidation, *args: Any) -> None:
            original(recovery, what, *args)
            self._note_slots(recovery, what)

        return sent

    def _note_slots(self, recovery: PendingInvalidations, what: Invalidation) -> None:
        slots: set[int] | None = self._mine.__dict__.setdefault("slots", set())
        if what.globs or slots is None:
            self._mine.slots = None
            return
        names = [*map(recovery._remote.keyspace.stamp, what.groups), *what.keys]
        slots.update(map(slot_of, names))

    def _new_server(self, original: Function) -> Function:
        def on_new_server(recovery: PendingInvalidations, new: NewServer) -> None:
            original(recovery, new)
            self._log.event("met", run=new.identity.id)
            self._unused.add(new.identity.id)

        return on_new_server

    def _install(self, original: Function) -> Function:
        def install(cluster: Cluster, reported: Any) -> None:
            before = cluster.topology
            original(cluster, reported)
            after = cluster.topology
            if after is not None and (before is None or before.owners != after.owners):
                owners = Counter(port for _, port in after.owners.values())
                self._log.event("map", epoch=after.epoch, owners=dict(owners))

        return install

    def _use(self, key_of: Callable[[Any], Any], got: Callable[[Any], object]) -> Callable[[Function], Function]:
        def wrap(original: Function) -> Function:
            def asked(remote: RedisStore, what: Any, *args: Any, **options: Any) -> Any:
                run = self._unused and _run_of(remote, key_of(what))
                answer = original(remote, what, *args, **options)
                if run and answer is not None and got(answer):
                    self._used(remote, key_of(what), run)
                return answer

            return asked

        return wrap

    def _used(self, remote: RedisStore, key: str | bytes, run: str) -> None:
        """The run that served `key` before it was asked for, unless another serves it now."""
        if run in self._unused and _run_of(remote, key) == run:
            self._unused.discard(run)
            self._log.event("used", run=run)

    def _send(self, original: Function) -> Function:
        def send(recovery: PendingInvalidations, *args: Any) -> None:
            if not len(recovery):
                return original(recovery, *args)  # type: ignore[no-any-return]
            self._log.event("settling")
            before = recovery.replayed
            looked = None
            try:
                original(recovery, *args)
                looked = clock()
                if recovery.replayed == before or len(recovery):
                    looked = None
            finally:  # all that was kept until `looked` is acknowledged; None: not all, or nothing is known of it
                self._log.event("settled", kept_until=looked)

        return send

    def _poll(self, original: Function) -> Function:
        def poll(link: Connection, seconds: float) -> list[Any]:
            left = self._silent_until - clock()
            if left > 0 and threading.current_thread().name == "aikcache-channel":
                time.sleep(min(seconds, left))
                return []
            messages: list[Any] = original(link, seconds)
            return messages

        return poll

    def _connect(self, original: Function) -> Function:
        def connect(connections: Pool, *, name: str = "aikcache", **options: Any) -> Connection:
            if name == "aikcache-channel" and (left := self._silent_until - clock()) > 0:
                time.sleep(min(left, connections.config.connect_timeout))
                raise RemoteTimeoutError("silenced by the checker")
            link: Connection = original(connections, name=name, **options)
            return link

        return connect


def _run_of(remote: RedisStore, key: str | bytes) -> str | None:
    """The run of the primary that serves a key, as far as it has been met."""
    connections = remote.connections
    if isinstance(connections, Cluster):
        owner = connections.topology and connections.topology.owners.get(slot_of(key))
        return connections.node(owner).run_id if owner else None
    return connections.run_id if isinstance(connections, Pool) else None


def _dawdling(original: Function) -> Function:
    """Some questions leave late, and some answers are looked at late, as on a busy machine or a slow network.

    What cannot be seen when every answer is used at once: that it was overtaken by an invalidation.
    """

    def exchange(*args: Any, **options: Any) -> list[Any]:
        if random() < DAWDLING:
            time.sleep(0.005 * random())
        replies: list[Any] = original(*args, **options)
        if random() < DAWDLING:
            time.sleep(0.005 * random())
        return replies

    return exchange


# Broken variants: each removes one rule


def _nothing(original: Function) -> Function:
    return lambda *args, **kwargs: None


def _push() -> None:
    """Pushes are ignored."""
    for name in ("group_invalidated", "key_invalidated", "glob_invalidated", "everything_invalidated"):
        _around(InvalidationListener, name, _nothing)


def _lease() -> None:
    """A load stores whether it still has its lease or not."""
    broken = _scripts.Script(_scripts.STORE.text.replace("then return 0 end", "then lease = '' end"))
    _around(_scripts, "ALL", lambda scripts: (*scripts, broken))  # type: ignore[misc, arg-type, return-value]
    _around(_scripts, "STORE", lambda script: broken)  # type: ignore[arg-type, return-value]


def _local_guard() -> None:
    """A local fill is not refused when something was invalidated since it asked."""

    def wrap(original: Function) -> Function:
        def fill(tier: LocalTier, key: str, region: Any, local_key: Any, epoch: int, *args: Any, **kwargs: Any) -> Any:
            return original(tier, key, region, local_key, region.epoch, *args, **kwargs)

        return fill

    _around(LocalTier, "fill", wrap)


def _stamps() -> None:
    """A cached stamp counts for as long as the channel lives, whatever is invalidated."""
    _around(Stamps, "forget", _nothing)


def _flight() -> None:
    """An invalidation leaves the loads under way in sight, for anybody to join."""
    _around(Flights, "invalidate", _nothing)
    _around(Flights, "invalidate_key", _nothing)


def _trusted_until() -> None:
    """What is local is trusted for ever, whether the channel lives or not."""
    _around(Engine, "trust_until", lambda original: lambda engine, trusted_until: original(engine, float("inf")))


def _forget_on_new_server() -> None:
    """Data that a server restored from its disk is used."""
    _around(PendingInvalidations, "on_new_server", lambda original: lambda recovery, *args: recovery._forget())


def _replay() -> None:
    """What could not be sent is forgotten."""
    _around(PendingInvalidations, "_add_name", _nothing)


def _resend() -> None:
    """A new primary is not sent the invalidations of the one before."""

    def wrap(original: Function) -> Function:
        def on_new_server(recovery: PendingInvalidations, *args: Any) -> None:
            recovery._recent = Recent(0.0, "")
            original(recovery, *args)

        return on_new_server

    _around(PendingInvalidations, "on_new_server", wrap)


def _write_probe() -> None:
    """A server that answers what is read is taken to accept what is written."""
    _around(Commands, "probe", lambda original: lambda commands, *args: ("EXISTS", original(commands, *args)[1]))


def _strong() -> None:
    """Strong reads are judged by cached stamps."""
    _around(Policy, "within", lambda original: lambda policy, config: original(policy, config)._replace(strong=False))


def _majority() -> None:
    """A cut-off primary with one Sentinel is trusted like any other."""
    _around(Majority, "confirmed_at", lambda original: lambda majority, primary: time.monotonic())


def _emptied() -> None:
    """What is held stays when the channel is made anew, whatever was ended in between."""

    def wrap(original: Function) -> Function:
        def channel_live(listener: InvalidationListener, *, emptied: bool, alive_at: float) -> None:
            listener._owner.stamps.trusted = True
            original(listener, emptied=False, alive_at=alive_at)

        return channel_live

    _around(InvalidationListener, "channel_live", wrap)
    _around(InvalidationListener, "everything_invalidated", _nothing)


BREAKS: dict[str, Callable[[], None]] = {
    "push": _push,
    "lease": _lease,
    "local-guard": _local_guard,
    "stamps": _stamps,
    "flight": _flight,
    "trusted_until": _trusted_until,
    "claim": _forget_on_new_server,
    "replay": _replay,
    "resend": _resend,
    "write-probe": _write_probe,
    "strong": _strong,
    "majority": _majority,
    "emptied": _emptied,
}
