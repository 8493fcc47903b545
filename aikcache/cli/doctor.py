"""`aikcache doctor`: what is wrong with a Redis, each finding with its cure, and an exit status for scripts."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from aikcache._settings.secret import hidden
from aikcache.cli.output import console, json_option, say_json, table, word
from aikcache.cli.target import Target, targeted
from aikcache.doctor import Finding, Severity, examine

STATUS: dict[Severity, int] = {"error": 2, "warning": 1, "unknown": 0, "ok": 0}
STYLES: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "unknown": "cyan", "ok": "green"}


@click.command
@targeted
@click.option("--profile", type=click.Choice(["cache", "durable"]), default="cache", show_default=True,
              help="durable: the server holds sessions or a key ring.")  # fmt: skip
@click.option("--monitor-url", metavar="URL", help="The same server with a user that may use CONFIG GET.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, target: Target, profile: str, monitor_url: str | None, *, as_json: bool) -> None:
    """Say what is wrong with the server, worst first, and how to fix it.

    Exit status: 0 nothing, 1 warnings, 2 errors. What could not be looked at is "unknown" and counts as nothing.
    """
    found = examine(
        target.url,
        instance=target.instance,
        profile="durable" if profile == "durable" else "cache",
        monitor_url=None if monitor_url is None else hidden(monitor_url),
        timeout=target.timeout,
    )
    status = max((STATUS[finding.severity] for finding in found), default=0)
    if as_json:
        say_json({"server": target.place, "status": status, "findings": found})
    else:
        console().print(report(target.place, found))
    ctx.exit(status)


def report(place: str, found: Sequence[Finding]) -> Group:
    """All findings for people."""
    counts = {severity: sum(one.severity == severity for one in found) for severity in STYLES}
    verdict = Text.assemble((place, "bold"), ": ")
    counted = [
        (f"{count} {severity}{'s' * (severity in ('error', 'warning') and count != 1)}", STYLES[severity])
        for severity, count in counts.items()
        if count
    ]
    verdict.append_text(Text(", ").join([Text(text, style=style) for text, style in counted]))
    return Group(verdict, Text(), _findings(found))


def _findings(found: Sequence[Finding]) -> Table:
    made = table("", "check", "where", "finding", first=4)
    for one in found:
        text = word(one.evidence)
        if one.cure:
            text.append_text(Text(f"\n→ {one.cure}", style="dim"))
        made.add_row(Text(one.severity, style=STYLES[one.severity]), one.check, word(one.where), text)
    return made
