"""`aikcache keyring`: the keys that processes seal with, without the keys themselves."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from aikcache.cli import ring as _ring
from aikcache.cli.failures import Failure, Misuse
from aikcache.cli.output import console, json_option, moment, say, say_json, several, table
from aikcache.cli.ring import DAY, RingTarget, with_ring

if TYPE_CHECKING:
    from aikcache._keyring.records import KeyInfo

STYLES = {"active": "green", "pending": "cyan", "expired": "yellow", "retired": "dim", "revoked": "red"}
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
lifetime_option = click.option("--lifetime", type=click.FloatRange(1 / 24), default=90.0, show_default=True,
                               metavar="DAYS", help="How long a key that is made here seals.")  # fmt: skip


@click.group
def keyring() -> None:
    """List, rotate and revoke the keys of a key ring. Keys themselves are never shown.

    The ring lies where --url says, else AIKCACHE_SESSION_URL, else AIKCACHE_URL. AIKCACHE_MASTER_KEY opens it.
    """


@keyring.command("list")
@with_ring
@click.option("--retention", type=click.FloatRange(0), default=31.0, show_default=True, metavar="DAYS",
              help="The applications' own: how long an expired key still opens.")  # fmt: skip
@json_option
def list_keys(where: RingTarget, retention: float, *, as_json: bool) -> None:
    """List the keys, their times and states. Changes nothing, and makes no key."""
    reading = _ring.read(where)
    keeps = int(retention * DAY * 1000)
    keys = sorted((key.info(reading.now, keeps) for key in reading.ring.keys.values()), key=lambda key: key.activates)
    sealing = reading.ring.sealing(reading.now)
    seals = None if sealing is None else sealing.id
    if as_json:
        described = {"server": where.place, "instance": where.instance, "seals": seals, "keys": keys}
        say_json({**described, "unreadable": reading.ring.unreadable})
        return
    console().print(listed(keys, seals))
    if reading.ring.unreadable:
        say(Text(f"{reading.ring.unreadable} more cannot be opened with this master key.", style="yellow"))


def listed(keys: Sequence[KeyInfo], seals: str | None) -> Table:
    """All keys for people; times in UTC."""
    made = table("key", "state", "created", "seals from", "seals until", "revoked", first=6)
    for key in keys:
        state = Text(key.state, style=STYLES[key.state])
        if key.id == seals:
            state.append(", seals now")
        revoked = "" if key.revoked is None else moment(key.revoked)
        made.add_row(key.id, state, moment(key.created), moment(key.activates), moment(key.expires), revoked)
    return made


@keyring.command
@with_ring
@lifetime_option
@json_option
def rotate(where: RingTarget, lifetime: float, *, as_json: bool) -> None:
    """Make a key, which seals in 5 seconds. What the others sealed still opens."""
    with _ring.opened(where, lifetime * DAY) as ring:
        made = ring.rotate()
    if as_json:
        say_json(made)
    else:
        say(f"Made the key {made.id}: it seals from {moment(made.activates)} to {moment(made.expires)}.")


@keyring.command
@with_ring
@click.argument("key_id", metavar="[KEY]", required=False)
@click.option("--before", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]),
              help="Revoke all keys that were created before this moment (UTC).")  # fmt: skip
@click.option("--reason", default="", help="Why; it stands in Redis in clear.")
@lifetime_option
@yes_option
@json_option
def revoke(
    where: RingTarget,
    key_id: str | None,
    before: datetime | None,
    reason: str,
    lifetime: float,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Revoke a key: what it sealed opens nowhere any more. If no key seals then, one is made."""
    if (key_id is None) == (before is None):
        raise Misuse("say which: the id of a key (`aikcache keyring list`), or --before.")
    if not yes:
        which = f"the key {key_id}" if before is None else f"all keys created before {before:%Y-%m-%d %H:%M:%S} UTC"
        click.confirm(f"Revoke {which}? What it sealed opens nowhere any more.", abort=True, err=True)
    with _ring.opened(where, lifetime * DAY) as ring:
        if before is not None:
            count = ring.revoke_before(before.replace(tzinfo=UTC).timestamp())
        else:
            ring.revoke(key_id or "", reason)
            count = 1
    if as_json:
        say_json({"revoked": count})
    else:
        say(f"Revoked {several(count, 'key')}.")


@keyring.command
@with_ring
@json_option
def rewrap(where: RingTarget, *, as_json: bool) -> None:
    """Wrap every key under the first master key, after AIKCACHE_MASTER_KEY=NEW,OLD was deployed."""
    with _ring.opened(where) as ring:
        count, unreadable = ring.rewrap(), _ring.read(where).ring.unreadable
    if as_json:
        say_json({"rewrapped": count, "unreadable": unreadable})
    else:
        say(f"Wrapped {several(count, 'key')} anew.")
    if unreadable:
        raise Failure(f"{unreadable} more cannot be opened with these master keys: keep the one that wrapped them.")


@keyring.command("new-master")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
def new_master(file: str) -> None:
    """Make a master key, and write it to FILE, which only you can read; '-' writes it to a pipe.

    It is not shown on a terminal. Keep it outside of Redis, the same in every process.
    """
    key = secrets.token_urlsafe(32)
    if file == "-":
        if sys.stdout.isatty():
            raise Misuse("a master key is not shown on a terminal: name a file, or pipe it to where it is kept.")
        click.echo(key)
        return
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(key + "\n")
    except FileExistsError:
        raise Failure(f"{file} exists, and may hold a master key: name another file.") from None
    except OSError as error:
        raise Failure(f"{file} cannot be written: {error.strerror}.") from None
    say(f"Wrote a master key to {file}. To begin with it, set AIKCACHE_MASTER_KEY to it in every process.")
    say("To exchange one: deploy AIKCACHE_MASTER_KEY=NEW,OLD, run `aikcache keyring rewrap`, deploy NEW alone.")
