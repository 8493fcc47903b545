"""A file that keeps unsent invalidations across a crash: one JSON line each.

Processes that are given the same path each take a file of their own (`path`, `path.1`, …), held by an exclusive flock;
whoever starts also takes over what processes that are gone have left, and so does a forked child, with the first line
that it writes. Lines are written when an invalidation could not be sent, and the file is emptied when all have been. A
line cut short by the crash was never acknowledged, and is skipped.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading

from .errors import ConfigError

MOST = 256


class Journal:
    """This process's file, and at the start what others left. May raise `ConfigError`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._found: list[tuple[str, str]] = []
        self._fd = -1
        self._forked = False
        self._opening = threading.Lock()  # one thread of a child finds it a file
        self._open()

    def _open(self) -> None:
        path = self._path
        left: list[tuple[str, int]] = []
        try:
            for name in [path] + [f"{path}.{i}" for i in range(1, MOST)]:
                if self._fd >= 0 and not os.path.exists(name):
                    break
                fd = os.open(name, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(fd)
                    continue
                found = _lines(fd)
                self._found += found
                if self._fd < 0:
                    self._fd = fd
                else:
                    left.append((name, fd))
                    for line in found:
                        self.add(line)
        except OSError as error:
            raise ConfigError(f"journal must be a path that can be written, and {path!r} cannot: {error}.") from error
        if self._fd < 0:
            raise ConfigError(f"journal {path!r} is in use by {MOST} processes. Give them different paths.")
        for name, fd in left:  # what they held stands in ours now
            os.unlink(name)
            os.close(fd)

    def read(self) -> list[tuple[str, str]]:
        """What was pending when others ended, once."""
        found, self._found = self._found, []
        return found

    def add(self, name: tuple[str, str]) -> None:
        """Write a line. Raises `OSError` when it cannot, and `ConfigError` when a child cannot have a file."""
        if self._forked:
            with self._opening:
                if self._forked:
                    self._open()
                    self._forked = False
        if self._fd >= 0:
            os.write(self._fd, json.dumps(name).encode() + b"\n")

    def clear(self) -> None:
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)

    def after_fork(self) -> None:
        """In the child: the file is the parent's, and held by it alone."""
        forked = self._fd >= 0
        self.close()
        self._forked, self._found, self._opening = forked, [], threading.Lock()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        self._forked = False
        if fd >= 0:
            os.close(fd)


def _lines(fd: int) -> list[tuple[str, str]]:
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        found = []
        for line in file:
            try:
                kind, name = json.loads(line)
            except ValueError:
                continue
            if kind in ("groups", "keys", "globs") and isinstance(name, str):
                found.append((kind, name))
    return found
