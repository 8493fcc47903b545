"""Settings from the environment: `AIKCACHE_` and a setting's name in capitals.

They are read in two steps: `read_env` raises nothing and hides what is secret at once; `from_env` checks. So no frame
of a traceback holds a secret. An unknown name is a `ConfigError` that names the nearest setting. Pure; any thread.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from aikcache._settings.config import FIELDS
from aikcache._settings.secret import Secret, hidden
from aikcache.errors import ConfigError

ENV = "AIKCACHE_"
_NOT_SETTINGS = {ENV + name for name in ("PURE", "REQUIRE_SERVERS", "MUTATIONS", "CONSISTENCY_SECONDS")}  # of tests
_OF_OTHERS = (ENV + "SESSION_", ENV + "MASTER_KEY", ENV + "FLASK_")
_OBJECTS = ("client", "credential_provider", "clock")
_HIDDEN = (ENV + "URL", ENV + "SECRET")


def read_env(environ: Mapping[str, str] | None = None) -> dict[str, str | Secret[str]]:
    """What the environment says of us, by the variables' names; what is secret hidden. Raises nothing."""
    found: dict[str, str | Secret[str]] = {}
    for name, value in (os.environ if environ is None else environ).items():
        if name.startswith(ENV) and name not in _NOT_SETTINGS and not name.startswith(_OF_OTHERS):
            found[name] = hidden(value) if name in _HIDDEN else value
    return found


def from_env(variables: Mapping[str, str | Secret[str]]) -> dict[str, Any]:
    """The settings that `read_env` found, as `AIKCACHE_URL`, `AIKCACHE_TTLS="search=60,resource=300"`, …"""
    found: dict[str, Any] = {}
    for name, value in variables.items():
        setting = name[len(ENV) :].lower()
        if setting not in FIELDS or setting in _OBJECTS:
            import difflib  # here, because only this message needs it

            near = difflib.get_close_matches(setting, FIELDS, 1)
            hint = f" Did you mean {ENV}{near[0].upper()}?" if near else ""
            raise ConfigError(f"the environment has {name}, and there is no setting {setting!r}.{hint}")
        found[setting] = _revealed(setting, value) if isinstance(value, Secret) else _parse(name, setting, value)
    return found


def _revealed(setting: str, value: Secret[str]) -> object:
    """As it is, but several secrets come with commas."""
    if setting == "secret" and "," in value.reveal():
        return hidden([part.strip() for part in value.reveal().split(",")])
    return value if value.reveal() else None


def _parse(name: str, setting: str, text: str) -> Any:
    kind = str(FIELDS[setting].type)
    if not text and kind.endswith("| None"):
        return None
    try:
        if setting == "ttls":
            pairs = (pair.split("=", 1) for pair in text.split(",") if pair.strip())
            return {prefix.strip(): float(seconds) for prefix, seconds in pairs}
        if kind == "bool":
            return {"1": True, "true": True, "yes": True, "on": True,
                    "0": False, "false": False, "no": False, "off": False}[text.strip().lower()]  # fmt: skip
        if kind.startswith("int"):
            return int(text)
        if kind.startswith("float"):
            number = float(text)
            if not math.isfinite(number):
                raise ValueError
            return number
    except (ValueError, KeyError):
        what = {"ttls": "prefix=seconds pairs, as in search=600,resource=300"}.get(setting, f"of type {kind}")
        raise ConfigError(f"{name} must be {what}.") from None
    return text or None
