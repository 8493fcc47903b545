"""One process of the service: it serves its share of the load, then proves its answers.

The parent and its workers talk over a pipe each: *ready* comes from the worker, *go* from the parent, then the worker
serves and sends a `Served`. When all workers have, and what they wrote has had time to reach the others, the parent
sends the calls whose answers were changed by anyone's writes, and the worker sends a `Checked`: each of these calls,
and a sample of those it has served itself, asked of the cache and of the database, compared in value and in type.

A worker that dies closes its pipe, and the parent's `recv` raises EOFError: nobody waits for ever.
"""

from __future__ import annotations

import dataclasses
import random
import signal
import time
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from uuid import UUID

import _catalog_db as db
from _catalog_load import PREFIXES, QUERIES, Call, Workload, Write, operation_of, read_subjects

import aikcache

# What one worker ends is pushed to the others, which takes well under a millisecond; four busy workers on two cores may
# take longer to hear it.
SETTLE_SECONDS = 0.2
_SAMPLES = 400
_SHOWN_DIFFERENCES = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """What every worker gets when it starts."""

    database: Path
    url: str
    instance: str
    calls: int
    seconds: float
    writes: float
    seed: int


@dataclass(frozen=True, slots=True)
class Counts:
    """What the cache has counted for one operation in one process."""

    local_hits: int = 0
    remote_hits: int = 0
    loads: int = 0
    errors: int = 0
    bytes_written: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(int.__add__, dataclasses.astuple(self), dataclasses.astuple(other)))

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*map(int.__sub__, dataclasses.astuple(self), dataclasses.astuple(other)))


@dataclass(slots=True)
class Served:
    """One worker's share of the load; latencies are nanoseconds, by the query's name."""

    seconds: float = 0.0
    latencies: dict[str, array[int]] = field(default_factory=lambda: {name: array("q") for name in QUERIES})
    write_latencies: array[int] = field(default_factory=lambda: array("q"))
    written: dict[UUID, None] = field(default_factory=dict)
    counts: dict[str, Counts] = field(default_factory=dict)
    sample: list[Call] = field(default_factory=list)
    # The second half by itself: the first has to fill the cache.
    warm_calls: int = 0
    warm_counts: Counts = field(default_factory=Counts)


@dataclass(slots=True)
class Checked:
    """How one process's answers compared with the database's."""

    compared: int = 0
    wrong: int = 0
    differences: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    latencies: dict[str, array[int]] = field(default_factory=lambda: {name: array("q") for name in QUERIES})


def configure(url: str, instance: str) -> aikcache.Cache:
    """Make the default cache the one that this run shares."""
    aikcache.configure(url, instance=instance)
    return aikcache.default_cache()


def counts() -> dict[str, Counts]:
    """What this process's cache has counted up to now, by the query's name."""
    operations = aikcache.default_cache().stats().operations
    names = [field.name for field in fields(Counts)]
    return {
        name: Counts(*(getattr(operations[operation_of(name)], counted) for counted in names))
        for name in PREFIXES
        if operation_of(name) in operations
    }


def work(pipe: Connection[Any, Any], plan: Plan, number: int) -> None:
    """A worker process, from start to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    db.use(plan.database)
    cache = configure(plan.url, plan.instance)
    cache.ping()
    workload = Workload(read_subjects(db.connection()), plan.seed + number, plan.writes)
    pipe.send("ready")
    pipe.recv()
    served = serve(workload, plan)
    pipe.send(served)
    affected: list[Call] = pipe.recv()
    pipe.send(check(affected, served.sample))
    cache.close()
    db.close()


def serve(workload: Workload, plan: Plan) -> Served:
    """Make `plan.calls` calls, or as many as `plan.seconds` allow, each timed by itself."""
    served = Served()
    chooser = random.Random(plan.seed)
    clock = time.perf_counter_ns
    began = clock()
    limit = began + int(plan.seconds * 1e9)
    done, half = 0, Counts()
    while done < plan.calls and clock() < limit:
        drawn = workload.next()
        if isinstance(drawn, Write):
            before = clock()
            drawn.apply()
            served.write_latencies.append(clock() - before)
            served.written.update(dict.fromkeys(drawn.resource_ids))
            continue
        query, arguments = QUERIES[drawn.name], drawn.arguments
        before = clock()
        query(*arguments)
        served.latencies[drawn.name].append(clock() - before)
        done += 1
        _keep(served.sample, drawn, done, chooser)
        if done == plan.calls // 2:
            half, served.warm_calls = sum(counts().values(), Counts()), -done
    served.seconds = (clock() - began) / 1e9
    served.counts = counts()
    served.warm_calls += done
    served.warm_counts = sum(served.counts.values(), Counts()) - half
    return served


def _keep(sample: list[Call], call: Call, number: int, chooser: random.Random) -> None:
    """Reservoir sampling: after `number` calls each of them is in the sample with the same probability."""
    if len(sample) < _SAMPLES:
        sample.append(call)
    elif (place := chooser.randrange(number)) < _SAMPLES:
        sample[place] = call


def check(affected: Iterable[Call], sample: Iterable[Call]) -> Checked:
    """Compare the cache's answers with the database's, and time the latter over the sample."""
    checked = Checked()
    before = sum(counts().values(), Counts())
    for call in affected:
        _compare(checked, call, call.cached(), call.uncached())
    for call in sample:
        answer = call.cached()
        began = time.perf_counter_ns()
        truth = call.uncached()
        checked.latencies[call.name].append(time.perf_counter_ns() - began)
        _compare(checked, call, answer, truth)
    checked.counts = sum(counts().values(), Counts()) - before
    return checked


def _compare(checked: Checked, call: Call, answer: object, truth: object) -> None:
    checked.compared += 1
    if not same(answer, truth):
        checked.wrong += 1
        if len(checked.differences) < _SHOWN_DIFFERENCES:
            arguments = ", ".join(map(str, call.arguments))
            checked.differences.append(f"{call.name}({arguments}){difference(answer, truth)}")


def same(first: object, second: object) -> bool:
    """Equal in value and in type, all the way down: `1` is not `True`, and a tuple is not a list."""
    if type(first) is not type(second):
        return False
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if dataclasses.is_dataclass(first):
        names = [field.name for field in fields(first)]
        return all(same(getattr(first, name), getattr(second, name)) for name in names)
    return first == second


def difference(answer: object, truth: object) -> str:
    """Where two answers that are not the same first differ, for people to read."""
    if type(answer) is type(truth):
        if isinstance(answer, list | tuple) and isinstance(truth, list | tuple) and len(answer) == len(truth):
            pairs = zip(answer, truth, strict=True)
            return next(f"[{i}]{difference(a, b)}" for i, (a, b) in enumerate(pairs) if not same(a, b))
        if dataclasses.is_dataclass(answer):
            parts = ((field.name, getattr(answer, field.name), getattr(truth, field.name)) for field in fields(answer))
            return next(f".{name}{difference(a, b)}" for name, a, b in parts if not same(a, b))
    return f": from the cache {str(answer)[:80]!r}, from the database {str(truth)[:80]!r}"
