"""Packed commands, error replies, and the exceptions that I/O can raise. Pure.

Kept apart from `connection.py`, so that code that only reads replies does not load redis-py.
"""

from __future__ import annotations

from collections.abc import Sequence

import hiredis

from aikcache._concurrency import foreign
from aikcache._concurrency.outside import BUGS
from aikcache.errors import RemoteTimeoutError

Command = tuple[str | bytes, ...]
"""The words of a command. No int: hiredis converts one by a Python call that may raise a signal handler's exception,
which hiredis does not check for, and the process crashes.
"""
_LONGEST_REDIRECTION = 300
IO_ERRORS = (OSError, hiredis.HiredisError, *BUGS)
"""Exceptions of sockets, TLS, name look-ups and parsers; a bad length is a plain `ValueError`."""


class ErrorReply(Exception):
    """An error reply. Its text may quote what the server was sent. So only its code word is kept, and in `redirection`
    the text of a redirection.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(foreign.word(text))
        self.redirection = text[:_LONGEST_REDIRECTION] if text.startswith(("MOVED ", "ASK ")) else ""


class TooLargeError(RemoteTimeoutError):
    """A reply that is larger than any value of aikcache, by its header, or that did not arrive completely in time.

    The fault is the key's, not the server's: its value can be removed, and the question sent again.
    """


def pack(commands: Sequence[Command]) -> bytes:
    """Pack commands for sending."""
    return b"".join(map(hiredis.pack_command, commands))  # type: ignore[arg-type]
