"""The one load algorithm: the calls of one function that the fast path could not answer, one or many at once.

    held here ─▶ flight ─▶ Redis: values, stamps ─▶ leases, under these stamps ─▶ function ─▶ store and file ─▶ values

Each arrow is one round trip for all calls, and one call is a batch of one. The function runs for the calls whose lease
this process got. Keys that other threads load are waited for afterwards, so two batches never wait for each other while
either holds back what the other needs. Keys that other processes load are asked for again, with growing pauses.

It runs in steps, which ask for the function by a `yield` (see `call.Steps`). Failure: whatever Redis does, the function
answers. What interrupts a load from outside (a signal handler's exception) leaves no flight and no lease behind.
"""

from __future__ import annotations

import threading
import time
from _thread import LockType
from collections.abc import Sequence
from typing import Any

from aikcache._concurrency.chance import chance
from aikcache._concurrency.outside import BUGS, let_out
from aikcache._engine import refreshing
from aikcache._engine.batch import Batch
from aikcache._engine.call import MISSING, Attempt, Steps
from aikcache._engine.running import beside, load
from aikcache._engine.single_flight import LANDED, UNSHAREABLE, Flight, hand_out
from aikcache._engine.versioned_store import VersionedStore
from aikcache._remote.store import Read
from aikcache.errors import DecodeError, RemoteError

FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.05


def answer(batch: Batch) -> Steps[list[Any]]:
    """The values, or `MISSING` where the function gave none."""
    engine, attempts = batch.engine, batch.attempts
    apart = [i for i, attempt in enumerate(attempts) if engine.passive or engine.covered(attempt.call)]
    yield from beside(batch, apart)
    places = [i for i in range(len(attempts)) if i not in apart] if apart else range(len(attempts))
    if engine.local.waiting and (block := next(iter(refreshing.blocks(engine.local)), None)):
        anew = [i for i in places if block.begins(attempts[i].key)]
        yield from reload(batch, anew)
        places = [i for i in places if i not in anew]
        for i in places:
            attempts[i].again()
    while places:
        wanted: dict[str, int] = {}
        again: list[int] = []
        for i in places:
            value = batch.values[i] = engine.freshness.held(attempts[i])
            if value is MISSING and wanted.setdefault(attempts[i].key, i) != i:
                again.append(i)
        yield from _answer(batch, list(wanted.values()))
        # The same key asked for twice: a value of its own for each.
        places = [i for i in again if batch.values[wanted[attempts[i].key]] is not MISSING]
        for i in places:
            attempts[i].again()
    return batch.values


def reload(batch: Batch, places: Sequence[int]) -> Steps[None]:
    """Run the function, whatever is cached, and keep what it gives; an invalidation meanwhile still undoes it."""
    engine, remote = batch.engine, batch.engine.remote_tier
    attempts = [batch.attempts[i] for i in places]
    for attempt in attempts:
        attempt.begin(engine.clock())
    try:
        if remote is not None and attempts:
            try:
                remote.read(attempts)
                remote.ensure(*attempts)
                remote.ask_leases(attempts, insist=True)
            except RemoteError as error:
                engine.filler.failed(attempts[0], error)
        yield from load(batch, places)
    finally:
        if remote is not None:
            remote.let_go(attempts)


def _answer(batch: Batch, places: Sequence[int]) -> Steps[None]:
    """Lead what nobody leads, then wait for the others."""
    engine = batch.engine
    nested = [i for i in places if engine.flights.loading_here(batch.attempts[i].key)]
    if nested:  # a function that calls itself
        yield from beside(batch, nested)
        places = [i for i in places if i not in nested]
    deadline = engine.patience_ends()
    for i in places:
        batch.attempts[i].begin(engine.clock())
    while places:
        others: dict[int, Flight] = {}
        leader = threading.Lock()
        with leader:  # whatever comes between, here it ends, and then nobody waits for us
            try:
                for i in places:
                    _join(batch, i, leader, others)
                led = list(batch.flights)
                yield from _lead(batch, led, deadline)
            finally:
                try:
                    batch.land_rest()
                finally:
                    if engine.remote_tier is not None:
                        engine.remote_tier.let_go(batch.attempts)
        places = []
        for i, flight in others.items():
            if led or not (yield from _joined(batch, i, flight, deadline)):
                places.append(i)
            batch.attempts[i].first = None  # that was long ago
        if led and places:
            deadline = engine.patience_ends()


def _join(batch: Batch, i: int, leader: LockType, others: dict[int, Flight]) -> None:
    attempt, engine = batch.attempts[i], batch.engine
    mine = Flight(attempt.key, attempt.call.all_groups(), engine.clock(), leader)
    flight = engine.flights.join(mine)
    if flight is not mine:
        others[i] = flight
        return
    batch.flights[i] = mine
    mine.strong = bool(attempt.policy.strong)
    attempt.begin(engine.clock())
    landed = engine.freshness.landed(attempt)
    if landed is not None:
        batch.values[i], held = landed
        batch.land(i, LANDED, held)


def lead_alone(batch: Batch) -> bool:
    """Lead the flight of the only call, for a load that no call waits for. False: another does."""
    attempt, leader = batch.attempts[0], threading.Lock()
    leader.acquire()
    flight = Flight(attempt.key, attempt.call.all_groups(), batch.engine.clock(), leader)
    leads = batch.engine.flights.join(flight) is flight
    if leads:
        batch.flights[0] = flight
        attempt.begin(batch.engine.clock())
    return leads


def _joined(batch: Batch, i: int, flight: Flight, deadline: float) -> Steps[bool]:
    """Wait for another's load. False: it gave nothing for this call."""
    attempt, engine, now = batch.attempts[i], batch.engine, batch.engine.clock()
    counters = attempt.region.counters
    if now >= attempt.region.trusted_until and now >= flight.began + engine.config.max_staleness:
        flight.ended = True  # nobody vouches that it has not been overtaken: it is not joined any more
        engine.flights.end_key(attempt.key)
        return False
    counters.waits += 1
    landed = engine.flights.wait(flight, _patience(batch, attempt, deadline))
    if flight.ended:  # what was invalidated meanwhile is gone
        attempt.fallback = None
    if not landed and attempt.fallback is not None:
        batch.fall_back(i, None)
    elif not landed or flight.state == UNSHAREABLE:
        yield from beside(batch, [i])
    elif attempt.policy.strong and not (flight.strong and flight.began > attempt.read_started_at):
        batch.look_again(i, hit=True)  # what began before this call may be older than what it must see
    elif flight.state == LANDED and (attempt.policy.extra or not flight.held.stale):
        try:
            batch.values[i] = hand_out(flight.held, attempt.policy.codec)
        except DecodeError:
            return False
        counters.joined += 1
        counters.stale += flight.held.stale
    return batch.values[i] is not MISSING or not landed or flight.state == UNSHAREABLE


def _patience(batch: Batch, attempt: Attempt, deadline: float) -> float:
    """Seconds to wait for another's load: less when there is a stale value to answer with."""
    left = deadline - batch.engine.clock()
    timeout = attempt.policy.load_timeout
    return left if attempt.fallback is None or timeout is None else min(left, timeout)


def _lead(batch: Batch, places: Sequence[int], deadline: float) -> Steps[None]:
    engine, remote = batch.engine, batch.engine.remote_tier
    places = [i for i in places if i in batch.flights]
    busy: list[int] = []
    if remote is not None and places:
        try:
            missing = batch.look(remote, places)
            if missing:
                remote.ensure(*(batch.attempts[i] for i in missing))
                busy = _lease(batch, remote, missing)
        except (RemoteError, *BUGS) as error:  # the function can still answer
            let_out(error)
            engine.filler.failed(batch.attempts[places[0]], error)
    yield from load(batch, [i for i in places if i in batch.flights and i not in busy], rescue=True)
    if remote is not None and busy:
        yield from _wait(batch, remote, busy, deadline)


def _lease(batch: Batch, remote: VersionedStore, places: Sequence[int]) -> list[int]:
    """Ask for all leases at once; gives the places that others are loading."""
    answers = remote.ask_leases([batch.attempts[i] for i in places])
    busy = []
    for i, answer in zip(places, answers, strict=True):
        if answer is not None and not (isinstance(answer, Read) and batch.accept(i, answer)):
            busy.append(i)
    return busy


def _wait(batch: Batch, remote: VersionedStore, busy: list[int], deadline: float) -> Steps[None]:
    """What other processes load: ask again until it is there, or is ours, or took too long."""
    engine, pause = batch.engine, FIRST_PAUSE
    for i in busy:
        batch.attempts[i].region.counters.waits += 1
    ends = {i: engine.clock() + _patience(batch, batch.attempts[i], deadline) for i in busy}
    while busy:
        now = engine.clock()
        late = [i for i in busy if ends[i] <= now]
        if not late:
            time.sleep(min(pause * chance.uniform(0.5, 1.5), min(ends[i] for i in busy) - now))
            pause = min(pause * 1.6, LONGEST_PAUSE)
            asked, busy = busy, []
            try:
                busy = _lease(batch, remote, asked)
            except (RemoteError, *BUGS) as error:
                let_out(error)
                engine.filler.failed(batch.attempts[asked[0]], error)
            late = [i for i in asked if i in batch.flights and i not in busy]
        else:
            busy = [i for i in busy if i not in late]
            for i in late:
                if batch.attempts[i].fallback is not None and not batch.flights[i].ended:
                    batch.fall_back(i, None)
            late = [i for i in late if i in batch.flights]
        yield from load(batch, late, rescue=True)
