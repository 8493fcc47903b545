"""`aikcache ping`: does the server answer, and how fast."""

from __future__ import annotations

from time import perf_counter

import click

from aikcache.cli.output import json_option, say, say_json
from aikcache.cli.target import Target, targeted


@click.command
@targeted
@json_option
def ping(target: Target, *, as_json: bool) -> None:
    """Ask the server for an answer, with the login and TLS that the library uses."""
    with target.cache() as cache:
        began = perf_counter()
        cache.ping()
        connected = perf_counter()
        cache.ping()
        took = perf_counter() - connected
    first = connected - began
    if as_json:
        say_json({"server": target.place, "connect_seconds": round(first, 6), "seconds": round(took, 6)})
    else:
        say(f"{target.place} answers in {took * 1000:.2f} ms ({first * 1000:.1f} ms with connecting).")
