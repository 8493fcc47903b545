"""The rules that settings have in common with arguments of decorators: names, durations, consistency, metrics.

They are apart from `config`, so that decorating loads no `CacheConfig`. Each returns the value in its one form, or
raises a `ConfigError` that says what was given, the rule, and the way out. Pure.
"""

from __future__ import annotations

import re
from datetime import timedelta

from aikcache.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_METRIC = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
MAX_TTL = 10 * 365 * 86400.0
"""Ten years: a longer TTL is a mistake of units (milliseconds), and Redis refuses absurd ones."""


def shown(value: object) -> str:
    """A value for a message: never long, and no code of its class runs."""
    if type(value) is str:
        return repr(value[:80])
    if type(value) in (float, bool, type(None)) or (type(value) is int and abs(value) < 10**20):
        return repr(value)
    return type(value).__name__


def check_name(what: str, value: object) -> str:
    """A part of a key that people write (instance, version, prefix, operation): no separator, wildcard or space."""
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    raise ConfigError(
        f"{what} must be letters, digits, '_', '-' or '.', and begin with a letter, a digit or '_', "
        f"got {shown(value)}. The colon separates the parts of a key and '*' is a wildcard: give each part by itself."
    )


def check_seconds(what: str, value: object, *, least: float = 0.0, zero: str | None = None) -> float:
    """A duration in seconds. `zero` says what 0, or less than `least`, would mean where it is not allowed."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{what} must be seconds (a number or a timedelta), got {type(value).__name__}.")
    if not least <= value <= MAX_TTL:  # nan fails too
        stored = what.rpartition(" ")[2].partition("[")[0] in ("ttl", "default_ttl", "ttls")  # not a local or stale one
        way = " 0 means: do not store." if stored else f" {zero}" if zero is not None and 0 <= value < least else ""
        raise ConfigError(f"{what} must be between {least:g} and {MAX_TTL:.0f} seconds, got {shown(value)}.{way}")
    if value == 0 and zero is not None:
        raise ConfigError(f"{what} must be greater than 0, got 0. {zero}")
    return float(value)


def check_consistency(what: str, value: object) -> bool:
    """Whether reads are to be strong."""
    if value not in ("bounded", "strong"):
        raise ConfigError(
            f"{what} must be 'bounded' (others' invalidations are seen once they are pushed here) or 'strong' (every "
            f"read asks Redis, and sees it at once), got {value!r}."
        )
    return value == "strong"


def check_metrics(value: object) -> None:
    """What the names of metrics begin with, or None."""
    if value is not None and not (isinstance(value, str) and _METRIC.fullmatch(value)):
        raise ConfigError(
            f"metrics must be letters, digits and '_', and begin with a letter, got {shown(value)}: it is what the "
            "names of metrics begin with. To export none, pass metrics=None."
        )
