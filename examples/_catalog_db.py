"""The catalog's database: a SQLite file, its schema, connections to it, and the first pass that fills it.

`build` indexes the environment once and `use` opens the result; a file that an earlier run left in the same directory
is reused when it describes the same environment. It is built under another name and renamed when complete, so a run
that was interrupted leaves nothing that looks finished.

Connections are one per thread, opened at first use. Writers queue up at SQLite's own lock; readers never wait for them.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from _catalog_model import resource_id_of
from _catalog_scan import Found, Import, Scanned, distributions, find_modules, owner_of, scan_all

_FILE = "catalog.sqlite3"
_LAYOUT = 1
_BUSY_SECONDS = 20

_SCHEMA = """
CREATE TABLE resources (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, type TEXT NOT NULL, path TEXT NOT NULL,
    size INTEGER NOT NULL, lines INTEGER NOT NULL, sha256 TEXT NOT NULL, summary TEXT NOT NULL,
    distribution TEXT NOT NULL, distribution_version TEXT NOT NULL,
    dependents INTEGER NOT NULL DEFAULT 0, revision INTEGER NOT NULL, indexed_at TEXT NOT NULL
);
CREATE TABLE versions (
    resource_id TEXT NOT NULL, number INTEGER NOT NULL, distribution_version TEXT NOT NULL,
    size INTEGER NOT NULL, lines INTEGER NOT NULL, sha256 TEXT NOT NULL, recorded_at TEXT NOT NULL,
    PRIMARY KEY (resource_id, number)
) WITHOUT ROWID;
CREATE TABLE relationships (
    source_id TEXT NOT NULL, target_id TEXT NOT NULL, kind TEXT NOT NULL, line INTEGER NOT NULL,
    revision INTEGER NOT NULL, PRIMARY KEY (source_id, target_id)
) WITHOUT ROWID;
CREATE TABLE about (fact TEXT NOT NULL);
"""
# After the rows are in: building an index at once is faster than keeping it up to date.
_INDEXES = """
CREATE INDEX resources_by_type ON resources (type, name);
CREATE INDEX relationships_by_target ON relationships (target_id);
UPDATE resources SET dependents = (SELECT count(*) FROM relationships WHERE target_id = id);
INSERT INTO resource_text (rowid, name, summary) SELECT rowid, replace(name, '.', ' '), summary FROM resources;
"""

_local = threading.local()
_path: Path | None = None


def use(path: Path) -> None:
    """Let `connection()` in this process open the database at `path`."""
    global _path
    close()
    _path = path


def close() -> None:
    """Close this thread's connection; the next `connection()` opens another."""
    opened: sqlite3.Connection | None = _local.__dict__.pop("connection", None)
    if opened is not None:
        opened.close()


def connection() -> sqlite3.Connection:
    """This thread's connection to the database given to `use`."""
    opened: sqlite3.Connection | None = getattr(_local, "connection", None)
    if opened is None:
        if _path is None:
            raise RuntimeError("No database was chosen. Call use(path) first.")
        opened = _local.connection = _open(_path)
    return opened


def _open(path: Path) -> sqlite3.Connection:
    # No implicit transactions: `transaction` below says where one begins and ends.
    opened = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    opened.execute("PRAGMA journal_mode = WAL")
    opened.execute("PRAGMA synchronous = OFF")  # a catalog can be built again; it need not survive a power cut
    return opened


@contextmanager
def transaction() -> Iterator[sqlite3.Connection]:
    """A write transaction on this thread's connection; nested uses join the outermost one."""
    opened = connection()
    if opened.in_transaction:
        yield opened
        return
    # IMMEDIATE: a transaction that reads first and asks for the write lock later may find the rows changed.
    opened.execute("BEGIN IMMEDIATE")
    try:
        yield opened
    except BaseException:
        opened.rollback()
        raise
    opened.commit()


def has_full_text(opened: sqlite3.Connection) -> bool:
    """Whether this database's text index is an FTS5 table, or a plain one to be searched with LIKE."""
    row = opened.execute("SELECT sql FROM sqlite_master WHERE name = 'resource_text'").fetchone()
    return "fts5" in row[0]


def build(directory: Path, limit: int | None = None, progress: TextIO | None = None) -> tuple[Path, bool]:
    """Index the environment into `directory`; returns the database's path, and whether it was there already."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / _FILE
    about = _about(limit)
    if path.exists() and _describes(path, about):
        return path, True
    unfinished = directory / f"{_FILE}.{os.getpid()}"
    unfinished.unlink(missing_ok=True)
    opened = sqlite3.connect(unfinished, isolation_level=None)
    try:
        opened.execute("PRAGMA synchronous = OFF")
        opened.executescript(_SCHEMA)
        _create_text(opened)
        opened.execute("BEGIN")
        _fill(opened, find_modules(limit), Progress(progress))
        opened.execute("INSERT INTO about VALUES (?)", (about,))
        opened.commit()
        opened.executescript(_INDEXES)
        opened.close()
        for leftover in (f"{path}-wal", f"{path}-shm"):
            Path(leftover).unlink(missing_ok=True)
        unfinished.replace(path)
    finally:
        opened.close()
        unfinished.unlink(missing_ok=True)
    return path, False


def _about(limit: int | None) -> str:
    """What a database must be about to be reused: this environment, with these distributions, as far as `limit`."""
    installed = sorted(f"{d.name} {d.version}" for d in importlib.metadata.distributions())
    return json.dumps([_LAYOUT, limit, platform.python_version(), sys.prefix, installed])


def _describes(path: Path, about: str) -> bool:
    opened = sqlite3.connect(path)
    try:
        return bool(opened.execute("SELECT fact FROM about").fetchall() == [(about,)])
    except sqlite3.DatabaseError:
        return False
    finally:
        opened.close()


def _create_text(opened: sqlite3.Connection) -> None:
    try:
        opened.execute("CREATE VIRTUAL TABLE resource_text USING fts5 (name, summary)")
    except sqlite3.OperationalError:  # a SQLite built without FTS5
        opened.execute("CREATE TABLE resource_text (name TEXT NOT NULL, summary TEXT NOT NULL)")


def _fill(opened: sqlite3.Connection, modules: list[Found], progress: Progress) -> None:
    owners = distributions()
    known = {module.name for module in modules}
    now = datetime.now(UTC).isoformat()
    for done, (module, scanned) in enumerate(zip(modules, scan_all(modules), strict=True), start=1):
        identity = str(resource_id_of(module.name))
        owner, version = owner_of(module, owners)
        opened.execute(
            "INSERT INTO resources VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 1, ?)",
            (
                *(identity, module.name, module.type, module.path),
                *(scanned.size, scanned.lines, scanned.sha256, scanned.summary),
                *(owner, version, now),
            ),
        )
        insert_version(opened, identity, 1, version, scanned, now)
        insert_relationships(opened, identity, resolve(scanned.imports, module.name, known), 1)
        progress.show(done, len(modules))


def resolve(imports: tuple[Import, ...], name: str, known: set[str]) -> dict[str, Import]:
    """For each catalogued module that these imports reach, the first of them in the file."""
    reached: dict[str, Import] = {}
    for statement in sorted(imports, key=lambda statement: statement.line):
        target = next((target for target in statement.targets if target in known), None)
        if target is not None and target != name:
            reached.setdefault(target, statement)
    return reached


def insert_version(
    opened: sqlite3.Connection, identity: str, number: int, distribution_version: str, scanned: Scanned, when: str
) -> None:
    """Add one row to a resource's history."""
    opened.execute(
        "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?)",
        (identity, number, distribution_version, scanned.size, scanned.lines, scanned.sha256, when),
    )


def insert_relationships(opened: sqlite3.Connection, identity: str, reached: dict[str, Import], revision: int) -> None:
    """Add what a resource imports, as seen by its indexing number `revision`."""
    opened.executemany(
        "INSERT INTO relationships VALUES (?, ?, ?, ?, ?)",
        [
            (identity, str(resource_id_of(target)), statement.kind, statement.line, revision)
            for target, statement in reached.items()
        ],
    )


class Progress:
    """A bar that redraws itself on a terminal, a line every quarter elsewhere, nothing without a stream."""

    def __init__(self, stream: TextIO | None, width: int = 40) -> None:
        self._stream = stream
        self._width = width
        self._shown = 0

    def show(self, done: int, total: int) -> None:
        """Say that `done` of `total` are done, if that is news."""
        if self._stream is None:
            return
        steps = self._width if self._stream.isatty() else 4
        step = done * steps // total
        if step == self._shown:
            return
        self._shown = step
        if self._stream.isatty():
            bar = "#" * step + "." * (self._width - step)
            self._stream.write(f"\r  indexing [{bar}] {done}/{total}" + ("\n" if done == total else ""))
        else:
            self._stream.write(f"  indexing: {done} of {total} modules\n")
        self._stream.flush()
