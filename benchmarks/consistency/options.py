"""What the command line of the checker says."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from random import SystemRandom

from aikcache._redis.sides import Sides
from aikcache._settings.config import CacheConfig
from benchmarks.consistency import faults as faults
from benchmarks.consistency import refusals as refusals
from benchmarks.consistency.probes import BREAKS
from benchmarks.consistency.worker import WRITES

TAKEOVERS = ("kill", "stop", "manual", "restart", "hang")
PARTITIONS = ("partition", "long-partition")
REFUSED = ("oom", "noreplicas", "misconf")
FAULTS: dict[str, tuple[str, ...]] = {
    "one": (*faults.ALL, *refusals.ALL),
    "sentinel": (*TAKEOVERS, *PARTITIONS, *REFUSED, *faults.CONNECTION_FAULTS, *faults.WORKER_FAULTS),
    "cluster": (*TAKEOVERS, "reshard", *PARTITIONS, *REFUSED, *faults.CONNECTION_FAULTS, *faults.WORKER_FAULTS),
}
RESTORED = ("restart-old", "down")
"""A server alone that comes back with what it saved: nothing but its having just started says that this is old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A run."""

    topology: str = "one"
    seconds: float = 60.0
    processes: int = 4
    threads: int = 3
    faults: tuple[str, ...] = FAULTS["one"]
    server: str | None = None
    seed: int = 0
    max_staleness: float = 5.0
    consistency: str = "bounded"
    writes: str = "many"
    just_started: bool = True
    min_replicas: int = 1
    broken: str | None = None
    keep: Path | None = None

    def __str__(self) -> str:
        return (
            f"{self.topology}, {self.seconds:g} s, {self.processes} processes × {self.threads} threads, "
            f"{self.consistency}, {self.writes} writes, seed {self.seed}, max_staleness {self.max_staleness:g} s, "
            f"{'' if self.just_started else 'servers that have just started are believed, '}"
            f"{'' if self.min_replicas else 'a primary without replicas takes writes, '}"
            f"{'broken: ' + self.broken if self.broken else 'as it is'}"
        )


def parse(arguments: list[str] | None) -> tuple[Options, Path | None]:
    """A run, and the file to write its outcome to."""
    usual = Options()
    modes = ["bounded", "strong"] if any(f.name == "consistency" for f in fields(CacheConfig)) else ["bounded"]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.consistency", description="Looks for stale reads.")
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="of faults (default: %(default)g)")
    parser.add_argument("--processes", type=int, default=usual.processes)
    parser.add_argument("--threads", type=int, default=usual.threads, help="of each process (default: %(default)s)")
    parser.add_argument("--topology", choices=tuple(FAULTS), default="one", help="one server, or more of them")
    parser.add_argument("--faults", default="all", help="all, none, or some by their names, with commas between")
    parser.add_argument("--server", choices=("valkey", "redis"), help="which to start (default: the first there is)")
    parser.add_argument("--seed", type=int, help="of faults and operations; what threads make of it differs every time")
    parser.add_argument("--max-staleness", type=float, default=usual.max_staleness, help="default: %(default)g")
    parser.add_argument("--consistency", choices=modes, default=usual.consistency, help="of all caches")
    parser.add_argument("--writes", choices=tuple(WRITES), default=usual.writes, help="one of 50 operations, or of 500")
    parser.add_argument(
        "--just-started",
        choices=("on", "off"),
        default="on",
        help="off: what a new server holds is not ended as a whole",
    )
    parser.add_argument(
        "--min-replicas",
        type=int,
        choices=(0, 1),
        default=usual.min_replicas,
        help="that a primary behind Sentinel must have to take writes: with 1, as shipped, one that is cut off gives "
        "itself away by refusing them",
    )
    parser.add_argument("--break", dest="broken", choices=BREAKS, help="take this rule away: violations are expected")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="leave the logs there, which must be new")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the outcome to this file")
    given = parser.parse_args(arguments)
    possible = FAULTS[given.topology]
    if given.topology == "one" and given.just_started == "off":
        possible = tuple(name for name in possible if name not in RESTORED)
    if not Sides.possible():  # only root can cut a network
        possible = tuple(name for name in possible if name not in PARTITIONS)
    chosen = {"all": possible, "none": ()}.get(given.faults, tuple(given.faults.split(",")))
    if unknown := set(chosen) - set(possible):
        parser.error(f"there is no fault {', '.join(sorted(unknown))} here; there are {', '.join(possible)}")
    options = Options(
        topology=given.topology,
        seconds=given.seconds,
        processes=given.processes,
        threads=given.threads,
        faults=chosen,
        server=given.server,
        seed=SystemRandom().randrange(10**6) if given.seed is None else given.seed,
        max_staleness=given.max_staleness,
        consistency=given.consistency,
        writes=given.writes,
        just_started=given.just_started == "on",
        min_replicas=given.min_replicas,
        broken=given.broken,
        keep=given.keep,
    )
    return options, given.json
