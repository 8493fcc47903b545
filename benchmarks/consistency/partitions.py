"""A network cut in two: one server, one Sentinel if there are any, and two workers on one side, most on the other.

While the primary is on the smaller side, its workers have all they need: a primary that answers, and a Sentinel that
names it. What the others change meanwhile they must not go on reading for longer than `max_staleness`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress

from aikcache._redis.sides import Side, Sides
from aikcache.errors import RemoteUnavailableError
from benchmarks.consistency.faults import Stage
from benchmarks.consistency.records import clock
from benchmarks.consistency.sites import DOWN_AFTER_MS, POLL, WITHIN, BehindSentinel, Site

MINORITY = (0, 1)
"""The slots of workers who are cut off from most."""
ASK_SECONDS = 3.0
"""Seconds for one failover by hand to the side on which the primary is wanted."""


def places(sides: Sides) -> list[Side]:
    """For three servers and three Sentinels."""
    return [sides.one, sides.other, sides.other] * 2


def nodes(sides: Sides) -> list[Side]:
    """For three primaries and their replicas."""
    return [sides.one, *[sides.other] * 5]


def prefer(site: BehindSentinel) -> None:
    """Let Sentinel choose, whenever it can, the server that will be alone; it asks for this every ten seconds."""
    site.ask(site.one.servers[0], "CONFIG", "SET", "replica-priority", "1")  # the others have 100


def side_of(sides: Sides, slot: int) -> Side:
    """Where a worker is."""
    return sides.one if slot in MINORITY else sides.other


def partition(sides: Sides, site: Site, stage: Stage, *, long: float = 0.0) -> Iterator[float]:
    """Cut it, mostly with the primary on the smaller side, for a moment, or until another has taken over and longer.

    `long`: for so many seconds at least, with the primary on the smaller side if that can be.
    """
    alone = site.one.servers[0]
    if long or stage.random.random() < 0.8:
        yield from _lead(site, alone)
    takes_over = site.serving(0) is alone
    seconds = long
    if not long and stage.random.random() < 0.2:
        seconds = 0.4 * DOWN_AFTER_MS / 1000
    elif not long:
        seconds = stage.random.uniform(3, 2 * stage.max_staleness)
    before = len(site.takeovers)
    try:
        with ExitStack() as notes:
            for slot in (None, *MINORITY):
                notes.enter_context(stage.note("partition", slot))
            if takes_over:
                site.failing[0] = ("partition", clock())
            sides.cut()
            deadline = clock() + WITHIN
            while takes_over and seconds > 1 and len(site.takeovers) == before and clock() < deadline:
                yield POLL
            yield seconds
    finally:
        sides.join()
    yield from site.until_whole(0)


def _lead(site: Site, alone: object) -> Iterator[float]:
    """Make the server that will be alone the primary, if the others can be brought to it."""
    for _ in range(4):
        if site.serving(0) is alone:
            return
        with suppress(RemoteUnavailableError):
            site.failing[0] = ("manual", clock())
            site.fail_over(0)
        until = clock() + ASK_SECONDS
        while clock() < until and site.serving(0) is not alone:
            site.look()
            yield POLL
        yield from site.until_whole(0)
