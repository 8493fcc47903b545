"""Runs the function of a batch, stores its results, and finds an answer if it fails.

Results are stored while the lease is held, and leases are extended while the function runs. With `error_ttl` a stale
value answers for a function that fails; with `load_timeout` also for one that takes too long, which then continues in
the background.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from aikcache._concurrency import spans
from aikcache._concurrency.outside import let_out
from aikcache._engine.batch import Batch
from aikcache._engine.call import MISSING, Result, Steps, carry_out
from aikcache._engine.single_flight import LANDED, UNSHAREABLE


def run_uncached(batch: Batch, places: Sequence[int]) -> Steps[None]:
    """Run the function; its results are not cached."""
    for group in batch.groups(places):
        counters = batch.attempts[group[0]].region.counters
        misses = len(group)
        counters.misses += misses
        for i, result in zip(group, (yield group), strict=True):
            batch.values[i] = result
            counters.loads += result is not MISSING


def load(batch: Batch, places: Sequence[int], *, rescue: bool = False, missed: bool = True) -> Steps[list[Result]]:
    """Run the function for these, and store its results where that is allowed; leases are extended meanwhile.

    `rescue`: if it fails, a stale value may answer. `missed`: for calls, which count as misses. The results are
    returned, without those that should have been stored and were not: they could not be sent, or renewals were refused.
    """
    leases, remote, done = batch.leases(places), batch.engine.remote_tier, list[Result]()
    # `held` is looked up here, so that the `finally` begins with one call into C, which nothing can interrupt.
    mine, kept_alive = object(), {} if remote is None else remote.leases.held
    try:
        if leases and remote is not None:
            remote.leases.keep_alive(mine, leases)
        try:
            for group in batch.groups(places):
                run = _rescued(batch, group) if rescue else _run(batch, group, missed=missed)
                done += yield from run
        except Exception as error:
            let_out(error)
            _store_and_land(batch, done)  # of the runs before the one that failed
            raise
        _store_and_land(batch, done)
        return [result for result in done if not (result.lasts and result.attempt.token)]  # a store uses the token up
    finally:
        kept_alive.pop(mine, None)  # left in, the leases would be extended for ever
        left = batch.leases(places)  # anew: a store has used some, `_detach` has handed others to the background
        if left and remote is not None:
            remote.leases.release(left)
            for i in places:
                batch.attempts[i].token = None


def _run(batch: Batch, group: Sequence[int], *, missed: bool = True) -> Steps[list[Result]]:
    engine, region = batch.engine, batch.attempts[group[0]].region
    misses = len(group) if missed else 0
    region.counters.misses += misses
    started = engine.clock()
    loading, here = engine.flights.loading, engine.flights.about([batch.attempts[i].key for i in group])
    try:
        # Here and in the `finally` one call into C: a key that stayed would make this thread run its function uncached.
        loading.update(here)
        if spans.active is None:
            results = yield group
        else:
            with spans.active.load(region.name):
                results = yield group
    except Exception as error:
        engine.events.load(region.name, engine.clock() - started, type(error).__name__)
        raise
    finally:
        loading.difference_update(here)
    cost = engine.clock() - started
    if (renewal := batch.attempts[group[0]].renewal) is not None:
        renewal.given.update(batch.attempts[i].key for i in group)
    engine.events.load(region.name, cost, None)
    done = []
    for i, result in zip(group, results, strict=True):
        if result is not MISSING:
            region.counters.loads += 1
            done.append(engine.filler.judge(batch.attempts[i], result, cost))
            batch.values[i] = done[-1].value  # as it comes back from the codec, not `result`: as hits will get it
    return done


def _store_and_land(batch: Batch, done: Sequence[Result]) -> None:
    """Store what may be stored, and land the flights."""
    # Filed before a flight lands: a call that found neither the value nor the flight would load it once more.
    batch.engine.filler.store_results(done)
    for result in done:
        if result.attempt.renewal is not None:
            batch.engine.flights.invalidate_key(result.attempt.key)  # loads that began before this one
    cached = {result.attempt.key: result.cached for result in done}
    for i in [i for i in batch.flights if batch.attempts[i].key in cached]:
        found = cached[batch.attempts[i].key]
        # None: it cannot be shared. If it were FAILED, its waiters would run the function one after the other.
        batch.land(i, UNSHAREABLE if found is None else LANDED, found)


def _rescued(batch: Batch, group: Sequence[int]) -> Steps[list[Result]]:
    flights = [batch.flights[i] for i in group]  # now: `_detach` takes them out of the batch, and may then raise
    try:
        timeout = batch.attempts[group[0]].policy.load_timeout
        # All of them: one run answers the whole group, so a call without a stale value must wait for it.
        stale = timeout is not None and all(batch.attempts[i].fallback is not None for i in group)
        if timeout is not None and stale and (yield from _detach(batch, group, timeout)):
            return []
        return (yield from _run(batch, group))
    except Exception as error:
        let_out(error)
        for i, flight in zip(group, flights, strict=True):
            if batch.attempts[i].fallback is not None and (flight.invalidated or flight.strong):
                batch.read_again(i, hit=False)  # it counts as a miss already
        left = [i for i in group if batch.values[i] is MISSING]
        if any(batch.attempts[i].fallback is None for i in left):
            raise  # before any falls back: the calls fail together, so none may count as served stale
        for i in left:
            batch.fall_back(i, error)
        return []


def _detach(batch: Batch, group: Sequence[int], timeout: float) -> Steps[bool]:
    """Load in the background and wait `timeout` seconds; then stale values answer, and the load continues.

    False: the background does not accept it.
    """
    part = Batch(
        batch.engine,
        [batch.attempts[i].copy() for i in group],  # copies keep the tokens, which this batch drops below
        lambda places: batch.run([group[i] for i in places]),
        together=batch.together,
    )
    flights = [batch.flights[i] for i in group]
    part.flights = dict(enumerate(flights))
    task = batch.engine.background.submit(lambda: _in_background(part))
    if task is None:
        return False
    for i, flight in zip(group, flights, strict=True):
        # This call's own lock is free as soon as it has answered, and waiters would take the load for abandoned.
        flight.leader, batch.attempts[i].token = task.running, None
        del batch.flights[i]
    if task.wait(timeout):
        if task.error is not None:
            raise task.error
        for i, value in zip(group, part.values, strict=True):
            batch.values[i] = value
        return True
    for i, flight in zip(group, flights, strict=True):
        if flight.invalidated:  # the stale value and the detached load are both from before that
            yield from run_uncached(batch, [i])
        else:
            batch.fall_back(i, None)
    return True


def _in_background(batch: Batch) -> None:
    places = list(batch.flights)
    for flight in batch.flights.values():
        flight.thread = threading.get_ident()  # by which `Flights.wait` finds threads that would wait for each other
    try:
        carry_out(load(batch, places), batch.run)
    except Exception:
        for i in list(batch.flights):
            attempt = batch.attempts[i]
            batch.engine.refresher.failed(attempt.key)
            if attempt.fallback is not None and not batch.flights[i].invalidated:
                batch.land(i, LANDED, attempt.fallback)  # so that waiters need not load it themselves
        raise
    finally:
        batch.land_rest()
