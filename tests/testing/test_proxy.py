"""`FaultyProxy`: each fault is met by a client, and over when it heals. `assert`s on what came, not on how fast."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from aikcache import Cache
from aikcache.testing import FaultyProxy, Server, no_cache

pytestmark = pytest.mark.servers

PATIENCE = 60.0
PING, PONG = b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"


@pytest.fixture
def network(redis_server: Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(redis_server) as proxy:
        yield proxy


def connect(network: FaultyProxy) -> socket.socket:
    where = urlsplit(network.url)
    return socket.create_connection((where.hostname or "", where.port or 0), PATIENCE)


def receive(link: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (data := link.recv(size - len(got))):
        got += data
    return got


def ask(link: socket.socket) -> bytes:
    link.sendall(PING)
    return receive(link, len(PONG))


def test_without_a_fault_all_is_passed_on(network: FaultyProxy) -> None:
    """Both ways."""
    with connect(network) as link:
        assert [ask(link), ask(link)] == [PONG, PONG]


def test_a_stalled_reply_arrives_when_the_fault_is_removed(network: FaultyProxy) -> None:
    """The connection stays open, a new one is accepted, and nothing is lost."""
    with connect(network) as link:
        assert ask(link) == PONG
        network.stall()
        link.sendall(PING)
        with connect(network) as second:
            second.sendall(PING)
            second.settimeout(0.2)  # what is not there cannot come within it, however slow the machine is
            with pytest.raises(TimeoutError):
                second.recv(1)
            network.heal()
            second.settimeout(PATIENCE)
            assert receive(second, len(PONG)) == receive(link, len(PONG)) == PONG


def test_latency_loses_no_bytes(network: FaultyProxy) -> None:
    """The answer comes; a long latency is over when it heals."""
    network.latency(0.05)
    with connect(network) as link:
        assert ask(link) == PONG
        network.latency(PATIENCE)
        threading.Timer(0.1, network.heal).start()
        assert ask(link) == PONG


def test_a_reset_comes_in_the_middle_of_an_answer(network: FaultyProxy) -> None:
    """Half of it arrives at the most; after healing a new connection works."""
    with connect(network) as link:
        network.reset()
        link.sendall(PING)
        got = b""
        with pytest.raises(ConnectionError):  # noqa: PT012
            while data := link.recv(len(PONG)):
                got += data
            raise ConnectionError  # a system may tell a reset as an end
        assert len(got) < len(PONG)
    network.heal()
    with connect(network) as link:
        assert ask(link) == PONG


def test_a_sliced_answer_is_whole(network: FaultyProxy) -> None:
    """In pieces of one byte, in order."""
    network.slice(1)
    with connect(network) as link:
        link.sendall(b"*2\r\n$4\r\nECHO\r\n$8\r\nabcdefgh\r\n")
        assert receive(link, 14) == b"$8\r\nabcdefgh\r\n"


def test_cut_closes_open_connections(network: FaultyProxy) -> None:
    """And no new connection."""
    with connect(network) as link:
        assert ask(link) == PONG
        network.cut()
        assert link.recv(1) == b""
    with connect(network) as link:
        assert ask(link) == PONG


def test_calls_go_on_behind_each_fault(network: FaultyProxy) -> None:
    """What it is for: the function answers, and the cache recovers."""
    with Cache(network.url, instance="behind", timeout=1.0, connect_timeout=5.0, breaker_reset=0.1) as cache:

        @cache.cached("p")
        def f(x: int) -> int:
            return x

        for number, fault in enumerate((network.reset, network.stall, lambda: network.slice(1), network.cut)):
            assert f(number) == number
            fault()
            assert f(number + 100) == number + 100
            network.heal()


def test_no_cache_concerns_caches_that_are_made_meanwhile() -> None:
    """And those keep as they were told afterwards."""
    runs: list[int] = []
    with no_cache():
        cache, off = Cache(), Cache(enabled=False)

        @cache.cached("p")
        def f(x: int) -> int:
            runs.append(x)
            return x

        with no_cache():
            assert f(1) == 1
        assert (f(1), len(runs)) == (1, 2)
        cache.set("p:by-hand:1", 1)
        assert cache.get("p:by-hand:1") is None
    assert (f(1), f(1), len(runs)) == (1, 1, 3)
    assert (cache.engine.passive, off.engine.passive) == (False, True)
    cache.close()
    off.close()
