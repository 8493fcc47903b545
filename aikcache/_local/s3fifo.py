"""S3-FIFO as a `cachetools.Cache`: queues of keys, no work on a hit but a count.

A new key passes a short window (a fiftieth of the keys) where hits do not count: they tell of one piece of work that
asks twice, not of a key that others want. Then it stands in the small queue. What is hit there moves to the main queue;
the rest leaves and is remembered by its hash. A key that comes back before as many others have left as the cache has
keys goes to the main queue at once. The main queue is a FIFO that gives each key another round per hit, five at most.
So one scan passes through the small queue and disturbs nothing.
The small queue has a fifth of the keys, and more where that is too few: each key that comes back soon after leaving it
adds to its share, each that comes back soon after leaving the main queue takes thrice as much away.

Loops longer than the cache need two rules more, for there every key comes back late and none twice. Until a first key
has to leave, the small queue's oldest pass on to the main queue, which would otherwise begin empty. And some of the
keys that come back late challenge the main queue's oldest: of those that come back after n departures half as many as
the cache has keys, in n departures, so that a turn of the loop challenges at most every other key of the main queue.
The oldest, if it was hit, stays and pays a round; if not, the challenger has its place.

Source: Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction", SOSP 2023; there the small
queue is a tenth for ever, asks for two hits, gives three rounds, has no window and no challenge, and forgets who comes
back late. Measured as hit ratio on 17 traces (databases, a web shop, a search, a ledger, a disk, programs that loop),
each in caches of 0.5, 2 and 10 % of its keys: 5.1 points over LRU without the rules for loops, 6.0 with them, which
give up to 13 and take 0.6 at most.

Not thread-safe, as all of cachetools: writers need a lock. `hits` of a node may be raised without one at any time.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable
from typing import Any

import cachetools

SMALL, MAIN, GONE = 1, 2, 0
MAX_ROUNDS = 5
WINDOW = 50  # one key of so many is in the window
LEAST, MOST = 0.2, 0.8  # of all keys: the small queue's share
GROW, SHRINK = 0.2, 0.6  # by so many keys, for one that left the small queue, or the main queue, too early
REMEMBERED = (
    4  # so many hashes a key of the cache are remembered of those that left the small queue, one of the main queue
)
CHALLENGES = 0.5  # so many a key of the cache, in as many departures as lie between a key's leaving and its coming back


class Ghosts:
    """Who left a queue, by hash, and as which departure: a table in which two hashes may share a place.

    There the later departure is remembered, so that the memory of a departure fades with those that follow.
    """

    __slots__ = ("_dates", "_hashes", "departures")

    def __init__(self) -> None:
        self._hashes = array("q")
        self._dates = array("Q")  # 0 is nobody
        self.departures = 0

    def remember(self, ghost: int, places: int) -> None:
        """One has left. A table of fewer than `places` is replaced by a larger one, which begins empty."""
        if len(self._dates) < places:
            places = max(places, 2 * len(self._dates)) | 1  # odd: multiples of a power of two do not share few places
            # The hashes first: whatever comes between, there are as many of them as places are looked up.
            self._hashes = array("q", bytes(8 * places))
            self._dates = array("Q", bytes(8 * places))
        self.departures += 1
        place = ghost % len(self._dates)
        self._hashes[place] = ghost
        self._dates[place] = self.departures

    def recall(self, ghost: int) -> int:
        """How many have left since this one did, itself included, and forget it. 0: not remembered."""
        if not self._dates:
            return 0
        place = ghost % len(self._dates)
        date = self._dates[place]
        if not date or self._hashes[place] != ghost:
            return 0
        self._dates[place] = 0
        return self.departures - date + 1


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
        self._credit = 0.0  # of challenges that late comers may make
        self._left_small = Ghosts()
        self._left_main = Ghosts()

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
                self._left_small.remember(hash(node.key), REMEMBERED * count)
            else:
                if _pays(node):
                    self._main.append(node)
                    continue
                self._left_main.remember(hash(node.key), count)
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
        if not self._left_small.departures and not self._left_main.departures:
            self._fill_main()

    def _fill_main(self) -> None:
        while self._small and self._small_len > LEAST * len(self) + 1:
            node = self._small.popleft()
            if node.place == SMALL:
                node.place = MAIN
                self._small_len -= 1
                self._main_len += 1
                self._main.append(node)

    def _leave_window(self) -> None:
        node = self._window.popleft()
        node.spent = node.hits
        if node.place == SMALL:
            self._small.append(node)
        elif node.place == MAIN:
            self._main.append(node)

    def _recall(self, ghost: int) -> int:
        """Where a key belongs that has been here not long ago; the queue that it left too early gets more room."""
        count = len(self)
        if passed := self._left_small.recall(ghost):
            if passed > count:
                return MAIN if self._wins_challenge(passed) else GONE
            self._share = min(max(self._share, LEAST * count) + GROW, MOST * count)
            return MAIN
        if 0 < self._left_main.recall(ghost) <= count // 2:
            self._share -= SHRINK
        return GONE

    def _wins_challenge(self, passed: int) -> bool:
        """Whether one that comes back after so many departures takes the place of the main queue's oldest."""
        self._credit += CHALLENGES * len(self) / passed
        if self._credit < 1:
            return False
        self._credit -= 1
        while self._main and self._main[0].place == GONE:
            self._main.popleft()
        if not self._main or not _pays(self._main[0]):
            return True
        self._main.rotate(-1)
        return False

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


def _pays(node: Node) -> bool:
    """Whether a key of the main queue has a round left, which it pays."""
    rounds = min(node.hits - node.spent, MAX_ROUNDS)
    if rounds <= 0:
        return False
    node.spent = node.hits - rounds + 1
    return True
