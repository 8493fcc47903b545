"""The parts of redis-py that are overridden or accessed: they must exist in every version that may be installed."""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis._parsers import hiredis
from redis.connection import AbstractConnection, DefaultParser

from aikcache._compiled import fast
from aikcache._redis.connection import Connection
from aikcache._redis.connector import Connector
from aikcache._redis.wire import Wire
from aikcache._settings.secret import Secret
from aikcache._settings.url import parse
from aikcache.errors import RemoteUnavailableError

from .._interrupts import Late, interrupt


@pytest.mark.parametrize("name", ["_connect", "repr_pieces", "_host_error", "__del__"])
def test_redis_py_still_has_what_the_connection_overrides(name: str) -> None:
    """redis-py's connection has the attributes that ours replaces."""
    assert callable(getattr(AbstractConnection, name))


@pytest.mark.parametrize(
    "name", ["read_from_socket", "handle_push_response", "parse_error", "on_connect", "on_disconnect", "__del__"]
)
def test_redis_py_still_has_what_the_parser_overrides(name: str) -> None:
    """redis-py's parser is the one over hiredis, and has the attributes that ours replaces."""
    assert DefaultParser is hiredis._HiredisParser
    assert callable(getattr(DefaultParser, name))


def test_redis_py_still_has_the_parts_of_the_parser() -> None:
    """The private attributes that are accessed are set where they are expected."""
    source = inspect.getsource(DefaultParser)
    assert all(f"self.{name} = " in source for name in ("_sock", "_reader", "_buffer"))
    assert "response is NOT_ENOUGH_DATA" in source
    assert "redis_connect_func" in inspect.signature(AbstractConnection.__init__).parameters
    assert not {"_connect", "_host_error"} - set(vars(Wire))


def test_a_subclass_of_socket_is_not_taken_for_a_late_monkey_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test tools put a subclass, or a function, in the place of `socket.socket`; ours can be used then."""
    where = parse(Secret("redis://127.0.0.1:1"))
    guards: list[object] = [type("Guard", (socket.socket,), {}), lambda *_: None]
    for guard in guards:
        monkeypatch.setattr(socket, "socket", guard)
        with pytest.raises(ConnectionRefusedError):
            Connector(where).connect("127.0.0.1", 1, time.monotonic() + 60)
    monkeypatch.setattr(socket, "socket", type("Greenlets", (), {}))
    with pytest.raises(RemoteUnavailableError, match="monkey-patched after the import"):
        Connector(where).connect("127.0.0.1", 1, time.monotonic() + 60)


@pytest.mark.parametrize("give_up", [Connection.close, Connection.interrupt])
def test_a_time_limit_raised_as_a_socket_error_is_raised(
    give_up: Callable[[Connection], object],
) -> None:
    """A socket's error on closing is ignored; an exception of a signal handler meanwhile is raised."""
    for point in range(1, 100):
        here, there = socket.socketpair()
        link = Connection(Wire(here), 1.0)
        with there:
            reached, error = interrupt(point, lambda link=link: give_up(link), Late)  # type: ignore[misc]
        if (left := here.detach()) != -1:  # interrupted before it was closed
            os.close(left)
        if not reached:
            return
        assert error is not None, point
    pytest.fail("it does not end")


@pytest.mark.skipif(fast is None, reason="there is no compiled part")
def test_a_connection_that_listens_waits_and_receives_in_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python waits for a socket with a time-out in a call of its own, and gives the interpreter up for each of both."""
    waited: list[float] = []

    class Counted:
        @staticmethod
        def receive(fd: int, seconds: float, buffer: bytearray) -> int:
            waited.append(seconds)
            return fast.receive(fd, seconds, buffer)  # type: ignore[no-any-return, union-attr]

    monkeypatch.setattr("aikcache._redis.connection.fast", Counted)
    here, there = socket.socketpair()
    with here, there:
        link = Connection(Wire(here), 0.05)
        assert link.poll(0.01) == []
        there.sendall(b"+heard\r\n")
        assert link.poll(10) == [b"heard"]
        assert waited == [0.01, 10]
        with pytest.raises(TimeoutError):
            link.ask([("PING",)], time.monotonic() + 0.01)
        assert link.poll(0.01) == []
        with pytest.raises(RemoteUnavailableError):  # the other end reads nothing, and the buffers are full
            link.send_commands([("ECHO", b"x" * (1 << 22))])
        there.close()
        with pytest.raises(RemoteUnavailableError, match="closed the connection"):
            link.poll(10)
        here.close()
        with pytest.raises(RemoteUnavailableError, match="broke"):
            link.poll(10)


def test_what_interrupts_a_thread_again_and_again_does_not_prolong_its_wait() -> None:
    """A sampling profiler stops all threads a hundred times a second; heartbeats must be sent all the same."""
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    here, there = socket.socketpair()
    with here, there:
        listening = threading.Thread(target=Connection(Wire(here), 1.0).poll, args=(0.2,), daemon=True)
        listening.start()
        until = time.monotonic() + 2
        while listening.is_alive() and time.monotonic() < until:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                signal.pthread_kill(listening.ident or 0, signal.SIGUSR1)
            time.sleep(0.02)
        ended = not listening.is_alive()
        there.close()
        listening.join()
    signal.signal(signal.SIGUSR1, before)
    assert ended


def test_a_socket_that_receives_by_itself_keeps_the_time_out_of_python() -> None:
    """The sockets of TLS and gevent go on waiting where the kernel has given up."""

    class Own(socket.socket):
        def recv_into(self, *given: Any) -> int:
            return super().recv_into(*given)

    pair = socket.socketpair()
    here, there = Own(fileno=pair[0].detach()), pair[1]
    with here, there:
        link = Connection(Wire(here), 1.0)
        assert link.poll(0.01) == []
        assert here.gettimeout() == 0.01
        there.sendall(b"+heard\r\n")
        assert link.poll(10) == [b"heard"]
