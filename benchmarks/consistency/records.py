"""What the checker's processes share: a SQLite table of versioned records, and the files that they log to.

A record is a row; each change raises its version by one, in a transaction. Every record belongs to one family, the
functions that cache it. What a process has done it appends to two files of its own, so that nothing it logged is lost
when it is killed: reads as fixed-size records, everything else as lines of JSON. All times are CLOCK_MONOTONIC, one
clock for all processes of a host.
"""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

FAMILIES = ("plain", "shelved", "aging", "loose")
PER_FAMILY = 30
SHELVES = 4
_BUSY = 30.0
_FLUSH_READS, _FLUSH_SECONDS = 64, 0.05
_READ = struct.Struct("<HIBdd")
clock = time.monotonic


def records_of(family: str) -> range:
    """The records that `family` caches."""
    first = FAMILIES.index(family) * PER_FAMILY
    return range(first, first + PER_FAMILY)


class Row(NamedTuple):
    """One record as the table has it. `shelf` changes with the version; a tag is made of it."""

    record: int
    version: int
    shelf: int


class Table:
    """The records, with a connection for each thread that asks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mine = threading.local()

    @staticmethod
    def create(path: Path) -> None:
        link = sqlite3.connect(path, isolation_level=None)
        link.execute("PRAGMA journal_mode = WAL")
        link.execute(
            "CREATE TABLE record (record INTEGER PRIMARY KEY, version INTEGER NOT NULL, shelf INTEGER NOT NULL)"
        )
        count = PER_FAMILY * len(FAMILIES)
        link.executemany("INSERT INTO record VALUES (?, 1, ?)", [(i, i % SHELVES) for i in range(count)])
        link.close()

    @property
    def _link(self) -> sqlite3.Connection:
        link: sqlite3.Connection | None = getattr(self._mine, "link", None)
        if link is None:
            link = self._mine.link = sqlite3.connect(self._path, timeout=_BUSY, isolation_level=None)
            link.execute("PRAGMA synchronous = OFF")  # processes are killed here, machines are not
        return link

    def load(self, record: int) -> Row:
        """The record as it was committed last, and then some time, in which it may be overtaken."""
        row = Row(
            *self._link.execute("SELECT record, version, shelf FROM record WHERE record = ?", (record,)).fetchone()
        )
        _dawdle()
        return row

    def load_many(self, records: Sequence[int]) -> dict[int, Row]:
        marks = ",".join("?" * len(records))
        found = self._link.execute(f"SELECT record, version, shelf FROM record WHERE record IN ({marks})", records)
        rows = {row[0]: Row(*row) for row in found}
        _dawdle()
        return rows

    def change(self, records: Sequence[int], random: Random) -> tuple[list[Row], list[Row]]:
        """Raise the versions of `records` in one transaction. Gives the rows before and after, when it is committed."""
        link = self._link
        link.execute("BEGIN IMMEDIATE")
        try:
            before, after = [], []
            for record in records:
                found = link.execute("SELECT record, version, shelf FROM record WHERE record = ?", (record,)).fetchone()
                old = Row(*found)
                new = Row(record, old.version + 1, random.randrange(SHELVES))
                link.execute(
                    "UPDATE record SET version = ?, shelf = ? WHERE record = ?", (new.version, new.shelf, record)
                )
                before.append(old)
                after.append(new)
            link.execute("COMMIT")
        except BaseException:
            link.execute("ROLLBACK")
            raise
        return before, after

    def versions(self) -> dict[int, int]:
        return dict(self._link.execute("SELECT record, version FROM record").fetchall())


_delays = Random()


def _dawdle() -> None:
    """Most loads are quick; some take as long as a slow query, a few outlast a lease's half."""
    luck = _delays.random()
    if luck < 0.0005:
        time.sleep(_delays.uniform(1.2, 1.8))
    elif luck < 0.01:
        time.sleep(_delays.uniform(0, 0.15))
    elif luck < 0.1:
        time.sleep(_delays.uniform(0, 0.03))
    elif luck < 0.5:
        time.sleep(_delays.uniform(0, 0.004))


class Read(NamedTuple):
    """One record seen by one call, which was begun and ended at these times. `way`: its place in `READ_WAYS`."""

    record: int
    version: int
    way: int
    began: float
    ended: float


class Log:
    """The files of one process."""

    def __init__(self, directory: Path, name: str) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._reads = os.open(directory / f"{name}.reads", flags, 0o600)
        self._events = os.open(directory / f"{name}.events", flags, 0o600)
        self._mine = threading.local()

    def event(self, what: str, **details: Any) -> None:
        os.write(self._events, json.dumps({"what": what, "at": clock(), **details}).encode() + b"\n")

    def read(self, read: Read) -> None:
        """Log a read, soon: what is buffered when the process is killed is not checked."""
        mine = self._mine
        if not hasattr(mine, "buffer"):
            mine.buffer, mine.flushed = bytearray(), read.ended
        mine.buffer += _READ.pack(*read)
        if len(mine.buffer) >= _FLUSH_READS * _READ.size or read.ended > mine.flushed + _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what this thread has logged."""
        mine = self._mine
        if getattr(mine, "buffer", None):
            os.write(self._reads, mine.buffer)
            mine.buffer, mine.flushed = bytearray(), clock()


def read_reads(directory: Path, name: str) -> Iterator[Read]:
    """What `Log.read` wrote; a record cut short by the process's end is left out."""
    path = directory / f"{name}.reads"
    data = path.read_bytes() if path.exists() else b""
    return map(Read._make, _READ.iter_unpack(data[: len(data) // _READ.size * _READ.size]))


def read_events(directory: Path, name: str) -> list[dict[str, Any]]:
    """What `Log.event` wrote; nothing when the process was killed before it had a log."""
    path = directory / f"{name}.events"
    lines: Iterable[str] = path.read_text().splitlines() if path.exists() else ()
    events = []
    for line in lines:
        try:
            events.append(json.loads(line))
        except ValueError:  # the last, cut short
            continue
    return events
