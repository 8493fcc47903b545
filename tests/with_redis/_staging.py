"""Races and refusals made by hand: a method that stops on request, a sure way to wait for a push, a listener of the
test's own, a server that refuses writes.
"""

from __future__ import annotations

import functools
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import hiredis
import pytest
import redis

from aikcache import Cache
from aikcache._coherence.channel import Channel
from aikcache._decorators import wrapper
from aikcache._engine import build
from aikcache._engine import connect as parts
from aikcache._redis.connection import Connection
from aikcache._remote.store import RedisStore
from aikcache.testing import Server, wait_until

from ._workers import PATIENCE, connect


class Pause:
    """Holds up one call of a method of one object: `after` it has done its work, or before.

    It is the next call, or the next whose arguments `when` accepts. The caller stops until `let_go`.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        owner: object,
        name: str,
        *,
        after: bool = False,
        when: Callable[..., bool] = lambda *args, **kwargs: True,
    ) -> None:
        kind: Any = type(owner)
        real = getattr(kind, name)
        self._arrived, self._go = threading.Event(), threading.Event()
        armed = [True]

        def method(this: Any, *args: Any, **kwargs: Any) -> Any:
            if this is not owner or not armed or not when(*args, **kwargs):
                return real(this, *args, **kwargs)
            armed.clear()
            result = real(this, *args, **kwargs) if after else None
            self._arrived.set()
            assert self._go.wait(PATIENCE), "nobody let it go"
            return result if after else real(this, *args, **kwargs)

        patch.setattr(kind, name, method)

    def wait(self) -> None:
        """Until somebody is held."""
        assert self._arrived.wait(PATIENCE), "nobody came"

    def let_go(self) -> None:
        self._go.set()


class Ahead:
    """The clock of the caches and functions made from here on: the real one, which the test moves on.

    What is sent to a server, and waited for, goes by the real one, and so does the channel: it would take the step for
    silence. Its caches are trusted all the same if `max_staleness` is longer than all steps.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._by = 0.0
        patch.setattr(build, "monotonic", self)
        patch.setattr(parts, "Channel", lambda server, *rest: Channel(server, *rest[:-1]))  # on the real clock
        patch.setattr(wrapper, "make", functools.partial(wrapper.make, clock=self))

    def __call__(self) -> float:
        return time.monotonic() + self._by

    def advance(self, seconds: float) -> None:
        self._by += seconds


def pair(open_cache: Callable[[], Cache]) -> tuple[Cache, Cache]:
    """Two caches that receive each other's invalidations."""
    one, other = open_cache(), open_cache()
    connect(one)
    connect(other)
    wait_for_push(one, other)
    wait_for_push(other, one)
    return one, other


def wait_for_push(listener: Cache, teller: Cache) -> None:
    """Until `listener` has handled all that was pushed to it before: pushes are handled in order."""
    region = listener.engine.local.region("sign:of")
    for number in range(2):  # the second comes after the answers to what the channel had asked before the first
        before = region.epoch
        teller.invalidate_key(f"sign:of:{number}")
        wait_until(lambda before=before: region.epoch > before, PATIENCE, "the push")  # type: ignore[misc]


def kill_channel(cache: Cache, url: str) -> int:
    """Cut the channel of `cache` at the server. Gives the number of its connects so far."""
    connects = cache.stats().channel_connects
    link = cache.engine.channel._connection  # type: ignore[union-attr]
    assert link is not None
    with redis.Redis.from_url(url) as client:
        link_name = "aikcache-channel"
        for found in client.client_list():
            if found["name"] == link_name:
                client.client_kill_filter(_id=found["id"])
    return connects


class Listener:
    """A connection of the test's own that receives the same pushes as channels."""

    def __init__(self, server: Server, prefix: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(str(server.socket))
        self._reader = hiredis.Reader()
        self.ask("HELLO", "3")
        self.ask("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix)

    def ask(self, *command: str) -> list[Any]:
        """Send a command; gives the pushes that came before its answer, each a list of names, or None for a flush."""
        self._socket.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]
        pushes: list[Any] = []
        while True:
            message: Any = self._reader.gets()
            if message is False:
                self._reader.feed(self._socket.recv(1 << 16))
            elif isinstance(message, list) and message and message[0] == b"invalidate":
                pushes.append(message[1])
            else:
                return pushes

    def pushes(self) -> list[Any]:
        return self.ask("PING")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._socket.close()


def lose_a_reply(patch: pytest.MonkeyPatch, cache: Cache, then: Callable[[], object]) -> None:
    """The reply to the next invalidation of `cache` does not arrive: its connection is cut after `then` has run."""
    mine, end, receive = threading.local(), RedisStore.invalidate, Connection.receive
    armed = [True]

    def ended(remote: RedisStore, *args: Any) -> None:
        mine.ends = remote is cache.engine.remote
        try:
            end(remote, *args)
        finally:
            mine.ends = False

    def received(link: Connection, *args: Any, **kwargs: Any) -> list[Any]:
        replies = receive(link, *args, **kwargs)
        if armed and getattr(mine, "ends", False):
            armed.clear()
            then()
            raise ConnectionResetError
        return replies

    patch.setattr(RedisStore, "invalidate", ended)
    patch.setattr(Connection, "receive", received)


class Refusal:
    """One reason for which a server refuses writes and goes on answering reads."""

    KINDS = ("OOM", "NOREPLICAS", "READONLY", "MISCONF")

    def __init__(self, kind: str, server: Server) -> None:
        self.kind = kind
        self.client = redis.Redis.from_url(server.url)
        self._server = server

    def begin(self) -> None:
        if self.kind == "OOM":
            self.client.config_set("maxmemory-policy", "noeviction")
            self.client.config_set("maxmemory", 1)
        elif self.kind == "NOREPLICAS":
            self.client.config_set("min-replicas-to-write", 1)
        elif self.kind == "READONLY":
            self.client.replicaof("127.0.0.1", 1)  # nobody is there
        else:
            self.client.config_set("save", "3600 1")
            (self._server.directory / "dump.rdb").mkdir()  # so it cannot be written
            self.client.set("something", "to save")
            self.client.bgsave()
            wait_until(lambda: self.client.info("persistence")["rdb_last_bgsave_status"] == "err", PATIENCE)
        with pytest.raises(redis.RedisError):
            self.client.set("something", "else")

    def end(self) -> None:
        if self.kind == "OOM":
            self.client.config_set("maxmemory", 0)
        elif self.kind == "NOREPLICAS":
            self.client.config_set("min-replicas-to-write", 0)
        elif self.kind == "READONLY":
            self.client.replicaof("NO", "ONE")
        else:
            self.client.config_set("stop-writes-on-bgsave-error", "no")

    def close(self) -> None:
        self.client.close()
