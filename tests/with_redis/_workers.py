"""Other processes for the tests, and what every process has: a database to read from, and a shop of cached functions.

A `Worker` runs functions of this module when told, each call in a thread of its own, and can be killed. It is started
with "spawn", so it shares nothing with the test but what is sent. The database is in Redis too, under keys outside the
cache's instance: it counts its reads, and its gate holds one up after it has read, until the test lets it go.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import redis

from aikcache import Cache
from aikcache.testing import wait_until

from .. import _interrupts

CONTEXT = multiprocessing.get_context("spawn")
PATIENCE = 20.0
"""Seconds until a test that hangs is given up."""
in_threads = partial(_interrupts.in_threads, seconds=PATIENCE)
PATIENT: dict[str, Any] = {"timeout": 10.0, "connect_timeout": 10.0, "lease_wait": 120.0, "lease_ttl": 600.0}
"""For caches whose server is well: a slow machine changes no outcome, and who waits wrongly is taken to hang."""


class Database:
    """What cached functions read. `realm`: a test's own, which no load that an earlier test left behind can touch."""

    def __init__(self, url: str, realm: str = "") -> None:
        self._lead = f"db:{realm}:"
        # redis-py's own timeout is shorter than a test may wait at the gate
        self.client = redis.Redis.from_url(url, decode_responses=True, socket_timeout=2 * PATIENCE)

    def at(self, what: str, name: str = "") -> str:
        """The key of something about `name`."""
        return f"{self._lead}{what}:{name}"

    def put(self, name: str, value: str) -> None:
        self.client.set(self.at("value", name), value)

    def load(self, name: str) -> str:
        """Read a value, count the read, and wait at the gate when it is shut."""
        self.client.incr(self.at("loads", name))
        value = str(self.client.get(self.at("value", name)) or f"{name} as it is")
        if self.client.lpop(self.at("gate", name)):
            self.client.rpush(self.at("held", name), "1")
            self.client.blpop([self.at("go", name)], timeout=PATIENCE)
        return value

    def loads(self, name: str) -> int:
        return int(self.client.get(self.at("loads", name)) or 0)

    def begun(self, name: str) -> int:
        """How many calls of `rush` have begun."""
        return int(self.client.get(self.at("begun", name)) or 0)

    def hold(self, name: str) -> None:
        """The next read of `name` is to stop after it has read."""
        self.client.rpush(self.at("gate", name), "1")

    def wait_held(self, name: str) -> None:
        """Until a read of `name` has stopped there."""
        assert self.client.blpop([self.at("held", name)], timeout=PATIENCE) is not None

    def let_go(self, name: str) -> None:
        self.client.rpush(self.at("go", name), "1")

    def close(self) -> None:
        self.client.close()


class Spec(NamedTuple):
    """A cache as every process can make it. `database`: where it is, if not beside the cache; `realm`: whose."""

    url: str
    instance: str
    settings: tuple[tuple[str, Any], ...] = ()
    database: str | None = None
    realm: str = ""

    def but(self, **settings: Any) -> Spec:
        return self._replace(settings=tuple({**dict(self.settings), **settings}.items()))


class Shop:
    """A cache, and the same functions in every process."""

    def __init__(self, spec: Spec) -> None:
        self.cache = Cache(spec.url, instance=spec.instance, **dict(spec.settings))
        self.database = database = Database(spec.database or spec.url, spec.realm)

        @self.cache.cached("thing", tags=("thing:{name}", "things"))
        def get(name: str) -> str:
            return database.load(name)

        @self.cache.cached("thing", tags=lambda result, name: (f"made-of:{result.split()[0]}", f"known:{name}"))
        def described(name: str) -> str:
            return database.load(name)

        @self.cache.cached_many("thing", operation="get", tags=("thing:{names}", "things"))
        def get_all(names: list[str]) -> dict[str, str]:
            return {name: database.load(name) for name in names}

        @self.cache.invalidates("thing:get:{name}", "thing:described:{name}")
        def update(name: str, value: str) -> None:
            database.put(name, value)

        self.more: dict[str, Any] = {}  # what one test needs beside
        self.get = get
        self.described = described
        self.get_all = get_all
        self.update = update

    def close(self) -> None:
        self.cache.close()
        self.database.close()


def connect(cache: Cache) -> None:
    """Use a cache for the first time and wait for its channel, whose coming empties the local tier."""
    cache.get("nothing:at:all")
    wait_until(lambda: cache.stats().coherent, PATIENCE, "the channel")


# What a worker is told to run. Shops stay open from one call to the next, so that their local tiers do.

_shops: dict[Spec, Shop] = {}
_opening = threading.Lock()


def shop(spec: Spec) -> Shop:
    with _opening:
        if spec not in _shops:
            _shops[spec] = Shop(spec)
        return _shops[spec]


def close_shops() -> None:
    with _opening:
        while _shops:
            _shops.popitem()[1].close()


def get(spec: Spec, name: str) -> str:
    return shop(spec).get(name)


def described(spec: Spec, name: str) -> str:
    return shop(spec).described(name)


def get_all(spec: Spec, names: list[str]) -> dict[str, str]:
    return shop(spec).get_all(names)


def run(spec: Spec, function: Callable[..., Any], *args: Any) -> Any:
    """`function(shop, …)`, for what only one test needs."""
    return function(shop(spec), *args)


def rush(spec: Spec, name: str, threads: int, processes: int) -> list[str]:
    """Call from `threads` threads at once, when as many `processes` are ready to; gives what came of it."""
    mine = shop(spec)
    client, ready = mine.database.client, mine.database.at("ready", name)
    client.incr(ready)
    wait_until(lambda: int(client.get(ready) or 0) == processes, PATIENCE, "the other processes")
    line = threading.Barrier(threads)
    values: list[str] = []

    def call() -> None:
        line.wait(PATIENCE)
        client.incr(mine.database.at("begun", name))
        values.append(mine.get(name))

    in_threads(call, threads)
    return values


class Background:
    """A call in a thread, whose result is waited for."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._outcome: list[tuple[Any, BaseException | None]] = []

        def work() -> None:
            try:
                self._outcome.append((function(*args), None))
            except BaseException as error:
                self._outcome.append((None, error))

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it has returned or raised."""
        return bool(self._outcome)

    def result(self, timeout: float = PATIENCE) -> Any:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "a call hangs"
        value, error = self._outcome[0]
        if error is not None:
            raise error
        return value


# The workers themselves


class Pending:
    """The result of a call in a worker, to be."""

    def __init__(self, worker: Worker, number: int) -> None:
        self._worker = worker
        self._number = number

    def result(self, timeout: float = PATIENCE) -> Any:
        ok, value = self._worker.answer(self._number, timeout)
        if not ok:
            raise value
        return value


class Worker:
    """Another process. It belongs to the thread that uses it."""

    def __init__(self) -> None:
        self._pipe, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._numbers = itertools.count()
        self._answers: dict[int, tuple[bool, Any]] = {}

    def start(self, function: Callable[..., Any], *args: Any) -> Pending:
        number = next(self._numbers)
        self._pipe.send((number, function, args))
        return Pending(self, number)

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.start(function, *args).result()

    def answer(self, number: int, timeout: float) -> tuple[bool, Any]:
        deadline = time.monotonic() + timeout
        while number not in self._answers:
            assert self._pipe.poll(max(deadline - time.monotonic(), 0)), "the worker does not answer"
            done, ok, value = self._pipe.recv()
            self._answers[done] = (ok, value)
        return self._answers.pop(number)

    def signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.join(PATIENCE)
        self._pipe.close()

    def stop(self) -> None:
        self._pipe.close()
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(pipe: Connection) -> None:
    sending = threading.Lock()

    def work(number: int, function: Callable[..., Any], args: Iterable[Any]) -> None:
        try:
            answer = (number, True, function(*args))
        except BaseException as error:
            answer = (number, False, error)
        with sending:
            pipe.send(answer)

    while True:
        try:
            task = pipe.recv()
        except EOFError:
            break
        threading.Thread(target=work, args=task, daemon=True).start()
    close_shops()
