"""How a command fails: one line on standard error, and an exit status. No traceback, and no secret."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from aikcache.errors import AikcacheError, ConfigError, InvalidKeyError, RemoteError

_HINTS = {
    "NOPERM": "This user may not do that: ops/redis/users.acl has the rights that each command needs.",
    "NOREPLICAS": "It takes no writes without its replicas: `aikcache doctor` says more.",
    "READONLY": "This is a replica: give the primary's address, or the Sentinels'.",
    "OOM": "It is full: `aikcache doctor` says more.",
    "MISCONF": "It cannot save its data to its disk: `aikcache doctor` says more.",
    "Connection refused": "Nothing listens there: is the server up, and is the port right?",
    "Name or service not known": "The host's name cannot be resolved.",
    "did not answer within": "Give it longer with --timeout, or look at the network and at the server's SLOWLOG.",
}


class Failure(click.ClickException):
    """It could not be done: exit status 1."""

    exit_code = 1


class Misuse(click.ClickException):
    """The arguments, the environment or the installation have to be changed first: exit status 2."""

    exit_code = 2


class Commands(click.Group):
    """A group whose commands end with a line where the library raises an error."""

    def invoke(self, ctx: click.Context) -> Any:
        with errors_on_one_line():
            return super().invoke(ctx)


@contextmanager
def errors_on_one_line() -> Iterator[None]:
    """An error of the library ends the command."""
    try:
        yield
    except (ConfigError, InvalidKeyError) as error:
        raise Misuse(str(error)) from None
    except AikcacheError as error:
        raise Failure(with_hint(str(error))) from None


@contextmanager
def at(place: Callable[[], str]) -> Iterator[None]:
    """Errors of a server inside the block name it, without its password."""
    try:
        yield
    except RemoteError as error:
        raise Failure(with_hint(f"{place()}: {error}")) from None


def with_hint(message: str) -> str:
    """A message, and what to do about it where that is known."""
    hint = next((hint for word, hint in _HINTS.items() if word in message), "")
    return f"{message.rstrip('.')}. {hint}".rstrip()


def need(extra: str, package: str) -> Misuse:
    """A package of an extra is missing."""
    return Misuse(f"this needs {package}, which is not installed: pip install 'aikcache[{extra}]'.")
