"""Invalidations that Redis could not get: kept, sent before it is read again, and never lost."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from aikcache import Cache
from aikcache._coherence import pending
from aikcache._coherence.journal import HEADER
from aikcache._engine import invalidation
from aikcache._keys import patterns
from aikcache._keys.patterns import Invalidation
from aikcache._local.tier import LocalTier
from aikcache._remote.store import RedisStore
from aikcache.errors import RemoteUnavailableError
from aikcache.testing import Server, wait_until
from tests._interrupts import Stop, interrupt

from ._staging import Pause
from ._workers import PATIENCE, Background, connect

OLD, NEW = "old", "new"
QUICK = {"timeout": 5, "connect_timeout": 5, "breaker_reset": 0.05, "max_staleness": 0.5}
NAMES = [f"n{number}" for number in range(100)]
OpenCache = Callable[..., Cache]


@pytest.fixture
def open_cache(own_server: Server, instance: str) -> Iterator[OpenCache]:
    url = own_server.url
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(Cache(url, instance=instance, **{**QUICK, **settings}))


@pytest.fixture(params=["a fresh run is distrusted", "nobody noticed the restart"])
def noticed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the data restored by a server that has just started is invalidated; if not, only pending names are."""
    if request.param != "a fresh run is distrusted":
        monkeypatch.setattr(pending, "JUST_STARTED", -1)
        return False
    return True


class Shelf:
    """Values by name, read by one function per way of ending them."""

    def __init__(self) -> None:
        self.value = OLD

    def bind(self, cache: Cache) -> dict[str, Callable[[str], str]]:
        def load(name: str) -> str:
            return f"{name} {self.value}"

        return {
            "key": cache.cached("a", operation="key")(load),
            "group": cache.cached("b", operation="group")(load),
            "tag": cache.cached("c", operation="tag", tags=("t:{name}",))(load),
            "late": cache.cached("d", operation="late", tags=lambda result, name: (f"late:{name}",))(load),
            "glob": cache.cached("e", operation="glob")(load),
        }


def end_all(cache: Cache) -> None:
    """A hundred invalidations of each kind, but for the group, which is one, and the globs, which are ten."""
    for name in NAMES:
        cache.invalidate_key(f"a:key:{name}")
        cache.invalidate_tags(f"t:{name}")
        cache.invalidate_tags(f"late:{name}")
    cache.invalidate("b:group")
    for number in range(10):
        cache.invalidate(f"e:glob:?{number}*")


def read_all(functions: dict[str, Callable[[str], str]]) -> set[str]:
    """The kinds of values that any of the functions gives."""
    return {get(name).split()[1] for get in functions.values() for name in NAMES}


def save(server: Server) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.save()


@pytest.mark.parametrize("restored", [False, True], ids=["empty", "with its old data"])
def test_what_was_invalidated_while_redis_was_down_is_not_served_afterwards(
    restored: bool, noticed: bool, own_server: Server, open_cache: OpenCache
) -> None:
    """Redis stops, much is invalidated, Redis comes back, empty or with its data: no call gets an old value."""
    shelf = Shelf()
    issuer, bystander = open_cache(), open_cache()
    here, there = shelf.bind(issuer), shelf.bind(bystander)
    connect(issuer)
    connect(bystander)
    assert read_all(here) == read_all(there) == {OLD}
    save(own_server)
    if not restored:
        (own_server.directory / "dump.rdb").unlink()
    own_server.kill()
    shelf.value = NEW
    end_all(issuer)
    assert issuer.stats().pending_invalidations >= 311
    oldest = issuer.stats().oldest_pending
    assert oldest is not None
    assert oldest >= 0
    assert read_all(here) == {NEW}  # at once in the process that ended it
    wait_until(lambda: read_all(there) == {NEW}, PATIENCE, "`trusted_until` to pass")  # elsewhere then
    shelf.value = "newer"  # what anyone loads now would be this
    own_server.start()
    wait_until(lambda: issuer.stats().pending_invalidations == 0, PATIENCE, "the replay")
    assert OLD not in read_all(here)
    assert issuer.stats().oldest_pending is None
    assert issuer.stats().replayed_invalidations >= 311
    assert OLD not in read_all(shelf.bind(open_cache()))  # who never received it
    wait_until(lambda: bystander.stats().coherent, PATIENCE, "the channel")
    wait_until(lambda: OLD not in read_all(there), PATIENCE, "the push")


@pytest.mark.parametrize("error", [RuntimeError("dictionary changed size"), KeyboardInterrupt()])
def test_an_invalidation_that_fails_in_any_way_is_pending(
    error: BaseException, own_server: Server, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of ours is not raised, what a signal handler raises is; in both cases the invalidation is not lost."""
    cache, other = open_cache(), open_cache(local_ttl=0)
    connect(cache)
    cache.set("a:key:n1", OLD, tags=("t:n1",))
    keeping: list[BaseException] = [error]
    real = RedisStore.invalidate

    def end(self: RedisStore, groups: Sequence[str], keys: Sequence[str]) -> None:
        if keeping:
            raise keeping.pop()
        real(self, groups, keys)

    monkeypatch.setattr(RedisStore, "invalidate", end)
    raises = pytest.raises(KeyboardInterrupt) if isinstance(error, KeyboardInterrupt) else contextlib.nullcontext()
    with raises:
        cache.invalidate_tags("t:n1")
    wait_until(lambda: cache.stats().pending_invalidations == 0, PATIENCE, "the replay")
    assert not keeping
    assert other.get("a:key:n1") is None


def test_what_a_collection_adds_meanwhile_disturbs_nothing(open_cache: OpenCache) -> None:
    """Finalisers that run while pending invalidations are being sent may add some: none is lost, nothing is raised."""
    cache = open_cache()
    connect(cache)
    recovery = cache.engine.recovery
    assert recovery is not None
    added, keep = itertools.count(), recovery.add

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            keep(Invalidation(keys=(cache.space.full(f"a:key:late{next(added)}"),)))

    recovery.add(Invalidation(keys=tuple(cache.space.full(f"a:key:n{number}") for number in range(5000))))
    threshold = gc.get_threshold()
    gc.disable()
    try:
        for _ in range(10):
            Cycle()
        gc.set_threshold(gc.get_count()[0] + 1000)  # reached where the 5000 are listed
        gc.enable()
        with contextlib.suppress(RemoteUnavailableError):  # a heartbeat is at it already
            recovery.send()
    finally:
        gc.enable()
        gc.set_threshold(*threshold)
    gc.collect()
    assert next(added) == 10
    wait_until(lambda: cache.stats().pending_invalidations == 0, PATIENCE, "the replay")


def test_pending_invalidations_are_sent_before_anything_is_read(
    own_server: Server, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that comes before the replay replays first; one that comes during it does without Redis."""
    monkeypatch.setattr(pending, "JUST_STARTED", -1)
    shelf = Shelf()
    cache, other = open_cache(), open_cache()
    get = shelf.bind(cache)["key"]
    connect(cache)
    assert get("n1") == "n1 old" == shelf.bind(other)["key"]("n1")
    save(own_server)
    channel = Pause(monkeypatch, cache.engine.channel, "_connect_and_listen")
    own_server.kill()
    channel.wait()  # nothing is replayed by itself
    shelf.value = NEW
    cache.invalidate_key("a:key:n1")
    cache.engine.local.drop_group("*")
    own_server.start()
    sending = Pause(monkeypatch, cache.engine.remote, "invalidate")
    replaying = Background(lambda: wait_until(lambda: get("n1") and cache.stats().pending_invalidations == 0))
    sending.wait()
    assert get("n2") == "n2 new"  # n1 would be waited for
    sending.let_go()
    replaying.result()
    assert get("n1") == "n1 new"
    channel.let_go()


@pytest.mark.parametrize("limit", [3, 2])
def test_the_same_one_is_pending_once(limit: int, own_server: Server, open_cache: OpenCache) -> None:
    """A name invalidated again while it waits is kept once, and has waited since the first time; so has everything,
    which waits in place of too many.
    """
    cache = open_cache(max_pending_invalidations=limit)
    connect(cache)
    own_server.kill()

    def age() -> float:
        cache.invalidate_key("a:key:n1")
        cache.invalidate_key("a:key:n2")
        cache.invalidate("b")
        return cache.stats().oldest_pending or 0

    first = age()
    wait_until(lambda: age() >= first + 0.5, PATIENCE, "half a second of waiting")
    assert cache.stats().pending_invalidations == (3 if limit == 3 else 1)
    own_server.start()
    wait_until(lambda: cache.stats().pending_invalidations == 0, PATIENCE, "the replay")


def test_what_is_interrupted_while_it_waits_for_replicas_is_pending(
    own_server: Server, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job's time limit while pending invalidations are sent: whether replicas have them is not known yet."""

    class TimeLimit(BaseException):
        """As Celery's or RQ's."""

    def interrupted(*args: object) -> bool:
        raise TimeLimit

    cache = open_cache(invalidate_wait=1)
    connect(cache)
    recovery = cache.engine.recovery
    assert recovery is not None
    channel = Pause(monkeypatch, cache.engine.channel, "_connect_and_listen")
    own_server.kill()
    channel.wait()  # nothing is replayed by itself
    cache.invalidate_key("a:key:n1")
    own_server.start()
    with monkeypatch.context() as limited:
        limited.setattr(RedisStore, "acknowledged", interrupted)
        with pytest.raises(TimeLimit):
            recovery.send()
    assert [name for _, name in recovery.pending] == [cache.space.full("a:key:n1")]
    channel.let_go()


@pytest.mark.parametrize("limit", [1, 10])
def test_too_many_invalidations_become_an_invalidation_of_everything(
    limit: int,
    own_server: Server,
    open_cache: OpenCache,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Beyond `max_pending_invalidations` one of everything waits instead: too much is invalidated, nothing is lost."""
    monkeypatch.setattr(pending, "JUST_STARTED", -1)
    shelf = Shelf()
    cache, other = open_cache(max_pending_invalidations=limit), open_cache()
    here, there = shelf.bind(cache), shelf.bind(other)
    connect(cache)
    connect(other)
    assert read_all(here) == read_all(there) == {OLD}
    save(own_server)
    own_server.kill()
    shelf.value = NEW
    with caplog.at_level(logging.WARNING, "aikcache"):
        end_all(cache)
    assert 1 <= cache.stats().pending_invalidations <= limit + 1
    assert sum("become one of everything" in record.getMessage() for record in caplog.records) == 1
    own_server.start()
    wait_until(lambda: cache.stats().pending_invalidations == 0, PATIENCE, "the replay")
    assert read_all(here) == {NEW}
    assert read_all(shelf.bind(open_cache())) == {NEW}


JOURNALLING = """
import os, sys, signal
from aikcache import Cache
url, instance, journal = sys.argv[1:]
cache = Cache(url, instance=instance, journal=journal)
cache.invalidate_key("a:key:n1")
cache.invalidate("b:group")
cache.invalidate_tags("t:n3")
cache.invalidate_tags("late:n4")
cache.invalidate("e:glob:n?")
assert cache.stats().pending_invalidations == 6
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_journal_survives_the_process(
    own_server: Server, open_cache: OpenCache, instance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed process could not send, the next one with its journal sends before it reads anything."""
    monkeypatch.setattr(pending, "JUST_STARTED", -1)
    shelf = Shelf()
    functions = shelf.bind(open_cache())
    assert read_all(functions) == {OLD}
    save(own_server)
    own_server.kill()
    journal = tmp_path / "journal"
    command = [sys.executable, "-c", JOURNALLING, own_server.url, instance, str(journal)]
    dying = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE, check=False)
    assert dying.returncode == -9, dying.stderr
    with open(journal, "ab") as file:
        file.write(b'["keys", "cut sh')  # as by a crash in the middle of a line
    own_server.start()
    shelf.value = NEW
    heir = open_cache(journal=str(journal))
    functions = shelf.bind(heir)
    assert heir.stats().pending_invalidations == 6
    assert functions["key"]("n1") == "n1 new"
    assert functions["group"]("n2") == "n2 new"
    assert functions["tag"]("n3") == "n3 new"
    assert functions["late"]("n4") == "n4 new"
    assert functions["glob"]("n5") == "n5 new"
    # While the channel replays, calls do without Redis.
    wait_until(lambda: heir.stats().pending_invalidations == 0, PATIENCE, "the replay")
    assert functions["key"]("n6") == "n6 old"  # this one had not been ended
    assert journal.read_bytes() == HEADER


def test_processes_with_one_journal_do_not_lose_each_others(
    own_server: Server, open_cache: OpenCache, tmp_path: Path
) -> None:
    """Caches given the same path write to their own files, and the next process takes over what all have left."""
    own_server.kill()
    path = str(tmp_path / "journal")
    first, second = open_cache(journal=path), open_cache(journal=path)
    first.invalidate_key("a:key:n1")
    second.invalidate_key("a:key:n2")
    first.close()
    second.close()
    assert len(list(tmp_path.iterdir())) == 2
    heir = open_cache(journal=path)
    assert heir.stats().pending_invalidations == 2
    assert [file.name for file in tmp_path.iterdir()] == ["journal"]


FORKING = """
import os, sys, signal
from aikcache import Cache
url, instance, journal = sys.argv[1:]
cache = Cache(url, instance=instance, journal=journal)
cache.invalidate_key("a:key:parent")
child = os.fork()
cache.invalidate_key("a:key:child" if child == 0 else "a:key:parents")
if child == 0:
    assert cache.stats().pending_invalidations == 2  # its parent's as well
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(child, 0)
print(sorted(os.path.basename(name) for name in os.listdir(os.path.dirname(journal))))
"""


def test_a_forked_child_journals_for_itself(
    own_server: Server, open_cache: OpenCache, instance: str, tmp_path: Path
) -> None:
    """A worker forked from a process with a journal writes a file of its own, which is taken over when it is gone."""
    own_server.kill()
    journal = tmp_path / "journal"
    command = [sys.executable, "-c", FORKING, own_server.url, instance, str(journal)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE, check=False)
    assert (run.returncode, run.stdout) == (0, "['journal', 'journal.1']\n"), run.stderr
    heir = open_cache(journal=str(journal))
    assert heir.stats().pending_invalidations == 3
    assert [file.name for file in tmp_path.iterdir()] == ["journal"]


def test_a_journal_does_not_grow_with_what_is_pending_already(
    own_server: Server, open_cache: OpenCache, tmp_path: Path
) -> None:
    """While Redis is away a journal holds a line for what is pending, and one of everything beyond the bound."""
    own_server.kill()
    journal = tmp_path / "journal"
    cache = open_cache(journal=str(journal), max_pending_invalidations=3)
    for _ in range(5):
        cache.invalidate_key("a:key:n1")
        cache.invalidate("b:group")
    assert len(journal.read_bytes().splitlines()) - 1 == cache.stats().pending_invalidations == 2
    for number in range(50):
        cache.invalidate_key(f"a:key:n{number}")
    lines = journal.read_bytes().splitlines()
    assert (len(lines), lines[-1]) == (5, b'["groups","*"]')
    cache.close()
    heir = open_cache(journal=str(journal))
    own_server.start()
    heir.get("a:key:n1")
    wait_until(lambda: heir.stats().pending_invalidations == 0, PATIENCE, "the replay")
    wait_until(lambda: journal.read_bytes() == HEADER, PATIENCE, "the journal to be emptied")


def test_what_no_replica_has_confirmed_stays_in_the_journal(
    own_server: Server, open_cache: OpenCache, tmp_path: Path
) -> None:
    """With `invalidate_wait` an invalidation is in the journal until enough replicas have it: here there are none."""
    journal = tmp_path / "journal"
    cache = open_cache(journal=str(journal), invalidate_wait=1)
    cache.invalidate_key("a:key:n1")
    assert cache.stats().pending_invalidations == 1
    assert journal.read_bytes() == HEADER + b'["keys","%s"]\n' % cache.space.full("a:key:n1").encode()


def test_a_server_that_was_still_loading_is_checked_again(
    own_server: Server, open_cache: OpenCache, instance: str, binary: Path
) -> None:
    """A process that connects while a server loads its old data from disk invalidates that data afterwards."""
    shelf = Shelf()
    gone = Cache(own_server.url, instance=instance, **QUICK)  # type: ignore[arg-type]
    assert read_all(shelf.bind(gone)) == {OLD}
    with redis.Redis.from_url(own_server.url) as client:
        client.mset({f"filler{number}": "x" for number in range(3000)})
        client.save()
        shelf.value = NEW
        gone.clear()  # sent to Redis, which loses it, and with it the only one who knows
    gone.close()
    data = own_server.directory
    with Server(binary=binary, directory=data / "again", config=["key-load-delay 300"]) as empty:
        again = empty.directory
        empty.kill()
        os.rename(data / "dump.rdb", again / "dump.rdb")
        starting = Background(empty.start)
        wait_until(lambda: empty.socket.exists(), PATIENCE, "the socket")
        with Cache(f"unix://{empty.socket}", instance=instance, **QUICK) as cache:  # type: ignore[arg-type]
            functions = shelf.bind(cache)
            refused = 0
            while not cache.stats().coherent:
                assert functions["key"]("n1") == "n1 new"
                refused += 1
            starting.result()
            assert refused
            assert read_all(functions) == {NEW}


def test_an_open_breaker_costs_a_call_nothing_of_what_is_pending(
    own_server: Server, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Redis is not asked, no call goes through the invalidations that wait for it."""
    cache = open_cache(breaker_failures=1, breaker_reset=PATIENCE)
    get = cache.cached("a", operation="key")(lambda number: str(number))
    connect(cache)
    own_server.kill()
    for number in range(20):
        cache.invalidate_key(f"a:key:n{number}")
    wait_until(lambda: cache.engine.remote.connections.breaker.rests, PATIENCE, "the breaker")  # type: ignore[union-attr]
    built: list[object] = []
    monkeypatch.setattr(pending, "joined", built.append)
    assert [get(number) for number in range(100)] == list(map(str, range(100)))
    assert built == []
    assert cache.stats().pending_invalidations == 20


def test_no_call_and_no_channel_waits_for_the_sweep_of_a_pending_glob(
    open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a thread. Meanwhile this process does not read from Redis, but what it invalidates is sent."""
    shelf = Shelf()
    cache, other = open_cache(max_staleness=PATIENCE), open_cache(max_staleness=PATIENCE)
    here, there = shelf.bind(cache), shelf.bind(other)
    connect(cache)
    connect(other)
    assert here["glob"]("n1") == there["glob"]("n1") == there["group"]("n1") == "n1 old"
    recovery, remote = cache.engine.recovery, cache.engine.remote
    assert recovery is not None
    assert remote is not None
    sweeping = Pause(monkeypatch, remote, "scan")
    recovery.add(invalidation.of(cache.engine, [patterns.resolve("e:glob:n*")]))
    cache.engine.local.drop_group("*")
    shelf.value = NEW
    assert here["glob"]("n1") == "n1 new"  # without Redis
    sweeping.wait()
    cache.invalidate("b:group")
    wait_until(lambda: there["group"]("n1") == "n1 new", PATIENCE, "the push")
    assert list(recovery.pending) == [("globs", "e:glob:n*")]
    before = cache.stats().pushes
    other.invalidate("c")
    wait_until(lambda: cache.stats().pushes > before, PATIENCE, "the push")  # the channel is at its work
    sweeping.let_go()
    wait_until(lambda: cache.stats().pending_invalidations == 0, PATIENCE, "the replay")
    wait_until(lambda: there["glob"]("n1") == "n1 new", PATIENCE, "the push")


@pytest.mark.parametrize("background", [False, True])
def test_a_glob_whose_local_part_is_interrupted_is_not_lost(
    background: bool, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data may have been changed already."""
    cache, other = open_cache(), open_cache(local_ttl=0)
    connect(cache)
    cache.set("a:key:n1", OLD)
    limits: list[BaseException] = [KeyboardInterrupt()]
    real = LocalTier.drop_matching

    def drop_matching(self: LocalTier, matches: Callable[[str], object]) -> None:
        if limits:
            raise limits.pop()
        real(self, matches)

    monkeypatch.setattr(LocalTier, "drop_matching", drop_matching)
    with pytest.raises(KeyboardInterrupt):
        cache.invalidate("a:key:*1*", background=background)
    wait_until(lambda: other.get("a:key:n1") is None, PATIENCE, "the sweep")
    assert not limits


def test_a_line_that_is_just_being_written_stays_in_the_journal(
    own_server: Server, open_cache: OpenCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that has sent all others does not empty the file between another's line and its entry."""
    monkeypatch.setattr(pending, "JUST_STARTED", -1)
    journal = tmp_path / "journal"
    cache = open_cache(journal=str(journal))
    connect(cache)
    recovery = cache.engine.recovery
    assert recovery is not None
    channel = Pause(monkeypatch, cache.engine.channel, "_connect_and_listen")
    own_server.kill()
    channel.wait()  # nothing is replayed by itself
    cache.invalidate_key("a:key:n1")
    writing = Pause(monkeypatch, recovery._journal, "add", after=True)
    adding = Background(cache.invalidate_key, "a:key:n2")
    writing.wait()
    own_server.start()
    wait_until(lambda: not unsent(recovery), PATIENCE, "the replay")
    writing.let_go()
    adding.result()
    lines = journal.read_bytes().removeprefix(HEADER).count(b"\n")
    assert lines >= len(recovery.pending)
    channel.let_go()


def unsent(recovery: pending.PendingInvalidations) -> bool:
    """Whether the first that was pending still is, after another attempt to send it."""
    with contextlib.suppress(RemoteUnavailableError):
        recovery.send()
    return any("n1" in name for _, name in recovery.pending)


def test_a_sweep_that_is_cut_off_by_closing_is_in_the_journal(
    open_cache: OpenCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that has begun: the next process with this journal sweeps."""
    journal = tmp_path / "journal"
    cache = open_cache(journal=str(journal))
    connect(cache)
    sweeping = Pause(monkeypatch, cache.engine.remote, "scan")
    handle = cache.invalidate("e:glob:*1*", background=True)
    sweeping.wait()
    cache.close()
    sweeping.let_go()
    assert handle is not None
    assert handle.wait(PATIENCE)
    assert handle.error is not None
    assert journal.read_bytes().removeprefix(HEADER) == b'["globs","e:glob:*1*"]\n'


def test_an_interrupted_addition_is_in_the_journal_when_it_is_repeated(tmp_path: Path) -> None:
    """At every point between the entry and its line: who was interrupted adds it once more."""
    journal = tmp_path / "journal"
    with Cache("redis://127.0.0.1:1/0", instance="test", journal=str(journal)) as cache:
        recovery = cache.engine.recovery
        assert recovery is not None
        for point in range(1, 1000):
            name = cache.space.full(f"a:key:n{point}")
            what = Invalidation(keys=(name,))
            reached, _ = interrupt(point, lambda what=what: recovery.add(what), Stop)  # type: ignore[misc]
            recovery.add(what)
            assert f'["keys","{name}"]' in journal.read_text()
            if not reached:
                return
    pytest.fail("it does not end")


def test_what_is_added_while_its_former_line_is_removed_has_a_line(
    own_server: Server, open_cache: OpenCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was pending, is sent, and the journal emptied, between the look at it and its entry."""
    own_server.kill()
    journal = tmp_path / "journal"
    cache = open_cache(journal=str(journal))
    recovery = cache.engine.recovery
    assert recovery is not None
    what = Invalidation(keys=(cache.space.full("a:key:n1"),))
    recovery.add(what)
    do, (name, when) = recovery._guard.do, next(iter(recovery.pending.items()))
    once = [True]

    drop, tidy = recovery._drop, recovery._tidy

    class Guard:
        """Another thread has sent it just before this section."""

        def do(self, work: Callable[[], object]) -> None:
            if once:
                once.clear()
                drop(name, when)
                tidy()
            do(work)

    monkeypatch.setattr(recovery, "_guard", Guard())
    recovery.add(what)
    assert list(recovery.pending) == [name]
    assert journal.read_bytes().removeprefix(HEADER).count(b"\n") == 1


def test_a_line_that_is_emptied_with_the_journal_while_it_is_written_is_written_again(
    open_cache: OpenCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever added it knows of its line only afterwards, and must not take the new file's for it."""
    journal = tmp_path / "journal"
    cache = open_cache(journal=str(journal))
    recovery = cache.engine.recovery
    assert recovery is not None
    name = cache.space.full("a:key:n1")
    writing = Pause(monkeypatch, recovery._journal, "add", after=True)
    emptying = Pause(monkeypatch, recovery._journal, "clear")
    emptier = Background(recovery._tidy)
    emptying.wait()
    adding = Background(recovery.add, Invalidation(keys=(name,)))
    writing.wait()
    looking = Pause(monkeypatch, recovery, "_write")
    emptying.let_go()
    looking.wait()
    writing.let_go()
    adding.result()
    looking.let_go()
    emptier.result()
    assert list(recovery.pending) == [("keys", name)]
    assert f'["keys","{name}"]' in journal.read_text()


def test_what_one_glob_covers_of_many_pending_ones_keeps_its_names(open_cache: OpenCache, tmp_path: Path) -> None:
    """A new server is sent each, and the journal takes each: the covering one is no pattern that it would read."""
    journal = tmp_path / "journal"
    cache = open_cache(journal=str(journal))
    recovery, remote = cache.engine.recovery, cache.engine.remote
    assert recovery is not None
    assert remote is not None
    globs = [f"a:key:*{number}" for number in range(100)]
    remote.ping()
    recovery.add(Invalidation(globs=tuple(globs)))
    recovery.send_globs()
    recent = recovery._recent.names()
    assert list(recent) == [("globs", glob) for glob in globs]
    assert all(patterns.is_name(*name, cache.space) for name in recent)


def test_a_pending_one_that_was_sent_may_have_become_one_of_everything(open_cache: OpenCache) -> None:
    """Between the look at it and its removal, another thread adds one too many."""
    cache = open_cache(max_pending_invalidations=3)
    recovery = cache.engine.recovery
    assert recovery is not None
    names = [cache.space.full(f"a:key:n{number}") for number in range(4)]
    recovery.add(Invalidation(keys=tuple(names[:3])))
    added: list[bool] = []

    add = recovery.add

    class Looked(dict[Any, Any]):
        def get(self, *given: Any) -> Any:
            found = super().get(*given)
            if self and not added:
                added.append(True)
                add(Invalidation(keys=(names[3],)))
            return found

    (name, when), *_ = recovery.pending.items()
    recovery.pending = Looked(recovery.pending)
    recovery._drop(name, when)
    assert list(recovery.pending) == [("groups", "*")]


def test_a_replay_drops_what_was_loaded_before_it(open_cache: OpenCache) -> None:
    """Its push is taken for an echo, and another process's invalidation may be in the same push."""
    cache = open_cache()
    get = Shelf().bind(cache)["group"]
    connect(cache)
    recovery = cache.engine.recovery
    assert recovery is not None
    get("n1")
    key = cache.space.full("b:group:n1")
    assert cache.engine.local.peek(key) is not None
    recovery.add(Invalidation(groups=("b:group",)))  # and what was loaded since then is held
    wait_until(lambda: not recovery.pending, PATIENCE, "the replay")
    assert cache.engine.local.peek(key) is None


def test_a_value_put_by_hand_waits_for_no_replica_and_is_not_pending(open_cache: OpenCache, tmp_path: Path) -> None:
    """`invalidate_wait` is for invalidations."""
    journal = tmp_path / "journal"
    cache = open_cache(invalidate_wait=1, journal=str(journal))
    get = Shelf().bind(cache)["key"]
    connect(cache)
    cache.set("a:key:n1", NEW)
    assert get.refresh("n2") == "n2 old"  # type: ignore[attr-defined]
    assert cache.stats().pending_invalidations == 0
    assert journal.read_bytes() == HEADER
    cache.invalidate_key("a:key:n3")
    assert cache.stats().pending_invalidations == 1
