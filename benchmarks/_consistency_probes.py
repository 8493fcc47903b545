"""What is changed inside a worker of the checker: probes that log, a channel that goes silent, and broken variants.

All of it by replacing functions of aikcache in the worker's own process; the package itself knows nothing of it. A
broken variant takes one rule away, to show that the checker notices.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from random import random
from types import ModuleType
from typing import Any

from aikcache import _scripts
from aikcache._connections import Connections, Link
from aikcache._flights import Flights
from aikcache._invalidation import Hearing
from aikcache._local import LocalTier
from aikcache._recovery import Recovery
from aikcache._stamps import Stamps
from aikcache._tiers import Tiers
from aikcache.errors import RemoteTimeoutError

from ._consistency_records import Log, clock

Function = Callable[..., Any]
DAWDLING = 0.05


def _around(owner: type | ModuleType, name: str, wrap: Callable[[Function], Function]) -> None:
    setattr(owner, name, wrap(getattr(owner, name)))


class Probes:
    """Logs when the channel came and went, and when an invalidation had to be kept and was told after all."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._mine = threading.local()
        self._silent_until = 0.0
        _around(Hearing, "channel_live", self._channel_live)
        _around(Hearing, "channel_lost", self._channel_lost)
        _around(Recovery, "keep", self._keep)
        _around(Recovery, "settle", self._settle)
        _around(Link, "poll", self._poll)
        _around(Connections, "connect", self._connect)
        _around(Connections, "exchange", _dawdling)

    def kept(self) -> float | None:
        """When this thread's invalidations were kept, if any was since it asked last."""
        kept: float | None = getattr(self._mine, "kept", None)
        self._mine.kept = None
        return kept

    def silence(self, seconds: float) -> None:
        """From now on the channel hears nothing, nor can it be made anew. What is sent to it arrives late, if ever."""
        until = clock() + seconds
        self._log.event("silent", began=clock(), ended=until)
        self._silent_until = until

    def _channel_live(self, original: Function) -> Function:
        def channel_live(hearing: Hearing, *, emptied: bool, alive_at: float) -> None:
            original(hearing, emptied=emptied, alive_at=alive_at)
            if emptied:
                self._log.event("live")

        return channel_live

    def _channel_lost(self, original: Function) -> Function:
        def channel_lost(hearing: Hearing) -> None:
            self._log.event("lost")
            original(hearing)

        return channel_lost

    def _keep(self, original: Function) -> Function:
        def keep(recovery: Recovery, *args: Any) -> None:
            original(recovery, *args)
            self._mine.kept = clock()

        return keep

    def _settle(self, original: Function) -> Function:
        def settle(recovery: Recovery) -> None:
            if not len(recovery):
                return original(recovery)  # type: ignore[no-any-return]
            self._log.event("settling")
            before = recovery.replayed
            looked = None
            try:
                original(recovery)
                looked = clock()
                if recovery.replayed == before or len(recovery):
                    looked = None
            finally:  # all that was kept until `looked` has been told; None: not all, or nothing is known of it
                self._log.event("settled", kept_until=looked)

        return settle

    def _poll(self, original: Function) -> Function:
        def poll(link: Link, seconds: float) -> list[Any]:
            left = self._silent_until - clock()
            if left > 0:
                time.sleep(min(seconds, left))
                return []
            messages: list[Any] = original(link, seconds)
            return messages

        return poll

    def _connect(self, original: Function) -> Function:
        def connect(connections: Connections, *, name: str = "aikcache", **options: Any) -> Link:
            if name == "aikcache-channel" and (left := self._silent_until - clock()) > 0:
                time.sleep(min(left, connections.config.connect_timeout))
                raise RemoteTimeoutError("silenced by the checker")
            link: Link = original(connections, name=name, **options)
            return link

        return connect


def _dawdling(original: Function) -> Function:
    """Some questions leave late, and some answers are looked at late, as on a busy machine or a slow network.

    What cannot be seen when every answer is used at once: that it was overtaken by an invalidation.
    """

    def exchange(connections: Connections, commands: Any) -> list[Any]:
        if random() < DAWDLING:
            time.sleep(0.005 * random())
        replies: list[Any] = original(connections, commands)
        if random() < DAWDLING:
            time.sleep(0.005 * random())
        return replies

    return exchange


# Broken variants: each takes one rule away


def _nothing(original: Function) -> Function:
    return lambda *args, **kwargs: None


def _push() -> None:
    """Pushes are ignored."""
    for name in ("group_ended", "key_ended", "glob_ended", "everything_ended"):
        _around(Hearing, name, _nothing)


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
    """A stamp once known is believed for as long as the channel lives, whatever ends."""
    _around(Stamps, "forget", _nothing)


def _flight() -> None:
    """An invalidation leaves the loads under way in sight, for anybody to join."""
    _around(Flights, "end", _nothing)
    _around(Flights, "end_key", _nothing)


def _horizon() -> None:
    """What is local is trusted for ever, whether the channel lives or not."""
    _around(Tiers, "trust_until", lambda original: lambda tiers, horizon: original(tiers, float("inf")))


def _claim() -> None:
    """What a server restored from its disk is believed."""
    _around(Recovery, "greet", lambda original: lambda recovery, *args: recovery._forget())


def _replay() -> None:
    """What could not be sent is forgotten."""
    _around(Recovery, "_add", _nothing)


BREAKS: dict[str, Callable[[], None]] = {
    "push": _push,
    "lease": _lease,
    "local-guard": _local_guard,
    "stamps": _stamps,
    "flight": _flight,
    "horizon": _horizon,
    "claim": _claim,
    "replay": _replay,
}
