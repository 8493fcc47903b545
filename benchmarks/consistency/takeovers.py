"""How a topology fails: its primary is killed, stopped or replaced by hand, restarts, hangs; slots of a cluster move.

Whoever was the primary comes back after another took over, is found to be nobody's primary any more, and becomes a
replica. Before a kill its replicas may have been deaf for a moment: what it acknowledged meanwhile is then lost for
certain (behind Sentinel it refuses writes then, for the shipped configuration asks for a replica).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

from aikcache._redis.cluster.topology import slot_of
from aikcache.errors import RemoteUnavailableError
from aikcache.testing import Server
from benchmarks.consistency.faults import Fault, Stage
from benchmarks.consistency.records import clock
from benchmarks.consistency.sites import DOWN_AFTER_MS, POLL, WITHIN, Clustered, Site

A_MOMENT = (0.1, DOWN_AFTER_MS / 3000)
"""Seconds; too short for anybody to take over."""
RESHARDED = 8
"""Slots that one resharding moves."""


def faults(site: Site) -> dict[str, Fault]:
    """What can happen to a topology. Connections and workers are others' business."""
    some: list[Callable[[Site, Stage], Iterator[float]]] = [kill, stop, manual, restart, hang]
    if isinstance(site, Clustered):
        some.append(reshard)
    return {fault.__name__: partial(fault, site) for fault in some}


def kill(site: Site, stage: Stage) -> Iterator[float]:
    """SIGKILL, half the time after its replicas received nothing for a moment; it comes back later."""

    def fail(shard: int, old: Server) -> Iterator[float]:
        deaf = site.replicas(shard) if stage.random.random() < 0.5 else []
        with ExitStack() as stack:
            for replica in deaf:
                stack.enter_context(site.paused(replica))
            if deaf:
                site.ask(old, "CLIENT", "KILL", "TYPE", "replica")  # and with it what is on its way to them
                yield stage.random.uniform(*A_MOMENT)
            site.down.add(old)
            old.kill()

    def undo(old: Server) -> None:
        site.remove_saved(old)
        old.restart()
        site.down.discard(old)
        if stage.random.random() < 0.5:
            site.lead_back(old)

    yield from _take_over(site, stage, "kill", fail, undo)


def stop(site: Site, stage: Stage) -> Iterator[float]:
    """SIGSTOP until another has taken over, and some time more; then it goes on as if nothing had been."""
    with ExitStack() as stack:

        def fail(shard: int, old: Server) -> Iterator[float]:
            stack.enter_context(site.paused(old))
            yield 0

        yield from _take_over(site, stage, "stop", fail, lambda old: stack.close())


def manual(site: Site, stage: Stage) -> Iterator[float]:
    """SENTINEL FAILOVER or CLUSTER FAILOVER: the old primary lives, and answers."""

    def fail(shard: int, old: Server) -> Iterator[float]:
        while True:
            try:
                return site.fail_over(shard)
            except RemoteUnavailableError:  # not so soon after the last
                yield 0.2

    yield from _take_over(site, stage, "manual", fail, lambda old: None)


def _take_over(
    site: Site,
    stage: Stage,
    name: str,
    fail: Callable[[int, Server], Iterator[float]],
    undo: Callable[[Server], None],
) -> Iterator[float]:
    shard, old = _victim(site, stage)
    before = len(site.takeovers)
    try:
        with stage.note(f"{name} of shard {shard}"):
            site.failing[shard] = (name, clock())
            yield from fail(shard, old)
            deadline = clock() + WITHIN
            while not any(takeover.lossy for takeover in site.takeovers[before:]) and clock() < deadline:
                yield POLL
        yield stage.random.uniform(0.1, 3.0)
    finally:
        undo(old)
    yield from site.until_whole(shard)


def restart(site: Site, stage: Stage) -> Iterator[float]:
    """SIGKILL, and back at once: behind Sentinel with its log, in a cluster empty, before anybody takes over."""
    shard, old = _victim(site, stage)
    with stage.note(f"restart of shard {shard}"):
        site.failing[shard] = ("restart", clock())
        old.kill()
        site.remove_saved(old)
        old.restart()
    yield from site.until_whole(shard)


def hang(site: Site, stage: Stage) -> Iterator[float]:
    """SIGSTOP, too short for anybody to take over."""
    with stage.note("hang"), site.paused(_victim(site, stage)[1]):
        yield stage.random.uniform(*A_MOMENT)


def reshard(site: Site, stage: Stage) -> Iterator[float]:
    """Slots that hold something go to other primaries, one after the other, a few keys at a time."""
    assert isinstance(site, Clustered)
    one = site.one
    with stage.note("reshard", cuts=False):
        for _ in range(RESHARDED):
            primaries = site.primaries()
            name = site.ask(stage.random.choice(primaries), "RANDOMKEY")
            if name is None:
                continue
            slot = slot_of(name)
            target = stage.random.choice([server for server in primaries if server is not one.owner(slot)])
            source = one.begin_move(slot, target)
            try:
                yield stage.random.uniform(0, 0.1)
                while one.move_keys(slot, source, target, 1):
                    yield stage.random.uniform(0, 0.1)
            finally:
                one.move_keys(slot, source, target)
                one.end_move(slot, target)
    yield from site.until_whole()


def _victim(site: Site, stage: Stage) -> tuple[int, Server]:
    shard = stage.random.choice(site.shards)
    return shard, site.serving(shard)
