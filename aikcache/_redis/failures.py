"""Turns failures of a connection into a `RemoteError`, with a hint at the likely cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aikcache._concurrency.foreign import clean
from aikcache._concurrency.outside import let_out
from aikcache._redis.reply import IO_ERRORS
from aikcache.errors import RemoteError, RemoteTimeoutError, RemoteUnavailableError

if TYPE_CHECKING:
    from aikcache._redis.transport import Transport

ELSEWHERE = ("READONLY", "MASTERDOWN", "NOREPLICAS", "LOADING")
"""Error codes of a server that is not the primary, or not yet."""
UNSERVING = (*ELSEWHERE, "NOAUTH", "WRONGPASS", "NOPERM", "BUSY", "CLUSTERDOWN", "ERR max")
"""Error codes of a server that serves nobody, or not this cache."""
LOGIN = {
    "NOAUTH": "The server wants a password, and none was given: redis://:PASSWORD@host:6379/0.",
    "WRONGPASS": "The user or the password is wrong: look at the URL (AIKCACHE_URL), or at what else gives the login.",
}
"""What to look at where the login is refused, by the server's code word."""
_TLS = "Does this port want TLS? Then the url begins with 'rediss'."


class LostReplyError(RemoteUnavailableError):
    """The connection died before the reply. A command sent `once` may have been carried out, and is not sent again."""


def unsent(why: str) -> RemoteUnavailableError:
    """The error where nothing is sent: no exchange that took time, and no failure of one."""
    error = RemoteUnavailableError(why)
    error.sent = False
    return error


def rest(connections: Transport) -> None:
    """Raise `RemoteUnavailableError` if every exchange would now, because the breaker is open."""
    if (refusal := connections.refusal()) is not None:
        raise refusal


def translate(error: BaseException, within: float) -> BaseException:
    """Return the `RemoteError` for an error after `within` seconds, or the error itself if it comes from outside."""
    if not isinstance(error, (RemoteError, *IO_ERRORS)):
        return error  # for example a caller's own time limit
    let_out(error)
    hint = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, RemoteError):
        return type(error)(f"{str(error).rstrip('.')}.{hint}") if hint else error
    if isinstance(error, TimeoutError):
        return RemoteTimeoutError(f"Redis did not answer within {within:g} seconds.{hint}")
    # Texts of the system and OpenSSL are safe to show; a parser's text would quote the server's bytes.
    text = f": {clean(str(error))}" if isinstance(error, OSError) else ""
    return RemoteUnavailableError(f"Redis cannot be used: {type(error).__name__}{text}{hint and '.' + hint}")


def hint_at_cause(error: BaseException, *, plain: bool) -> None:
    """Add a hint at what to look at, to the error of a handshake; `plain`: it was without TLS.

    A server that wants TLS closes a plain connection at the first command, or sends no valid reply.
    """
    said = str(error)
    for word, hint in LOGIN.items():
        if isinstance(error, RemoteUnavailableError) and said.endswith(word):
            error.add_note(hint)
    if not plain:
        return
    closed = isinstance(error, RemoteUnavailableError) and ("closed the connection" in said or "Protocol" in said)
    if closed or isinstance(error, ConnectionError):
        error.add_note(_TLS)
