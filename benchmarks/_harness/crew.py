"""Other processes that do what they are told, all at the same moment, on the clock that the processes of a host share.

A crew is made with a function that opens what its members need and yields what carries an order out. Orders, results
and that function travel by `multiprocessing`.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

PATIENCE = 60.0
"""Seconds for one order, and for the start of an interpreter, on a busy machine."""
AHEAD = 0.2
"""Seconds from an order to its moment, in which every member gets ready."""
Act = Callable[[Any], Any]
Open = Callable[..., AbstractContextManager[Act]]


class Crew:
    """`count` processes. As a context manager it is ready on entry and gone on exit."""

    def __init__(self, count: int, open_: Open, *arguments: Any) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(count):
            here, there = spawn.Pipe()
            process = spawn.Process(target=_member, args=(there, open_, arguments), daemon=True)
            process.start()
            there.close()  # else one that dies would not close the pipe
            self._pipes.append(here)
            self._processes.append(process)

    def ask(self, order: Any, members: int | None = None) -> list[Any]:
        """What the first `members` (None: all) made of an order."""
        pipes = self._pipes[:members]
        for pipe in pipes:
            pipe.send(order)
        return list(map(_answer, pipes))

    def __enter__(self) -> Self:
        for pipe in self._pipes:
            _answer(pipe)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for process in self._processes:
            process.terminate()  # what they hold ends with them
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.join()
            pipe.close()


def _answer(pipe: Connection) -> Any:
    if not pipe.poll(PATIENCE):
        raise RuntimeError(f"a process did not answer within {PATIENCE:g} seconds")
    return pipe.recv()


def _member(pipe: Connection, open_: Open, arguments: tuple[Any, ...]) -> None:
    with open_(*arguments) as act:
        pipe.send(None)
        while True:
            pipe.send(act(pipe.recv()))


def moment() -> float:
    """When what is ordered now is to begin."""
    return time.monotonic() + AHEAD


def in_threads(count: int, begin: float, work: Callable[[], Any]) -> list[Any]:
    """What `work` gave in each of `count` threads, which all began at `begin`."""
    results: list[Any] = []

    def run() -> None:
        time.sleep(max(begin - time.monotonic(), 0))
        results.append(work())

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(results) != count:
        raise RuntimeError("a thread has failed; what it said is above")
    return results
