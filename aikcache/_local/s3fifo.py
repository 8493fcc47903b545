"""S3-FIFO as a `cachetools.Cache`: queues of keys, no work on a hit but a count.

A new key passes a short window (a fiftieth of the keys) where hits do not count: they tell of one piece of work that
asks twice, not of a key that others want. Then it stands in the small queue. What is hit there moves to the main queue;
the rest leaves and is remembered by its hash, for as many departures as the cache has keys: coming back within that
time, it goes to the main queue at once. The main queue is a FIFO that gives each key another round per hit, five at
most. So one scan passes through the small queue and disturbs nothing.
The small queue has a fifth of the keys, and more where that is too few: each key that comes back soon after leaving it
adds to its share, each that comes back soon after leaving the main queue takes thrice as much away.

Source: Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction", SOSP 2023; there the small
queue is a tenth for ever, asks for two hits, gives three rounds, and has no window. Measured on traces of databases, a
web shop, memcached and disks: the window adds 0.3 to 1.3 points of hit ratio, and a share that grows up to 9 in caches
of 50 to 100 keys. Five rounds in place of three add 1.5 where LRU was 1.2 ahead, and take 0.8 elsewhere at most.

Not thread-safe, as all of cachetools: writers need a lock. `hits` of a node may be raised without one at any time.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import cachetools

SMALL, MAIN, GONE = 1, 2, 0
MAX_ROUNDS = 5
WINDOW = 50  # one key of so many is in the window
LEAST, MOST = 0.2, 0.8  # of all keys: the small queue's share
GROW, SHRINK = 0.2, 0.6  # by so many keys, for one that left the small queue, or the main queue, too early

Ghosts = OrderedDict[int, None]
"""Hashes of the keys that left a queue, the oldest first."""


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
        self._window: deque[Node] = deque()  # on their way to one of these
        self._small: deque[Node] = deque()
        self._main: deque[Node] = deque()
        # With those still in the window, without the nodes that have gone but still stand in a queue.
        self._small_len = self._main_len = 0
        self._share = 0.0  # so many keys the small queue may have, and `LEAST` of all in any case
        self._left_small: Ghosts = OrderedDict()
        self._left_main: Ghosts = OrderedDict()

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
        self._enter(node, self._recall(hash(key)) or place or SMALL)

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
        count = len(self)
        share = max(self._share, LEAST * count)
        # Hits that arrive meanwhile cannot hold us here.
        for _ in range((MAX_ROUNDS + 1) * (len(self._window) + len(self._small) + len(self._main)) + 4):
            if self._small_len > share or not self._main_len:
                queue, place = self._small, SMALL
            else:
                queue, place = self._main, MAIN
            if not queue:
                if not self._window:
                    break
                self._leave_window()
                continue
            node = queue.popleft()
            if node.place == GONE:
                continue
            if place == SMALL:
                if node.hits > node.spent:
                    node.spent = node.hits
                    node.place = MAIN
                    self._small_len -= 1
                    self._main_len += 1
                    self._main.append(node)
                    continue
                _remember(self._left_small, hash(node.key), count)
            else:
                rounds = min(node.hits - node.spent, MAX_ROUNDS)
                if rounds > 0:
                    node.spent = node.hits - rounds + 1
                    self._main.append(node)
                    continue
                _remember(self._left_main, hash(node.key), count // 2)
            self._remove(node.key)
            return node
        node = self.peek(next(iter(self)))
        self._remove(node.key)
        return node

    def _enter(self, node: Node, place: int) -> None:
        node.place = place
        if place == SMALL:
            self._small_len += 1
        else:
            self._main_len += 1
        self._window.append(node)
        while len(self._window) * WINDOW > self._small_len + self._main_len + WINDOW:
            self._leave_window()

    def _leave_window(self) -> None:
        node = self._window.popleft()
        node.spent = node.hits
        if node.place == SMALL:
            self._small.append(node)
        elif node.place == MAIN:
            self._main.append(node)

    def _recall(self, ghost: int) -> int:
        """Where a key belongs that has been here not long ago; the queue that it left too early gets more room."""
        if ghost in self._left_small:
            del self._left_small[ghost]
            self._share = min(max(self._share, LEAST * len(self)) + GROW, MOST * len(self))
            return MAIN
        if ghost in self._left_main:
            del self._left_main[ghost]
            self._share -= SHRINK
        return GONE

    def _remove(self, key: Any) -> int:
        """Take a key out of the mapping, and say where it was; its node stays queued until the end, or a sweep."""
        node = self.peek(key)
        super().__delitem__(key)
        place, node.place = node.place, GONE
        if place == SMALL:
            self._small_len -= 1
        else:
            self._main_len -= 1
        if len(self._window) + len(self._small) + len(self._main) > 2 * len(self) + 1024:
            self._window = deque(n for n in self._window if n.place != GONE)
            self._small = deque(n for n in self._small if n.place == SMALL)
            self._main = deque(n for n in self._main if n.place == MAIN)
        return place


def _remember(ghosts: Ghosts, ghost: int, most: int) -> None:
    ghosts[ghost] = None
    while len(ghosts) > max(most, 1):
        ghosts.popitem(last=False)
