"""Decides what may be shown of text from outside.

A server's error may quote what it was sent, including a password. So it is shown as its code word, if that is a known
one, or as one of a few known sentences that help people; anything else is "an error". Of other text a bounded part is
shown, without characters that a terminal or a log would obey. Pure.
"""

from __future__ import annotations

LONGEST = 200
"""Characters of foreign text that are shown."""
_CODES = frozenset(
    ("ASK", "BUSY", "BUSYGROUP", "BUSYKEY", "CLUSTERDOWN", "CROSSSLOT", "DENIED", "EXECABORT", "INPROG", "INVALIDOBJ",
     "IOERR", "LOADING", "MASTERDOWN", "MISCONF", "MOVED", "NOAUTH", "NOGOODSLAVE", "NOMASTERLINK", "NOPERM", "NOPROTO",
     "NOQUORUM", "NOREPLICAS", "NOSCRIPT", "NOTBUSY", "NOTREADY", "OOM", "READONLY", "REDIRECT", "TRYAGAIN",
     "UNBLOCKED", "UNKILLABLE", "WRONGPASS", "WRONGTYPE")
)  # fmt: skip
_SENTENCES = (
    "ERR max number of clients", "ERR unknown command", "ERR unknown subcommand", "ERR wrong number of arguments",
    "ERR DB index is out of range", "ERR SELECT is not allowed in cluster mode", "ERR No such master with that name",
    "ERR This instance has cluster support disabled", "ERR AUTH <password> called without any password configured",
    "ERR DEBUG command not allowed", "ERR MODULE command not allowed", "ERR ACL failure in script",
    "ERR The user executing the script can't", "ERR",
)  # fmt: skip


def word(text: str) -> str:
    """A server's error, without any word of the server's own choice."""
    code = text.partition(" ")[0]
    if code in _CODES:
        return code
    return next((known for known in _SENTENCES if f"{text} ".startswith(known)), "an error")


def clean(text: str, most: int = LONGEST) -> str:
    """Printable text of at most `most` characters: a longer one loses its middle."""
    if len(text) > most:
        head = most // 2
        text = f"{text[:head]}…{text[head + 1 - most :]}"
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else " " if char.isspace() else "?" for char in text])


def kind(reply: object) -> str:
    """A reply of the wrong type: an error's word, or the name of its type."""
    return str(reply) if isinstance(reply, Exception) else f"it answered with {type(reply).__name__}"
