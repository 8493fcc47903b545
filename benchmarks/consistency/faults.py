"""What goes wrong while the checker's workers are at work: faults of the server, of connections, and of the workers.

A fault is a generator: it does something, yields the seconds until it goes on, and undoes it. They run in lanes, one
for the server and one for each worker, so that a worker is stopped while the server restarts, but no server is paused
while it is down. Each lane deals all its faults in random order, then again. What happens to servers behind Sentinel
and in a cluster is in `takeovers`; there connections have a lane of their own.

All are noted, and of each whether it may hold pushes up, or cuts the channel, and of which worker, or of all.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from random import Random
from typing import Any, NamedTuple

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from aikcache._redis.sides import Side
from aikcache.testing import Server
from benchmarks.consistency.records import clock
from benchmarks.consistency.worker import Plan, serve

CONTEXT = multiprocessing.get_context("spawn")
PATIENCE = 60.0
LOOK = 0.03


class Happened(NamedTuple):
    """A fault, of one slot's worker or of the server (None).

    With `cuts` pushes may have been held up, or cut; with `refuses` the server answered reads and refused all writes.
    """

    name: str
    slot: int | None
    began: float
    ended: float
    cuts: bool
    refuses: bool = False


class Worker:
    """A slot's worker, as the main process has it. Killed, it is followed by the next of its slot."""

    def __init__(self, plan: Plan, side: Side | None = None) -> None:
        self.plan = plan
        self.names: list[str] = []
        self._side = side
        self._start()

    def _start(self) -> None:
        self.pipe, theirs = CONTEXT.Pipe()
        self.process: SpawnProcess = CONTEXT.Process(target=serve, args=(self.plan, theirs), daemon=True)
        with nullcontext() if self._side is None else self._side.inside():
            self.process.start()
        theirs.close()
        self.names.append(self.plan.name)

    def signal(self, what: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, what)

    def replace(self) -> None:
        """Kill it, and start the next, which takes its journal over."""
        self.signal(signal.SIGKILL)
        self.process.join()
        self.pipe.close()
        self.plan = self.plan._replace(number=self.plan.number + 1)
        self._start()

    def ask(self, *request: object) -> Any:
        """Send it a command, and wait for its answer. Raises what says that it hangs, or has ended."""
        pipe: Connection = self.pipe
        pipe.send(request)
        if not pipe.poll(PATIENCE):
            raise TimeoutError(f"worker {self.plan.name} does not answer to {request[0]!r}")
        return pipe.recv()

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.signal(signal.SIGCONT)
        self.pipe.close()
        self.process.join(5)
        self.process.kill()
        self.process.join()


class Stage:
    """What faults act on, and what they note."""

    def __init__(
        self,
        primaries: Callable[[], list[Server]],
        workers: list[Worker],
        max_staleness: float,
        random: Random,
    ) -> None:
        self.primaries = primaries  # those that answer now
        self.workers = workers
        self.max_staleness = max_staleness
        self.random = random
        self.happened: Counter[str] = Counter()
        self.noted: list[Happened] = []

    @property
    def server(self) -> Server:
        """The one there is."""
        return self.primaries()[0]

    @contextmanager
    def client(self, server: Server | None = None) -> Iterator[Any]:
        path = str((server or self.server).socket)  # a server's port may be in another network
        again = Retry(ConstantBackoff(0.1), 50)  # Sentinel cuts all connections of a server that it demotes
        link = redis.Redis(unix_socket_path=path, socket_timeout=PATIENCE, retry=again)
        try:
            yield link
        finally:
            link.close()

    @contextmanager
    def note(self, name: str, slot: int | None = None, *, cuts: bool = True, refuses: bool = False) -> Iterator[None]:
        began = clock()
        try:
            yield
        finally:
            self.noted.append(Happened(name, slot, began, clock(), cuts, refuses))

    def saved(self, *, keep: bool) -> None:
        """Have the server find, when it starts again, all it holds now, or nothing."""
        (self.server.directory / "dump.rdb").unlink(missing_ok=True)
        if keep:
            with self.client() as client:
                client.save()


# Of the server and its connections


def _kill_connections(stage: Stage, name: str) -> None:
    """CLIENT KILL of all connections of this name, or of some."""
    share = stage.random.choice((0.3, 1.0))
    for server in stage.primaries():
        with stage.client(server) as client:
            for each in client.client_list():
                if each["name"] == name and stage.random.random() < share:
                    client.client_kill_filter(_id=each["id"])


def kill_channel(stage: Stage) -> Iterator[float]:
    with stage.note("kill-channel"):
        _kill_connections(stage, "aikcache-channel")
    yield 0


def kill_data(stage: Stage) -> Iterator[float]:
    with stage.note("kill-data", cuts=False):
        _kill_connections(stage, "aikcache")
    yield 0


def pause(stage: Stage) -> Iterator[float]:
    """CLIENT PAUSE, of all commands or of writes."""
    with stage.note("pause"):
        seconds = stage.random.uniform(0.1, 0.9)
        with stage.client() as client:
            client.client_pause(int(seconds * 1000), all=stage.random.random() < 0.5)
        yield seconds


def hang(stage: Stage) -> Iterator[float]:
    """SIGSTOP, for less than a timeout, or until breakers open and channels are given up."""
    with stage.note("hang"):
        stage.server.pause()
        try:
            yield stage.random.choice((0.2, 0.8, stage.max_staleness + 2.0))
        finally:
            stage.server.resume()


def restart_empty(stage: Stage) -> Iterator[float]:
    yield from _restart(stage, keep=False, between=0, down=0)


def restart_old(stage: Stage) -> Iterator[float]:
    """It comes back with what it held a while before it was killed: what was ended in between stands there again."""
    yield from _restart(stage, keep=True, between=stage.random.uniform(0.2, 1.5), down=0)


def down(stage: Stage) -> Iterator[float]:
    """Killed, away for some time, and back with what it held."""
    yield from _restart(stage, keep=True, between=stage.random.uniform(0, 0.5), down=stage.random.uniform(0.3, 3.0))


def _restart(stage: Stage, *, keep: bool, between: float, down: float) -> Iterator[float]:
    with stage.note("saved" if keep else "unsaved", cuts=False):
        stage.saved(keep=keep)
    yield between
    with stage.note("back with old data" if keep else "back empty"):
        stage.server.kill()
        try:
            yield down
        finally:
            stage.server.restart()


def flushall(stage: Stage) -> Iterator[float]:
    with stage.note("flushall", cuts=False), stage.client() as client:
        client.flushall()
    yield 0


def drop_stamps(stage: Stage) -> Iterator[float]:
    """As an eviction would: some stamps are gone, or all."""
    share = stage.random.choice((0.3, 1.0))
    with stage.note("drop-stamps", cuts=False), stage.client() as client:
        names = [name for name in client.scan_iter(match="*:~stamp:*", count=1000) if stage.random.random() < share]
        if names:
            client.delete(*names)
    yield 0


# Of workers


def kill_worker(stage: Stage, slot: int) -> Iterator[float]:
    with stage.note("kill-worker", slot):
        stage.workers[slot].replace()
    yield stage.random.uniform(0.5, 1.5)


def stop_worker(stage: Stage, slot: int) -> Iterator[float]:
    """SIGSTOP, for a moment or for longer than `max_staleness`."""
    worker = stage.workers[slot]
    with stage.note("stop-worker", slot):
        worker.signal(signal.SIGSTOP)
        try:
            yield stage.random.choice((0.1, 0.6, stage.max_staleness + 0.5))
        finally:
            worker.signal(signal.SIGCONT)


def silence_channel(stage: Stage, slot: int) -> Iterator[float]:
    """One worker's channel receives nothing, while its other connections work."""
    seconds = stage.random.choice((0.5, 2.0, stage.max_staleness * 2 + 4.0))
    with stage.note("silence-channel", slot):
        stage.workers[slot].pipe.send(("silence", seconds))
        yield seconds


Fault = Callable[[Stage], Iterator[float]]
CONNECTION_FAULTS: dict[str, Fault] = {"kill-channel": kill_channel, "kill-data": kill_data}
SERVER_FAULTS: dict[str, Fault] = {
    **CONNECTION_FAULTS,
    "pause": pause,
    "hang": hang,
    "restart-empty": restart_empty,
    "restart-old": restart_old,
    "down": down,
    "flushall": flushall,
    "drop-stamps": drop_stamps,
}
WORKER_FAULTS: dict[str, Callable[[Stage, int], Iterator[float]]] = {
    "kill-worker": kill_worker,
    "stop-worker": stop_worker,
    "silence-channel": silence_channel,
}
ALL = (*SERVER_FAULTS, *WORKER_FAULTS)


def _lane(stage: Stage, faults: dict[str, Fault]) -> Iterator[float]:
    while True:
        for name in stage.random.sample(list(faults), len(faults)):
            yield stage.random.uniform(0.1, 0.9)
            stage.happened[name] += 1
            yield from faults[name](stage)


def _worker_lane(stage: Stage, slot: int, wanted: list[str]) -> Iterator[float]:
    while True:
        for name in stage.random.sample(wanted, len(wanted)):
            yield stage.random.uniform(0.5, 4.0)
            stage.happened[name] += 1
            yield from WORKER_FAULTS[name](stage, slot)


def _watch(look: Callable[[], object]) -> Iterator[float]:
    while True:
        look()
        yield LOOK


def run(
    stage: Stage,
    kinds: Sequence[dict[str, Fault]],
    wanted: Sequence[str],
    look: Callable[[], object] | None,
    wait: Callable[[float], object],
    over: Callable[[], bool],
) -> None:
    """Let faults happen, each kind in a lane, until it is over; what is under way is undone.

    `look` is done all the time.
    """
    chosen = [{name: fault for name, fault in kind.items() if name in wanted} for kind in kinds]
    of_workers = [name for name in wanted if name in WORKER_FAULTS]
    lanes = [_lane(stage, faults) for faults in chosen if faults]
    lanes += [_worker_lane(stage, worker.plan.slot, of_workers) for worker in stage.workers if of_workers]
    if look is not None:
        lanes.append(_watch(look))
    numbers = itertools.count()
    agenda = [(clock(), next(numbers), lane) for lane in lanes]
    heapq.heapify(agenda)
    try:
        while not over():
            if not agenda or (rest := agenda[0][0] - clock()) > LOOK:
                wait(LOOK)
                continue
            wait(rest)
            lane = heapq.heappop(agenda)[2]
            heapq.heappush(agenda, (clock() + next(lane), next(numbers), lane))
    finally:
        for _, _, lane in agenda:
            lane.close()  # type: ignore[attr-defined]
