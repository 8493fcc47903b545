"""Carries out invalidations: first in Redis, for every process, then in this process.

The order matters: a value that is dropped here first could be read again, old, from Redis. If Redis cannot be reached,
the local values are dropped all the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from aikcache._coherence import sweep
from aikcache._coherence.sweep import ReplayingError, Sweep
from aikcache._concurrency import spans
from aikcache._concurrency.outside import BUGS, let_out
from aikcache._engine.single_flight import Flight
from aikcache._keys import patterns
from aikcache._keys.globs import matcher
from aikcache._keys.patterns import ANY_TAG, EVERYTHING, MAX_PATTERN, Invalidation, Target
from aikcache.errors import RemoteError, RemoteUnavailableError

if TYPE_CHECKING:
    from aikcache._engine.engine import Engine


def of(engine: Engine, targets: Iterable[Target], tags: Iterable[str] = ()) -> Invalidation:
    """The invalidation of targets and tags. The stamp of any tag precedes the tags' own: a load checks in the other
    order.
    """
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


def invalidate(engine: Engine, what: Invalidation, progress: Sweep | None = None) -> None:
    """Invalidate everywhere. Blocks for one round trip, for globs as long as their sweeps. Raises no error of its own.

    If Redis cannot be reached the invalidation is pending: it is sent before this process reads from Redis again.
    """
    remote, recovery = engine.remote, engine.recovery
    safe = recovery is None
    try:
        if what.globs:  # here first, because their sweep takes long
            invalidate_locally(engine, Invalidation(globs=what.globs))
        if remote is not None and recovery is not None:
            with contextlib.suppress(ReplayingError):  # only reads have to wait for that
                engine.ready()
            servers_seen = recovery.servers_seen
            if spans.active is None:
                sweep.invalidate(remote, what, progress)
            else:
                with spans.active.invalidation(len(what.names())):
                    sweep.invalidate(remote, what, progress)
            recovery.sent(what, servers_seen)
        safe = True
    except (RemoteError, *BUGS) as error:
        let_out(error)
        if recovery is not None:
            recovery.add(what)
            safe = True
        how = " through a cache that is closed" if engine.closed else "; it is pending"
        why = str(error) if isinstance(error, RemoteError) else f"{type(error).__name__}, which is a bug of aikcache"
        engine.reporter.report("invalidate", f"an invalidation could not be sent to Redis{how}: {why}")
        if progress is not None:
            progress.error = error if isinstance(error, RemoteError) else RemoteUnavailableError(why)
    finally:
        if recovery is not None and not safe:  # interrupted: whether Redis got it is not known
            recovery.add(what)
        try:
            invalidate_locally(engine, what)
        except BaseException:  # interrupted: done all the same
            invalidate_locally(engine, what)
            raise
        engine.events.invalidated(what, "out")


def replay_globs(engine: Engine) -> bool:
    """Sweep what is pending by glob. False: it was not possible."""
    if engine.recovery is not None:
        try:
            engine.recovery.send_globs()
        except (RemoteError, *BUGS) as error:
            let_out(error)
            why = (
                str(error) if isinstance(error, RemoteError) else f"{type(error).__name__}, which is a bug of aikcache"
            )
            engine.reporter.report("invalidate", f"pending sweeps could not be done yet: {why}")
            return False
    return True


def invalidate_locally(engine: Engine, what: Invalidation) -> None:
    """Invalidate in this process: local entries, cached stamps, and running loads."""
    if what.groups:
        engine.stamps.forget(*what.groups)
        for group in what.groups:
            engine.local.drop_group(group)
        engine.flights.invalidate(lambda flight: _touches(flight, what.groups))
    for key in what.keys:
        engine.drop_key(key)
    for glob in what.globs:
        matches = matcher(engine.keyspace.namespace_prefix, glob)
        engine.flights.invalidate(lambda flight, matches=matches: bool(matches(flight.key)))  # type: ignore[misc]
        engine.local.drop_matching(matches)


def _touches(flight: Flight, groups: Sequence[str]) -> bool:
    return any(group in flight.groups for group in groups)


class InvalidationListener:
    """Carries out in this process what the channel receives."""

    __slots__ = ("_news", "_owner", "later")

    def __init__(self, engine: Engine) -> None:
        from aikcache._coherence import news  # here: a cache without Redis needs neither it nor json

        self._owner = engine
        self._news = news
        self.later: Callable[[Callable[[], object]], object] = lambda report: report()

    def _received(self, what: Invalidation) -> None:
        invalidate_locally(self._owner, what)
        self._owner.events.invalidated(what, "in")

    def group_invalidated(self, group: str) -> None:
        self._received(Invalidation(groups=(group,)))

    def key_invalidated(self, key: str) -> None:
        self._received(Invalidation(keys=(key,)))

    def glob_invalidated(self, glob: str) -> None:
        if len(glob) > MAX_PATTERN:  # not one of aikcache's
            self.everything_invalidated()
            return
        self._received(Invalidation(globs=(glob,)))

    def everything_invalidated(self) -> None:
        """A flush, or another server: nothing that was learnt from the former one counts."""
        self._owner.stamps.forget_all(trusted=self._owner.stamps.trusted, server_generation=True)
        self._received(Invalidation(groups=(EVERYTHING,)))

    def channel_live(self, *, emptied: bool, alive_at: float) -> None:
        """The channel has answered a question sent at `alive_at`. `emptied`: it is new, so earlier pushes were
        missed.
        """
        engine = self._owner
        if emptied:
            engine.stamps.forget_all(trusted=True)
            invalidate_locally(engine, Invalidation(groups=(EVERYTHING,)))
            self.later(partial(engine.events.channel, live=True))
        engine.trust_until(engine.trust.renew(alive_at))

    def channel_refused(self, why: str | None) -> None:
        """The channel lives, but an invalidation would be refused now; None: that is not known."""
        self._owner.trust.refuse(why)
        if why is not None:
            message = f"the server would refuse an invalidation, so Redis is not used until it accepts one: {why}"
            self.later(partial(self._owner.reporter.report, "refused", message))

    def news(self, *, connected: bool = False) -> list[bytes]:
        """Messages about invalidations that the server refused, to be published.

        `connected`: the channel is new, so messages from here or elsewhere may have been lost. They are asked for, and
        published again.
        """
        remote, recovery = self._owner.remote, self._owner.recovery
        if remote is None or recovery is None:
            return []
        if connected:
            recovery.publish_again()
        first = [self._news.question(remote.writer)] if connected else []
        return [*first, *self._news.pack(remote.writer, recovery.unpublished())]

    def news_received(self, message: object) -> None:
        """An invalidation that was refused elsewhere: from here on it is pending in this process too."""
        remote, recovery = self._owner.remote, self._owner.recovery
        if remote is None or recovery is None:
            return
        received = self._news.unpack(message, remote.keyspace)
        if received is None:
            self._owner.reporter.report("news", "a message on the channel of refused invalidations is not one of ours.")
        elif received.sender == remote.writer:
            return
        elif received.names:
            recovery.adopt(received.names)
            self._received(patterns.joined(received.names))
        else:
            recovery.publish_again()

    def send_pending(self) -> None:
        """The channel is live: send pending invalidations."""
        engine = self._owner
        if len(engine.sweeper):  # whoever asked for a sweep may have been interrupted before the thread was woken
            engine.sweeper.look()
        if engine.recovery is not None:
            try:
                with contextlib.suppress(ReplayingError):
                    engine.recovery.send(engine.trust.refused)
                engine.recovery.confirm()
            except RemoteError as error:
                engine.reporter.report("invalidate", f"pending invalidations could not be sent yet: {error}")

    def channel_lost(self) -> None:
        self._owner.trust.lose()
        self._owner.stamps.forget_all(trusted=False)
        if self._owner.recovery is not None:
            self._owner.recovery.publish_again()  # what was just published may not have arrived
        self.later(partial(self._owner.events.channel, live=False))
