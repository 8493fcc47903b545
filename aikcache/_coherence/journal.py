"""A file that keeps unsent invalidations across a crash: a header line, then one JSON line each.

Processes with the same path each take their own file (`path`, `path.1`, …), held by an exclusive flock. A process that
starts also takes over the files of processes that are gone; a forked child does so with the first line that it writes.
A line is written when an invalidation could not be sent, and the file is emptied when all have been sent. A line cut
short by a crash was never acknowledged, and is skipped.

The lines of a file are carried out, so only a file of this user is read: a regular one, with one name, that no other
user may write, and with the header. Lines are still untrusted: one that names nothing in this key space is skipped. A
file that is too large becomes "everything", which loses nothing.

Threads: a line is one write. Failure: `ConfigError` where no file can be opened, `OSError` where a line cannot be
written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import threading

from aikcache._keys.keyspace import Keyspace
from aikcache._keys.patterns import EVERYTHING, MAX_PATTERN, is_name
from aikcache.errors import ConfigError

MOST = 256
"""The largest number of files of one path."""
HEADER = b"aikcache journal 1\n"
MAX_BYTES = 16 * 1024 * 1024
MAX_LINE = 12 * 2 * MAX_PATTERN
"""Bytes: JSON takes up to twelve for a character, and no name is longer than a pattern and what precedes a key."""
MAX_LINES = 50_000
"""The most lines that are read, in about half a second; a file with more means everything."""
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_ALL = ("groups", EVERYTHING)


class Journal:
    """This process's file and, at the start, the content of abandoned ones. May raise `ConfigError`."""

    def __init__(self, path: str, keyspace: Keyspace) -> None:
        self._path = path
        self._keyspace = keyspace
        self._found: list[tuple[str, str]] = []
        self._fd = -1
        self._size = 0
        self._forked = False
        self._lock = threading.RLock()  # around each use of `_fd`, whose number may be another file's once it is closed
        self._open()

    def _open(self) -> None:
        left: list[tuple[str, int]] = []
        try:
            for number in range(MOST):
                name = f"{self._path}.{number}" if number else self._path
                if self._fd >= 0 and not os.path.lexists(name):
                    break
                fd = _take(name, must=not number)
                if fd is None:
                    continue
                found = self._lines(fd)
                self._found += found
                if self._fd < 0:
                    self._fd, self._size = fd, os.fstat(fd).st_size
                else:
                    left.append((name, fd))
                    for line in found:
                        self._add(line)
        except OSError as error:
            raise ConfigError(
                f"journal must be a path that can be written, and {self._path!r} cannot: {error.strerror}."
            ) from error
        if self._fd < 0:
            raise ConfigError(f"journal {self._path!r} is in use by {MOST} processes. Give them different paths.")
        for name, fd in left:  # their lines are in this process's file now
            with contextlib.suppress(OSError):
                if os.path.samestat(os.lstat(name), os.fstat(fd)):
                    os.unlink(name)
            os.close(fd)

    def _lines(self, fd: int) -> list[tuple[str, str]]:
        """The names in a file, as far as it can be parsed and they belong to this key space."""
        data = os.pread(fd, MAX_BYTES + 1, len(HEADER))
        if len(data) > MAX_BYTES or data.count(b"\n") > MAX_LINES:
            return [_ALL]
        found = []
        for line in data.split(b"\n"):
            try:
                kind, name = json.loads(line if len(line) <= MAX_LINE else b"")
            except (ValueError, TypeError, RecursionError):  # cut short, or not written by aikcache
                continue
            if is_name(kind, name, self._keyspace):
                found.append((kind, name))
        return found

    def read(self) -> list[tuple[str, str]]:
        """What was pending when other processes ended. Returned once."""
        found, self._found = self._found, []
        return found

    def add(self, name: tuple[str, str]) -> None:
        """Write a line. Raises `OSError` if that fails, and `ConfigError` if a child cannot have a file."""
        with self._lock:
            if self._forked:
                self._open()
                self._forked = False
            self._add(name)

    def _add(self, name: tuple[str, str]) -> None:
        if self._fd < 0:
            return
        if self._size > MAX_BYTES + len(HEADER):
            return  # read as everything already; were it emptied first, it would hold nothing for a moment
        line = json.dumps(name, separators=(",", ":")).encode() + b"\n"
        written = os.write(self._fd, line)
        self._size += written
        if written < len(line):
            with contextlib.suppress(OSError):
                os.write(self._fd, b"\n")  # so that the next line starts on its own
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def clear(self) -> None:
        """Empty it. Raises `OSError`."""
        with self._lock:
            if self._fd >= 0:
                os.ftruncate(self._fd, len(HEADER))
                self._size = len(HEADER)

    def after_fork(self) -> None:
        """Reset in the child: the file is the parent's, which holds its lock."""
        forked = self._forked or self._fd >= 0  # a child that has written nothing yet has a child
        self._lock = threading.RLock()  # first: a thread of the parent's may have been inside
        self.close()
        self._forked, self._found = forked, []

    def close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, -1
            self._forked = False
            if fd >= 0:
                os.close(fd)


def _take(name: str, *, must: bool) -> int | None:
    """A journal's descriptor, locked; None: another process has it, or it is no journal (unless it `must` be one).

    Raises `OSError`, and `ConfigError` for a file that must be a journal and is not.
    """
    try:
        fd = os.open(name, _FLAGS, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP or not must:
            _refuse(name, "a symbolic link or cannot be opened", must=must)
            return None
        raise
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        why = _unfit(fd)
    except BaseException:
        os.close(fd)
        raise
    if why is not None:
        os.close(fd)
        _refuse(name, why, must=must)
        return None
    return fd


def _unfit(fd: int) -> str | None:
    """Why an open file cannot be used, or None; an empty one becomes a journal."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        return "not a regular file"
    if found.st_uid != os.geteuid():
        return "another user's"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "writable by other users"
    if found.st_nlink != 1:
        return "known under another name as well"
    if found.st_size == 0:
        os.write(fd, HEADER)
    elif os.pread(fd, len(HEADER), 0) != HEADER:
        return "not a journal, but has other content"
    return None


def _refuse(name: str, why: str, *, must: bool) -> None:
    if must:
        raise ConfigError(
            f"journal must be a file that this process writes alone, and {name!r} is {why}. Give another path."
        )
