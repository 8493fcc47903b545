"""`aikcache keys`: which values lie in Redis."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import click

from aikcache._cache import Cache
from aikcache.cli import selection
from aikcache.cli.output import NOTHING, console, json_option, say_json, size, span, table, word
from aikcache.cli.target import Target, targeted

BATCH = 500


class Row(NamedTuple):
    """One key; None: it does not expire."""

    key: str
    bytes: int
    kept_seconds: float | None


@click.command
@targeted
@click.argument("pattern", default="*")
@click.option("--long", "-l", "long", is_flag=True, help="With size, and for how long Redis keeps each.")
@click.option("--limit", type=click.IntRange(0), default=1000, show_default=True, help="Keys shown; 0: all.")
@json_option
def keys(target: Target, pattern: str, *, long: bool, limit: int, as_json: bool) -> None:
    """List the keys that PATTERN covers, as `invalidate` reads it: prefix, prefix:operation, a key, a glob, or '*'.

    Redis is scanned as a whole. A value whose group was invalidated lies there until its time is over.
    """
    with target.cache() as cache:
        found = selection.keys(cache, selection.select(pattern))
        names = list(islice(found, limit)) if limit else list(found)
        more = bool(limit) and next(found, None) is not None
        names.sort()
        rows = _details(cache, names) if long else []
    if as_json:
        shown = [row._asdict() for row in rows] if long else names
        say_json({"server": target.place, "keys": shown, "more": more})
        return
    if long:
        made = table("key", "size", "kept for")
        for row in rows:
            kept = NOTHING if row.kept_seconds is None else span(row.kept_seconds)
            made.add_row(word(row.key, 2000), size(row.bytes), kept)
        console().print(made)
    else:
        for name in names:
            click.echo(word(name, 2000).plain)
    if not names:
        click.echo(f"No key of {target.instance} is covered by {word(pattern).plain}. Is --instance right?", err=True)
    if more:
        click.echo(f"There are more: --limit {limit} were shown.", err=True)


def _details(cache: Cache, names: Sequence[str]) -> list[Row]:
    """Sizes and remaining lives; what has gone meanwhile is left out."""
    remote, namespace_prefix = selection.store(cache), cache.space.namespace_prefix
    rows = []
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        asked = [(command, f"{namespace_prefix}{name}") for name in batch for command in ("STRLEN", "PTTL")]
        replies = remote.connections.exchange(asked)
        for name, length, left in zip(batch, replies[::2], replies[1::2], strict=True):
            if isinstance(length, int) and isinstance(left, int) and left != -2:
                rows.append(Row(name, length, left / 1000 if left >= 0 else None))
    return rows
