"""Is any read staler than guaranteed, whatever fails? Counted in reads that were; the answer must be none.

Several processes with several threads each read versioned records of a SQLite table through cached functions, change
them, and end what they changed in every way there is, while the main process lets things fail: connections are killed,
commands paused, the server hangs, crashes, comes back empty or with old data, loses stamps or everything; workers are
stopped and killed, and their channels fall silent. Everything is logged, and every read is checked afterwards; what
exactly it must have seen is said in `verdict`. `--break` removes one rule: that must be noticed.

    python -m benchmarks.consistency --seconds 600
    python -m benchmarks.consistency --topology sentinel --threads 8       # or cluster: takeovers, resharding
    python -m benchmarks.consistency --topology sentinel --writes few --just-started off --consistency strong
    python -m benchmarks.consistency --topology sentinel --just-started off --min-replicas 0 --break majority

Behind Sentinel there are two replicas and three Sentinels with the shipped configuration (a second of silence is
enough), in the cluster three primaries with a replica each. Where networks can be cut (Linux, as root), one server, one
Sentinel and two of the workers are now and then on their own. One worker of each run only reads.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from aikcache._redis.sides import Side, Sides
from aikcache.testing import Server, available_servers
from aikcache.testing.cluster import ClusterTopology
from aikcache.testing.sentinel import Topology
from benchmarks.consistency import faults as faults
from benchmarks.consistency import refusals as refusals
from benchmarks.consistency import sites as sites
from benchmarks.consistency import takeovers as takeovers
from benchmarks.consistency.faults import Fault, Stage, Worker
from benchmarks.consistency.findings import Verdict
from benchmarks.consistency.options import PARTITIONS, Options, parse
from benchmarks.consistency.partitions import nodes, partition, places, prefer, side_of
from benchmarks.consistency.records import Table, clock
from benchmarks.consistency.sites import BehindSentinel, Clustered, Site
from benchmarks.consistency.verdict import judge
from benchmarks.consistency.worker import READER, WRITES, Plan

CALM = 1.5
"""Seconds without faults at the end, in which pending invalidations must be sent."""
SENT_WITHIN = 60.0
LATEST = 120.0
"""Seconds beyond its time that a run waits for a takeover: a Sentinel that was starved does nothing for 30 s (TILT)."""
JUST_STARTED = 3
"""Seconds after its start in which a topology's server that is met ends all that it holds: five minutes would cover all
that is lost in takeovers, for servers that have come back are young here."""
REPLAY = 5
"""Seconds of invalidations that a process sends again to a server that took over, where partitions are longer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict, and under what it was reached."""

    options: Options
    faults: dict[str, int]
    verdict: Verdict

    def lines(self) -> list[str]:
        """For people to read."""
        v = self.verdict
        lines = [
            f"reads:          {v.reads} ({_counts(v.read_ways)})",
            f"changes:        {v.changes} records",
            f"invalidations:  {sum(v.invalidations.values())} ({_counts(v.invalidations)})",
            f"kept for Redis: {v.kept}, acknowledged after {_ages(v.late)}; unknown (killed while sending): "
            f"{v.unknown}, refused: {v.refused}",
            f"faults:         {sum(self.faults.values())} ({_counts(self.faults)})",
            f"stale, live:    {_ages(v.stale_live)}",
            f"stale, cut:     {_ages(v.stale_cut)}",
            *self._takeovers(),
            f"violations:     {sum(v.violations.values())} {_counts(v.violations)}".rstrip(),
        ]
        return lines + [f"  {guarantee}: {text}" for guarantee, text in v.first]

    def _takeovers(self) -> list[str]:
        if self.options.topology == "one":
            return []
        v = self.verdict
        lines = [f"takeovers:      {len(v.takeovers)}, sent again {v.again}, lost with their process {v.lost}"]
        for name in sorted({takeover.name for takeover in v.takeovers}):
            lines.append(f"  {name:<14}{_ages([t.named - t.began for t in v.takeovers if t.name == name])} until known")
        return [*lines, f"  met after     {_ages(v.met)}", f"  in use after  {_ages(v.used)}"]

    def as_json(self) -> str:
        v = self.verdict
        summary: dict[str, Any] = {
            "options": {**asdict(self.options), "keep": None},
            "reads": v.reads,
            "changes": v.changes,
            "invalidations": v.invalidations,
            "kept": v.kept,
            "refused": v.refused,
            "faults": self.faults,
            "stale_live": _summary(v.stale_live),
            "stale_cut": _summary(v.stale_cut),
            "acknowledged_late": _summary(v.late),
            "takeovers": [{"name": t.name, "known_after": t.named - t.began} for t in v.takeovers],
            "sent_again": v.again,
            "lost": v.lost,
            "met_after": _summary(v.met),
            "used_after": _summary(v.used),
            "violations": v.violations,
            "first": [f"{guarantee}: {text}" for guarantee, text in v.first],
        }
        return json.dumps(summary, indent=1) + "\n"


def check(options: Options) -> Outcome:
    """One run: start the server and the workers, let things fail, and judge."""
    with ExitStack() as stack:
        directory = options.keep or Path(stack.enter_context(TemporaryDirectory(prefix="aikcache-consistency-")))
        directory.mkdir(parents=True, exist_ok=True)
        Table.create(directory / "records.db")
        sides = stack.enter_context(Sides()) if set(PARTITIONS) & set(options.faults) else None
        place = stack.enter_context(_place(options, directory, sides))
        stage, start = _stage(options, place, directory, sides)
        try:
            look = place.look if isinstance(place, Site) else None
            over = partial(_over, options, place, start)
            faults.run(stage, _kinds(place, sides), options.faults, look, _sleep, over)
            if isinstance(place, Site):
                _ready(place)
            wrong = _end(stage)
        finally:
            for worker in stage.workers:
                worker.end()
        names = [name for worker in stage.workers for name in worker.names]
        taken = place.takeovers if isinstance(place, Site) else []
        strong = options.consistency == "strong"
        found = judge(directory, names, stage.noted, taken, options.max_staleness, start, strong=strong)
        for text in wrong:
            found.violate("end", text)
        return Outcome(options, dict(stage.happened), found)


def _over(options: Options, place: Server | Site, start: float) -> bool:
    """Whether the time is over, and a server has taken over if that was asked for: a busy machine takes longer."""
    late = clock() - start - options.seconds
    if late < 0 or late > LATEST or not isinstance(place, Site):
        return late >= 0
    asked = {"kill", "stop", "manual", *PARTITIONS} & set(options.faults)
    return not asked or any(takeover.lossy for takeover in place.takeovers)


def _kinds(place: Server | Site, sides: Sides | None) -> list[dict[str, Fault]]:
    """What can happen, by lanes."""
    if not isinstance(place, Site):
        return [faults.SERVER_FAULTS | refusals.faults(alone=True)]
    of_servers = takeovers.faults(place) | refusals.faults(alone=False)
    if sides is not None:
        of_servers["partition"] = partial(partition, sides, place)
        of_servers["long-partition"] = partial(partition, sides, place, long=2 * REPLAY + 2.0)
    return [of_servers, faults.CONNECTION_FAULTS]


@contextmanager
def _place(options: Options, directory: Path, sides: Sides | None) -> Iterator[Server | Site]:
    """What the workers' URL leads to."""
    binary = available_servers()[options.server] if options.server else None
    on: Sequence[Side] = ()
    if options.topology == "sentinel":
        on = places(sides) if sides else ()
        config = (f"min-replicas-to-write {options.min_replicas}",)
        with Topology(
            binary=binary, down_after_ms=sites.DOWN_AFTER_MS, failover_timeout_ms=2000, config=config, sides=on
        ) as topology:
            site = BehindSentinel(topology)
            if sides:
                prefer(site)
            yield _ready(site)
    elif options.topology == "cluster":
        on = nodes(sides) if sides else ()
        with ClusterTopology(binary=binary, node_timeout_ms=sites.DOWN_AFTER_MS, sides=on) as cluster:
            yield _ready(Clustered(cluster))
    else:
        # Loading what was saved takes a while, in which the server answers that it is loading.
        slow = ["key-load-delay 2000", "loading-process-events-interval-bytes 1024"]
        lines = ["enable-debug-command local", *slow]
        with Server(binary=binary, directory=directory / "server", config=lines) as server:
            yield server


def _ready(site: Site) -> Site:
    for seconds in site.until_whole():
        _sleep(seconds)
    return site


def _stage(options: Options, place: Server | Site, directory: Path, sides: Sides | None) -> tuple[Stage, float]:
    primaries = place.primaries if isinstance(place, Site) else lambda: [place]
    workers = []
    for slot in range(options.processes):
        plan = Plan(
            url=place.url,
            directory=directory,
            database=directory / "records.db",
            slot=slot,
            number=0,
            seed=options.seed,
            threads=options.threads,
            max_staleness=options.max_staleness,
            broken=options.broken,
            just_started=(JUST_STARTED if isinstance(place, Site) else None) if options.just_started else 0,
            replay=None if sides is None else REPLAY,
            writes=0.0 if slot == READER else WRITES[options.writes],
            consistency=options.consistency,
        )
        workers.append(Worker(plan, None if sides is None else side_of(sides, slot)))
    for worker in workers:
        worker.ask("pending")  # it is at work
    return Stage(primaries, workers, options.max_staleness, Random(options.seed)), clock()


def _end(stage: Stage) -> list[str]:
    """Stop faults, then changes; wait until all pending is sent; read all once more. Returns what went wrong."""
    _sleep(CALM)
    wrong = []
    for worker in stage.workers:
        worker.ask("stop")
    deadline = clock() + SENT_WITHIN
    for worker in stage.workers:
        while (pending := worker.ask("pending")) and clock() < deadline:
            _sleep(0.1)
        if pending:
            wrong.append(f"worker {worker.plan.name} still has {pending} invalidations that Redis could acknowledge")
    _sleep(CALM)
    for worker in stage.workers:
        worker.ask("last")
    return wrong


def _sleep(seconds: float) -> None:
    time.sleep(max(seconds, 0))


def _counts(counts: Any) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


def _summary(seconds: Sequence[float]) -> dict[str, float]:
    """Count, median, p99 and worst."""
    if not seconds:
        return {"count": 0}
    ordered = sorted(seconds)
    p99 = ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)]
    return {"count": len(ordered), "p50": statistics.median(ordered), "p99": p99, "worst": ordered[-1]}


def _ages(seconds: Sequence[float]) -> str:
    summary = _summary(seconds)
    if not summary["count"]:
        return "none"
    return f"{summary['count']}, p50 {_ms(summary['p50'])}, p99 {_ms(summary['p99'])}, worst {_ms(summary['worst'])}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def main(arguments: list[str] | None = None) -> int:
    """Run, print, and give the exit status: 1 when a guarantee was broken."""
    options, file = parse(arguments)
    print(options, flush=True)
    outcome = check(options)
    print("\n".join(outcome.lines()))
    if file is not None:
        file.write_text(outcome.as_json(), encoding="utf-8")
    return 1 if outcome.verdict.violations else 0


if __name__ == "__main__":
    sys.exit(main())
