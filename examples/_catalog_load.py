"""The load: who asks for what how often, as a real catalog service would see it.

Popularity follows Zipf's law: the module in place k of the ranking is asked for in proportion to 1/k. The ranking is
by how many modules import it, so `typing` is looked up a thousand times while others are never; queries are words from
the docstrings, alone and in pairs. Everything a worker does comes from one seeded generator, so a run can be repeated.

`Workload.next()` draws one `Call`: a query with its arguments, or, with probability `writes`, a re-indexing.
"""

from __future__ import annotations

import random
import re
import sqlite3
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol
from uuid import UUID

import _catalog_queries as queries
from _catalog_model import ResourceType

_VOCABULARY = 400
_BULK_RESOURCES = 20
_BULK_SHARE = 0.005  # of the writes: a whole batch is rare
# Shares of the calls: a catalog is mostly looked at one resource at a time.
_MIX = {
    "get_by_id": 48,
    "search": 20,
    "relationships": 10,
    "list_by_type": 8,
    "version_history": 8,
    "upstream": 3,
    "downstream": 3,
}
_WORD = re.compile(r"[a-z]{4,}")
# fmt: off
_PLAIN = frozenset((
    "also", "does", "each", "from", "have", "into", "more", "most", "only", "other", "such", "than", "that", "their",
    "then", "these", "this", "used", "when", "which", "will", "with",
))
# fmt: on


class Query(Protocol):
    """What the load needs of a cached function."""

    def __call__(self, *arguments: object) -> object: ...

    def bypass(self, *arguments: object) -> object: ...


# By name, so that a call can be sent to another process as data.
QUERIES: dict[str, Query] = {name: getattr(queries, name) for name in _MIX}


PREFIXES = {
    "get_by_id": "resource",
    "list_by_type": "resource",
    "search": "search",
    "version_history": "version",
    "upstream": "lineage",
    "downstream": "lineage",
    "relationships": "relationship",
}


def operation_of(name: str) -> str:
    """The name under which the cache counts this query."""
    return f"{PREFIXES[name]}:{name}"


@dataclass(frozen=True, slots=True)
class Call:
    """One query with its arguments."""

    name: str
    arguments: tuple[object, ...]

    def cached(self) -> object:
        """The answer by way of the cache."""
        return QUERIES[self.name](*self.arguments)

    def uncached(self) -> object:
        """The database's answer; the cache is not involved."""
        return QUERIES[self.name].bypass(*self.arguments)


@dataclass(frozen=True, slots=True)
class Write:
    """One re-indexing, of one resource or of a batch."""

    resource_ids: tuple[UUID, ...]

    def apply(self) -> None:
        """Re-index, through the functions that end what this changes."""
        # The row as the database has it: a write that starts from a cached copy is how stale data is made to last.
        resources = [queries.get_by_id.bypass(resource_id) for resource_id in self.resource_ids]
        if len(resources) == 1:
            queries.reindex(resources[0])
        else:
            queries.reindex_many(resources)

    def affected(self) -> list[Call]:
        """Calls whose answer this write has changed."""
        names = ("get_by_id", "version_history", "relationships")
        return [Call(name, (resource_id,)) for resource_id in self.resource_ids for name in names]


class Zipf:
    """Draws ranks 0 … `size`-1, rank k in proportion to 1 / (k + 1) ** `exponent`."""

    def __init__(self, size: int, exponent: float, random_source: random.Random) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}.")
        self._cumulative = list(accumulate((rank + 1) ** -exponent for rank in range(size)))
        self._random = random_source

    def draw(self) -> int:
        """One rank."""
        return bisect_left(self._cumulative, self._random.random() * self._cumulative[-1])


@dataclass(frozen=True, slots=True)
class Subjects:
    """What can be asked about, most popular first."""

    resource_ids: tuple[UUID, ...]
    queries: tuple[str, ...]
    pages: tuple[tuple[ResourceType, int], ...]


def read_subjects(opened: sqlite3.Connection, page_size: int = 10) -> Subjects:
    """Rank the catalog's resources, words and pages; the same in every process that reads the same database."""
    rows = opened.execute("SELECT id, type, summary FROM resources ORDER BY dependents DESC, name").fetchall()
    counts = Counter(ResourceType(kind) for _, kind, _ in rows)
    pages = [(kind, page + 1) for kind, count in counts.items() for page in range((count + page_size - 1) // page_size)]
    # Everyone starts at page 1, whatever the type.
    pages.sort(key=lambda entry: (entry[1], entry[0]))
    return Subjects(
        tuple(UUID(identity) for identity, _, _ in rows),
        vocabulary([summary for _, _, summary in rows]),
        tuple(pages),
    )


def vocabulary(summaries: Sequence[str], size: int = _VOCABULARY) -> tuple[str, ...]:
    """Queries that a reader of these docstrings might type: telling words, and pairs that occur together."""
    found_words = (dict.fromkeys(_WORD.findall(summary.lower())) for summary in summaries)
    texts = [[word for word in words if word not in _PLAIN] for words in found_words]
    frequency = Counter(word for text in texts for word in text)
    # A word in every tenth docstring tells nothing apart.
    telling = {word for word, count in frequency.items() if count <= max(2, len(texts) // 10)}
    pairs = Counter(pair for text in texts for pair in _pairs([word for word in text if word in telling]))
    ranked = Counter({word: frequency[word] for word in telling}) + pairs
    found = sorted(ranked, key=lambda query: (-ranked[query], query))[:size]
    return tuple(found) or ("module",)


def _pairs(words: list[str]) -> list[str]:
    return [f"{first} {second}" for first, second in pairwise(words)]


class Workload:
    """An endless, repeatable sequence of calls and writes."""

    def __init__(self, subjects: Subjects, seed: int, writes: float, exponent: float = 1.0) -> None:
        self._random = random.Random(seed)
        self._subjects = subjects
        self._writes = writes
        self._resources = Zipf(len(subjects.resource_ids), exponent, self._random)
        self._queries = Zipf(len(subjects.queries), exponent, self._random)
        self._pages = Zipf(len(subjects.pages), exponent, self._random)
        self._result_pages = Zipf(3, 2.0, self._random)
        self._names = list(_MIX)
        self._shares = list(accumulate(_MIX.values()))
        self._special: dict[str, Callable[[], tuple[object, ...]]] = {
            "search": lambda: (subjects.queries[self._queries.draw()], self._result_pages.draw() + 1),
            "list_by_type": lambda: subjects.pages[self._pages.draw()],
        }

    def next(self) -> Call | Write:
        """Whatever comes next."""
        if self._random.random() < self._writes:
            count = _BULK_RESOURCES if self._random.random() < _BULK_SHARE else 1
            return Write(tuple(dict.fromkeys(self._resource_id() for _ in range(count))))
        (name,) = self._random.choices(self._names, cum_weights=self._shares)
        special = self._special.get(name)
        return Call(name, special() if special else (self._resource_id(),))

    def _resource_id(self) -> UUID:
        return self._subjects.resource_ids[self._resources.draw()]
