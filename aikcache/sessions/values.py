"""Encodes a session's values, and finds out whether one has changed.

Equal sets encode to different bytes in two processes, so a value that was read is compared with a fresh decode by the
codec's equality, never by bytes: a value that was only read must not overwrite another request's. Pure.
"""

from __future__ import annotations

from typing import Any, Final

from aikcache._codec import tagged_reader, tagged_writer  # noqa: F401  # now, not in a request: see `codec.load_all`
from aikcache._codec.codec import TAGGED, Codec
from aikcache._codec.equality import exactly_equal, immutable
from aikcache._codec.registry import by_type
from aikcache.errors import DecodeError, EncodeError
from aikcache.sessions.records import MOST_NAME_BYTES

_CODEC: Final = Codec()
_CONTAINERS: Final = (list, tuple, set, frozenset)


def encode(name: str, value: object) -> bytes:
    """The encoded value. Raises `EncodeError`, whose path begins with the session's key."""
    try:
        encoded = _CODEC.encode(value)
    except EncodeError as error:
        here = f"session[{name!r}]"
        path, message = (text.replace("result", here, 1) for text in (error.path, str(error)))
        raise EncodeError(message, path) from error.__cause__
    return bytes([encoded.codec]) + encoded.payload


def decode(data: bytes) -> Any:
    """The value. Raises `DecodeError`."""
    if not data:
        raise DecodeError("a field without a value.")
    return _CODEC.decode(data[0], data[1:])


def may_have_changed(value: object) -> bool:
    """Whether a value that was only read can have been changed in place."""
    try:
        return not immutable(value)
    except RecursionError:
        return True


def unchanged(value: object, data: bytes) -> bool:
    """Whether a value is still what `data` encodes."""
    try:
        before = decode(data)
        if not exactly_equal(value, before):
            return False
        # Instances of a registered class are always equal to the codec: compare what they encode to.
        return data[0] != TAGGED or not by_type or exactly_equal(_plain(value), _plain(before))
    except (DecodeError, RecursionError):
        return False


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return [(_plain(key), _plain(item)) for key, item in value.items()]
    if kind in (set, frozenset) and not any(type(item) in by_type for item in value):
        return value
    if kind in _CONTAINERS:
        return [_plain(item) for item in value]
    registered = by_type.get(kind)
    return value if registered is None else (registered.name, _plain(registered.encode(value)))


def check_name(name: object) -> str:
    """A session's key. Raises `EncodeError` if it cannot be one."""
    if not isinstance(name, str):
        raise EncodeError(f"a session's keys are str, got {type(name).__name__}.", "session")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise EncodeError(f"a session's keys are text, got {name[:40]!a}: it holds half a character.") from None
    if size > MOST_NAME_BYTES:
        raise EncodeError(f"a session's keys have at most {MOST_NAME_BYTES} bytes, got {size}: {name[:40]!r}…")
    return str(name)


def check_text(what: str, value: object) -> None:
    """Raises `EncodeError` unless the value is text that can be kept."""
    if not isinstance(value, str):
        raise EncodeError(f"a {what} is a str, got {type(value).__name__}.", what)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise EncodeError(f"a {what} is text, got a str that holds half a character.", what) from None
