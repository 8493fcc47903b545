"""The catalog service: seven cached queries and two writes, each a plain function over SQLite.

This is the file to read for how aikcache is used. Each query names its prefix, and takes the prefix's TTL from the
configuration; its tags name the resources it shows. Each write names what it ends: two exact keys and one tag for a
single resource, whole groups after a bulk run. No pattern here needs a scan of the keys, so an invalidation is one
round trip however many entries it ends.

What ends what: a re-indexed resource changes its own row, its history, the imports it has, and every list that shows
its revision: all tagged with it. Which modules reach which (lineage) it changes only when its imports differ, and what
a search finds only when its docstring does, so `reindex` looks and then ends the group. A bulk run ends both unasked.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from _catalog_db import connection, has_full_text, insert_relationships, insert_version, resolve, transaction
from _catalog_model import (
    Lineage,
    LineageNode,
    Relationship,
    Resource,
    ResourceType,
    SearchHit,
    SearchPage,
    Version,
    resource_id_of,
)
from _catalog_scan import Scanned, locate, scan

from aikcache import cached, default_cache, invalidates

_LINEAGE_NODES = 200
_RESOURCE = (
    "id, name, type, path, size, lines, sha256, summary, distribution, distribution_version, "
    "dependents, revision, indexed_at"
)


def _tag(resource_id: UUID) -> str:
    return f"resource:{resource_id}"


def _tags_of_list(result: tuple[Resource, ...], **_: object) -> Iterable[str]:
    return [_tag(resource.id) for resource in result]


def _tags_of_page(result: SearchPage, **_: object) -> Iterable[str]:
    return [_tag(hit.id) for hit in result.hits]


def _fold(query: str) -> str:
    """Queries that differ in case or blanks alone have the same answer, so they share an entry."""
    return " ".join(query.lower().split())


@cached("resource", tags=("resource:{resource_id}",))
def get_by_id(resource_id: UUID) -> Resource:
    """The resource with this id; LookupError when there is none."""
    row = connection().execute(f"SELECT {_RESOURCE} FROM resources WHERE id = ?", (str(resource_id),)).fetchone()
    if row is None:
        raise LookupError(f"No resource has the id {resource_id}.")
    return _resource(row)


@cached("resource", tags=_tags_of_list)
def list_by_type(kind: ResourceType, page: int = 1, size: int = 10) -> tuple[Resource, ...]:
    """One page of the resources of a type, by name."""
    rows = connection().execute(
        f"SELECT {_RESOURCE} FROM resources WHERE type = ? ORDER BY name LIMIT ? OFFSET ?",
        (kind, size, (page - 1) * size),
    )
    return tuple(_resource(row) for row in rows)


@cached("search", normalize={"query": _fold}, tags=_tags_of_page)
def search(query: str, page: int = 1, size: int = 10) -> SearchPage:
    """Resources whose name or docstring has every word of `query`, those that most modules import first."""
    folded = _fold(query)
    opened = connection()
    condition, values = (_match if has_full_text(opened) else _like)(folded.split())
    matching = f"FROM resources JOIN resource_text AS t ON t.rowid = resources.rowid WHERE {condition}"
    (total,) = opened.execute(f"SELECT count(*) {matching}", values).fetchone()
    rows = opened.execute(
        f"SELECT id, resources.name, type, resources.summary, revision {matching} "
        "ORDER BY dependents DESC, resources.name LIMIT ? OFFSET ?",
        [*values, size, (page - 1) * size],
    )
    hits = [SearchHit(UUID(row[0]), row[1], ResourceType(row[2]), *row[3:]) for row in rows]
    return SearchPage(folded, page, size, total, hits)


def _match(words: list[str]) -> tuple[str, list[str]]:
    phrases = ['"' + word.replace('"', '""') + '"' for word in words]  # quoted: data, not FTS5's query language
    return ("resource_text MATCH ?", [" ".join(phrases)]) if words else ("false", [])


def _like(words: list[str]) -> tuple[str, list[str]]:
    condition = " AND ".join(["instr(lower(t.name || ' ' || t.summary), ?) > 0"] * len(words))
    return condition or "false", words


@cached("version", tags=("resource:{resource_id}",))
def version_history(resource_id: UUID) -> tuple[Version, ...]:
    """What each indexing of this resource found, latest first."""
    rows = connection().execute(
        "SELECT number, distribution_version, size, lines, sha256, recorded_at FROM versions "
        "WHERE resource_id = ? ORDER BY number DESC",
        (str(resource_id),),
    )
    return tuple(Version(*_dated(row)) for row in rows)


@cached("lineage")
def upstream(resource_id: UUID, depth: int = 2) -> Lineage:
    """What this module stands on: all it imports, directly or over at most `depth` imports."""
    return _lineage(resource_id, "upstream", depth)


@cached("lineage")
def downstream(resource_id: UUID, depth: int = 2) -> Lineage:
    """What stands on this module: all that imports it, directly or over at most `depth` imports."""
    return _lineage(resource_id, "downstream", depth)


def _lineage(resource_id: UUID, direction: str, depth: int) -> Lineage:
    here, there = ("source_id", "target_id") if direction == "upstream" else ("target_id", "source_id")
    # UNION drops repeated (id, depth) pairs, so import cycles end at `depth`, not never.
    rows = (
        connection()
        .execute(
            f"""
        WITH RECURSIVE reached (id, depth) AS (
            SELECT ?, 0
            UNION
            SELECT r.{there}, depth + 1 FROM reached JOIN relationships AS r ON r.{here} = reached.id WHERE depth < ?
        )
        SELECT r.id, r.name, r.type, min(reached.depth) AS nearest
        FROM reached JOIN resources AS r ON r.id = reached.id
        WHERE reached.id != ? GROUP BY r.id ORDER BY nearest, r.dependents DESC, r.name LIMIT ?
        """,
            (str(resource_id), depth, str(resource_id), _LINEAGE_NODES + 1),
        )
        .fetchall()
    )
    nodes = tuple(LineageNode(UUID(row[0]), row[1], ResourceType(row[2]), row[3]) for row in rows[:_LINEAGE_NODES])
    return Lineage(resource_id, direction, depth, nodes, complete=len(rows) <= _LINEAGE_NODES)


@cached("relationship", tags=("resource:{resource_id}",))
def relationships(resource_id: UUID) -> tuple[Relationship, ...]:
    """The modules that this one imports, in the order of its source."""
    rows = connection().execute(
        "SELECT target_id, name, kind, line, r.revision FROM relationships AS r JOIN resources ON id = target_id "
        "WHERE source_id = ? ORDER BY line, name",
        (str(resource_id),),
    )
    return tuple(Relationship(resource_id, UUID(row[0]), *row[1:]) for row in rows)


@invalidates(
    "resource:get_by_id:{resource.id}", "version:version_history:{resource.id}", tags=("resource:{resource.id}",)
)
def reindex(resource: Resource) -> Resource:
    """Read a resource's file again: a new version, a new revision, the imports as they are now."""
    scanned = _scan(resource)
    with transaction() as opened:
        renewed, rewired = _record(opened, resource, scanned)
    # After the commit: ended before it, these could be cached again from the rows as they were.
    if rewired:
        default_cache().invalidate("lineage")
    if renewed.summary != resource.summary:
        default_cache().invalidate("search")
    return renewed


@invalidates("search", "lineage")
def reindex_many(resources: list[Resource]) -> list[Resource]:
    """Re-index in one transaction, all or none of them."""
    scans = [_scan(resource) for resource in resources]
    with default_cache().deferred(), transaction() as opened:
        renewed = [_record(opened, *pair)[0] for pair in zip(resources, scans, strict=True)]
        # How many tags a call ends is known only here, so no template can name them. They end after the commit, in one
        # round trip for the batch, or not at all.
        default_cache().invalidate_tags(*(_tag(resource.id) for resource in renewed))
    return renewed


def _scan(resource: Resource) -> Scanned:
    """Before the transaction: parsing takes milliseconds, for which other writers need not wait."""
    return scan(locate(resource.path), resource.name, resource.type)


def _record(opened: sqlite3.Connection, resource: Resource, scanned: Scanned) -> tuple[Resource, bool]:
    """Write what a scan has found: the resource as it is now, and whether its imports have changed."""
    identity = str(resource.id)
    reached = resolve(scanned.imports, resource.name, _known(opened, [i.targets for i in scanned.imports]))
    now = datetime.now(UTC).isoformat()
    row = opened.execute(
        "UPDATE resources SET revision = revision + 1, size = ?, lines = ?, sha256 = ?, summary = ?, indexed_at = ? "
        f"WHERE id = ? RETURNING {_RESOURCE}",
        (scanned.size, scanned.lines, scanned.sha256, scanned.summary, now, identity),
    ).fetchall()
    if not row:
        raise LookupError(f"No resource has the id {resource.id}.")
    renewed = _resource(row[0])
    if renewed.summary != resource.summary:
        text_row = "(SELECT rowid FROM resources WHERE id = ?)"
        opened.execute(f"UPDATE resource_text SET summary = ? WHERE rowid = {text_row}", (renewed.summary, identity))
    insert_version(opened, identity, renewed.revision, renewed.distribution_version, scanned, now)
    dropped = opened.execute("DELETE FROM relationships WHERE source_id = ? RETURNING target_id", (identity,))
    removed = {target for (target,) in dropped.fetchall()}
    insert_relationships(opened, identity, reached, renewed.revision)
    return renewed, removed != {str(resource_id_of(target)) for target in reached}


def _known(opened: sqlite3.Connection, targets: Iterable[tuple[str, ...]]) -> set[str]:
    """Which of these dotted names the catalog has."""
    names = json.dumps(sorted({name for candidates in targets for name in candidates}))
    found = opened.execute("SELECT name FROM resources WHERE name IN (SELECT value FROM json_each(?))", (names,))
    return {name for (name,) in found}


def _resource(row: tuple[Any, ...]) -> Resource:
    return Resource(*(UUID(row[0]), row[1], ResourceType(row[2]), *_dated(row[3:])))


def _dated(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row whose last column is a time, with that time read."""
    return (*row[:-1], datetime.fromisoformat(row[-1]))
