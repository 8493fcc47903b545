"""Servers and Sentinels that mean harm, or are out of their mind: calls are answered, and nothing odd is repeated."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from aikcache import Cache
from aikcache._remote import fleet_store
from aikcache._remote.scripts import SNAPSHOTS
from aikcache.errors import RemoteError, RemoteTimeoutError
from aikcache.testing import wait_until

from .._canary import chain, shown
from ._hostile import MALFORMED, PASSWORD, Hostile, array, bulk
from ._workers import PATIENCE

LONG = 0.04
EVERY = os.environ.get("HYPOTHESIS_PROFILE") == "long"
"""Each command is answered by everything odd; else by an eighth of it, another one for its neighbours."""
SERVER = (
    "HELLO", "INFO", "CLIENT", "SUBSCRIBE", "PING", "GET", "PTTL", "MGET", "SET", "EVALSHA", "UNLINK", "SCAN",
)  # fmt: skip
SENTINEL = ("HELLO", "SUBSCRIBE", "SENTINEL GET-MASTER-ADDR-BY-NAME", "SENTINEL MASTER", "SENTINEL CKQUORUM",
            "SENTINEL MYID", "INFO")  # fmt: skip
CLUSTER = ("HELLO", "CLUSTER INFO", "CLUSTER SHARDS", "CLUSTER NODES", "MGET", "UNLINK", "EVALSHA")
PLACES = (
    *(("redis://:{0}@127.0.0.1:{1}/1", command) for command in SERVER),
    *(("redis+sentinel://:{0}@127.0.0.1:{1}/main?sentinel_password={0}", command) for command in SENTINEL),
    *(("redis+cluster://:{0}@127.0.0.1:{1}", command) for command in CLUSTER),
)


@contextmanager
def surviving(name: str) -> Iterator[None]:
    """No thread dies of an exception meanwhile."""
    died: list[str] = []
    before, threading.excepthook = threading.excepthook, lambda args: died.append(f"{args.thread}: {args.exc_value!r}")
    try:
        yield
    finally:
        threading.excepthook = before
    assert died == [], name


def use(cache: Cache, server: Hostile, command: str) -> list[str]:
    """Everything that a cache does; what it then says of its server."""
    runs: list[int] = []

    @cache.cached("thing", tags=("n:{n}",))
    def square(n: int) -> int:
        runs.append(n)
        return n * n

    steps: list[Callable[[], object]] = [
        lambda: square(3) == 9 or pytest.fail("a wrong result"),
        lambda: square.many([4, 5]) == [16, 25] or pytest.fail("a wrong result"),
        lambda: cache.set("thing:put:1", 1),
        lambda: cache.get("thing:put:1"),
        lambda: square.invalidate(3),
        lambda: cache.invalidate_tags("n:4"),
        lambda: cache.invalidate("thing:*1*"),
        lambda: square(3) == 9 or pytest.fail("a wrong result"),
    ]
    said = []
    for step in steps:
        began = time.monotonic()
        step()
        assert time.monotonic() - began < PATIENCE
        if time.monotonic() - began < LONG:  # each step asks, unless it would wait
            cache.engine.remote.connections.breaker.success()  # type: ignore[union-attr]
    said.append(cache.health().server)
    try:
        cache.ping()
    except RemoteError as error:
        said += [str(one) for one in chain(error)]
        if server.malformed.startswith(b"-"):
            said.append(shown(error).replace("…", ""))
    if command in ("CLIENT", "SUBSCRIBE", "PING"):
        wait_until(lambda: command in server.asked, PATIENCE, f"{command} to be asked")
    assert cache.stats().operations
    return said


@pytest.mark.parametrize(("url", "command"), PLACES, ids=[f"{url.split(':')[0]} {command}" for url, command in PLACES])
def test_no_answer_stops_a_call_or_is_repeated(url: str, command: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever one command is answered, calls return, `health()` says so, no thread dies, no line holds its text."""
    share = slice(None) if EVERY else slice(PLACES.index((url, command)) % 8, None, 8)
    for name, malformed in list(MALFORMED.items())[share]:
        with (
            surviving(name),
            Hostile(command, malformed) as server,
            Cache(url.format(PASSWORD, server.port), instance="hostile", timeout=0.05, connect_timeout=0.2) as cache,
        ):
            said = use(cache, server, command)
        lines = [record.getMessage() for record in caplog.records]
        assert all(len(line) <= 300 for line in lines), name
        for text in (*lines, *said):
            assert PASSWORD not in text, name
            assert "\x1b" not in text, name
        caplog.clear()


def test_a_reply_that_stops_in_the_middle_is_not_shown_by_a_traceback() -> None:
    """What has arrived of a reply is in no local variable of the frames that give up waiting for the rest."""
    begun = b"$1000\r\n" + PASSWORD.encode()
    with (
        Hostile("PING", begun) as server,
        Cache(f"redis://127.0.0.1:{server.port}", instance="hostile", timeout=0.05, connect_timeout=PATIENCE) as cache,
        pytest.raises(RemoteError) as caught,
    ):
        cache.ping()
    assert "did not answer" in str(caught.value)
    assert PASSWORD not in shown(caught.value)


class EverAnotherList(Hostile):
    """Names another process each time it is asked who publishes."""

    def __init__(self) -> None:
        super().__init__("", b"")
        self.lists = 0

    def _answer(self, name: str, words: list[bytes], newer: bool) -> Iterator[bytes]:
        if name == "EVALSHA" and words[1].decode() == SNAPSHOTS.sha:
            self.lists += 1
            yield array(bulk(b"0" * 16 + b" %016x" % self.lists), bulk(b""))
        else:
            yield from super()._answer(name, words, newer)


def test_a_list_of_processes_that_never_stays_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time for reading it is over, the server is asked no more."""
    with (
        EverAnotherList() as server,
        Cache(f"redis://127.0.0.1:{server.port}", instance="hostile", connect_timeout=PATIENCE) as cache,
    ):
        assert cache.engine.fleet is not None
        clock = itertools.chain([0.0, 0.0, 1.0, 2.0], itertools.repeat(PATIENCE + 1))
        monkeypatch.setattr(fleet_store, "time", SimpleNamespace(monotonic=clock.__next__))
        with pytest.raises(RemoteTimeoutError, match="another one each time"):
            cache.engine.fleet.read(PATIENCE)
        assert server.lists == 3


GOOD = [bulk(b"ip"), bulk(b"127.0.0.1"), bulk(b"port"), bulk(b"1"), bulk(b"config-epoch"), bulk(b"7")]


@pytest.mark.parametrize(
    ("command", "malformed"),
    [
        ("SENTINEL GET-MASTER-ADDR-BY-NAME", array(bulk(b"evil/x"), bulk(b"99999"))),
        ("SENTINEL GET-MASTER-ADDR-BY-NAME", array(bulk(b"127.0.0.1"), bulk(b"-1"))),
        ("SENTINEL GET-MASTER-ADDR-BY-NAME", array(bulk(b"\x1b[31m"), bulk(b"6379"))),
        ("SENTINEL GET-MASTER-ADDR-BY-NAME", array(bulk(b"?"), bulk(b"6379"))),
        ("SENTINEL MASTER", b"%3\r\n" + b"".join([*GOOD[:5], bulk(b"9" * 40)])),
        ("SENTINEL MASTER", b"%3\r\n" + b"".join([*GOOD[:5], bulk(b"-1")])),
        ("SENTINEL MASTER", b"%4\r\n" + b"".join([*GOOD, bulk(b"num-other-sentinels"), bulk(b"4000000000")])),
    ],
)
def test_a_sentinel_that_names_no_address_is_passed_over(command: str, malformed: bytes) -> None:
    """What a Sentinel says is input: an impossible address or number is refused; the next one is asked."""
    with (
        Hostile(command, malformed) as first,
        Hostile("", b"") as second,
        Cache(
            f"redis+sentinel://127.0.0.1:{first.port},127.0.0.1:{second.port}/main",
            instance="hostile", connect_timeout=PATIENCE, timeout=PATIENCE,
        ) as cache,
    ):  # fmt: skip
        cache.ping()
        assert cache.engine.remote.connections.sentinels._known[1] == ("127.0.0.1", second.port)  # type: ignore[union-attr]
