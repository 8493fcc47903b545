"""The one source of configuration: its lines, its profiles, its users, on the servers that it is for."""

from __future__ import annotations

import resource
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hiredis
import pytest
import redis

from aikcache import Cache
from aikcache.errors import RemoteUnavailableError
from aikcache.testing import Server, wait_until
from aikcache.testing.sentinel import OPS, SERVICE, Topology, configuration

from ._users import NAMES, PASSWORDS, allowed, every_command, users_file

pytestmark = pytest.mark.servers

WITHIN = 60.0


@pytest.fixture(scope="module")
def deployed(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    """1 + 2 + 3 with the shipped files and users."""
    acl = users_file(tmp_path_factory.mktemp("acl"))
    own = f'aclfile "{acl}"', "masteruser replication", f'masterauth "{PASSWORDS["replication"]}"'
    watch = f"sentinel auth-user {SERVICE} sentinel", f'sentinel auth-pass {SERVICE} "{PASSWORDS["sentinel"]}"'
    login = "sentinel", PASSWORDS["sentinel"]
    with Topology(
        binary=binary, config=own, sentinel_config=watch, sentinel_password="sentinels", login=login
    ) as topology:
        yield topology


def url(topology: Topology, user: str) -> str:
    return topology.url.replace("://", f"://{user}:{quote(PASSWORDS[user], safe='')}@")


def reasoned(name: str) -> Iterator[tuple[str, str]]:
    """The settings of a file, each with the comment before its paragraph; settings of one paragraph share it."""
    comment = ""
    for line in (OPS / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            comment = line
        elif line:
            yield line, comment
        else:
            comment = ""


@pytest.mark.parametrize("name", ["redis.conf", "durable.conf"])
def test_every_line_is_no_default_and_has_its_reason(name: str, binary: Path) -> None:
    """No line repeats a default, and each has an explanation."""
    with Server(binary=binary) as bare, Server(binary=binary, config=configuration("redis.conf")) as base:
        under = bare if name == "redis.conf" else base
        lines = configuration(name)
        asked = ["maxmemory" if line.startswith("maxmemory ") else line.split()[0] for line in lines]
        with Server(binary=binary, config=[*configuration("redis.conf"), *lines]) as server:
            before, after = (look(one, asked) for one in (under, server))
    own = {"save", "appendonly"}  # as the tests' servers have them already
    if "valkey" in binary.name:  # which frees lazily by default
        own |= {key for key in asked if "lazy" in key}
    assert [key for key in asked if before[key] == after[key] and key not in own] == []
    assert [line for line, reason in reasoned(name) if not reason] == []


def look(server: Server, names: list[str]) -> dict[str, str]:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        return {name: client.config_get(name)[name] for name in names}


def test_sentinel_has_the_times_that_were_asked_for() -> None:
    """Quorum 2, 5 seconds until a server counts as down, 10 for a failover, one replica at a time."""
    lines = configuration("sentinel.conf")
    for line in (
        "down-after-milliseconds aikcache 5000",
        "failover-timeout aikcache 10000",
        "parallel-syncs aikcache 1",
    ):
        assert f"sentinel {line}" in lines
    (monitor,) = [line for line in lines if line.startswith("sentinel monitor")]
    assert monitor.split()[-1] == "2"
    assert [line for line, reason in reasoned("sentinel.conf") if not reason and not line.startswith("port")] == []


def test_the_library_works_as_the_caches_user(deployed: Topology) -> None:
    """Reads, writes, invalidations and the invalidation channel work through Sentinel, in two processes' caches."""
    settings: dict[str, Any] = {"instance": "aikernel", "timeout": 20, "connect_timeout": 20, "lease_wait": 20}
    with Cache(url(deployed, "cache"), **settings) as cache, Cache(url(deployed, "cache"), **settings) as other:

        @cache.cached("thing", tags=("n:{n}",))
        def square(n: int) -> int:
            return n * n

        assert [square(n) for n in (1, 2, 1)] == [1, 4, 1]
        assert cache.wait_coherent(WITHIN)
        assert other.wait_coherent(WITHIN)
        ways: list[Callable[[], object]] = [
            lambda: other.invalidate_tags("n:2"),
            lambda: other.invalidate("thing:*quar*:2"),
        ]
        for invalidate in ways:
            assert square(2) == 4
            assert square.peek(2) == 4
            invalidate()
            wait_until(lambda: square.peek(2) is None, WITHIN, "the push")
        assert cache.stats().errors == other.stats().errors == 0


def test_what_a_session_store_needs_is_allowed(deployed: Topology) -> None:
    """Its user reads and writes sessions, subjects and the key ring, and no other key."""
    with closing(Client(deployed.primary(), "session")) as client:
        record = "aikernel:session:x"
        for words in (["HSET", record, "f", "1"], ["HGETALL", record], ["PEXPIRE", record, "60000"], ["PTTL", record]):
            assert not isinstance(client.ask(*words), Exception), words
        script = ["EVAL", "redis.call('TIME') return redis.call('HEXISTS', KEYS[1], 'f')", "1", record]
        assert client.ask(*script) == 1
        assert client.ask("WAIT", "1", "20000") >= 1
        assert client.ask("HGET", "aikernel:keyring", "g") is None
        for other in ("aikernel:v1:thing", "aikernel:keyrings", "other"):
            assert "NOPERM" in str(client.ask("HGET", other, "f"))


def full(server: Server) -> None:
    """From now on no file of it may grow."""
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))


def refusal(topology: Topology, server: Server, *command: str) -> str:
    """Why a server does not do this."""
    try:
        topology.ask(server, *command)
    except RemoteUnavailableError as error:
        return str(error)
    return ""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody changes another process's limits")
@pytest.mark.parametrize("profile", ["redis.conf", "durable.conf"])
def test_a_server_that_cannot_write_its_log_acknowledges_nothing(profile: str, binary: Path, tmp_path: Path) -> None:
    """A primary refuses writes; a replica ends itself, or `WAIT` would count what it keeps in memory alone."""
    start = tmp_path / binary.name
    start.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec {shlex.quote(str(binary))} \"$@\"\n")  # writing fails instead
    start.chmod(0o700)
    config = *configuration(profile), "min-replicas-max-lag 60", "crash-log-enabled no"
    with Topology(binary=start, replicas=1, sentinels=0, config=config) as topology:
        primary, replica = topology.servers
        free = resource.prlimit(primary.pid, resource.RLIMIT_FSIZE)

        def write() -> str:
            return refusal(topology, primary, "SET", "k", "v")

        def ended() -> bool:
            write()
            return "no answer" in refusal(topology, replica, "PING")

        def settled() -> bool:
            said = topology.ask(replica, "INFO").decode()
            return "master_link_status:up" in said and "aof_rewrite_in_progress:0" in said

        wait_until(settled, WITHIN, "the replica to have its copy")  # which it could not store afterwards
        full(primary)
        wait_until(lambda: "MISCONF" in write(), WITHIN, "the primary to refuse")
        resource.prlimit(primary.pid, resource.RLIMIT_FSIZE, free)
        wait_until(lambda: not write(), WITHIN, "writes to be taken again")
        full(replica)
        wait_until(ended, WITHIN, "the replica's end")
        wait_until(lambda: "NOREPLICAS" in write(), WITHIN, "the primary to miss it")


@pytest.mark.parametrize("user", NAMES)
def test_each_user_is_refused_every_other_command(user: str, deployed: Topology, redis_server: Server) -> None:
    """Of all that the server has, a user may call what its line says, and is refused each of the rest."""
    commands = every_command(redis_server)
    mine = allowed(user)
    assert mine <= {*commands, "hello"}
    others = {name: words for name, words in commands.items() if name not in mine}
    assert len(others) > 200
    with closing(Client(deployed.primary(), user)) as client:
        answers = {name: str(client.ask(*words)) for name, words in others.items()}
    assert {name: said for name, said in answers.items() if "NOPERM" not in said and "not allowed" not in said} == {}


class Client:
    """A connection as one of the users, which gives refusals as they are."""

    def __init__(self, server: Server, user: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(WITHIN)
        self._socket.connect(str(server.socket))
        self._reader = hiredis.Reader()
        assert self.ask("AUTH", user, PASSWORDS[user]) == b"OK"

    def ask(self, *words: str) -> Any:
        self._socket.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(1 << 16))
        return reply

    def close(self) -> None:
        self._socket.close()
