"""Names for pods, and an end to them: a hosts file of their own, which a test changes while they run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

# A mount namespace of its own for each process; nobody else sees the two files. There is no DNS behind them.
_MOUNTED = 'mount --bind "$1/hosts" /etc/hosts && mount --bind "$1/resolv.conf" /etc/resolv.conf && shift && exec "$@"'


class Names:
    """What names lead to, for every process that `command` starts."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._hosts = directory / "hosts"
        (directory / "resolv.conf").touch()
        self.resolve({})
        own = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
        self.command = ["unshare", *own, "sh", "-c", _MOUNTED, "sh", str(directory)]

    def resolve(self, addresses: Mapping[str, str]) -> None:
        """From now on these names have addresses, and no others."""
        lines = [f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **addresses}.items()]
        self._hosts.write_text("".join(lines))  # in place: what is mounted is this very file

    def possible(self) -> bool:
        """Whether this machine lets them be staged."""
        try:
            return subprocess.run([*self.command, "true"], capture_output=True, check=False).returncode == 0
        except OSError:
            return False
