"""What is said to a server and what it answers: packed commands, error replies, and what can go wrong on the way.

Kept apart from `connection.py`, so that whoever only looks at replies does not load redis-py. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

import hiredis

from aikcache._concurrency import foreign
from aikcache._concurrency.outside import BUGS
from aikcache._redis.cluster.topology import Command as Command
from aikcache.errors import RemoteTimeoutError

_WAY = 300
TROUBLE = (OSError, hiredis.HiredisError, *BUGS)
"""What sockets, TLS, name look-ups and parsers raise; a bad length is a plain `ValueError`."""


class ErrorReply(Exception):
    """An error reply, as the reader hands it over. The server's own text may quote what it was sent, so it is not kept:
    this is the code word, and `way` the text of a redirection."""

    def __init__(self, text: str = "") -> None:
        super().__init__(foreign.word(text))
        self.way = text[:_WAY] if text.startswith(("MOVED ", "ASK ")) else ""


class TooLargeError(RemoteTimeoutError):
    """A reply that is not waited for, because it says it is larger than anything of ours; or one not all here in time.

    It is the key that is at fault, not the server: what stands there can be removed, and the question asked again.
    """


def pack(commands: Sequence[Command]) -> bytes:
    """Commands as they are sent."""
    return b"".join(map(hiredis.pack_command, commands))  # type: ignore[arg-type]
