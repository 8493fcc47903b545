"""Whether the compiled part is in: `fast` is the module `aikcache._fast`, or None.

It is there where a C compiler and Python's headers were when aikcache was installed. `AIKCACHE_PURE=1` leaves it out,
and so does a platform whose `time.monotonic` is another clock than the one that it reads. It relies on the
interpreter's lock, which a free-threaded interpreter turns on at this import; where that is forbidden, it is left out.
"""

from __future__ import annotations

import os
import sys
import time
from importlib import import_module
from types import ModuleType

_CLOCK = "clock_gettime(CLOCK_MONOTONIC)"
_INTERFACE = 7
"""As `_fast.c` has it: a checkout may have an extension that was built before its source changed."""


def locked() -> bool:
    """Whether the interpreter's lock is on, as it always is but in a free-threaded one."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def _load() -> tuple[ModuleType | None, str]:
    """The module, or why there is none."""
    if os.environ.get("AIKCACHE_PURE", "").strip().lower() not in ("", "0", "false", "no", "off"):
        return None, "AIKCACHE_PURE is set"
    if time.get_clock_info("monotonic").implementation != _CLOCK:
        return None, "this platform's clock is not the one that it reads"
    try:
        found = import_module("aikcache._fast")
    except ModuleNotFoundError:
        return None, "it was not built, for want of a C compiler or of Python.h"
    except ImportError as error:
        return None, f"it cannot be loaded: {error}"
    if not locked():  # asked after its import, which turns the lock on where that is allowed
        return None, "the interpreter's lock, which it relies on, is forced off (PYTHON_GIL=0)"
    return (found, "") if found.INTERFACE == _INTERFACE else (None, "it was built of another source: install again")


fast, WHY_NOT = _load()
