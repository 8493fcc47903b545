"""The one load algorithm: the calls of one function that the fast path could not answer, one or many at once.

    local ─▶ flight ─▶ Redis: values, stamps ─▶ leases, under these stamps ─▶ function ─▶ store and file ─▶ values

Each arrow is one round trip for all calls; one call is a batch of one. The function runs for the calls whose lease
this process got. Keys that other threads load are waited for afterwards, so two batches never wait for each other while
each holds back what the other needs. Keys that other processes load are asked for again, with growing pauses.

It runs in steps, which ask for the function by a `yield` (see `call.Steps`). Failure: whatever Redis does, the function
answers. An interruption from outside (a signal handler's exception) leaves no flight and no lease behind.
"""

from __future__ import annotations

import threading
import time
from _thread import LockType
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aikcache._concurrency import chance
from aikcache._concurrency.outside import BUGS, let_out
from aikcache._engine import invalidation, refreshing
from aikcache._engine.batch import Batch
from aikcache._engine.call import MISSING, Attempt, Steps
from aikcache._engine.running import load, run_uncached
from aikcache._engine.single_flight import LANDED, UNSHAREABLE, Flight
from aikcache._keys.patterns import ANY_TAG, Invalidation
from aikcache._local.entry import Renewal, hand_out
from aikcache._remote.replies import Read
from aikcache.errors import DecodeError, RemoteError

if TYPE_CHECKING:
    from aikcache._engine.versioned_store import VersionedStore

FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.05


def answer(batch: Batch) -> Steps[list[Any]]:
    """The values, or `MISSING` where the function gave none."""
    engine, attempts = batch.engine, batch.attempts
    apart = [i for i, attempt in enumerate(attempts) if engine.passive or engine.covered(attempt.call)]
    yield from run_uncached(batch, apart)
    places = [i for i in range(len(attempts)) if i not in apart] if apart else range(len(attempts))
    if engine.local.waiting and (block := next(iter(refreshing.blocks(engine.local)), None)):
        first = {attempts[i].key: i for i in reversed(places)}
        keys = block.new(first)
        anew = sorted(map(first.__getitem__, keys))
        outer = refreshing.loading.get()
        mine = refreshing.Loading(block, frozenset(keys))
        try:
            refreshing.loading.set((*outer, mine))
            yield from reload(batch, anew)
            block.keys.update(keys)
        finally:
            mine.over = True
            refreshing.loading.set(outer)
        places = [i for i in places if i not in anew]
        for i in places:
            attempts[i].forget_lookups()
    while places:
        wanted: dict[str, int] = {}
        again: list[int] = []
        for i in places:
            value = batch.values[i] = engine.freshness.local_value(attempts[i])
            if value is MISSING and wanted.setdefault(attempts[i].key, i) != i:
                again.append(i)
        yield from _answer(batch, list(wanted.values()))
        # A key that was requested twice: each call gets its own value, or none where the function has just given none.
        places = [i for i in again if batch.values[wanted[attempts[i].key]] is not MISSING]
        for i in places:
            attempts[i].forget_lookups()
    return batch.values


def reload(batch: Batch, places: Sequence[int]) -> Steps[None]:
    """Run the function, whatever is cached, and store its results; an invalidation meanwhile still takes effect.

    Where a result cannot be kept, does not reach Redis or is refused there, the older value there must not outlive it.
    """
    engine, remote = batch.engine, batch.engine.remote_tier
    attempts = [batch.attempts[i] for i in places]
    keys = tuple(attempt.key for attempt in attempts)
    servers_seen = 0 if engine.recovery is None else engine.recovery.servers_seen
    renewal = Renewal(engine.clock())
    for attempt in attempts:
        attempt.begin(renewal.since)
        attempt.renewal = renewal
    renewal.forgot = engine.local.forgot  # after the epochs: what is counted twice would hide an invalidation
    try:
        if remote is not None and attempts:
            try:
                remote.read(attempts, values=False)
                remote.ensure(*attempts)
                remote.take_leases(attempts)
            except RemoteError as error:
                engine.filler.failed(attempts[0], error)
                if engine.recovery is not None:
                    engine.recovery.add(Invalidation(keys=keys))
        servers_seen = 0 if engine.recovery is None else engine.recovery.servers_seen  # after the first exchanges
        kept = {result.attempt.key for result in (yield from load(batch, places)) if result.lasts}
    except Exception:  # of the function, for other keys; with strict=True also of what it gave
        if renewal.given:
            invalidation.invalidate(engine, Invalidation(keys=tuple(renewal.given)))
        raise
    finally:
        renewal.given.clear()  # the local tier remembers a renewal for longer
        if engine.recovery is not None and attempts:  # also where it was interrupted, for some may be stored
            engine.recovery.wrote(Invalidation(keys=keys), servers_seen)
        if remote is not None:  # only an interruption leaves a lease: `load` has used or released all of its own
            remote.give_up_leases(attempts)
    if gone := tuple(key for key in keys if key not in kept):
        invalidation.invalidate(engine, Invalidation(keys=gone))


def _answer(batch: Batch, places: Sequence[int]) -> Steps[None]:
    """Lead the flights that no other call leads, then wait for the others."""
    engine = batch.engine
    nested = [i for i in places if engine.flights.loading_here(batch.attempts[i].key)]
    if nested:  # the function calls itself
        yield from run_uncached(batch, nested)
        places = [i for i in places if i not in nested]
    deadline = engine.wait_deadline()
    for i in places:
        batch.attempts[i].begin(engine.clock())
    while places:
        others: dict[int, Flight] = {}
        leader = threading.Lock()
        with leader:  # released by any exception, so that no caller waits for this one
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
                        engine.remote_tier.give_up_leases(batch.attempts)
        places = []
        for i, flight in others.items():
            # After its own loads it joins again instead of waiting: by now the other's value may be filed.
            if led or not (yield from _wait_for_flight(batch, i, flight, deadline)):
                places.append(i)
            batch.attempts[i].first = None  # it is out of date
        if led and places:
            deadline = engine.wait_deadline()  # the time that its own loads took is not waiting


def _flight(batch: Batch, attempt: Attempt, leader: LockType) -> Flight:
    call = attempt.call
    attempt.groups = [*call.all_groups(), *((ANY_TAG,) if call.by_key else ())]  # it may find a value with any tags
    return Flight(attempt.key, attempt.groups, batch.engine.clock(), leader)


def _join(batch: Batch, i: int, leader: LockType, others: dict[int, Flight]) -> None:
    attempt, engine = batch.attempts[i], batch.engine
    mine = _flight(batch, attempt, leader)
    flight = engine.flights.join(mine)
    if flight is not mine:
        others[i] = flight
        return
    batch.flights[i] = mine  # interrupted before this, it is never landed: `leader`, free by then, shows that
    mine.strong = bool(attempt.policy.strong)
    attempt.begin(engine.clock())
    # After joining: a load that landed before is found here, and a later one would have been joined.
    landed = engine.freshness.landed(attempt)
    if landed is not None:
        batch.values[i], cached = landed
        batch.land(i, LANDED, cached)
    elif attempt.fallback is not None and engine.refresher.resting(attempt.key):
        batch.use_fallback(i)  # another load failed after this call had looked: do not fail once more


def join_alone(batch: Batch) -> bool:
    """Lead the flight of the only call, for a load that no call waits for. False: another call leads it."""
    attempt, leader = batch.attempts[0], threading.Lock()
    leader.acquire()  # not by `with`: it is held for good, in a background thread, where no signal handler raises
    flight = _flight(batch, attempt, leader)
    leads = batch.engine.flights.join(flight) is flight
    if leads:
        batch.flights[0] = flight
        attempt.begin(batch.engine.clock())
    return leads


def _wait_for_flight(batch: Batch, i: int, flight: Flight, deadline: float) -> Steps[bool]:
    """Wait for another call's load. False: it gave nothing for this call."""
    attempt, engine, now = batch.attempts[i], batch.engine, batch.engine.clock()
    counters, trusted = attempt.region.counters, now < attempt.region.trusted_until
    if not trusted and now >= flight.started_at + engine.config.max_staleness:
        flight.invalidated = True  # it may have missed an invalidation: do not join it
        engine.flights.invalidate_key(attempt.key)
        return False
    counters.waits += 1
    landed = engine.flights.wait(flight, _patience(batch, attempt, deadline))
    if flight.invalidated:  # the stale value was invalidated meanwhile
        attempt.fallback = None
    if not landed and attempt.fallback is not None:
        batch.fall_back(i, None)
    elif not landed or flight.state == UNSHAREABLE:
        yield from run_uncached(batch, [i])  # uncached: a load that is still under way stores its own result
    elif attempt.policy.strong and not (flight.strong and flight.started_at > attempt.read_started_at):
        batch.read_again(i, hit=True)  # a load that began before this call may be too old for it
    elif (
        flight.state == LANDED
        and (attempt.policy.extra or not flight.cached.stale)
        and (trusted or now < flight.cached.requested_at + engine.config.max_staleness)
    ):
        try:
            batch.values[i] = hand_out(flight.cached.value, flight.cached.codec, attempt.policy.codec)
        except DecodeError:  # it was loaded as another type: this call has to load it too
            return False
        counters.joined += 1
        counters.stale += flight.cached.stale
    # After a run of its own, above, MISSING is an answer: the function gave none.
    return batch.values[i] is not MISSING or not landed or flight.state == UNSHAREABLE


def _patience(batch: Batch, attempt: Attempt, deadline: float) -> float:
    """Seconds to wait for another load: fewer when there is a stale value to answer with."""
    left = deadline - batch.engine.clock()
    timeout = attempt.policy.load_timeout
    return left if attempt.fallback is None or timeout is None else min(left, timeout)


def _lead(batch: Batch, places: Sequence[int], deadline: float) -> Steps[None]:
    engine, remote = batch.engine, batch.engine.remote_tier
    places = [i for i in places if i in batch.flights]
    busy: list[int] = []
    refusal = None if remote is None else remote.remote.connections.refusal()
    if refusal is not None and places and batch.attempts[places[0]].first is None:
        engine.filler.failed(batch.attempts[places[0]], refusal)  # not raised: while Redis is down, calls are quicker
    elif remote is not None and places:
        try:
            missing = batch.read(remote, places)
            if missing:
                remote.ensure(*(batch.attempts[i] for i in missing))
                busy = _lease(batch, remote, missing)
        except (RemoteError, *BUGS) as error:  # the function can still answer
            let_out(error)
            engine.filler.failed(batch.attempts[places[0]], error)
    # Before waiting for `busy`: the process that loads those may be waiting for the leases taken here.
    yield from load(batch, [i for i in places if i in batch.flights and i not in busy], rescue=True)
    if remote is not None and busy:
        yield from _wait(batch, remote, busy, deadline)


def _lease(batch: Batch, remote: VersionedStore, places: Sequence[int], *, again: bool = True) -> list[int]:
    """Ask for all leases at once. Returns the places that other processes are loading."""
    busy, useless, strong = [], [], []
    for i, answer in zip(places, remote.ask_leases([batch.attempts[i] for i in places]), strict=True):
        if isinstance(answer, Read):
            if batch.attempts[i].policy.strong:
                strong.append(i)
            elif not batch.accept(i, answer):
                useless.append(i)  # as it has been seen now, it does not stand in the way again
        elif answer is not None:
            busy.append(i)
    if strong:
        # The stamps of a strong call may have been read before its flight began, which later calls have joined since.
        useless = batch.read(remote, strong)
        remote.ensure(*(batch.attempts[i] for i in useless))
    if useless and again:
        return busy + _lease(batch, remote, useless, again=False)
    return busy + useless


def _wait(batch: Batch, remote: VersionedStore, busy: list[int], deadline: float) -> Steps[None]:
    """Wait for other processes' loads: ask again until the value is there, the lease is ours, or the time is over."""
    engine, pause = batch.engine, FIRST_PAUSE
    for i in busy:
        batch.attempts[i].region.counters.waits += 1
    deadlines = {i: engine.clock() + _patience(batch, batch.attempts[i], deadline) for i in busy}
    while busy:
        now = engine.clock()
        overdue = [i for i in busy if deadlines[i] <= now]
        if not overdue:
            time.sleep(min(pause * chance.uniform(0.5, 1.5), min(deadlines[i] for i in busy) - now))
            pause = min(pause * 1.6, LONGEST_PAUSE)
            requested, busy = busy, []  # if Redis fails, none stays busy: all are loaded here at once
            try:
                busy = _lease(batch, remote, requested)
            except (RemoteError, *BUGS) as error:
                let_out(error)
                engine.filler.failed(batch.attempts[requested[0]], error)
            overdue = [i for i in requested if i in batch.flights and i not in busy]
        else:
            busy = [i for i in busy if i not in overdue]
            for i in overdue:
                if batch.attempts[i].fallback is not None and not batch.flights[i].invalidated:
                    batch.fall_back(i, None)
            overdue = [i for i in overdue if i in batch.flights]
        yield from load(batch, overdue, rescue=True)  # a key whose time is over has no lease: it is filed here alone
