"""`aikcache invalidate`: what an application would invalidate, by hand, or a count of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from aikcache._cache import Cache
from aikcache._coherence.sweep import Sweep
from aikcache._engine import invalidation
from aikcache._keys.patterns import EVERYTHING, Invalidation, Target, resolve
from aikcache.cli import selection
from aikcache.cli.failures import Failure, Misuse, with_hint
from aikcache.cli.output import json_option, say, say_json, several
from aikcache.cli.target import Target as Where
from aikcache.cli.target import targeted
from aikcache.errors import RemoteError

PASSES = 2
"""A sweep scans for leases, and then for values."""
LOOK = 0.1
"""Seconds between two looks at a sweep."""


@dataclass(frozen=True, slots=True)
class Named:
    """What the arguments name."""

    targets: tuple[Target, ...]
    tags: tuple[str, ...]

    @property
    def everything(self) -> bool:
        return any(target.name == EVERYTHING or set(target.name) <= set("*?:") for target in self.targets)


@click.command
@targeted
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--tag", "tags", multiple=True, help="All values with this tag; may be given several times.")
@click.option("--key", "keys", multiple=True, help="One key, as `aikcache keys` lists it; may be given several times.")
@click.option("--dry-run", is_flag=True, help="Only count what would be invalidated.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before '*'.")
@json_option
def invalidate(
    where: Where,
    patterns: tuple[str, ...],
    tags: tuple[str, ...],
    keys: tuple[str, ...],
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Invalidate what PATTERNs cover, in every process: prefix, prefix:operation, a key, '*', or another glob.

    A glob is swept, which takes time in proportion to the keyspace; all else takes one round trip. Of a function with
    version=2 the operation is called `operation.2`.
    """
    if not patterns and not tags and not keys:
        raise Misuse("invalidate what? Give a pattern, --tag or --key; '*' is everything.")
    with where.cache() as cache:
        short = [Target("key", cache.space.full(key).removeprefix(cache.space.namespace_prefix)) for key in keys]
        named = Named((*map(resolve, patterns), *short), tags)
        what = invalidation.of(cache.engine, named.targets, named.tags)
        cache.ping()
        if dry_run:
            count = covered(cache, named)
            if as_json:
                say_json({"server": where.place, "dry_run": True, "keys": count})
            else:
                say(f"{several(count, 'key')} of {where.instance} would be invalidated. Nothing was changed.")
            return
        if named.everything and not yes:
            click.confirm(f"Invalidate everything of {where.instance} at {where.place}?", abort=True, err=True)
        removed = carry_out(cache, what)
    if as_json:
        say_json({"server": where.place, "dry_run": False, "removed_by_sweeps": removed})
    else:
        swept = f" Sweeps removed {several(removed, 'key')}." if what.globs else ""
        say(f"Invalidated for all processes of {where.instance}.{swept}")


def covered(cache: Cache, named: Named) -> int:
    """How many keys in Redis it would cover, also those that were invalidated before. Raises `RemoteError`."""
    found: set[str] = set()
    with progress(cache, len(named.targets) + bool(named.tags), "looking") as looked:
        for target in named.targets:
            found.update(selection.keys(cache, selection.select(target.name), looked))
        if named.tags:
            found.update(selection.tagged(cache, frozenset(named.tags), looked))
    return len(found)


def carry_out(cache: Cache, what: Invalidation) -> int:
    """Invalidate it, and show a sweep's progress. How many keys the sweep removed."""
    handle = cache.engine.sweeper.add(what)
    if what.globs:
        with progress(cache, PASSES, "sweeping") as looked:
            _follow(handle, looked)
    while not handle.wait(LOOK):
        pass
    if handle.error is not None:
        cause = with_hint(str(handle.error))
        raise Failure(f"{cause} It may not have reached every process, and not all was removed: repeat it.")
    return handle.removed


def _follow(handle: Sweep, looked: Callable[[int], object]) -> None:
    rounds, over = 0, False
    while not over:
        over = handle.wait(LOOK)
        looked((handle.scanned - rounds) * selection.COUNT)
        rounds = handle.scanned


@contextmanager
def progress(cache: Cache, passes: int, text: str) -> Iterator[Callable[[int], object]]:
    """A bar on standard error, if that is a terminal; it is moved on by how many keys were looked at."""
    shown = Console(stderr=True, highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeElapsedColumn()
    with Progress(*columns, console=shown, disable=not shown.is_terminal, transient=True) as bar:
        task = bar.add_task(text, total=None)
        if not bar.disable and (keys := keyspace(cache)) is not None:
            bar.update(task, total=max(ceil(keys / selection.COUNT), 1) * selection.COUNT * passes)
        yield lambda looked: bar.advance(task, looked)
        bar.update(task, completed=bar.tasks[0].total or 0)


def keyspace(cache: Cache) -> int | None:
    """How many keys the servers hold, in all databases; None: they may not be asked."""
    count = 0
    try:
        for server in selection.store(cache).connections.servers():
            (reply,) = server.exchange([("INFO", "keyspace")])
            if not isinstance(reply, bytes):
                return None
            fields = [line.partition("keys=")[2].partition(",")[0] for line in reply.decode("ascii", "replace").split()]
            count += sum(int(field) for field in fields if field.isdecimal())
    except RemoteError:
        return None
    return count
