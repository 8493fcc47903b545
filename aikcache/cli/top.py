"""`aikcache top`: the current rates, drawn again and again.

`View` is given each snapshot and draws it. It keeps what one snapshot does not have: rates, and the hit rates so far.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from aikcache.cli import fleet as _fleet
from aikcache.cli.fleet import Snapshot
from aikcache.cli.live import interval_option, watch
from aikcache.cli.output import NOTHING, console, json_option, say_json, several, share, size, table, word
from aikcache.cli.rates import Flow, Rates
from aikcache.cli.target import Target, targeted
from aikcache.errors import RemoteError

BUSIEST, COURSE = 10, 40
"""Operations that are listed, and looks in the sparkline."""
BARS = "▁▂▃▄▅▆▇█"


@click.command
@targeted
@click.option("--once", is_flag=True, help="Draw it once, with averages since each process began.")
@interval_option
@json_option
def top(target: Target, *, once: bool, interval: float, as_json: bool) -> None:
    """Watch hit rate, calls, errors and the busiest operations of all processes, until Ctrl-C.

    Rates are those of each process's latest interval: processes publish every `publish_interval` (60 s).
    """
    view = View(target.instance, target.place)
    with target.cache() as cache:
        if as_json:
            say_json(view.as_dict(_fleet.read(cache)))
        elif once:
            console().print(view.draw(_fleet.read(cache)))
        else:
            watch(looks(view, lambda: _fleet.read(cache)), interval)


def looks(view: View, read: Callable[[], Snapshot]) -> Callable[[], Group]:
    """Draw each snapshot; while Redis does not answer, draw the last one."""
    last: list[Snapshot] = []

    def draw() -> Group:
        try:
            last[:] = [read()]
        except RemoteError as error:
            if not last:
                raise
            return view.draw(last[0], f"Redis does not answer, so these are old figures: {error}")
        return view.draw(last[0])

    return draw


class View:
    """What is drawn, and the earlier snapshots that it needs."""

    def __init__(self, instance: str, place: str) -> None:
        self._instance, self._place = instance, place
        self._rates = Rates()
        self._course: deque[float | None] = deque(maxlen=COURSE)

    def as_dict(self, snapshot: Snapshot) -> dict[str, Any]:
        """The same for programs."""
        flows = self._rates.take(snapshot.alive)
        return {
            "server": self._place,
            "instance": self._instance,
            "refused": snapshot.refused,
            "processes": len(snapshot.alive),
            "incoherent_processes": snapshot.incoherent,
            "pending_invalidations": snapshot.pending,
            "open_breakers": snapshot.open_breakers,
            "per_second": _figures(_sum(flows)),
            "operations": {name: _figures(flow) for name, flow in _busiest(flows)},
        }

    def draw(self, snapshot: Snapshot, problem: str = "") -> Group:
        """One view. `problem`: the snapshot is an old one."""
        flows = self._rates.take(snapshot.alive)
        total = _sum(flows)
        if not problem:
            self._course.append(total.hit_rate)
        parts: list[Any] = [self._head(snapshot), Text(problem, style="bold red"), self._summary(total)]
        parts += [Text(), _state(snapshot), Text(), _operations(_busiest(flows))]
        return Group(*parts)

    def _head(self, snapshot: Snapshot) -> Text:
        processes = several(len(snapshot.alive), "process", "processes")
        hosts = several(snapshot.hosts, "host")
        return Text.assemble(("aikcache top", "bold"), f"  {self._instance} at {self._place}  {processes} on {hosts}")

    def _summary(self, total: Flow) -> Table:
        made = table("hit rate", "", "calls", "errors", "written", first=2)
        made.columns[2].justify = made.columns[3].justify = made.columns[4].justify = "right"
        made.add_row(share(total.hit_rate), sparkline(self._course), rate(total.calls), errors(total), written(total))
        return made


def sparkline(course: Sequence[float | None] | deque[float | None]) -> Text:
    """Hit rates as bars from 0 to 1, each in its colour; a space where there were no calls."""
    made = Text()
    for value in course:
        bar = " " if value is None else BARS[min(int(value * len(BARS)), len(BARS) - 1)]
        made.append(bar, style=share(value).style)
    return made


def rate(value: float) -> str:
    """Events per second; a dash where there are none."""
    if not value:
        return NOTHING
    for unit, times in (("s", 1), ("min", 60), ("h", 3600)):
        if value * times >= 0.1:
            return f"{value * times:,.0f}/{unit}" if value * times >= 100 else f"{value * times:.1f}/{unit}"
    return "<0.1/h"


def errors(flow: Flow) -> Text:
    return Text(rate(flow.errors), style="bold red" if flow.errors else "dim")


def written(flow: Flow) -> str:
    return f"{size(flow.written)}/s" if flow.written else NOTHING


def _operations(found: Sequence[tuple[str, Flow]]) -> Table:
    made = table("operation", "calls", "hit rate", "local", "remote", "loads", "errors", "written")
    for name, flow in found:
        cells = (rate(flow.local), rate(flow.remote), rate(flow.loads))
        made.add_row(word(name, 60), rate(flow.calls), share(flow.hit_rate), *cells, errors(flow), written(flow))
    if not found:
        made.add_row(NOTHING)
    return made


def _state(snapshot: Snapshot) -> Text:
    if not snapshot.alive:
        return Text(f"no process is alive: none has published anything lately. {snapshot.unheard}", style="yellow")
    good = "all processes are coherent"
    bad = f"{snapshot.incoherent} of {len(snapshot.alive)} not coherent"
    parts = [
        Text(bad if snapshot.incoherent else good, style="yellow" if snapshot.incoherent else "green"),
        Text(several(snapshot.pending, "pending invalidation"), style="yellow" if snapshot.pending else "green"),
        Text("breaker open" if snapshot.open_breakers else "breaker closed",
             style="bold red" if snapshot.open_breakers else "green"),
    ]  # fmt: skip
    return Text(" · ").join(parts)


def _sum(flows: dict[str, Flow]) -> Flow:
    total = Flow()
    for flow in flows.values():
        total += flow
    return total


def _busiest(flows: dict[str, Flow]) -> list[tuple[str, Flow]]:
    flowing = [(name, flow) for name, flow in flows.items() if flow != Flow()]
    return sorted(flowing, key=lambda item: (-item[1].calls, item[0]))[:BUSIEST]


def _figures(flow: Flow) -> dict[str, Any]:
    return {**dataclasses.asdict(flow), "calls": flow.calls, "hit_rate": flow.hit_rate}
