"""Ending what an invalidation names: first in Redis, for every process, then here.

In this order, because what is dropped here would otherwise be fetched again, old, from Redis. When Redis cannot be
told, what is local ends all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from . import _patterns
from ._flights import Flight
from ._patterns import ANY_TAG, EVERYTHING, Target
from ._tiers import Tiers
from .errors import RemoteError


@dataclass(frozen=True, slots=True)
class Ending:
    """What one invalidation ends: groups by name, keys in full, globs below the space's lead."""

    groups: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    globs: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.groups or self.keys or self.globs)


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


def end(tiers: Tiers, what: Ending) -> None:
    """End it everywhere. Blocks for one round trip, for globs as long as their sweeps take; never raises."""
    try:
        if tiers.remote is not None:
            tiers.remote.invalidate(what.groups, what.keys)
            for glob in what.globs:
                tiers.remote.sweep(glob)
    except RemoteError as error:
        names = ", ".join((*what.groups, *what.keys, *what.globs))
        tiers.trouble.report("invalidate", f"Redis could not be told that {names} ended: {error}")
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
        matches = re.compile(re.escape(tiers.space.lead) + _translate(glob)).fullmatch
        tiers.flights.end(lambda flight, matches=matches: bool(matches(flight.key)))  # type: ignore[misc]
        tiers.local.drop_matching(matches)


def _touches(flight: Flight, groups: Sequence[str]) -> bool:
    return any(group in flight.groups for group in groups)


def _translate(glob: str) -> str:
    """Redis's glob as a regular expression: `*`, `?`, `[a-z]`, `[^a]`, and `\\` before what is meant literally."""
    out, i = [], 0
    while i < len(glob):
        char = glob[i]
        i += 1
        if char == "*":
            out.append(".*")
        elif char == "?":
            out.append(".")
        elif char == "\\" and i < len(glob):
            out.append(re.escape(glob[i]))
            i += 1
        elif char == "[" and "]" in glob[i:]:
            close = glob.index("]", i)
            inside = glob[i:close]
            negated = "^" if inside.startswith("^") else ""
            body = inside.removeprefix("^")
            # an empty class matches nothing, its negation anything, as in Redis
            out.append(f"[{negated}{_set(body)}]" if body else ("." if negated else "(?!)"))
            i = close + 1
        else:
            out.append(re.escape(char))
    return "(?s:" + "".join(out) + ")"


def _set(body: str) -> str:
    return re.sub(r"([\\\[\]&~|^])", r"\\\1", body)
