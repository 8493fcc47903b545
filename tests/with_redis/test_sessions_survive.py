"""What was acknowledged is kept: a worker killed in a request, a server killed, and one that was emptied."""

from __future__ import annotations

import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis

from aikcache.sessions import KeyRing, SessionMiddleware, SessionStore, Set
from aikcache.testing import Server, wait_until

from ._rings import make_rings_patient
from ._workers import PATIENCE

MASTER = secrets.token_urlsafe(32)
ENOUGH = 20


def opened(stack: ExitStack, url: str, seconds: float = PATIENCE) -> SessionStore:
    ring = stack.enter_context(closing(KeyRing(url, instance="shop", master_key=MASTER)))
    arguments: dict[str, Any] = {"timeout": seconds, "connect_timeout": seconds}
    return stack.enter_context(closing(SessionStore(url, ring=ring, instance="shop", **arguments)))


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    make_rings_patient(monkeypatch)


def work(store: SessionStore, report: int) -> None:
    """Begin a session and change one, for ever, and print what was acknowledged."""
    first, number = "", 0
    while True:
        for cookie in ("", first):
            number += 1
            session = store.open(cookie)
            session["a"] = session["b"] = number
            outcome = store.commit(session)
            cookie = outcome.value if isinstance(outcome, Set) else cookie
            first = first or cookie
            os.write(report, f"{cookie} {number}\n".encode())


def test_a_killed_worker_loses_no_acknowledged_session(redis_url: str) -> None:
    """Each is as it was acknowledged or as the request that was killed has left it, and never a half of it."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            with ExitStack() as stack:
                work(opened(stack, redis_url), writing)
        finally:
            os._exit(1)
    os.close(writing)
    with ExitStack() as stack, open(reading, "rb") as lines:
        try:
            lines_read = [next(lines) for _ in range(2 * ENOUGH)]
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        lines_read += [line for line in lines if line.endswith(b"\n")]
        store = opened(stack, redis_url)
        acknowledged = {cookie: int(number) for cookie, number in map(str.split, map(bytes.decode, lines_read))}
        for cookie, number in acknowledged.items():
            session = store.open(cookie)
            assert session["a"] == session["b"]
            assert session["a"] in (number, number + 2)  # the next change is two on
            session["c"] = 1
            store.commit(session)
            assert store.open(cookie)["c"] == 1


class Visitor(threading.Thread):
    """A browser that counts its visits, through the middleware, until it is stopped."""

    def __init__(self, app: Any, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._app, self._over = app, stop
        self.cookie = ""
        self.statuses: list[str] = []
        self.visits = 0

    def run(self) -> None:
        while not self._over.wait(0.01):
            self.visit()

    def visit(self) -> None:
        answer: dict[str, Any] = {}

        def start(status: str, headers: list[tuple[str, str]], info: Any = None) -> Any:
            answer.update(status=status[:3], cookie=dict(headers).get("Set-Cookie", ""))
            return bytes

        environ = {"HTTP_COOKIE": self.cookie} if self.cookie else {}
        body = b"".join(self._app(environ, start))
        self.statuses.append(answer["status"])
        if answer["status"] == "200":
            self.cookie = answer["cookie"].partition(";")[0] or self.cookie
            assert int(body) > self.visits
            self.visits = int(body)


def page(environ: Any, start: Any) -> Iterator[bytes]:
    session = environ["aikcache.session"]
    session["visits"] = session.get("visits", 0) + 1
    start("200 OK", [])
    yield str(session["visits"]).encode()


def test_a_server_that_is_killed_and_comes_back_has_lost_nothing(binary: Path) -> None:
    """With an append-only file that is synced each time. Meanwhile 503, and nothing but 200 and 503."""
    with Server(binary=binary, config=["appendonly yes", "appendfsync always"]) as server, ExitStack() as stack:
        store = opened(stack, server.url, 1.0)
        stop = threading.Event()
        stack.callback(stop.set)
        visitors = [Visitor(SessionMiddleware(page, store), stop) for _ in range(4)]
        for visitor in visitors:
            visitor.start()
        wait_until(lambda: all(visitor.visits >= 3 for visitor in visitors), 3 * PATIENCE, "visits")
        server.kill()
        wait_until(lambda: all(v.statuses[-1:] == ["503"] for v in visitors), 3 * PATIENCE, "the server to be missed")
        before = [visitor.visits for visitor in visitors]
        server.restart()
        wait_until(lambda: all(v.visits > n for v, n in zip(visitors, before, strict=True)), 3 * PATIENCE, "visits")
        stop.set()
        for visitor in visitors:
            visitor.join(3 * PATIENCE)
            assert set(visitor.statuses) == {"200", "503"}
            assert visitor.visits >= visitor.statuses.count("200")
        assert len(store.ring.keys()) == 1


def test_after_a_flush_all_visitors_are_new_under_the_same_ring(redis_url: str) -> None:
    """A process that knows the ring puts it back from memory."""
    with ExitStack() as stack, redis.Redis.from_url(redis_url) as client:
        store = opened(stack, redis_url)
        visitor = Visitor(SessionMiddleware(page, store), threading.Event())
        visitor.visit()
        visitor.visit()
        ring, cookie = store.ring.keys(), visitor.cookie
        client.flushall()
        store.ring.refresh()
        assert store.ring.keys() == ring
        visitor.visits = 0
        visitor.visit()
        assert (visitor.visits, visitor.statuses) == (1, ["200"] * 3)
        assert visitor.cookie != cookie
