"""The shipped users: each may do what it needs, and nothing else."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import pytest

from aikcache import Cache
from aikcache.errors import RemoteError
from aikcache.testing import Server, wait_until
from aikcache.testing.sentinel import OPS, SERVICE, Topology, ask

from ._workers import PATIENCE, PATIENT

PASSWORDS = {
    name: f"{name}'s own pässword:@/" for name in ("CACHE", "SESSION", "MONITOR", "REPLICATION", "SENTINEL", "OPERATOR")
}
NO = r"NOPERM|unknown command|(DEBUG|MODULE) command not allowed"
MINE: dict[str, Any] = {"instance": "aikernel", "version": "v1", **PATIENT}


def users(*without: str) -> str:
    """The shipped file as it is deployed, the cache's user without some of its permissions."""
    text = (OPS / "users.acl").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    digests = {name: f"#{hashlib.sha256(word.encode()).hexdigest()}" for name, word in PASSWORDS.items()}
    made = Template("\n".join([*lines, ""])).substitute(digests)
    for permission in without:
        made, count = re.subn(rf"(?m)^(user cache .*) {re.escape(permission)}\b(.*)$", r"\1\2", made)
        assert count == 1
    return made


def serve(binary: Path, directory: Path, *without: str) -> Server:
    """A server with these users; as `default` is off, only they can look at it."""
    (directory / "users.acl").write_text(users(*without), encoding="utf-8")
    # Whether it is ready is asked without a login, which is answered "NOAUTH".
    return Server(binary=binary, config=[f"aclfile {directory / 'users.acl'}"])


def url(server: Server, user: str = "cache") -> str:
    return f"unix://{user}:{quote(PASSWORDS[user.upper()], safe='')}@{server.socket}?db=0"


@pytest.fixture(scope="module")
def guarded(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(binary, tmp_path_factory.mktemp("acl")) as server:
        yield server


def do_everything(cache: Cache, *, globs: bool = True) -> None:
    """All that the library asks of a server."""
    loads: list[object] = []

    @cache.cached("thing", tags=("n:{n}",), stale_ttl=5)
    def square(n: int) -> int:
        loads.append(n)
        return n * n

    @cache.cached("thing", tags=lambda result, n: (f"late:{result}",))
    def late(n: int) -> int:
        loads.append(n)
        return n

    @cache.cached_many("thing", operation="square", tags=("n:{ids}",))
    def squares(ids: list[int]) -> dict[int, int]:
        loads.extend(ids)
        return {n: n * n for n in ids}

    assert [square(n) for n in (1, 2, 1, 2)] == [1, 4, 1, 4]
    assert loads == [1, 2]
    assert cache.fleet().loads >= 2
    assert late(3) == late(3) == 3
    assert square.many([1, 2, 3]) == [1, 4, 9]
    assert squares([1, 4]) == {1: 1, 4: 16}
    assert square.refresh(1) == 1
    square.store(5, 5)
    assert square.peek(5) == 5
    square.invalidate(5)
    assert square.peek(5) is None
    cache.set("thing:x:1", "one", tags=("t",))
    assert cache.get_many(["thing:x:1"]) == {"thing:x:1": "one"}
    ends: list[Callable[[], object]] = [
        lambda: cache.invalidate_tags("t"),
        lambda: cache.invalidate("thing:x"),
        cache.clear,
    ]
    for end in ends:
        cache.set("thing:x:1", "one", tags=("t",))
        assert cache.get("thing:x:1") == "one"
        end()
        assert cache.get("thing:x:1") is None
    if globs:
        cache.set("thing:x:one", 1)
        cache.invalidate("thing:x:*n*")
        assert cache.get("thing:x:one") is None
    assert cache.wait_coherent(PATIENCE)
    cache.ping()
    stats = cache.stats()
    assert (stats.errors, stats.pending_invalidations) == (0, 0)


@pytest.mark.parametrize("local_ttl", [0, 60])
def test_the_library_needs_no_more_than_the_caches_user_may(
    local_ttl: float, guarded: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything there is works as the cache's user, and nothing is logged."""
    with Cache(url(guarded), local_ttl=local_ttl, **MINE) as cache, Cache(url(guarded), **MINE) as other:
        do_everything(cache)
        other.set("thing:pushed:1", 1)
        assert cache.get("thing:pushed:1") == 1
        other.invalidate_key("thing:pushed:1")
        wait_until(lambda: cache.get("thing:pushed:1") is None, PATIENCE, "the push")
    assert caplog.messages == []


def test_waiting_for_replicas_is_allowed(guarded: Server) -> None:
    """`invalidate_wait` may ask, and is told that there are none."""
    with Cache(url(guarded), invalidate_wait=1, **{**MINE, "timeout": 4.0}) as cache:
        cache.invalidate("thing")
        assert cache.stats().pending_invalidations == 1
        counts = cache.engine.reporter.counts
        assert counts["unheard"] == 1
        assert counts.keys() <= {"unheard", "channel:live"}


def test_without_info_and_scan_the_rest_works_silently(
    binary: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A user without INFO, SCAN and WAIT has a working cache and nothing in the log; a glob is counted as pending."""
    with serve(binary, tmp_path, "+info", "+scan", "+wait") as server, Cache(url(server), **MINE) as cache:
        do_everything(cache, globs=False)
        assert caplog.messages == []
        cache.invalidate("thing:x:*n*")
        assert cache.stats().pending_invalidations == 1
        assert any("NOPERM" in message for message in caplog.messages)


def test_other_instances_are_out_of_reach(guarded: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A cache of another instance, which the user's key pattern does not cover, answers without Redis."""
    caplog.set_level(logging.CRITICAL, "aikcache")
    with Cache(url(guarded), **{**MINE, "instance": "others"}) as cache:
        assert cache.get_or_load("thing:x:1", lambda: 1) == 1
        assert cache.stats().errors > 0
        with pytest.raises(RemoteError, match="NOPERM"):
            cache.engine.remote.read(["others:v1:thing:x:1"], ())  # type: ignore[union-attr]


def refusal(server: Server, user: str, *command: str) -> str:
    """What the server says to a user's command; it must refuse."""
    with pytest.raises(RemoteError) as caught:
        ask(server, *command, login=(user, PASSWORDS[user.upper()]))
    return str(caught.value)


def test_nothing_else_is_allowed(guarded: Server) -> None:
    """Of all commands the server has, the cache's user may call its own alone, and on its own keys alone."""
    assert re.search(NO, refusal(guarded, "monitor", "GET", "aikernel:v1:thing"))
    for command in (*DANGEROUS, *COMMANDS):
        said = ""
        for count in range(8):
            said = refusal(guarded, "cache", *command.upper().split(), *("aikernel:v1:thing", *"1234567")[:count])
            if "wrong number of arguments" not in said:
                break  # these are counted before it is looked at who asks
        assert re.search(NO, said), (command, said)
    for other in (
        "GET other",
        "SET other 1",
        "UNLINK ~stamp",
        "MGET aikernel:v1:a other",
        "EVAL code 1 other",
        "PUBLISH other 1",
    ):
        assert re.search(NO, refusal(guarded, "cache", *other.split()))
    # Nor by way of a script.
    for script in ("return redis.call('FLUSHALL')", "return redis.call('GET', 'other')"):
        assert re.search("ACL|permission|can't", refusal(guarded, "cache", "EVAL", script, "0"))


DANGEROUS = (
    "flushall", "flushdb", "keys", "config get", "config set", "debug", "shutdown", "save", "bgsave", "replicaof",
    "acl list", "acl setuser", "client list", "client kill", "script flush", "function load", "module load", "migrate",
    "dump", "restore", "sort", "monitor", "slowlog get", "cluster reset", "psubscribe", "spublish", "select", "swapdb",
    "eval_ro", "fcall", "object encoding", "memory usage", "randomkey", "dbsize", "failover", "latency reset",
)  # fmt: skip
COMMANDS = (
    "append", "bitcount", "copy", "decr", "del", "exists", "expire", "getdel", "getex", "getset", "hget", "hset",
    "incr", "lpush", "lrange", "move", "persist", "pfadd", "rename", "sadd", "setex", "setnx", "setrange",
    "smembers", "touch", "ttl", "type", "xadd", "zadd", "zrange",
)  # fmt: skip


def test_the_other_users_may_do_their_part(guarded: Server) -> None:
    """Exporters read figures and no values; the default user is off."""
    for command in ("PING", "INFO", "LATENCY LATEST", "SLOWLOG GET 5", "SLOWLOG LEN", "CONFIG GET maxmemory"):
        ask(guarded, *command.split(), login=("monitor", PASSWORDS["MONITOR"]))
    for command in ("CONFIG SET maxmemory 1", "SET x 1", "KEYS *", "FLUSHALL", "CLIENT LIST", "SLOWLOG RESET"):
        assert re.search(NO, refusal(guarded, "monitor", *command.split()))
    with pytest.raises(RemoteError, match="NOAUTH"):
        ask(guarded, "GET", "aikernel:v1:thing")


def test_replicas_and_sentinels_work_as_their_users(binary: Path, tmp_path: Path) -> None:
    """Replication and a failover go through with the shipped users for them, and the cache follows as its own."""
    (tmp_path / "users.acl").write_text(users(), encoding="utf-8")
    acl = (
        f"aclfile {tmp_path / 'users.acl'}",
        "masteruser replication",
        f'masterauth "{PASSWORDS["REPLICATION"]}"',
        "min-replicas-to-write 0",  # the only replica is away for some seconds
    )
    watch = (f"sentinel auth-user {SERVICE} sentinel", f'sentinel auth-pass {SERVICE} "{PASSWORDS["SENTINEL"]}"')
    with Topology(
        binary=binary,
        replicas=1,
        sentinels=1,
        config=acl,
        sentinel_config=watch,
        login=("sentinel", PASSWORDS["SENTINEL"]),
        down_after_ms=5000,
    ) as topology:
        login = f"cache:{quote(PASSWORDS['CACHE'], safe='')}@"
        with Cache(topology.url.replace("://", f"://{login}"), **MINE) as cache:
            cache.set("thing:x:1", 1)
            old = topology.primary()
            topology.fail_over()
            wait_until(lambda: topology.primaries() not in ([], [old]), 3 * PATIENCE, "the failover")
            wait_until(lambda: cache.health().ok, 3 * PATIENCE, "the new primary")

            def kept() -> bool:  # what was just invalidated is sent again to a primary that may not have it
                cache.set("thing:x:1", "one", tags=("t",))
                return bool(cache.get("thing:x:1") == "one")

            wait_until(kept, PATIENCE, "a value that stays")
            cache.invalidate_tags("t")
            assert cache.get("thing:x:1") is None
            assert cache.stats().pending_invalidations == 0
