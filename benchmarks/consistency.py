"""Is any read staler than the laws allow, whatever fails? Counted in reads that were; the answer must be none.

Several processes with several threads each read versioned records of a SQLite table through cached functions, change
them, and end what they changed in every way there is, while the main process lets things fail: connections are killed,
commands paused, the server hangs, crashes, comes back empty or with old data, loses stamps or everything; workers are
stopped and killed, and their channels fall silent. Everything is logged, and every read is checked afterwards; what
exactly it must have seen is said in `_consistency_verdict`. `--break` takes one rule away: that must be noticed.

    python -m benchmarks.consistency --seconds 600
    python -m benchmarks.consistency --topology sentinel --threads 8       # or cluster: takeovers, resharding

Behind Sentinel there are two replicas and three Sentinels with the shipped configuration (a second of silence is
enough), in the cluster three primaries with a replica each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

from aikcache._cluster_topology import ClusterTopology
from aikcache._topology import Topology
from aikcache.testing import Server, available_servers

from . import _consistency_faults as faults
from . import _consistency_sites as sites
from . import _consistency_takeovers as takeovers
from ._consistency_faults import Stage, Worker
from ._consistency_probes import BREAKS
from ._consistency_records import Table, clock
from ._consistency_sites import BehindSentinel, Clustered, Site
from ._consistency_verdict import Verdict, judge
from ._consistency_worker import Plan

CALM = 1.5
"""Seconds without faults at the end, in which what is pending must be told."""
TOLD_WITHIN = 15.0
JUST_STARTED = 3
"""Seconds after its start in which a topology's server that is met ends all that it holds: five minutes would cover all
that is lost in takeovers, for servers that have come back are young here."""
TAKEOVERS = ("kill", "stop", "manual", "restart", "hang")
FAULTS: dict[str, tuple[str, ...]] = {
    "one": faults.ALL,
    "sentinel": (*TAKEOVERS, *faults.CONNECTION_FAULTS, *faults.WORKER_FAULTS),
    "cluster": (*TAKEOVERS, "reshard", *faults.CONNECTION_FAULTS, *faults.WORKER_FAULTS),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says."""

    topology: str = "one"
    seconds: float = 60.0
    processes: int = 4
    threads: int = 3
    faults: tuple[str, ...] = faults.ALL
    server: str | None = None
    seed: int = 0
    max_staleness: float = 5.0
    broken: str | None = None
    keep: Path | None = None


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
            f"kept for Redis: {v.kept}, told after {_ages(v.late)}; unknown (killed while telling): {v.unknown}",
            f"faults:         {sum(self.faults.values())} ({_counts(self.faults)})",
            f"stale, live:    {_ages(v.stale_live)}",
            f"stale, cut:     {_ages(v.stale_cut)}",
            *self._takeovers(),
            f"violations:     {sum(v.violations.values())} {_counts(v.violations)}".rstrip(),
        ]
        return lines + [f"  {law}: {text}" for law, text in v.first]

    def _takeovers(self) -> list[str]:
        if self.options.topology == "one":
            return []
        v = self.verdict
        lines = [f"takeovers:      {len(v.takeovers)}, told again {v.again}, lost with their process {v.lost}"]
        for name in sorted({takeover.name for takeover in v.takeovers}):
            lines.append(f"  {name:<14}{_ages([t.named - t.began for t in v.takeovers if t.name == name])} until known")
        return [*lines, f"  met after     {_ages(v.met)}", f"  in use after  {_ages(v.used)}"]

    def as_json(self) -> str:
        v = self.verdict
        told: dict[str, Any] = {
            "options": {**asdict(self.options), "keep": None},
            "reads": v.reads,
            "changes": v.changes,
            "invalidations": v.invalidations,
            "kept": v.kept,
            "faults": self.faults,
            "stale_live": _summary(v.stale_live),
            "stale_cut": _summary(v.stale_cut),
            "told_late": _summary(v.late),
            "takeovers": [{"name": t.name, "known_after": t.named - t.began} for t in v.takeovers],
            "told_again": v.again,
            "lost": v.lost,
            "met_after": _summary(v.met),
            "used_after": _summary(v.used),
            "violations": v.violations,
            "first": [f"{law}: {text}" for law, text in v.first],
        }
        return json.dumps(told, indent=1) + "\n"


def check(options: Options) -> Outcome:
    """One run: start the server and the workers, let things fail, and judge."""
    with tempfile.TemporaryDirectory(prefix="aikcache-consistency-") as temporary:
        directory = options.keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        Table.create(directory / "records.db")
        with _place(options, directory) as place:
            stage, start = _stage(options, place, directory)
            try:
                if isinstance(place, Site):
                    kinds = [takeovers.faults(place), faults.CONNECTION_FAULTS]
                    faults.run(stage, kinds, options.faults, place.look, _sleep, start + options.seconds)
                    _ready(place)
                else:
                    faults.run(stage, [faults.SERVER_FAULTS], options.faults, None, _sleep, start + options.seconds)
                wrong = _end(stage)
            finally:
                for worker in stage.workers:
                    worker.end()
        names = [name for worker in stage.workers for name in worker.names]
        taken = place.takeovers if isinstance(place, Site) else []
        found = judge(directory, names, stage.noted, taken, options.max_staleness, start)
        for text in wrong:
            found.violate("end", text)
        return Outcome(options, dict(stage.happened), found)


@contextmanager
def _place(options: Options, directory: Path) -> Iterator[Server | Site]:
    """What the workers' URL leads to."""
    binary = available_servers()[options.server] if options.server else None
    if options.topology == "sentinel":
        with Topology(binary=binary, down_after_ms=sites.DOWN_AFTER_MS, failover_timeout_ms=2000) as topology:
            yield _ready(BehindSentinel(topology))
    elif options.topology == "cluster":
        with ClusterTopology(binary=binary, node_timeout_ms=sites.DOWN_AFTER_MS) as cluster:
            yield _ready(Clustered(cluster))
    else:
        # Loading what was saved takes a while, in which the server answers that it is loading.
        slow = ["key-load-delay 2000", "loading-process-events-interval-bytes 1024"]
        config = ["enable-debug-command local", *slow]
        with Server(binary=binary, directory=directory / "server", config=config) as server:
            yield server


def _ready(site: Site) -> Site:
    for seconds in site.until_whole():
        _sleep(seconds)
    return site


def _stage(options: Options, place: Server | Site, directory: Path) -> tuple[Stage, float]:
    primaries = place.primaries if isinstance(place, Site) else lambda: [place]
    workers = [
        Worker(
            Plan(
                url=place.url,
                directory=directory,
                database=directory / "records.db",
                slot=slot,
                number=0,
                seed=options.seed,
                threads=options.threads,
                max_staleness=options.max_staleness,
                broken=options.broken,
                just_started=JUST_STARTED if isinstance(place, Site) else None,
            )
        )
        for slot in range(options.processes)
    ]
    for worker in workers:
        worker.ask("pending")  # it is at work
    return Stage(primaries, workers, options.max_staleness, Random(options.seed)), clock()


def _end(stage: Stage) -> list[str]:
    """No more faults, then no more changes; what is pending is told; everything is read once more. What went wrong."""
    _sleep(CALM)
    wrong = []
    for worker in stage.workers:
        worker.ask("stop")
    deadline = clock() + TOLD_WITHIN
    for worker in stage.workers:
        while (pending := worker.ask("pending")) and clock() < deadline:
            _sleep(0.1)
        if pending:
            wrong.append(f"worker {worker.plan.name} still keeps {pending} invalidations that Redis could be told")
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
    told = _summary(seconds)
    if not told["count"]:
        return "none"
    return f"{told['count']}, p50 {_ms(told['p50'])}, p99 {_ms(told['p99'])}, worst {_ms(told['worst'])}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def parse(arguments: list[str] | None) -> tuple[Options, Path | None]:
    """The command line."""
    usual = Options()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.consistency", description="Looks for stale reads.")
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="of faults (default: %(default)g)")
    parser.add_argument("--processes", type=int, default=usual.processes)
    parser.add_argument("--threads", type=int, default=usual.threads, help="of each process (default: %(default)s)")
    parser.add_argument("--topology", choices=tuple(FAULTS), default="one", help="one server, or more of them")
    parser.add_argument("--faults", default="all", help="all, none, or some by their names, with commas between")
    parser.add_argument("--server", choices=("valkey", "redis"), help="which to start (default: the first there is)")
    parser.add_argument("--seed", type=int, help="of faults and operations; what threads make of it differs every time")
    parser.add_argument("--max-staleness", type=float, default=usual.max_staleness, help="default: %(default)g")
    parser.add_argument("--break", dest="broken", choices=BREAKS, help="take this rule away: violations are expected")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="leave the logs there, which must be new")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the outcome to this file")
    given = parser.parse_args(arguments)
    possible = FAULTS[given.topology]
    chosen = {"all": possible, "none": ()}.get(given.faults, tuple(given.faults.split(",")))
    if unknown := set(chosen) - set(possible):
        parser.error(f"there is no fault {', '.join(sorted(unknown))}; there are {', '.join(possible)}")
    options = Options(
        topology=given.topology,
        seconds=given.seconds,
        processes=given.processes,
        threads=given.threads,
        faults=chosen,
        server=given.server,
        seed=SystemRandom().randrange(10**6) if given.seed is None else given.seed,
        max_staleness=given.max_staleness,
        broken=given.broken,
        keep=given.keep,
    )
    return options, given.json


def main(arguments: list[str] | None = None) -> int:
    """Run, print, and give the exit status: 1 when a law was broken."""
    options, file = parse(arguments)
    print(
        f"{options.topology}, {options.seconds:g} s, {options.processes} processes × {options.threads} threads, "
        f"seed {options.seed}, max_staleness {options.max_staleness:g} s, "
        f"{'broken: ' + options.broken if options.broken else 'as it is'}",
        flush=True,
    )
    outcome = check(options)
    print("\n".join(outcome.lines()))
    if file is not None:
        file.write_text(outcome.as_json(), encoding="utf-8")
    return 1 if outcome.verdict.violations else 0


if __name__ == "__main__":
    sys.exit(main())
