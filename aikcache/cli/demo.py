"""`aikcache demo`: a small shop on several processes, without the cache and with it, on this machine."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import click
from rich.console import Console, Group
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from aikcache._cache import Cache
from aikcache.cli.demo_worker import BARE_CALLS, INSTANCE, WRITES, make_database
from aikcache.cli.failures import Failure
from aikcache.cli.output import console, json_option, number, say_json, share, span, table

NEXT = """\
What to do next
  1  from aikcache import cached, configure, invalidates
     configure("redis://localhost:6379/0", instance="shop")   # once, where your application starts
  2  @cached("product", ttl=300, tags=("product:{id}",))      # on a function that asks a database
     @invalidates(tags=("product:{id}",))                     # on the function that changes what it reads
  3  aikcache doctor --url redis://localhost:6379/0           # is that server fit for it?
     aikcache top --url … --instance shop                     # what do your processes do now?"""
COLUMNS = """\
local: from the process's own memory. remote: from Redis, where another process had put it. misses: the function ran. \
calls = local + remote + misses. "without" and "with" the cache: what half of the calls (p50), and 99 of 100 (p99), \
take at most."""


@dataclass(frozen=True, slots=True)
class Row:
    """One operation, over all processes. Times are seconds."""

    name: str
    calls: int
    """With the cache, and one after each price change."""
    local: int
    remote: int
    misses: int
    bare: tuple[float, float]
    cached: tuple[float, float]

    @property
    def adds_up(self) -> bool:
        return self.calls == self.local + self.remote + self.misses


@click.command
@click.option("--url", metavar="URL", help="A server to use; default: a private one, started for the demo.")
@click.option("--processes", type=click.IntRange(1, 32), default=3, show_default=True)
@click.option("--calls", type=click.IntRange(100), default=5000, show_default=True,
              help="Of each operation in each process, with the cache.")  # fmt: skip
@json_option
def demo(url: str | None, processes: int, calls: int, *, as_json: bool) -> None:
    """Show what the cache does for a small shop. AIKCACHE_URL is not used: the demo writes.

    Exit status: 0 if the calls add up and no process read something older than it wrote itself, else 1.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aikdemo-", ignore_cleanup_errors=True)))
        if url is None:
            from aikcache._embedded.server import Server

            url = stack.enter_context(Server()).url
        else:
            with Cache(url, instance=INSTANCE, publish_interval=None, metrics=None) as cache:
                cache.ping()  # what is wrong with it is said once, and not by each process
        database = str(scratch / "shop.db")
        make_database(database)
        if not as_json:
            writes = processes * WRITES
            text = (
                f"A shop with a database and {processes} processes. First {BARE_CALLS} calls of each operation in each "
                f"process without the cache, then {number(calls)} with it, and {writes} price changes in between."
            )
            console().print(Text(f"{text}\n"))
        figures = stack.enter_context(_workers(url, database, calls, processes))()
    rows = [_row(name, [one["operations"][name] for one in figures]) for name in figures[0]["operations"]]
    older, sound = sum(one["older"] for one in figures), all(row.adds_up for row in rows)
    if as_json:
        say_json({"operations": rows, "older_than_own_write": older, "calls_add_up": sound})
    else:
        console().print(report(rows, older), Text(f"\n{NEXT}"))
    click.get_current_context().exit(0 if sound and not older else 1)


@contextmanager
def _workers(url: str, database: str, calls: int, count: int) -> Iterator[Callable[[], list[Any]]]:
    """Start the processes, and return a function that waits for their figures. On exit all are stopped."""
    command = [sys.executable, "-m", "aikcache.cli.demo_worker", url, database, str(calls)]
    processes: list[subprocess.Popen[str]] = []
    try:
        for seed in range(count):
            processes.append(subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, text=True))
        yield lambda: _figures(processes, calls * count)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            _stream(process).close()


def _figures(processes: Sequence[subprocess.Popen[str]], calls: int) -> list[Any]:
    """What each process reports when it has finished, under a progress bar. Raises `Failure`: one exited early."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for process in processes:
        threading.Thread(target=_pass_on, args=(_stream(process), lines), daemon=True).start()
    found, left = [], len(processes)
    shown = Console(stderr=True, highlight=False)
    with Progress(console=shown, disable=not shown.is_terminal, transient=True) as bar:
        task = bar.add_task("asking", total=calls)
        while left:
            line = lines.get()
            report = {} if line is None else json.loads(line)
            left -= line is None
            bar.advance(task, report.get("done", 0))
            if "operations" in report:
                found.append(report)
    if len(found) < len(processes):
        raise Failure("a process of the demo has ended early; what it said is above.")
    return found


def _pass_on(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _stream(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def _row(name: str, reports: Sequence[dict[str, Any]]) -> Row:
    def sum_of(what: str) -> int:
        return sum(one[what] for one in reports)

    bare, cached = ([took / 1e9 for one in reports for took in one[what]] for what in ("bare", "cached"))
    return Row(
        name, sum_of("calls"), sum_of("local"), sum_of("remote") + sum_of("joined"), sum_of("misses"),
        (percentile(bare, 0.5), percentile(bare, 0.99)), (percentile(cached, 0.5), percentile(cached, 0.99)),
    )  # fmt: skip


def percentile(values: Sequence[float], part: float) -> float:
    """The value that `part` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


def report(rows: Sequence[Row], older: int) -> Group:
    """The table, what it means, and the verdict."""
    made = table("operation", "calls", "local", "remote", "misses", "hit rate", "without p50", "p99", "with p50", "p99")
    for row in rows:
        better = row.cached[1] <= row.bare[1]
        made.add_row(
            row.name, *map(number, (row.calls, row.local, row.remote, row.misses)),
            share((row.local + row.remote) / row.calls), *map(span, (*row.bare, row.cached[0])),
            Text(span(row.cached[1]), style="green" if better else "red"),
        )  # fmt: skip
    return Group(made, Text(f"\n{COLUMNS}\n", style="dim"), *_verdict(rows, older))


def _verdict(rows: Sequence[Row], older: int) -> Iterator[Table | Text]:
    calls = sum(row.calls for row in rows)
    if all(row.adds_up for row in rows):
        yield Text(f"✓ All {number(calls)} calls add up.", style="green")
    else:
        yield Text("✗ Calls do not add up: that is a fault of aikcache.", style="bold red")
    if older:
        yield Text(
            f"✗ {older} reads were older than a write of the same process: a fault of aikcache.", style="bold red"
        )
    else:
        yield Text("✓ No process read anything older than what it had written itself.", style="green")
    worse = [row.name for row in rows if row.cached[1] > row.bare[1]]
    if worse:
        yield Text(f"✗ p99 is worse with the cache: {', '.join(worse)}. Was the machine busy?", style="yellow")
    else:
        yield Text("✓ No operation's p99 is worse with the cache.", style="green")
