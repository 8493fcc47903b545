"""Redis down, stopping, hung, or another program: every call is answered, soon, with few log lines."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from aikcache import Cache
from aikcache._concurrency.circuit_breaker import Breaker
from aikcache._embedded.sockets import short_directory
from aikcache._engine.single_flight import Flight
from aikcache._remote.store import RedisStore
from aikcache.errors import RemoteError
from aikcache.testing import Server, wait_until
from aikcache.testing.proxy import Impostor, Proxy, Turn

from ._staging import Ahead
from ._workers import PATIENCE, PATIENT, Background, connect, in_threads

QUICK = {"timeout": 0.1, "connect_timeout": 0.1, "breaker_reset": 0.1}


class Squares:
    """A cache of a function that counts its calls."""

    def __init__(self, url: str, instance: str, **settings: Any) -> None:
        self.cache = Cache(url, instance=instance, **{**QUICK, **settings})
        self.loads: list[int] = []

        @self.cache.cached("thing", tags=("n:{n}",))
        def square(n: int) -> int:
            self.loads.append(n)
            return n * n

        self.square = square

    def close(self) -> None:
        self.cache.close()


@pytest.fixture
def squares(instance: str) -> Iterator[Callable[..., Squares]]:
    with ExitStack() as stack:
        yield lambda url, **settings: stack.enter_context(closing(Squares(url, instance, **settings)))


# Servers that are none


def wait_for_the_end(link: socket.socket) -> None:
    while link.recv(4096):
        pass


def answer_http(link: socket.socket) -> None:
    while link.recv(4096):
        link.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def hang_up(link: socket.socket) -> None:
    link.recv(4096)


def answer_nonsense(link: socket.socket) -> None:
    while link.recv(4096):
        link.sendall(bytes(range(256)) * 4)


def answer_a_huge_length(link: socket.socket) -> None:
    while link.recv(4096):
        link.sendall(b"$99999999999\r\nx")


def answer_a_bad_length(link: socket.socket) -> None:
    while link.recv(4096):
        link.sendall(b"$abc\r\n*-7\r\n:x\r\n")


def answer_ok(link: socket.socket) -> None:
    while data := link.recv(4096):
        link.sendall(b"+OK\r\n" * max(data.count(b"*"), 1))


def answer_errors(link: socket.socket) -> None:
    while data := link.recv(4096):
        link.sendall(b"-ERR no\r\n" * max(data.count(b"*"), 1))


IMPOSTORS = (
    wait_for_the_end, hang_up, answer_http, answer_nonsense, answer_a_huge_length, answer_a_bad_length, answer_ok,
    answer_errors,
)  # fmt: skip


@contextmanager
def nobody(where: str, binary: Path) -> Iterator[str]:
    """The URL of a server that cannot be used, and why not."""
    with ExitStack() as stack:
        if where == "a closed port":
            with socket.create_server(("127.0.0.1", 0)) as taken:
                port = taken.getsockname()[1]
            yield f"redis://127.0.0.1:{port}/0"
        elif where == "no such socket":
            yield f"unix://{short_directory()}/none.sock"
        elif where == "no such host":
            yield "redis://no-such-host.invalid:6379/0"
        elif where == "a wrong password":
            server = stack.enter_context(Server(binary=binary, port=0, password="right"))
            yield f"redis://:wrong@127.0.0.1:{server.port}/0"
        elif where == "no password":
            server = stack.enter_context(Server(binary=binary, port=0, password="right"))
            yield f"redis://127.0.0.1:{server.port}/0"
        elif where == "no such database":
            server = stack.enter_context(Server(binary=binary, port=0))
            yield f"redis://127.0.0.1:{server.port}/999"
        else:
            serve = next(serve for serve in IMPOSTORS if serve.__name__ == where)
            yield stack.enter_context(Impostor(serve)).url


NOBODY = (
    "a closed port", "no such socket", "a wrong password", "no password", "no such database",
    *(serve.__name__ for serve in IMPOSTORS),
)  # fmt: skip


@pytest.mark.parametrize("where", NOBODY)
def test_without_a_usable_server_every_call_is_answered_soon_and_quietly(
    where: str, binary: Path, squares: Callable[..., Squares], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is at the other end, calls, batches and invalidations do their work, with few log lines and counts."""
    with nobody(where, binary) as url:
        shop = squares(url)
        began = time.monotonic()
        assert [shop.square(n) for n in range(30)] == [n * n for n in range(30)]
        assert shop.square.many(range(30, 40)) == [n * n for n in range(30, 40)]
        assert shop.square.refresh(3) == 9
        shop.square.store(9, 3)
        shop.cache.set("thing:put:1", 1)
        shop.cache.get("thing:put:1")
        shop.square.invalidate(1)
        shop.cache.invalidate("thing:*1*")
        shop.cache.invalidate_tags("n:1")
        shop.cache.clear()
        assert shop.square(5) == 25
        took = time.monotonic() - began
        assert not shop.cache.health().ok
        with pytest.raises(RemoteError):
            shop.cache.ping()
        stats = shop.cache.stats()
    # five bounded timeouts until the breaker opens, connecting included, and a probe now and then
    assert took < 30
    assert stats.errors > 0
    assert stats.loads == len(shop.loads)
    causes = [getattr(record, "aikcache_cause", None) for record in caplog.records]
    # one line for each: what is wrong there, a time that ran out, the open breaker, the channel, an invalidation
    assert 1 <= len(causes) == len(set(causes)) <= 5
    assert all(record.levelno == logging.WARNING for record in caplog.records)


@pytest.mark.parametrize("where", ["a closed port", "wait_for_the_end"])
def test_without_a_server_the_local_tier_still_caches(
    where: str, binary: Path, squares: Callable[..., Squares]
) -> None:
    """With Redis down a call repeated at once is a local hit, and an invalidation here still removes it."""
    with nobody(where, binary) as url:
        shop = squares(url, max_staleness=600)
        assert [shop.square(7) for _ in range(50)] == [49] * 50
        assert len(shop.loads) == 1
        shop.square.invalidate(7)
        assert shop.square(7) == 49
        assert len(shop.loads) == 2


@pytest.fixture(params=[Server.kill, Server.pause], ids=["refused", "hung"])
def leave(request: pytest.FixtureRequest, own_server: Server) -> Callable[[], None]:
    """Stops the server."""
    return lambda: request.param(own_server)


def test_what_is_loaded_without_the_server_is_kept_for_max_staleness(
    own_server: Server, leave: Callable[[], None], squares: Callable[..., Squares], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Redis down a key is loaded once in `max_staleness`, however often it is called."""
    clock = Ahead(monkeypatch)
    shop = squares(own_server.url, max_staleness=100, local_ttl=1000)
    connect(shop.cache)
    assert shop.square(4) == 16
    leave()
    for age in range(1, 4):
        for _ in range(5):
            assert [shop.square(n) for n in (1, 2, 3) * 10] == [1, 4, 9] * 10
            clock.advance(15)
        assert shop.loads == [4, *(1, 2, 3) * age]
        clock.advance(30)
    assert [shop.square(4) for _ in range(5)] == [16] * 5
    assert shop.loads.count(4) == 2
    assert not shop.cache.stats().coherent


def test_without_the_server_one_load_of_a_key_runs_at_a_time(
    own_server: Server, leave: Callable[[], None], squares: Callable[..., Squares], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Redis down the threads of a process wait for one load of each key, and get its result."""
    waiting: list[str] = []

    def wait(flight: Flight, seconds: float) -> bool:
        waiting.append(flight.key)
        return landed(flight, seconds)

    landed = Flight.wait
    monkeypatch.setattr(Flight, "wait", wait)
    shop = squares(own_server.url, lease_wait=PATIENCE)
    connect(shop.cache)
    leave()
    gate = threading.Event()
    loads: list[int] = []

    @shop.cache.cached("thing")
    def slow(n: int) -> int:
        loads.append(n)
        assert gate.wait(PATIENCE)
        return n

    calls = [Background(slow, n) for _ in range(8) for n in (1, 2)]
    wait_until(lambda: len(loads) + len(waiting) >= 16, PATIENCE, "the calls")
    gate.set()
    assert [call.result() for call in calls] == [1, 2] * 8
    assert sorted(loads) == [1, 2]
    assert shop.cache.stats().joined == 14


def test_while_the_breaker_is_open_no_call_touches_the_server(
    squares: Callable[..., Squares], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the failures that open the breaker, hundreds of calls make no connection of their own, nor a question."""
    with Impostor(hang_up) as impostor:
        shop = squares(impostor.url, breaker_reset=60, breaker_failures=3)
        while not shop.cache.health().breaker_open:
            shop.square(len(shop.loads))
        monkeypatch.setattr(RedisStore, "read", lambda *args, **options: pytest.fail("a question was built"))
        before, began = impostor.accepted, time.monotonic()
        for n in range(1000, 1300):
            shop.square(n)
        tries = 10 + 2 * (time.monotonic() - began)  # the channel's own, at most two a second before long
        assert impostor.accepted - before <= tries


def test_many_threads_wait_for_a_silent_server_no_longer_than_one(squares: Callable[..., Squares]) -> None:
    """50 threads before a server that accepts and is silent are answered within a few timeouts, all of them."""
    with Impostor(wait_for_the_end) as impostor:
        shop = squares(impostor.url, timeout=1, connect_timeout=1)
        numbers = iter(range(1000))
        in_threads(lambda: shop.square(next(numbers)), 50)  # one after the other they would take fifty seconds
        assert len(shop.loads) == 50


# Servers that drip


def drip_from_the_start(link: socket.socket) -> None:
    """A byte every 100 ms, and never a whole reply."""
    link.sendall(b"+")
    while True:
        link.sendall(b"O")
        if threading.Event().wait(0.1):
            return


@pytest.mark.parametrize("where", ["from the start", "once connected"])
def test_a_server_that_drips_bytes_does_not_hold_a_call_longer_than_its_timeout(
    where: str, redis_server: Server, redis_url: str, squares: Callable[..., Squares]
) -> None:
    """One byte every 100 ms resets the timeout of every receive, and still ends a call after `timeout`, not later."""
    with Impostor(drip_from_the_start) as impostor, Dripping(redis_server.socket) as proxy:
        url = impostor.url if where == "from the start" else proxy.url
        shop = squares(url, timeout=0.5, connect_timeout=0.5, local_ttl=0, breaker_failures=1, breaker_reset=60)
        if where == "once connected":
            shop.square(12)
            proxy.drips.set()
        began = time.monotonic()
        call = Background(shop.square, 12)
        assert call.result() == 144
        assert time.monotonic() - began < 8  # 0.5 to connect and 0.5 for the exchange; all of it takes much longer


class Dripping(Proxy):
    """A proxy that passes the server's bytes on one by one, 100 ms apart, once that is switched on."""

    def __init__(self, upstream: Path) -> None:
        super().__init__(upstream)
        self.drips = threading.Event()

    def _back(self, server: socket.socket, link: socket.socket, turn: Turn) -> None:
        pause = threading.Event()
        try:
            while data := server.recv(1 << 16):
                turn.answered(data)
                if not self.drips.is_set():
                    link.sendall(data)
                    continue
                for byte in data:
                    pause.wait(0.1)
                    link.sendall(bytes([byte]))
        except OSError:
            return


# Servers that were there


def test_a_server_that_stops_and_comes_back_is_used_again(
    own_server: Server, squares: Callable[..., Squares], caplog: pytest.LogCaptureFixture
) -> None:
    """Killed in the middle, Redis is done without; restarted, values are shared again, by the same caches."""
    first, second = (squares(own_server.url, local_ttl=0, **PATIENT) for _ in range(2))
    assert first.square(1) == second.square(1) == 1
    assert second.loads == []
    own_server.kill()
    for n in range(20):
        assert first.square(n) == second.square(n) == n * n
    assert len(second.loads) == 20
    assert not first.cache.health().ok
    errors = first.cache.stats().errors
    assert errors > 0
    assert len(caplog.records) <= 2 * 3
    caplog.clear()

    own_server.restart()
    wait_until(lambda: first.cache.health().ok and second.cache.health().ok, PATIENCE, "the breakers")
    del first.loads[:], second.loads[:]
    for n in range(100, 120):
        assert first.square(n) == second.square(n) == n * n
    assert (len(first.loads), len(second.loads)) == (20, 0)
    assert first.cache.stats().errors >= errors
    assert [message for message in caplog.messages if "channel" not in message] == []


def test_calls_go_on_without_a_hung_server_and_use_it_again(
    own_server: Server, squares: Callable[..., Squares]
) -> None:
    """While Redis is stopped calls cost a few timeouts altogether; when it goes on, values are shared again."""
    first = squares(own_server.url, local_ttl=0, timeout=0.5)
    second = squares(own_server.url, local_ttl=0, **PATIENT)
    assert first.square(1) == second.square(1) == 1
    own_server.pause()
    try:
        began = time.monotonic()
        for n in range(200):
            assert first.square(n) == n * n
        assert time.monotonic() - began < 30  # without a breaker, a hundred seconds and more
        assert not first.cache.health().ok
    finally:
        own_server.resume()
    wait_until(lambda: first.cache.health().ok, PATIENCE, "the breaker")
    numbers = iter(range(500, 10_000))

    def shared() -> bool:
        n = next(numbers)
        assert first.square(n) == second.square(n) == n * n
        return n not in second.loads

    wait_until(shared, PATIENCE, "a value that was stored in time")


def test_a_call_that_a_hung_server_fails_does_not_also_replay_what_is_pending(
    own_server: Server, squares: Callable[..., Squares], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an invalidation pending, a call that gets no answer waits for one timeout, and asks no second time."""
    failed: list[threading.Thread] = []

    def failure(breaker: Breaker, cause: object = "") -> None:
        failed.append(threading.current_thread())
        real(breaker, cause)

    real = Breaker.failure
    monkeypatch.setattr(Breaker, "failure", failure)
    shop = squares(own_server.url, breaker_failures=1000)
    connect(shop.cache)
    assert [shop.square(n) for n in (1, 2)] == [1, 4]
    own_server.pause()
    shop.square.invalidate(1)
    assert shop.cache.stats().pending_invalidations == 1
    for call in (lambda: shop.square(3), lambda: shop.square.many([4, 5])):
        failed.clear()
        call()
        assert failed.count(threading.current_thread()) == 1


def test_a_server_that_stops_during_a_load_only_prevents_the_storing(
    own_server: Server, squares: Callable[..., Squares]
) -> None:
    """A load that runs when Redis stops returns its value, and raises nothing."""
    shop = squares(own_server.url)

    @shop.cache.cached("thing")
    def killing(n: int) -> int:
        own_server.kill()
        return n

    assert killing(3) == 3
    own_server.restart()
    wait_until(lambda: shop.cache.health().ok, PATIENCE, "the breaker")
    assert shop.square(3) == 9


def test_a_load_that_raises_while_the_server_is_away_raises_its_own_exception(
    own_server: Server, squares: Callable[..., Squares]
) -> None:
    """The exception of the function comes through unchanged, and is not replaced by one of Redis's."""
    shop = squares(own_server.url)

    @shop.cache.cached("thing")
    def failing(n: int) -> int:
        own_server.kill()
        raise LookupError(n)

    with pytest.raises(LookupError, match=r"^3$"):
        failing(3)
    with pytest.raises(LookupError, match=r"^3$"):
        failing(3)


def test_a_caller_that_waits_for_a_lease_when_the_server_stops_loads_itself(
    own_server: Server, squares: Callable[..., Squares]
) -> None:
    """A call that waits for another cache's load does not wait on when Redis dies."""
    first, second = squares(own_server.url, **PATIENT), squares(own_server.url, **PATIENT)
    inside, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        inside.set()
        assert go_on.wait(PATIENCE)
        return "slow"

    one = Background(first.cache.get_or_load, "thing:x:1", slow)
    assert inside.wait(PATIENCE)
    two = Background(second.cache.get_or_load, "thing:x:1", lambda: "own")
    with redis.Redis.from_url(own_server.url) as client:
        wait_until(
            lambda: client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0) > 3, PATIENCE, "the wait"
        )
    own_server.kill()
    assert two.result() == "own"
    go_on.set()
    assert one.result() == "slow"


def test_a_batch_that_waits_for_leases_when_the_server_stops_loads_itself(
    own_server: Server, squares: Callable[..., Squares]
) -> None:
    """A batch that waits for what another cache loads is answered in full when Redis dies."""
    first, second = squares(own_server.url, **PATIENT), squares(own_server.url, **PATIENT)
    inside, go_on = threading.Event(), threading.Event()

    def slow() -> int:
        inside.set()
        assert go_on.wait(PATIENCE)
        return 4

    one = Background(lambda: first.cache.get_or_load("thing:square:2", slow, tags=("n:2",)))
    assert inside.wait(PATIENCE)
    two = Background(second.square.many, [1, 2, 3])
    wait_until(lambda: second.loads == [1, 3], PATIENCE, "the loads that need not wait")
    own_server.kill()
    assert two.result() == [1, 4, 9]
    assert second.loads == [1, 3, 2]
    go_on.set()
    assert one.result() == 4


def test_connections_cut_in_the_middle_of_an_answer_lose_no_call(
    redis_server: Server, redis_url: str, squares: Callable[..., Squares]
) -> None:
    """However often connections are cut under them, threads get the right answers."""
    with Proxy(redis_server.socket) as proxy:
        shop = squares(proxy.url, local_ttl=0, breaker_reset=0.01)
        stop = threading.Event()

        def cut() -> None:
            while not stop.wait(0.01):
                proxy.cut()

        cutting = Background(cut)
        numbers = iter(range(10_000))

        def call() -> None:
            for _ in range(60):
                n = next(numbers) % 20
                assert shop.square(n) == n * n

        in_threads(call, 8)
        stop.set()
        cutting.result()
        wait_until(lambda: shop.cache.health().ok, PATIENCE, "the breaker")
        wait_until(lambda: shop.square(7) == shop.square.peek(7) == 49, PATIENCE, "the use of the server")


def test_a_failure_is_logged_once_per_cause(
    own_server: Server, squares: Callable[..., Squares], caplog: pytest.LogCaptureFixture
) -> None:
    """Hundreds of failures of one kind are one log line, and all of them are counted."""
    shop = squares(own_server.url, local_ttl=0, **PATIENT)
    shop.square(1)
    own_server.kill()
    for n in range(300):
        shop.square(n)
    lines = [record.getMessage() for record in caplog.records if "channel" not in record.getMessage()]
    assert len(lines) == 1, lines
    assert len(caplog.records) <= 2
    assert "Redis" in lines[0]
    assert shop.cache.stats().errors >= 300


def test_calls_go_on_without_a_server_that_refuses_writes(own_server: Server, squares: Callable[..., Squares]) -> None:
    """A full server that evicts nothing, or one that is a replica, costs the caching and no answer."""
    shop = squares(own_server.url, local_ttl=0, **PATIENT)
    with redis.Redis.from_url(own_server.url) as client:
        shop.square(1)
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        assert [shop.square(n) for n in range(5)] == [n * n for n in range(5)]
        assert shop.cache.stats().errors > 0
        client.config_set("maxmemory", 0)
        wait_until(lambda: shop.cache.health().ok, PATIENCE, "the breaker")
        assert shop.square(6) == 36
        assert shop.square.peek(6) == 36
        client.replicaof("127.0.0.1", 1)
        assert [shop.square(n) for n in range(10, 15)] == [n * n for n in range(10, 15)]
        shop.cache.clear()
        client.replicaof("NO", "ONE")


def test_too_many_clients_cost_the_caching_and_no_answer(own_server: Server, squares: Callable[..., Squares]) -> None:
    """A server that takes no more connections is done without."""
    with redis.Redis.from_url(own_server.url) as client:
        client.config_set("maxclients", 2)
        client.ping()
        first = squares(own_server.url, local_ttl=0)
        first.square(1)
        second = squares(own_server.url, local_ttl=0)
        assert [second.square(n) for n in range(10)] == [n * n for n in range(10)]
        assert second.cache.stats().errors > 0
