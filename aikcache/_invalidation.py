"""Ending what an invalidation names: first in Redis, for every process, then here.

In this order, because what is dropped here would otherwise be fetched again, old, from Redis. When Redis cannot be
told, what is local ends all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from . import _patterns, _sweep
from ._flights import Flight
from ._patterns import ANY_TAG, EVERYTHING, Ending, Target
from ._sweep import Sweep
from ._tiers import Tiers
from .errors import RemoteError


def ending(tiers: Tiers, targets: Iterable[Target], tags: Iterable[str] = ()) -> Ending:
    """Targets and tags together. The stamp of any tag comes before the tags' own: a load checks in the other order."""
    named: dict[str, dict[str, None]] = {"group": {}, "key": {}, "glob": {}}
    for target in targets:
        named[target.kind][tiers.space.full(target.name) if target.kind == "key" else target.name] = None
    groups = dict.fromkeys(map(_patterns.tag_group, tags))
    if groups:
        groups = {ANY_TAG: None, **groups}
    groups |= named["group"]
    if EVERYTHING in groups:
        return Ending((EVERYTHING,))
    return Ending(tuple(groups), tuple(named["key"]), tuple(named["glob"]))


def end(tiers: Tiers, what: Ending, progress: Sweep | None = None) -> None:
    """End it everywhere. Blocks for one round trip, for globs as long as their sweeps take; never raises.

    What Redis cannot be told is kept, and told before this process reads from it again.
    """
    remote, recovery = tiers.remote, tiers.recovery
    if what.globs:
        end_here(tiers, Ending(globs=what.globs))
    try:
        if remote is not None and recovery is not None:
            tiers.ready()
            met = recovery.greetings
            _sweep.end(remote, what, progress)
            recovery.sent(what, met)
    except RemoteError as error:
        if recovery is not None:
            recovery.keep(what)
        tiers.trouble.report("invalidate", f"Redis could not be told of an invalidation, which is kept: {error}")
        if progress is not None:
            progress.error = error
    finally:
        end_here(tiers, what)


def end_here(tiers: Tiers, what: Ending) -> None:
    """End it in this process: what is held, what is believed, and what is under way."""
    if what.groups:
        tiers.stamps.forget(*what.groups)
        for group in what.groups:
            tiers.local.drop_group(group)
        tiers.flights.end(lambda flight: _touches(flight, what.groups))
    for key in what.keys:
        tiers.drop_key(key)
    for glob in what.globs:
        matches = _patterns.matcher(tiers.space.lead, glob)
        tiers.flights.end(lambda flight, matches=matches: bool(matches(flight.key)))  # type: ignore[misc]
        tiers.local.drop_matching(matches)


def _touches(flight: Flight, groups: Sequence[str]) -> bool:
    return any(group in flight.groups for group in groups)


class Hearing:
    """What the channel tells of others' invalidations, carried out in this process."""

    __slots__ = ("_tiers",)

    def __init__(self, tiers: Tiers) -> None:
        self._tiers = tiers

    def group_ended(self, group: str) -> None:
        end_here(self._tiers, Ending(groups=(group,)))

    def key_ended(self, key: str) -> None:
        end_here(self._tiers, Ending(keys=(key,)))

    def glob_ended(self, glob: str) -> None:
        end_here(self._tiers, Ending(globs=(glob,)))

    def everything_ended(self) -> None:
        """A flush, or a server that is not the one it was: nothing that was learnt from it counts."""
        self._tiers.stamps.forget_all(trusted=self._tiers.stamps.trusted, era=True)
        end_here(self._tiers, Ending(groups=(EVERYTHING,)))

    def channel_live(self, *, emptied: bool, alive_at: float) -> None:
        """The channel has answered a question sent at `alive_at`; `emptied`: it is new, so what came before is not."""
        tiers = self._tiers
        if emptied:
            tiers.stamps.forget_all(trusted=True)
            end_here(tiers, Ending(groups=(EVERYTHING,)))
        tiers.trust_until(alive_at + tiers.config.max_staleness)

    def settle(self) -> None:
        """The channel lives: what Redis could not be told is told."""
        tiers = self._tiers
        if tiers.recovery is not None:
            try:
                tiers.recovery.settle()
                tiers.recovery.confirm()
            except RemoteError as error:
                tiers.trouble.report("invalidate", f"pending invalidations could not be sent yet: {error}")

    def channel_lost(self) -> None:
        self._tiers.stamps.forget_all(trusted=False)
