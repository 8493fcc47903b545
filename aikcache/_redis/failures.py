"""What went wrong on a connection, as a `RemoteError` with a hint where one is likely."""

from __future__ import annotations

from aikcache._concurrency.foreign import clean
from aikcache._concurrency.outside import let_out
from aikcache._redis.reply import TROUBLE
from aikcache.errors import RemoteError, RemoteTimeoutError, RemoteUnavailableError

ELSEWHERE = ("READONLY", "MASTERDOWN", "NOREPLICAS", "LOADING")
"""Refusals of a server that is not the primary (any more), or not yet."""
UNSERVING = (*ELSEWHERE, "NOAUTH", "WRONGPASS", "NOPERM", "BUSY", "CLUSTERDOWN", "ERR max")
"""Refusals of a server that serves nobody, or not this cache."""
_TLS = "Does this port want TLS? Then the url begins with 'rediss'."


class LostReplyError(RemoteUnavailableError):
    """The connection died before the reply: what was sent `once` may have been done, and is not sent again as it is."""


def translate(error: BaseException, within: float) -> BaseException:
    """The `RemoteError` to raise for it, after `within` seconds; itself if it comes from outside."""
    if not isinstance(error, (RemoteError, *TROUBLE)):
        return error  # a caller's time limit is not our trouble
    let_out(error)
    hint = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, RemoteError):
        return type(error)(f"{str(error).rstrip('.')}.{hint}") if hint else error
    if isinstance(error, TimeoutError):
        return RemoteTimeoutError(f"Redis did not answer within {within:g} seconds.{hint}")
    # The system's and OpenSSL's text is ours; a parser's would quote what the server has said.
    text = f": {clean(str(error))}" if isinstance(error, OSError) else ""
    return RemoteUnavailableError(f"Redis cannot be used: {type(error).__name__}{text}{hint and '.' + hint}")


def hint_at_tls(error: BaseException) -> None:
    """Of a server without TLS that goes away, or says what is no reply, at the first plain words."""
    said = str(error)
    closed = isinstance(error, RemoteUnavailableError) and ("closed the connection" in said or "Protocol" in said)
    if closed or isinstance(error, ConnectionError):
        error.add_note(_TLS)
