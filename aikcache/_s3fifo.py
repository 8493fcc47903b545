"""S3-FIFO as a `cachetools.Cache`: three queues, no work on a hit but a count.

A new key enters the small queue (a fifth of the room). What has been hit once by the time it reaches the end moves to
the main queue, the rest leaves and is remembered by its hash for as long as the main queue is deep: coming back within
that time, it enters the main queue at once. The main queue is a FIFO that gives each key another round per hit, three
at most. So one scan passes through the small queue and disturbs nothing.

Source: Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction", SOSP 2023. Two differences,
measured on real traces: promotion after one hit, not two, and a small queue of a fifth, not a tenth (a tenth loses to
LRU by up to 3 points where the cache is large against the traffic's working set).

Not thread-safe, as all of cachetools: writers need a lock. `hits` of a node may be raised without one at any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import cachetools

SMALL, MAIN, GONE = 1, 2, 0
MAX_ROUNDS = 3


class Node:
    """A key's place in the queues. `hits` counts for ever; `spent` of them have already bought a round."""

    __slots__ = ("hits", "key", "place", "spent", "value")

    def __init__(self, key: Any, value: Any) -> None:
        self.key = key
        self.value = value
        self.hits = 0
        self.spent = 0
        self.place = GONE


class S3FIFOCache(cachetools.Cache[Any, Any]):
    """S3-FIFO over `maxsize` (in the unit of `getsizeof`, which is 1 a value by default).

    `value in cache` and iteration do not count as hits; `cache[key]` does.
    """

    def __init__(self, maxsize: float, getsizeof: Callable[[Any], float] | None = None) -> None:
        super().__init__(maxsize, None if getsizeof is None else lambda node: getsizeof(node.value))
        self._small: deque[Node] = deque()
        self._main: deque[Node] = deque()
        self._small_len = self._main_len = 0  # without the nodes that have gone but still stand in a queue
        self._ghosts: deque[int] = deque()
        self._ghost: set[int] = set()

    def _node(self, key: Any, value: Any) -> Node:
        return Node(key, value)

    def __getitem__(self, key: Any) -> Any:
        node = super().__getitem__(key)
        node.hits += 1
        return node.value

    def __setitem__(self, key: Any, value: Any) -> None:
        node = self._node(key, value)
        place = GONE
        if key in self:
            if self.getsizeof(node) > self.maxsize:
                raise ValueError("value too large")  # as cachetools: a refused replacement changes nothing
            place = self._remove(key)
        super().__setitem__(key, node)  # evicts through popitem until there is room
        ghost = hash(key)
        if ghost in self._ghost:
            self._ghost.discard(ghost)
            place = MAIN
        self._enter(node, place or SMALL)

    def __delitem__(self, key: Any) -> None:
        self._remove(key)

    def peek(self, key: Any) -> Node:
        """The node of a key, without counting a hit."""
        node: Node = super().__getitem__(key)
        return node

    def popitem(self) -> tuple[Any, Any]:
        """Evict one key, the one that S3-FIFO chooses; `KeyError` when there is none."""
        if not self:
            raise KeyError("the cache is empty")
        node = self._choose()
        return node.key, node.value

    def _choose(self) -> Node:
        for _ in range(4 * (len(self._small) + len(self._main)) + 4):  # hits arriving meanwhile cannot hold us here
            if self._small and (self._small_len * 5 > len(self) or not self._main_len):
                node = self._small.popleft()
                if node.place != SMALL:
                    continue
                if node.hits > node.spent and self._main_len + 1 < max(len(self), 2):
                    self._small_len -= 1
                    node.spent = node.hits
                    self._enter(node, MAIN)
                    continue
                self._remember(hash(node.key))
            elif self._main:
                node = self._main.popleft()
                if node.place != MAIN:
                    continue
                rounds = min(node.hits - node.spent, MAX_ROUNDS)
                if rounds > 0:
                    node.spent = node.hits - rounds + 1
                    self._main.append(node)
                    continue
            else:
                break
            self._remove(node.key)
            return node
        node = self.peek(next(iter(self)))
        self._remove(node.key)
        return node

    def _enter(self, node: Node, place: int) -> None:
        node.place = place
        if place == SMALL:
            self._small.append(node)
            self._small_len += 1
        else:
            self._main.append(node)
            self._main_len += 1

    def _remove(self, key: Any) -> int:
        """Take a key out of the mapping, and say where it was; its node stays queued until the end, or a sweep."""
        node = self.peek(key)
        super().__delitem__(key)
        place, node.place = node.place, GONE
        if place == SMALL:
            self._small_len -= 1
        else:
            self._main_len -= 1
        if len(self._small) + len(self._main) > 2 * len(self) + 1024:
            self._small = deque(n for n in self._small if n.place == SMALL)
            self._main = deque(n for n in self._main if n.place == MAIN)
        return place

    def _remember(self, ghost: int) -> None:
        self._ghost.add(ghost)
        self._ghosts.append(ghost)
        while len(self._ghosts) > max(len(self), 1):
            self._ghost.discard(self._ghosts.popleft())
