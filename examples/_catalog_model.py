"""What the catalog holds: resources, their versions, the imports between them, and pages of search hits.

A resource is one Python module of the environment the example runs in. Its id is a UUID made from its dotted name, so
the same module has the same id in every run and every process.

All of it is frozen, and of what is frozen all the way down every caller gets the same object. `SearchPage.hits` is a
list nevertheless, on purpose: whoever receives a list can change it, so the cache decodes one for each caller. That is
what makes a local hit of `search` cost ten times as much as one of the others; the example takes both roads.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import NAMESPACE_OID, UUID, uuid5

_NAMESPACE = uuid5(NAMESPACE_OID, "aikcache.examples.catalog")


def resource_id_of(name: str) -> UUID:
    """The stable id of the module called `name`."""
    return uuid5(_NAMESPACE, name)


class ResourceType(StrEnum):
    """What kind of module a resource is."""

    PACKAGE = "package"
    MODULE = "module"
    PROGRAM = "program"  # a package's __main__
    EXTENSION = "extension"  # compiled, its own file
    BUILTIN = "builtin"  # compiled into the interpreter, no file


@dataclass(frozen=True, slots=True)
class Resource:
    """One module as the catalog knows it; `revision` counts its indexings, `dependents` is as of the first pass."""

    id: UUID
    name: str
    type: ResourceType
    path: str
    size: int
    lines: int
    sha256: str
    summary: str
    distribution: str
    distribution_version: str
    dependents: int
    revision: int
    indexed_at: datetime


@dataclass(frozen=True, slots=True)
class Version:
    """One row of a resource's history: what an indexing found."""

    number: int
    distribution_version: str
    size: int
    lines: int
    sha256: str
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Relationship:
    """`source` imports `target`: first on this line, as seen by the indexing with this revision."""

    source_id: UUID
    target_id: UUID
    target_name: str
    kind: str
    line: int
    revision: int


@dataclass(frozen=True, slots=True)
class LineageNode:
    """A module that another one reaches through imports, and over how many of them at least."""

    id: UUID
    name: str
    type: ResourceType
    depth: int


@dataclass(frozen=True, slots=True)
class Lineage:
    """All that a module stands on (upstream) or that stands on it (downstream), nearest first."""

    resource_id: UUID
    direction: str
    depth: int
    nodes: tuple[LineageNode, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A resource as a list of results shows it."""

    id: UUID
    name: str
    type: ResourceType
    summary: str
    revision: int


@dataclass(frozen=True, slots=True)
class SearchPage:
    """One page of the answer to a query, and how many resources match in all."""

    query: str
    page: int
    size: int
    total: int
    hits: list[SearchHit]
