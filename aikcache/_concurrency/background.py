"""Work that no caller waits for: a few daemon threads, started when there is work, ended after a while without any.

Bounded on both sides: when `MAX_QUEUE` tasks wait, a task is not accepted, and its work happens later or in the
foreground. A task runs in a copy of its submitter's context (`contextvars`), so tracing and request data are there. At
the interpreter's end nothing is waited for: a refresh that is cut off leaves a lease, which expires.

Threads: the queue is `queue.SimpleQueue`, safe also when a finaliser puts into it. After `fork` the child has none.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable

from aikcache._concurrency.thread import start

MAX_THREADS = 8
MAX_QUEUE = 1000
IDLE = 10.0


class Task:
    """A piece of work, with its result or its exception once `wait` returns True. `running` is locked until it is
    done.
    """

    __slots__ = ("_context", "_work", "error", "result", "running")

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._context = contextvars.copy_context()
        self.running = threading.Lock()
        self.running.acquire()
        self.result: object = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self._context.run(self._work)
        except BaseException as error:  # the waiter gets it
            self.error = error
        finally:
            self.running.release()

    def wait(self, seconds: float) -> bool:
        """Wait until it is done. For one waiter."""
        return self.running.acquire(timeout=seconds)


class Background:
    """The background threads of one cache."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, work: Callable[[], object]) -> Task | None:
        """Run `work` soon. None: it was not accepted, because too much waits already or the cache is closed."""
        if self._closed or self._tasks.qsize() >= MAX_QUEUE:
            return None
        task = Task(work)
        if self._idle <= self._tasks.qsize() and self._threads < MAX_THREADS and not self._start():
            return None
        self._tasks.put(task)
        if not self._threads:  # the last thread has ended meanwhile
            self._start()
        return task

    def _start(self) -> bool:
        try:
            start(self._run, "aikcache-background", self._tasks)
        except RuntimeError:  # the interpreter is ending
            return False
        return True

    def _run(self, tasks: queue.SimpleQueue[Task | None]) -> None:
        if self._threads >= MAX_THREADS:
            return
        self._threads += 1  # counted here, because the starting thread may be interrupted
        try:
            while True:
                self._idle += 1
                try:
                    task = tasks.get(timeout=IDLE)
                except queue.Empty:
                    return
                finally:
                    self._idle -= 1
                if task is None:
                    return
                task.run()
                del task  # so that it is not kept alive while waiting for the next
        finally:
            self._threads -= 1
            if not self._threads and not tasks.empty() and not self._closed:
                self._start()

    def close(self) -> None:
        self._closed = True
        for _ in range(self._threads):
            self._tasks.put(None)
