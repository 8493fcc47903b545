"""The command itself: its subcommands, in the order in which help lists them."""

from __future__ import annotations

import logging

import click

from aikcache.cli import completion, demo, doctor, invalidate, keyring, keys, ping, serve, sessions, show, stats, top
from aikcache.cli.failures import Commands

PROGRAM = "aikcache"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="aikcache", prog_name=PROGRAM)
def aikcache() -> None:
    """Look at the caches of a fleet, and act on them.

    Which server: --url, else the environment that the library reads (AIKCACHE_URL, AIKCACHE_INSTANCE, AIKCACHE_VERSION,
    AIKCACHE_SECRET, …). Put passwords into the environment: arguments are seen by other users of the machine.

    Exit status: 0 done, 1 not done (or a warning of `doctor`), 2 wrong arguments (or an error of `doctor`).
    """


for _command in (
    demo.demo, ping.ping, doctor.doctor, stats.stats, top.top, keys.keys, show.show, invalidate.invalidate,
    sessions.sessions, keyring.keyring, serve.serve_metrics, completion.completion,
):  # fmt: skip
    aikcache.add_command(_command)


def run() -> None:
    """Run it for this process."""
    logging.getLogger("aikcache").addHandler(logging.NullHandler())  # what the library logs, the command says itself
    aikcache(prog_name=PROGRAM)
