"""What a store of sessions checks of its arguments: each raises a `ConfigError` with the rule. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from aikcache._settings.config import check_seconds
from aikcache.errors import ConfigError


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
