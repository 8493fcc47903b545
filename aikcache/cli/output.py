"""How commands answer: tables for people, JSON for programs, and the one place that knows colours.

Without a terminal there is no colour, and a table is as wide as it needs to be. What comes from Redis is cleaned before
it is shown, so that no key or host name can move a terminal's cursor.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aikcache._concurrency.foreign import clean

WIDE = 200
"""Columns where there is no terminal."""
GOOD, POOR = 0.9, 0.7
"""Hit rates from which, and below which, a rate is green and red."""
NOTHING = "–"

json_option: Callable[[Callable[..., None]], Callable[..., None]] = click.option(
    "--json", "as_json", is_flag=True, help="Answer as JSON."
)


def console() -> Console:
    """Standard output."""
    found = Console(highlight=False, markup=False, emoji=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, emoji=False, width=WIDE)


def say(text: str | Text) -> None:
    """One line, or some, for people; not wrapped."""
    console().print(text, soft_wrap=True)


def say_json(data: object) -> None:
    """One object, for programs; whatever it holds, it is ASCII."""
    click.echo(json.dumps(data, indent=2, default=_plain))


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)


def table(*columns: str, title: str = "", first: int = 1) -> Table:
    """A table whose columns after the `first` ones hold numbers."""
    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(columns):
        if i < first:
            made.add_column(name, header_style="bold", overflow="fold", min_width=8 if first == 1 else None)
        else:  # half a number on the next line would be another number
            made.add_column(name, header_style="bold", justify="right", no_wrap=True, overflow="ellipsis")
    return made


def word(text: object, most: int = 200) -> Text:
    """What comes from elsewhere, harmless to a terminal."""
    return Text(clean(str(text), most))


def share(rate: float | None) -> Text:
    """A hit rate in its colour; None: nothing flows."""
    if rate is None:
        return Text(NOTHING, style="dim")
    return Text(f"{rate:.1%}", style="green" if rate >= GOOD else "red" if rate < POOR else "yellow")


def number(value: float) -> str:
    return f"{value:,.0f}"


def several(count: float, one: str, more: str = "") -> str:
    """ "1 key", "2 keys"."""
    return f"{number(count)} {one if count == 1 else more or one + 's'}"


def size(value: float) -> str:
    """Bytes."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def moment(seconds: float) -> str:
    """A point in time, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def span(seconds: float) -> str:
    """A duration, in its two largest units."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    parts: list[str] = []
    left = int(seconds)
    for unit, long in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, long)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
