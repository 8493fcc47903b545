"""Some minutes of an application's life, and what Prometheus has seen of them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ops.grafana.dashboard import FILE
from ops.live import faults
from ops.live.shipped import SHIPPED
from ops.live.stack import Stack
from ops.local.fleet import Fleet

SCRAPE = 2
VARIABLES = {"$__rate_interval": "10s", "$job": ".*", "$instance": ".*", "$redis": ".*"}
Event = tuple[float, str]


class Scenario:
    """`play` lives through it, `seen` is all that the page needs."""

    def __init__(self, stack: Stack, binary: Path) -> None:
        self.stack, self._binary = stack, binary
        self._events: list[Event] = []
        self._begun = time.time()

    def play(self, scale: float = 1.0) -> None:
        """Calm, a primary killed, a slow one, a full one, calm again; `scale` shortens it."""
        fleet = self.stack.fleet
        self._wait(40 * scale)  # it is cold: not in the picture
        self._begun = time.time()
        self._wait(80 * scale)
        self._event("kill -9 of the primary")
        killed = fleet.primaries()[0]
        os.kill(killed.pid() or 0, signal.SIGKILL)
        self._wait(45 * scale)
        self._event("it is back, as a replica")
        fleet.start_missing(self._binary)
        self._wait(45 * scale)
        primary = fleet.primaries()[0]
        self._event("the primary stands still for 0.3 s each second")
        self._break([faults.Slow(self.stack, primary)], 35 * scale)
        self._wait(40 * scale)
        self._event("the primary is full and evicts, callers ask for new things, one source fails")
        load = [
            faults.ApplicationFault(self.stack, *words) for words in (("cold", "warm"), ("source-down", "source-up"))
        ]
        self._break([faults.Flood(self.stack, primary), *load], 40 * scale)
        self._event("mended")
        self._wait(75 * scale)

    def _break(self, broken: list[faults.Fault], seconds: float) -> None:
        faults.during(broken, lambda: False, seconds)

    def _event(self, text: str) -> None:
        self._events.append((time.time(), text))
        print(f"{time.time() - self._begun:5.0f} s  {text}", flush=True)

    @staticmethod
    def _wait(seconds: float) -> None:
        time.sleep(seconds)

    def seen(self) -> dict[str, Any]:
        """The dashboard, each target's answer, and when what was done."""
        end = time.time()
        variables = {**VARIABLES, "$__range": f"{round(end - self._begun)}s"}
        board = json.loads(FILE.read_text(encoding="utf-8"))
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                target["series"] = self._ask(_filled(target["expr"], variables), end, bool(target.get("instant")))
        return {"board": board, "events": self._events, "from": self._begun, "to": end}

    def _ask(self, expr: str, end: float, instant: bool) -> list[dict[str, Any]]:
        ask: Callable[..., Any] = self.stack.ask
        if instant:
            reply = ask("query", query=expr, time=str(end))
            return [{"labels": one["metric"], "values": [one["value"]]} for one in reply["result"]]
        reply = ask("query_range", query=expr, start=str(self._begun), end=str(end), step=str(SCRAPE))
        return [{"labels": one["metric"], "values": one["values"]} for one in reply["result"]]


def record(directory: Path, port: int, binary: Path, scale: float) -> Path:
    """Run all of it; gives the file for the page."""
    fleet = Fleet(directory / "fleet", "sentinel", port, "cache")
    try:
        fleet.create(binary)
        with Stack(fleet, directory / "stack", SHIPPED) as stack:
            scenario = Scenario(stack, binary)
            scenario.play(scale)
            path = directory / "seen.json"
            path.write_text(json.dumps(scenario.seen()), encoding="utf-8")
            return path
    finally:
        fleet.remove()


def _filled(expr: str, variables: dict[str, str]) -> str:
    for name, value in variables.items():
        expr = expr.replace(name, value)
    return expr
