"""`aikcache stats`: what all processes of a cache did since they began."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from aikcache._engine.stats import OperationStats, ProcessStats
from aikcache.cli import fleet as _fleet
from aikcache.cli.fleet import Snapshot
from aikcache.cli.live import interval_option, watch
from aikcache.cli.output import console, json_option, number, say_json, several, share, size, span, table, word
from aikcache.cli.target import Target, targeted


@click.command
@targeted
@click.option("--watch", "watched", is_flag=True, help="Draw it again until Ctrl-C.")
@interval_option
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Operations and processes shown.")
@json_option
def stats(target: Target, *, watched: bool, interval: float, limit: int, as_json: bool) -> None:
    """Add up what all processes counted, also those that have ended.

    A process publishes its figures every `publish_interval` (60 s).
    """
    with target.cache() as cache:

        def draw() -> Group:
            return report(target, _fleet.read(cache), limit)

        if as_json:
            say_json(as_dict(target, _fleet.read(cache)))
        elif watched:
            watch(draw, interval)
        else:
            console().print(draw())


def as_dict(target: Target, snapshot: Snapshot) -> dict[str, Any]:
    """The same for programs; a hit rate is null before the first call."""
    stats = snapshot.stats
    return {
        "server": target.place,
        "instance": target.instance,
        "refused": snapshot.refused,
        "totals": _figures(stats),
        "incoherent_processes": snapshot.incoherent,
        "pending_invalidations": snapshot.pending,
        "open_breakers": snapshot.open_breakers,
        "local_entries": snapshot.local_entries,
        "operations": {name: _figures(counts) for name, counts in _busiest(stats.operations)},
        "processes": [
            {"host": one.host, "pid": one.pid, "age": one.age, "uptime": one.uptime, **_figures(one)}
            for one in stats.processes
        ],
    }


def _figures(counts: OperationStats) -> dict[str, Any]:
    plain = {field.name: getattr(counts, field.name) for field in dataclasses.fields(OperationStats)}
    return {**plain, "hits": counts.hits, "hit_rate": hit_rate(counts)}


def hit_rate(counts: OperationStats) -> float | None:
    """None before the first call."""
    return counts.hit_rate if counts.hits + counts.misses else None


def _busiest(operations: Any) -> list[tuple[str, OperationStats]]:
    return sorted(operations.items(), key=lambda item: (-item[1].hits - item[1].misses, item[0]))


def report(target: Target, snapshot: Snapshot, limit: int) -> Group:
    """The same for people."""
    stats = snapshot.stats
    heading = Text.assemble(
        (target.instance, "bold"), f" at {target.place}: ",
        f"{several(len(snapshot.alive), 'process', 'processes')} on {several(snapshot.hosts, 'host')}",
    )  # fmt: skip
    if not snapshot.alive and not stats.hits + stats.misses:
        hint = f"No process has published anything. {snapshot.unheard}"
        return Group(heading, Text(hint, style="yellow"))
    parts: list[Any] = [heading, Text(), _totals(stats), Text(), _state(snapshot)]
    if snapshot.refused is not None:
        parts.append(Text(snapshot.unheard, style="yellow"))
    if stats.operations:
        parts += [Text(), _operations(_busiest(stats.operations), limit)]
    if stats.processes:
        parts += [Text(), _processes(stats.processes, limit)]
    return Group(*parts)


def _totals(stats: OperationStats) -> Text:
    """In sentences, which a narrow terminal wraps; figures in columns it would cut."""
    hits = Text.assemble(
        "hit rate ", share(hit_rate(stats)), f" of {several(stats.hits + stats.misses, 'call')}: "
        f"{number(stats.local_hits)} local, {number(stats.remote_hits)} remote, {number(stats.joined)} joined, "
        f"{several(stats.misses, 'miss', 'misses')}",
    )  # fmt: skip
    work = Text.assemble(
        f"{several(stats.loads, 'load')}, {number(stats.stale)} stale, {several(stats.writes, 'write')}, "
        f"{size(stats.bytes_written)} written, {size(stats.bytes_read)} read, {several(stats.evictions, 'eviction')}, ",
        errors(stats.errors), f" error{'s' * (stats.errors != 1)}",
    )  # fmt: skip
    return Text("\n").join([hits, work])


def _state(snapshot: Snapshot) -> Text:
    coherent = f"{snapshot.incoherent} of {len(snapshot.alive)} not coherent" if snapshot.incoherent else "all coherent"
    parts = [
        Text(coherent if snapshot.alive else "no process is alive", style="yellow" if snapshot.incoherent else "green"),
        Text(several(snapshot.pending, "pending invalidation"), style="yellow" if snapshot.pending else ""),
        Text(several(snapshot.open_breakers, "open breaker"), style="red" if snapshot.open_breakers else ""),
        Text(several(snapshot.local_entries, "local entry", "local entries")),
    ]
    return Text(" · ").join(parts)


def _operations(found: Sequence[tuple[str, OperationStats]], limit: int) -> Table:
    made = table("operation", "calls", "hit rate", "local", "remote", "misses", "loads", "errors")
    for name, counts in found[:limit]:
        made.add_row(
            word(name), number(counts.hits + counts.misses), share(hit_rate(counts)), number(counts.local_hits),
            number(counts.remote_hits), number(counts.misses), number(counts.loads), errors(counts.errors),
        )  # fmt: skip
    if len(found) > limit:
        made.caption, made.caption_justify = f"{len(found) - limit} more: --limit", "left"
    return made


def _processes(found: Sequence[ProcessStats], limit: int) -> Table:
    made = table("process", "calls", "hit rate", "errors", "published", "uptime")
    for one in sorted(found, key=lambda one: (one.host, one.pid))[:limit]:
        calls = number(one.hits + one.misses)
        name = word(f"{one.host} {one.pid}")
        made.add_row(name, calls, share(hit_rate(one)), errors(one.errors), f"{span(one.age)} ago", span(one.uptime))
    if len(found) > limit:
        made.caption, made.caption_justify = f"{len(found) - limit} more: --limit", "left"
    return made


def errors(count: float) -> Text:
    """A count of errors, red when there are any."""
    return Text(number(count), style="bold red" if count else "")
