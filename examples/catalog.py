"""A catalog service under load: real data, several processes, one shared cache.

It indexes the Python modules installed here into SQLite, then lets worker processes answer a mix of queries through
aikcache while some of them re-index modules. At the end it shows per operation what the cache did, and compares the
cache's answers with the database's. `_catalog_queries.py` is the file that shows how the library is used.

    python examples/catalog.py                    # a temporary database, a private server
    python examples/catalog.py --url redis://localhost:6379/0 --workers 8

Exit status: 0 when more than 90 % of the calls were hits and no answer was wrong, 1 otherwise, 2 when it could not run.
A server that is killed meanwhile makes hits impossible for some seconds; how many calls these are depends on the
machine. `--min-hits 0` then leaves it at what has to hold all the same: no call fails, and no answer is wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import _catalog_db as db
from _catalog_load import Call, Write
from _catalog_report import MIN_HITS, Report, as_json, summarize, table, verdict
from _catalog_worker import SETTLE_SECONDS, Checked, Plan, Served, check, configure, work

from aikcache.errors import AikcacheError

_FRESH_SAMPLE = 100  # of each worker's sample, asked again by a process that has served nothing


def main(arguments: list[str] | None = None) -> int:
    """Run the example; returns the exit status."""
    options = parse(arguments)
    print(
        "The aikcache catalog. It indexes the Python modules installed here into SQLite, then serves a mixed\n"
        f"load from {options.workers} processes: a local tier in each, one shared server behind them.\n",
        flush=True,
    )
    try:
        with tempfile.TemporaryDirectory(prefix="aikcat-", ignore_cleanup_errors=True) as scratch:
            report = measure(options, Path(scratch))
    except AikcacheError as error:  # no server, or a URL that is none: the message says what to do
        print(f"The shared server cannot be used: {error}", file=sys.stderr)
        return 2
    except EOFError:
        print("A worker has ended early; what it said is above.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    print(f"\n{table(report)}\n\n{verdict(report, SETTLE_SECONDS)}")
    if options.json:
        options.json.write_text(as_json(report), encoding="utf-8")
    return 0 if report.passed else 1


def measure(options: argparse.Namespace, scratch: Path) -> Report:
    """The run itself, from an empty directory to the figures."""
    database = prepare_database(options.database or scratch, options.modules)
    url = options.url or f"embedded://{scratch}/server"
    cache = configure(url, options.instance)
    try:
        cache.ping()
        # What an earlier run left on a lasting server answers for another database.
        cache.clear()
        say("Server", shown(url))
        plan = Plan(database, url, options.instance, options.calls, options.seconds, options.writes, options.seed)
        return run(plan, options.workers, options.min_hits)
    finally:
        cache.close()
        db.close()


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="A catalog service under load, cached by aikcache.")
    parser.add_argument("--workers", type=_positive, default=4, help="processes that serve (default: 4)")
    parser.add_argument("--calls", type=_positive, default=80_000, help="calls per worker (default: 80000)")
    parser.add_argument("--seconds", type=float, default=40.0, help="end the load after this time (default: 40)")
    parser.add_argument("--writes", type=float, default=0.002, help="share of re-indexings (default: 0.002)")
    parser.add_argument("--modules", type=_positive, default=2000, help="most modules to index (default: 2000)")
    parser.add_argument("--min-hits", type=float, default=MIN_HITS, help="share that hits must exceed (default: 0.9)")
    parser.add_argument("--url", help="the shared server, as in redis://host:6379/0 (default: a private one)")
    parser.add_argument("--instance", default="catalog", help="first part of every key (default: catalog)")
    parser.add_argument("--database", type=Path, help="directory to keep the database in (default: a temporary one)")
    parser.add_argument("--seed", type=int, default=1, help="of the load's random choices (default: 1)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def say(what: str, text: str) -> None:
    """One line on what is going on, at once."""
    print(f"{what:<12}{text}", flush=True)


def shown(url: str) -> str:
    """A URL for people to see: without the user and password in it."""
    parts = urlsplit(url)
    if parts.scheme == "embedded":
        return "a private one, started for this run"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def prepare_database(directory: Path, modules: int) -> Path:
    """Build the database, unless an earlier run has, and say what is in it."""
    began = time.perf_counter()
    path, reused = db.build(directory, modules, sys.stderr)
    seconds = time.perf_counter() - began
    db.use(path)
    opened = db.connection()
    resources, distributions = opened.execute("SELECT count(*), count(DISTINCT distribution) FROM resources").fetchone()
    (imports,) = opened.execute("SELECT count(*) FROM relationships").fetchone()
    origin = "from an earlier run" if reused else f"indexed in {seconds:.1f} s"
    say("Database", f"{resources} modules of {distributions} distributions, {imports} imports between them, {origin}")
    return path


def run(plan: Plan, workers: int, min_hits: float) -> Report:
    """Serve the load, let it come to rest, check the answers, add everything up."""
    with started(plan, workers) as pipes:
        for pipe in pipes:
            pipe.recv()
        say("Load", f"{workers} workers, {plan.calls} calls each, Zipf 1.0, {plan.writes:.1%} writes ...")
        for pipe in pipes:
            pipe.send("go")
        served: list[Served] = [pipe.recv() for pipe in pipes]
        seconds = max(worker.seconds for worker in served)
        calls = sum(len(latencies) for worker in served for latencies in worker.latencies.values())
        say("", f"{calls} calls in {seconds:.1f} s, {calls / seconds:.0f} a second")
        time.sleep(SETTLE_SECONDS)
        affected = calls_affected(served)
        say("Check", f"{len(affected)} answers that writes have changed, and a sample, in every process ...")
        # This process first: its local tier is empty, so what it is told comes from the remote one.
        fresh = check(affected, [call for worker in served for call in worker.sample[:_FRESH_SAMPLE]])
        for pipe in pipes:
            pipe.send(affected)
        checked: list[Checked] = [pipe.recv() for pipe in pipes]
    return summarize(served, [fresh, *checked], min_hits)


def calls_affected(served: list[Served]) -> list[Call]:
    """The calls whose answers somebody's writes have changed, each once."""
    written = dict.fromkeys(resource_id for worker in served for resource_id in worker.written)
    return [call for resource_id in written for call in Write((resource_id,)).affected()]


@contextmanager
def started(plan: Plan, workers: int) -> Iterator[list[Connection[Any, Any]]]:
    """Worker processes, and a pipe to each; none of them outlives the block."""
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        for number in range(workers):
            here, there = spawn.Pipe()
            process = spawn.Process(target=work, args=(there, plan, number), daemon=True)
            process.start()
            there.close()  # else a worker that dies would not close the pipe
            pipes.append(here)
            processes.append(process)
        yield pipes
        for process in processes:
            process.join(10)
    finally:
        for process in processes:
            process.terminate()


if __name__ == "__main__":
    sys.exit(main())
