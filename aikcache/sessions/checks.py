"""Checks of a session store's arguments (`ConfigError`), and of a session's size. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from aikcache._settings.checks import check_seconds
from aikcache.errors import ConfigError, SessionTooLargeError
from aikcache.sessions.records import sizes_of

if TYPE_CHECKING:
    from aikcache.sessions.record_store import Limits

MOST_KEYS: Final = 3900
"""Lua's `unpack` gives a command at most some 8000 arguments: 3992 keys and the fields of a login were seen to work."""


def milliseconds(what: str, value: float | timedelta) -> int:
    return max(int(check_seconds(what, value, zero="A session must live for a while.") * 1000), 1)


def check_idle(idle_timeout: float | timedelta, touch_every: float | timedelta | None) -> tuple[int, int]:
    idle = milliseconds("idle_timeout", idle_timeout)
    if touch_every is None:
        return idle, max(min(60_000, idle // 10), 1)
    touch = milliseconds("touch_every", touch_every)
    if touch * 10 > idle:
        raise ConfigError(
            f"touch_every must be at most a tenth of idle_timeout, got {touch / 1000:g} s and {idle / 1000:g} s."
        )
    return idle, touch


def check_one_of(what: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        shown = repr(value[:40]) if isinstance(value, str) else type(value).__name__
        raise ConfigError(f"{what} must be one of {', '.join(map(repr, allowed))}, got {shown}.")


def check_limits(max_bytes: int, max_keys: int) -> None:
    for what, value in (("max_bytes", max_bytes), ("max_keys", max_keys)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{what} must be a whole number greater than 0, got {value!r}.")
    if max_keys > MOST_KEYS:
        raise ConfigError(
            f"max_keys must be at most {MOST_KEYS}, which is what one script in Redis can write, got {max_keys}. "
            "Keep many small values under one key, as a dict."
        )


def check_size(limits: Limits, stored: Mapping[str, bytes], put: Mapping[str, bytes], drop: Iterable[str] = ()) -> None:
    """Raises `SessionTooLargeError` if a session with `put` written and `drop` deleted would be over its limits."""
    sizes = sizes_of(stored, put)
    for name in drop:
        sizes.pop(name, None)
    if len(sizes) > limits.keys or sum(sizes.values()) > limits.bytes:
        raise too_large(limits, stored, put)


def too_large(limits: Limits, stored: Mapping[str, bytes], put: Mapping[str, bytes]) -> SessionTooLargeError:
    """The error, which names the three largest keys."""
    sizes = sizes_of(stored, put)
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    shown = ", ".join(f"{name[:40]!r} ({sizes[name]} bytes)" for name in largest)
    return SessionTooLargeError(
        f"a session holds at most {limits.bytes} bytes under {limits.keys} keys (max_bytes, max_keys), this one "
        f"{sum(sizes.values())} under {len(sizes)}. The largest: {shown}. Nothing was written. Keep data elsewhere, "
        "and its id here."
    )
