"""Whether a time zone is the one of its name. Pure."""

from __future__ import annotations

from zoneinfo import ZoneInfo

__all__ = ["is_named"]


def is_named(zone: ZoneInfo) -> bool:
    """Whether a zone was looked up by its key. A zone from a file may have any key; only its `__reduce__` raises."""
    if type(zone.key) is not str:
        return False
    try:
        zone.__reduce__()
    except Exception as error:
        from pickle import PicklingError  # here, because only what raises it loads it

        if isinstance(error, PicklingError):
            return False
        raise  # a signal handler's
    return True
