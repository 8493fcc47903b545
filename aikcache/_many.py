"""Many keys at once: one round trip for all hits, one for all leases, one for all stores.

The function is run for the keys whose lease is ours, by whatever means the caller gives (`load`: one call for all of
them, or one each). Keys that somebody else is loading are waited for afterwards, so no two batches can wait for each
other while either holds back what the other needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from ._flights import ALONE, FAILED, LANDED, Flight, Held
from ._frame import Frame
from ._glance import NOTHING
from ._local import Region
from ._policy import Policy
from ._remote import Read
from ._request import MISSING, Ready, Request
from ._stamped import FIRST_PAUSE, LONGEST_PAUSE
from ._tiers import Tiers
from .errors import RemoteError

Load = Callable[[Sequence[int]], Sequence[Any]]
"""Results for the requests at these places, each a value or `MISSING`, in the same order."""


def fetch(tiers: Tiers, requests: Sequence[Request], load: Load) -> list[Any]:
    """The values of many requests of one function, or `MISSING` where `load` gave none."""
    values: list[Any] = [MISSING] * len(requests)
    wanted: dict[str, list[int]] = {}
    for i, request in enumerate(requests):
        entry = tiers.local.find(request.key, request.region, None)
        if entry is not None:
            values[i] = tiers.take(entry, request)
            if values[i] is MISSING:
                entry.region.retired -= 1
        if values[i] is MISSING:
            wanted.setdefault(request.key, []).append(i)
    if wanted:
        _Batch(tiers, requests, load, values).run([places[0] for places in wanted.values()])
        for first, *others in wanted.values():
            for i in others:  # the same key asked for twice: a value of its own for each
                requests[i].first = None
                values[i] = MISSING if values[first] is MISSING else tiers.call(requests[i])
    return values


def glance(
    tiers: Tiers, region: Region, policy: Policy, texts: Sequence[str], local_keys: Sequence[Hashable]
) -> list[Any]:
    """Values of many calls of one function by the shortest road, one MGET; `Missed` for those it cannot answer.

    `texts` are their keys without the lead; `local_keys` are empty where nothing is held locally.
    """
    lead = tiers.space.lead
    keys = [lead + text for text in texts]
    found: list[Any] = [NOTHING] * len(keys)
    if tiers.road is None or not keys:
        return found
    if not (local_keys or tiers.local or tiers.flights):  # nothing here that could know better
        return tiers.road.many(keys, region, (), policy)
    useless: set[int] = set()  # places of entries that cannot answer any more
    for i, local_key in enumerate(local_keys):
        try:
            entry = region.table[local_key]
        except KeyError:
            continue
        entry.hits += 1  # as in `_wrapper`
        useless.add(i)
        value = tiers.serve_late(entry, policy)
        if value is MISSING:
            region.retired -= 1
        else:
            found[i] = value
    asked = [
        i
        for i, key in enumerate(keys)
        if found[i] is NOTHING and key not in tiers.flights and (i in useless or key not in tiers.local)
    ]
    if asked:
        seen = tiers.road.many(
            [keys[i] for i in asked], region, [local_keys[i] for i in asked] if local_keys else (), policy
        )
        for i, value in zip(asked, seen, strict=True):
            found[i] = value
    return found


def peek(tiers: Tiers, requests: Sequence[Request]) -> list[Any]:
    """The values that are cached, `MISSING` for the others; nothing is loaded, and nobody is waited for."""
    values: list[Any] = [MISSING] * len(requests)
    for i, request in enumerate(requests):
        request.epoch, request.began = request.region.epoch, tiers.clock()
        request.groups, request.only_fresh = tiers.groups_of(request), True
        entry = tiers.local.find(request.key, request.region, None)
        if entry is not None:
            values[i] = tiers.serve(entry, request.policy.codec)
            if values[i] is MISSING:
                entry.region.retired -= 1
    batch = _Batch(tiers, requests, lambda places: [], values)
    for i in batch.look([i for i, value in enumerate(values) if value is MISSING]):
        requests[i].region.counters.misses += 1
    return values


class _Batch:
    """One run of `fetch` over the requests that were not local."""

    def __init__(self, tiers: Tiers, requests: Sequence[Request], load: Load, values: list[Any]) -> None:
        self.tiers = tiers
        self.requests = requests
        self.load = load
        self.values = values
        self.flights: dict[int, Flight] = {}
        self.tokens: dict[int, bytes] = {}

    def run(self, places: list[int]) -> None:
        deadline = self.tiers.clock() + self.tiers.config.lease_wait
        others = [i for i in places if not self._lead(i)]
        try:
            missing = self.look([i for i in places if i in self.flights])
            busy = self._acquire(missing)
            self._run([i for i in missing if i not in busy])
            self._wait(busy, deadline)
        finally:
            for i in list(self.flights):
                self._land(i, FAILED)
            self._release()
        for i in others:  # led by other threads: they land by themselves, or we go on as a single call does
            self.requests[i].first = None
            self.values[i] = self.tiers.call(self.requests[i])

    def _lead(self, i: int) -> bool:
        request = self.requests[i]
        request.groups = self.tiers.groups_of(request)
        flight, leading = self.tiers.flights.join(request.key, request.all_groups(), self.tiers.clock())
        if leading:
            self.flights[i] = flight
            request.epoch = request.region.epoch
            request.began = self.tiers.clock()
            landed = self.tiers.landed(request)
            if landed is not None:
                self.values[i], held = landed
                self._land(i, LANDED, held)
        return leading

    def _land(self, i: int, state: int, held: Held | None = None) -> None:
        flight = self.flights.pop(i, None)
        if flight is not None:
            self.tiers.flights.done(flight, state, held)

    def look(self, places: list[int]) -> list[int]:
        """Read all values at once; what is fresh is handed out, the rest comes back."""
        tiers = self.tiers
        if tiers.shared is None or not places:
            return places
        try:
            reads = tiers.shared.read_many([self.requests[i] for i in places])
            frames = tiers.shared.parse([(self.requests[i], read.data) for i, read in zip(places, reads, strict=True)])
            missing = []
            for i, read, frame in zip(places, reads, frames, strict=True):
                self.requests[i].seen = read.data or b""
                if frame is None or not self._take(i, read, frame):
                    missing.append(i)
            return missing
        except RemoteError as error:
            tiers.keeper.failed(self.requests[places[0]], error)
            return [i for i in places if self.values[i] is MISSING]

    def _take(self, i: int, read: Read, frame: Frame | None = None) -> bool:
        found = self.tiers.look(self.requests[i], read, frame)
        if found is None:
            return False
        self.values[i], held = found
        self.requests[i].region.counters.remote_hits += 1
        self._land(i, LANDED, held)
        return True

    def _acquire(self, places: list[int]) -> list[int]:
        """Ask for all leases at once; gives the places that others are loading."""
        tiers = self.tiers
        places = [i for i in places if self.requests[i].known]  # the others' first question was not answered
        if tiers.shared is None or not places:
            return []
        try:
            tiers.shared.ensure(*(self.requests[i] for i in places))
            return self._ask_leases(places)
        except RemoteError as error:
            tiers.keeper.failed(self.requests[places[0]], error)
            return []

    def _ask_leases(self, places: list[int]) -> list[int]:
        tiers = self.tiers
        assert tiers.shared is not None
        tokens, answers = tiers.shared.ask_leases([self.requests[i] for i in places])
        self.tokens.update((i, token) for i, token, got in zip(places, tokens, answers, strict=True) if got is None)
        busy = []
        for i, answer in zip(places, answers, strict=True):
            if answer is not None and not (isinstance(answer, Read) and self._take(i, answer)):
                busy.append(i)
        return busy

    def _run(self, places: list[int]) -> None:
        """One load for all of these, and one round trip to store what came of it."""
        places = [i for i in places if self.values[i] is MISSING]
        if not places:
            return
        tiers = self.tiers
        with tiers.keeper.holding([(self.requests[i].key, self.tokens[i]) for i in places if i in self.tokens]):
            started = tiers.clock()
            with tiers.flights.loading(*(self.requests[i].key for i in places)):
                results = self.load(places)
            cost = tiers.clock() - started
            stores = []
            for i, result in zip(places, results, strict=True):
                request = self.requests[i]
                request.region.counters.misses += 1
                if result is MISSING:
                    continue
                request.region.counters.loads += 1
                leased = i in self.tokens
                self.values[i], held, ready = tiers.keeper.prepare(request, result, cost, leased=leased)
                if held is None or ready is None:
                    self._land(i, ALONE if held is None else LANDED, held)
                elif leased:
                    stores.append((i, held, ready))
                else:
                    tiers.keeper.keep_here(request, held, ready)
                    self._land(i, LANDED, held)
            self._store(stores)

    def _store(self, stores: list[tuple[int, Held, Ready]]) -> None:
        tiers = self.tiers
        if not stores or tiers.remote is None:
            return
        items = [(self.requests[i].key, self.tokens[i], ready.frame, ready.keep_ms) for i, _, ready in stores]
        try:
            stored = tiers.remote.store(items)
        except RemoteError as error:
            tiers.keeper.failed(self.requests[stores[0][0]], error)
            stored = [False] * len(stores)
        for (i, held, ready), done in zip(stores, stored, strict=True):
            if done:
                del self.tokens[i]
                tiers.keeper.wrote(self.requests[i], len(ready.frame))
                tiers.keeper.keep_here(self.requests[i], held, ready)
            self._land(i, LANDED, held)

    def _wait(self, busy: list[int], deadline: float) -> None:
        """What others load: look again until it is there, or load what is left without a lease."""
        pause = FIRST_PAUSE
        while busy and self.tiers.clock() < deadline:
            time.sleep(pause)
            pause = min(pause * 1.6, LONGEST_PAUSE)
            missing = self.look(busy)
            busy = self._acquire(missing)
            self._run([i for i in missing if i not in busy])
        self._run(busy)

    def _release(self) -> None:
        left = [(self.requests[i].key, token) for i, token in self.tokens.items()]
        if left and self.tiers.shared is not None:
            self.tiers.shared.leases.end(left)
