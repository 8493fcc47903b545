"""Invalidating what was named: first in Redis, for every process, then in this process.

The order matters: what is dropped here first could be fetched again, old, from Redis. If Redis cannot be told, the
local values are dropped all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from aikcache._coherence import news as _news
from aikcache._coherence import sweep
from aikcache._coherence.sweep import Sweep
from aikcache._concurrency import spans
from aikcache._concurrency.outside import BUGS, let_out
from aikcache._engine.single_flight import Flight
from aikcache._keys import patterns
from aikcache._keys.globs import matcher
from aikcache._keys.patterns import ANY_TAG, EVERYTHING, MAX_PATTERN, Invalidation, Target
from aikcache.errors import RemoteError, RemoteUnavailableError

if TYPE_CHECKING:
    from aikcache._engine.engine import Engine


def ending(engine: Engine, targets: Iterable[Target], tags: Iterable[str] = ()) -> Invalidation:
    """Targets and tags together. The stamp of any tag comes before the tags' own: a load checks in the other order."""
    named: dict[str, dict[str, None]] = {"group": {}, "key": {}, "glob": {}}
    for target in targets:
        named[target.kind][engine.keyspace.full(target.name) if target.kind == "key" else target.name] = None
    groups = dict.fromkeys(map(patterns.tag_group, tags))
    if groups:
        groups = {ANY_TAG: None, **groups}
    groups |= named["group"]
    if EVERYTHING in groups:
        return Invalidation((EVERYTHING,))
    return Invalidation(tuple(groups), tuple(named["key"]), tuple(named["glob"]))


def end(engine: Engine, what: Invalidation, progress: Sweep | None = None) -> None:
    """Invalidate it everywhere. Blocks for one round trip, for globs as long as their sweeps. Raises no own error.

    What Redis cannot be told is pending: it is sent before this process reads from Redis again.
    """
    remote, recovery = engine.remote, engine.recovery
    if what.globs:
        invalidate_locally(engine, Invalidation(globs=what.globs))
    safe = recovery is None
    try:
        if remote is not None and recovery is not None:
            engine.ready()
            met = recovery.servers_seen
            if spans.active is None:
                sweep.invalidate(remote, what, progress)
            else:
                with spans.active.invalidation(len(what.names())):
                    sweep.invalidate(remote, what, progress)
            recovery.sent(what, met)
        safe = True
    except (RemoteError, *BUGS) as error:
        let_out(error)
        if recovery is not None:
            recovery.add(what)
            safe = True
        why = str(error) if isinstance(error, RemoteError) else f"{type(error).__name__}, which is a bug of aikcache"
        engine.reporter.report("invalidate", f"Redis could not be told of an invalidation; it is pending: {why}")
        if progress is not None:
            progress.error = error if isinstance(error, RemoteError) else RemoteUnavailableError(why)
    finally:
        if recovery is not None and not safe:  # interrupted: whether Redis has heard of it is not known
            recovery.add(what)
        try:
            invalidate_locally(engine, what)
        except BaseException:  # interrupted, it is done all the same
            invalidate_locally(engine, what)
            raise
        engine.events.invalidated(what, "out")


def invalidate_locally(engine: Engine, what: Invalidation) -> None:
    """Invalidate it in this process: local entries, the stamps held here, and running loads."""
    if what.groups:
        engine.stamps.forget(*what.groups)
        for group in what.groups:
            engine.local.drop_group(group)
        engine.flights.end(lambda flight: _touches(flight, what.groups))
    for key in what.keys:
        engine.drop_key(key)
    for glob in what.globs:
        matches = matcher(engine.keyspace.namespace_prefix, glob)
        engine.flights.end(lambda flight, matches=matches: bool(matches(flight.key)))  # type: ignore[misc]
        engine.local.drop_matching(matches)


def _touches(flight: Flight, groups: Sequence[str]) -> bool:
    return any(group in flight.groups for group in groups)


class InvalidationListener:
    """What the channel tells of others' invalidations, carried out in this process."""

    __slots__ = ("_tiers",)

    def __init__(self, engine: Engine) -> None:
        self._tiers = engine

    def _heard(self, what: Invalidation) -> None:
        invalidate_locally(self._tiers, what)
        self._tiers.events.invalidated(what, "in")

    def group_invalidated(self, group: str) -> None:
        self._heard(Invalidation(groups=(group,)))

    def key_invalidated(self, key: str) -> None:
        self._heard(Invalidation(keys=(key,)))

    def glob_invalidated(self, glob: str) -> None:
        if len(glob) > MAX_PATTERN:  # none of ours
            self.everything_invalidated()
            return
        self._heard(Invalidation(globs=(glob,)))

    def everything_invalidated(self) -> None:
        """A flush, or a server that is not the one it was: nothing that was learnt from it counts."""
        self._tiers.stamps.forget_all(trusted=self._tiers.stamps.trusted, server_generation=True)
        self._heard(Invalidation(groups=(EVERYTHING,)))

    def channel_live(self, *, emptied: bool, alive_at: float) -> None:
        """The channel has answered a question sent at `alive_at`; `emptied`: it is new, so what came before is not."""
        engine = self._tiers
        if emptied:
            engine.stamps.forget_all(trusted=True)
            invalidate_locally(engine, Invalidation(groups=(EVERYTHING,)))
            engine.events.channel(live=True)
        engine.trust_until(engine.trust.renew(alive_at))

    def channel_refused(self, why: str | None) -> None:
        """The channel lives, but an invalidation would be refused now; None: it is not known whether it would."""
        self._tiers.trust.refuse(why)
        if why is not None:
            message = f"the server would refuse an invalidation, so Redis is not used until it accepts one: {why}"
            self._tiers.reporter.report("refused", message)

    def news(self, *, connected: bool = False) -> list[bytes]:
        """What the server was not told, for it to be published.

        `connected`: the channel is new, so what was published meanwhile, here or elsewhere, may be lost: it is asked
        for, and published again.
        """
        remote, recovery = self._tiers.remote, self._tiers.recovery
        if remote is None or recovery is None:
            return []
        if connected:
            recovery.publish_again()
        first = [_news.question(remote.writer)] if connected else []
        return [*first, *_news.pack(remote.writer, recovery.unpublished())]

    def news_received(self, message: object) -> None:
        """An invalidation that was refused elsewhere: from here on it is this process's too."""
        remote, recovery = self._tiers.remote, self._tiers.recovery
        if remote is None or recovery is None:
            return
        told = _news.unpack(message, remote.keyspace)
        if told is None:
            self._tiers.reporter.report("news", "a message on the channel of refused invalidations is not one of ours.")
        elif told.sender == remote.writer:
            return
        elif told.names:
            recovery.adopt(told.names)
            self._heard(patterns.joined(told.names))
        else:
            recovery.publish_again()

    def send_pending(self) -> None:
        """The channel lives: what Redis could not be told is told."""
        engine = self._tiers
        if engine.recovery is not None:
            try:
                engine.recovery.send(engine.trust.refused)
                engine.recovery.confirm()
            except RemoteError as error:
                engine.reporter.report("invalidate", f"pending invalidations could not be sent yet: {error}")

    def channel_lost(self) -> None:
        self._tiers.trust.lose()
        self._tiers.stamps.forget_all(trusted=False)
        self._tiers.events.channel(live=False)
