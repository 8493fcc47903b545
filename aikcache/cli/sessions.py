"""`aikcache sessions`: the sessions of one subject (what an application passed to `bind`), listed and ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import click
from rich.table import Table

from aikcache.cli import ring as _ring
from aikcache.cli.failures import Failure
from aikcache.cli.output import console, json_option, moment, say, say_json, several, table, word
from aikcache.cli.ring import NoRing, RingTarget, with_ring

if TYPE_CHECKING:
    from aikcache.sessions import KeyRing, SessionInfo, SessionStore


@click.group
def sessions() -> None:
    """List and end the sessions of a subject: a user's id, or whatever the application passed to `bind`.

    They lie where --url says, else AIKCACHE_SESSION_URL, else AIKCACHE_URL. AIKCACHE_MASTER_KEY opens their key ring.
    """


@sessions.command("list")
@with_ring
@click.argument("subject")
@json_option
def list_sessions(where: RingTarget, subject: str, *, as_json: bool) -> None:
    """List the sessions of SUBJECT that live, the latest used first. What is in them is not shown, and cannot be."""
    with _store(where) as store:
        found = store.sessions(subject)
    if as_json:
        say_json({"server": where.place, "instance": where.instance, "sessions": found})
    elif found:
        console().print(listed(found))
    else:
        say("No session of this subject lives.")


def listed(found: Sequence[SessionInfo]) -> Table:
    """For people; times in UTC."""
    made = table("handle", "created", "last used", "label", first=4)
    for one in found:
        made.add_row(one.handle, moment(one.created), moment(one.last_seen), word(one.label or "", 80))
    return made


@sessions.command
@with_ring
@click.argument("subject")
@click.option("--handle", help="End this session of the subject's alone (`aikcache sessions list`).")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def end(where: RingTarget, subject: str, handle: str | None, *, yes: bool, as_json: bool) -> None:
    """End all sessions of SUBJECT, at once and everywhere."""
    if not yes:
        what = "all sessions of this subject" if handle is None else "this session"
        click.confirm(f"End {what}?", abort=True, err=True)
    with _store(where) as store:
        if handle is None:
            ended = store.end_all(subject)
        elif any(one.handle == handle for one in store.sessions(subject)):
            ended = int(store.end(handle))
        else:
            raise Failure("this subject has no session with that handle.")
    if as_json:
        say_json({"ended": ended})
    else:
        say(f"Ended {several(ended, 'session')}.")


@contextmanager
def _store(where: RingTarget) -> Iterator[SessionStore]:
    """The sessions, and their ring, which must be there already."""
    from aikcache.sessions import SessionStore  # here, because it needs cryptography

    with (
        _there(where) as ring,
        closing(
            SessionStore(
                where.url.reveal(), ring=ring, instance=where.instance, connect_timeout=where.target.timeout,
                timeout=where.target.timeout, metrics=None,
                absolute_timeout=1,  # theirs is not known: with so short a one nothing is taken out of an index
            )
        ) as store,
    ):  # fmt: skip
        yield store


@contextmanager
def _there(where: RingTarget) -> Iterator[KeyRing]:
    """The sessions' key ring, which the first application that uses sessions makes."""
    try:
        with _ring.opened(where) as ring:
            yield ring
    except NoRing as error:
        raise Failure(f"no application has used sessions there yet: {error.message}") from None
