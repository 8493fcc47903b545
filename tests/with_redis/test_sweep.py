"""Globs that are no groups: swept from Redis, values and leases, while others go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aikcache import Cache
from aikcache._coherence import sweep
from aikcache._coherence.pending import PendingInvalidations
from aikcache._concurrency.background import MAX_THREADS
from aikcache._keys.globs import matcher
from aikcache._remote.store import RedisStore
from aikcache.testing import Server, wait_until

from ._staging import Pause, pair, wait_for_push
from ._workers import PATIENCE, PATIENT, Background, connect

pytestmark = pytest.mark.usefixtures("unhurried")

OpenCache = Callable[..., Cache]


@pytest.fixture
def open_cache(redis_url: str, instance: str) -> Iterator[OpenCache]:
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(Cache(redis_url, instance=instance, **{**PATIENT, **settings}))


def names(cache: Cache, raw: redis.Redis) -> set[str]:
    """What there is of values, below the namespace prefix."""
    prefix = cache.space.namespace_prefix
    found = (key.decode() for key in raw.scan_iter(match=f"{prefix}thing:*", count=1000))
    return {key.removeprefix(prefix) for key in found}


# What matches


@pytest.mark.parametrize(
    ("glob", "ended"),
    [
        ("thing:get:b*", {"box", "bun", "bax"}),
        ("thing:get:b?x", {"box", "bax"}),
        ("thing:get:b[ae-p]x", {"box", "bax"}),
        ("thing:get:b[^a]x", {"box"}),
        ("thing:*:box", {"box"}),
        ("th*:box", {"box"}),
        ("thing:get:c\\*", set()),
        ("thing:get:?", {"a"}),
        ("thing:get:[", set()),
        ("*a*", {"bax", "a", "caf%C3%A9"}),
        ("thing:get:*%*", {"caf%C3%A9", "c%2Ap"}),
        ("thing:*:*", {"box", "bun", "bax", "cup", "a", "caf%C3%A9", "c%2Ap"}),
        ("nothing:*:*", set()),
    ],
)
def test_a_glob_invalidates_what_redis_would_match(
    glob: str, ended: set[str], open_cache: OpenCache, raw: redis.Redis
) -> None:
    """`*`, `?`, `[…]` and `\\` mean what they mean to Redis, in both tiers, here and elsewhere."""
    here, there = pair(open_cache)
    get = here.cached("thing", operation="get")(lambda name: name)
    get_there = there.cached("thing", operation="get")(lambda name: name)
    words = ["box", "bun", "bax", "cup", "a", "café", "c*p"]
    get(words[0])
    wait_for_push(there, here)  # of the stamps that this has made
    wait_for_push(here, there)
    for word in words:
        get(word)
        get_there(word)
    before = names(here, raw)
    here.invalidate(glob)
    wait_for_push(there, here)
    gone = {f"thing:get:{word}" for word in ended}
    assert names(here, raw) == before - gone
    for cache in (here, there):
        left = {name for name in before if cache.engine.local.peek(cache.space.full(name)) is not None}
        assert left == before - gone


@given(
    st.lists(st.text("ab*?[]^-\\", max_size=10), min_size=1, max_size=8),
    st.lists(st.text("ab*?[]^-\\", max_size=8), min_size=1, max_size=8),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_local_tiers_match_as_redis_does(raw: redis.Redis, instance: str, globs: list[str], keys: list[str]) -> None:
    """Odd classes, escapes and ranges included: what SCAN finds is what a local tier drops."""
    prefix = f"{instance}:odd:"
    names = {prefix + key for key in keys}
    raw.mset(dict.fromkeys(names, b""))
    try:
        for glob in globs:
            found = {name.decode() for name in raw.scan_iter(match=prefix + glob, count=1000)}
            assert {name for name in names if matcher(prefix, glob)(name)} == found & names, glob
    finally:
        raw.unlink(*names)


LONG_PATH = "home/" + "a" * 60
WORDS = tuple(60 * letter for letter in "abcdefghi")


@pytest.mark.parametrize(
    ("glob", "arguments", "left"),
    [
        ("thing:get:home/*", (LONG_PATH,), ("/srv",)),
        ("thing:get:home/*:*", (LONG_PATH, 1), ("/srv", 1)),
        ("thing:get:1:home/*", (1, LONG_PATH), (2, LONG_PATH)),
        ("thing:get:1:*", (1, *WORDS), (2, *WORDS[:8])),
        ("thing:*:1:*", (1, *WORDS), (2, *WORDS[:8])),
    ],
)
def test_a_glob_invalidates_calls_whose_parameters_became_a_hash(
    glob: str, arguments: tuple[Any, ...], left: tuple[Any, ...], open_cache: OpenCache
) -> None:
    """One long parameter, or all that are long together, in both tiers, here and elsewhere."""
    here, there = pair(open_cache)
    runs: list[tuple[Any, ...]] = []

    def runner(*arguments: Any) -> int:
        runs.append(arguments)
        return len(runs)

    gets = [cache.cached("thing", operation="get")(runner) for cache in (here, there)]
    for each in (arguments, left):
        assert gets[0](*each) == gets[1](*each)
    wait_for_push(there, here)
    here.invalidate(glob)
    wait_for_push(there, here)
    runs.clear()
    for get in gets:
        get(*arguments)
        get(*left)
    assert runs == [arguments]


@pytest.mark.parametrize(
    ("glob", "key"),
    [
        ("menu:item:?", "menu:item:é"),
        ("menu:item:x?y", "menu:item:x€y"),
        ("menu:item:[éè]", "menu:item:é"),
        ("menu:item:[b-é]", "menu:item:c"),
        ("menu:item:[^a]", "menu:item:é"),
        ("menu:item:é?", "menu:item:éé"),
    ],
)
def test_a_wildcard_stands_for_one_character_however_many_bytes(glob: str, key: str, open_cache: OpenCache) -> None:
    """Redis matches bytes; a key by hand may have any letters."""
    cache = open_cache(local_ttl=0)
    kept = ("menu:item:a", "menu:item:éxx")
    for each in (key, *kept):
        cache.set(each, "old")
    cache.invalidate(glob)
    assert [cache.get(each) for each in (key, *kept)] == [None, None if glob.endswith(":?") else "old", "old"]


def test_what_a_user_gave_is_never_a_wildcard(open_cache: OpenCache, raw: redis.Redis) -> None:
    """A field's value is taken literally, whatever is in it; what stands in the pattern is the wildcard."""
    cache = open_cache()
    get = cache.cached("thing", operation="get")(lambda name, page: page)
    for name in ("*", "a", "[ab]", "a:b", "?", "\\"):
        for page in (1, 2):
            get(name, page)
    everything = names(cache, raw)
    assert len(everything) == 12
    for name in ("*", "[ab]", "?", "\\", "a"):
        cache.invalidate("thing:get:{name}:*", name=name)
        left = names(cache, raw)
        assert len(everything - left) == 2, name
        everything = left
    assert len(everything) == 2


def test_other_instances_and_versions_are_left_alone(redis_url: str, instance: str, raw: redis.Redis) -> None:
    """A sweep removes nothing of another instance or version, whose names begin differently."""
    with ExitStack() as stack:
        caches = [
            stack.enter_context(Cache(redis_url, instance=instance, version=version, **PATIENT))
            for version in ("v1", "v2", "v1x")
        ]
        for cache in caches:
            cache.set("thing:get:box", 1)
        caches[0].invalidate("*:get:*")
        assert [cache.get("thing:get:box") for cache in caches] == [None, 1, 1]


# How


def test_a_sweep_scans_a_thousand_keys_at_a_time(
    open_cache: OpenCache, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many keys go in batches, none larger than SCAN gives, and all of them go."""
    cache = open_cache()
    connect(cache)
    prefix = cache.space.namespace_prefix
    raw.mset({f"{prefix}thing:get:n{number}": b"x" for number in range(5500)})
    raw.mset({f"{prefix}other:get:n{number}": b"x" for number in range(1000)})
    sizes: list[int] = []
    unlink = RedisStore.unlink

    def counted(self: RedisStore, found: Sequence[bytes]) -> int:
        sizes.append(len(found))
        return unlink(self, found)

    monkeypatch.setattr(RedisStore, "unlink", counted)
    progress = cache.invalidate("thing:get:n*", background=True)
    assert progress is not None
    assert progress.wait(PATIENCE)
    assert (progress.done, progress.error, progress.removed) == (True, None, 5500)
    assert progress.scanned >= 6
    assert sum(sizes) == 5500
    assert max(sizes) <= 2 * sweep.BATCH  # SCAN may give somewhat more than it was asked for
    assert "5500 keys removed" in repr(progress)
    assert names(cache, raw) == set()
    assert len(list(raw.scan_iter(match=f"{prefix}other:*", count=1000))) == 1000


def test_in_the_background_it_can_be_watched(
    open_cache: OpenCache, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handle says that it runs, how far it is, and when it has ended; a wait can be bounded."""
    cache = open_cache()
    connect(cache)
    raw.mset({f"{cache.space.namespace_prefix}thing:get:n{number}": b"x" for number in range(3000)})
    pause = Pause(monkeypatch, cache.engine.remote, "unlink", after=True)
    progress = cache.invalidate("thing:get:n*", background=True)
    assert progress is not None
    pause.wait()
    assert not progress.done
    assert not progress.wait(0.01)
    assert "running" in repr(progress)
    pause.let_go()
    assert progress.wait(PATIENCE)
    assert progress.removed == 3000


def test_many_in_the_background_are_one_sweep_at_a_time(
    open_cache: OpenCache, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked for while one sweeps becomes one more, however much it is, and all of it is done."""
    cache = open_cache()
    connect(cache)
    count = 300
    raw.mset({f"{cache.space.namespace_prefix}thing:get:n{number}x": b"x" for number in range(count)})
    sweeps: list[int] = []
    real = sweep._sweep

    def noted(remote: RedisStore, globs: Sequence[str], progress: sweep.Sweep) -> None:
        sweeps.append(len(globs))
        real(remote, globs, progress)

    monkeypatch.setattr(sweep, "_sweep", noted)
    pause = Pause(monkeypatch, cache.engine.remote, "scan")
    handles = [cache.invalidate("thing:get:n0?", background=True)]
    pause.wait()
    threads = threading.active_count()
    handles += [cache.invalidate(f"thing:get:n{number}?", background=True) for number in range(1, count)]
    assert threading.active_count() <= threads + MAX_THREADS
    pause.let_go()
    for handle in handles:
        assert handle is not None
        assert handle.wait(PATIENCE)
        assert handle.error is None
    assert sweeps == [1, count - 1]
    assert names(cache, raw) == set()


def test_groups_and_keys_wait_for_no_sweep(open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `background=True` only globs are left to the thread: the rest is sent when the call returns."""
    here, there = pair(open_cache)
    for name in ("group:get:box", "key:get:box", "thing:get:box"):
        here.set(name, "old")
    pause = Pause(monkeypatch, here.engine.remote, "scan")
    first = here.invalidate("other:get:a*", background=True)
    pause.wait()  # what is named from now on would wait for this one
    group = here.invalidate("group:get", background=True)
    mixed = here.invalidate("key:get:box", "thing:get:b*x", background=True)
    assert group is not None
    assert group.done
    assert mixed is not None
    assert not mixed.done
    for cache in (here, there):
        assert [cache.get(name) for name in ("group:get:box", "key:get:box")] == [None, None]
    pause.let_go()
    assert first is not None
    assert first.wait(PATIENCE)
    assert mixed.wait(PATIENCE)
    assert here.get("thing:get:box") is None


def test_beyond_a_bound_the_caller_sweeps(open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than so many background sweeps wait; one more is done when its call returns."""
    cache = open_cache()
    connect(cache)
    monkeypatch.setattr(sweep, "MAX_WAITING", 4)  # with the one that runs
    pause = Pause(monkeypatch, cache.engine.remote, "scan")
    first = cache.invalidate("thing:get:a*", background=True)
    pause.wait()
    waiting = [cache.invalidate(f"thing:get:{letter}*", background=True) for letter in "bcd"]
    beyond = cache.invalidate("thing:get:e*", background=True)
    assert [handle.done for handle in (first, *waiting, beyond) if handle is not None] == [False] * 4 + [True]
    pause.let_go()
    assert all(handle.wait(PATIENCE) for handle in (first, *waiting) if handle is not None)


def test_a_sweep_that_waits_when_the_cache_closes_is_kept(
    open_cache: OpenCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its handle says so, and what it was to remove is in the journal for the next process."""
    path = tmp_path / "journal"
    cache = open_cache(journal=str(path))
    connect(cache)
    pause = Pause(monkeypatch, cache.engine.remote, "scan")
    cache.invalidate("thing:get:a*", background=True)
    pause.wait()
    waiting = cache.invalidate("thing:get:b*", background=True)
    monkeypatch.setattr(PendingInvalidations, "send", lambda *args: None)  # by a heartbeat, just before the end
    cache.close()
    assert waiting is not None
    assert waiting.done
    assert "before the cache was closed" in str(waiting.error)
    assert "thing:get:b*" in path.read_text()
    pause.let_go()


@pytest.mark.parametrize(
    ("globs", "pattern"),
    [
        (("thing:get:b*x", "thing:get:ba*", "thing:get:b?n"), "thing:get:*"),
        (("thing:get:c*", "thing:get:b*"), "thing:get:*"),
        (("thing:get:b[ou]*", "*:bax"), "*"),
        (("thing:get:b\\ox*", "thing:get:b\\un*", "thing:get:ba*"), "thing:get:*"),
        (("thing:get:b?x", "thing:get:ba[nx]"), "thing:get:b*"),
        (("thing:get:b[aou]x",), "thing:get:b[aou]x"),
        (("thing:get:b?x",), "thing:get:b?*x"),
    ],
)
def test_several_globs_are_one_sweep(
    globs: tuple[str, ...], pattern: str, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they have in common is scanned twice, for leases and for values, however many they are."""
    here, there = pair(lambda: open_cache(local_ttl=0))
    get = here.cached("thing", operation="get")(lambda name: name)
    words = ["box", "bun", "bax", "cup", "a"]
    for word in words:
        get(word)
    asked: list[str] = []
    scan = RedisStore.scan

    def noted(self: RedisStore, part: Any, cursor: bytes, pattern: str, count: int) -> Any:
        asked.append(pattern)
        return scan(self, part, cursor, pattern, count)

    monkeypatch.setattr(RedisStore, "scan", noted)
    with here.deferred():
        for glob in globs:
            here.invalidate(glob)
    prefix = here.space.namespace_prefix
    assert list(dict.fromkeys(asked)) == [
        f"{prefix}!lease:{{{prefix}{pattern}}}",
        f"{prefix}{pattern}",
    ]
    matches = [matcher(prefix, glob) for glob in globs]
    left = [word for word in words if not any(one(f"{prefix}thing:get:{word}") for one in matches)]
    assert [word for word in words if there.get(f"thing:get:{word}") is not None] == left
    assert left != words


@pytest.mark.parametrize("background", [True, False])
def test_a_sweep_that_redis_interrupts_is_kept(
    background: bool, own_server: Server, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When Redis stops during a sweep the handle has the error, and the glob is pending."""
    with Cache(own_server.url, instance=instance, breaker_reset=0.05, timeout=5) as cache:
        cache.set("thing:get:n1", "old")
        connect(cache)
        pause = Pause(monkeypatch, cache.engine.remote, "scan")
        sweeping = Background(lambda: cache.invalidate("thing:get:n*", background=background))
        pause.wait()
        with redis.Redis.from_url(own_server.url) as client:
            client.save()
        own_server.kill()
        pause.let_go()
        progress = sweeping.result()
        if progress is not None:
            assert progress.wait(PATIENCE)
            assert progress.error is not None
            assert "failed" in repr(progress)
        assert cache.stats().pending_invalidations == 1
        own_server.start()
        wait_until(lambda: cache.stats().pending_invalidations == 0, PATIENCE, "the replay")
        assert cache.get("thing:get:n1") is None


# Beside others


def test_other_processes_drop_their_matches_at_once(open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others receive a glob before its sweep begins in Redis, not when it is done."""
    here, there = pair(open_cache)
    for cache in (here, there):
        cache.set("thing:get:box", 1)
        assert cache.get("thing:get:box") == 1
    pause = Pause(monkeypatch, here.engine.remote, "scan")
    sweeping = Background(here.invalidate, "thing:get:b*x")
    pause.wait()
    key = there.space.full("thing:get:box")
    wait_until(lambda: there.engine.local.peek(key) is None, PATIENCE, "the mark")
    assert here.engine.local.peek(key) is None
    pause.let_go()
    sweeping.result()
    assert there.get("thing:get:box") is None


@pytest.mark.parametrize("name", ["glob:somebody:" + "*?" * 5000, "stamp:#" + "x" * 20_000], ids=["a glob", "a stamp"])
def test_a_pushed_name_that_is_too_long_invalidates_everything(
    name: str, open_cache: OpenCache, raw: redis.Redis
) -> None:
    """aikcache never pushes one; if another program does, it costs a process its entries and no time."""
    here, there = pair(open_cache)
    there.set("thing:get:box", 1)
    assert there.get("thing:get:box") == 1
    key = there.space.full("thing:get:box")
    assert there.engine.local.peek(key) is not None
    raw.set(here.space.pushed + name, b"1")
    wait_until(lambda: there.engine.local.peek(key) is None, PATIENCE, "the push")
    wait_for_push(there, here)


def test_loads_of_other_keys_go_on(open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load under way of a key that the glob does not match is stored; one of a key that it matches is not."""
    here, there = pair(open_cache)
    begun, go = threading.Semaphore(0), threading.Event()

    @there.cached("thing")
    def get(name: str) -> str:
        begun.release()
        assert go.wait(PATIENCE)
        return name

    loads = [Background(get, name) for name in ("box", "cup")]
    for _ in loads:
        assert begun.acquire(timeout=PATIENCE)
    here.invalidate("thing:get:b*x")
    go.set()
    assert [load.result() for load in loads] == ["box", "cup"]
    assert here.get("thing:get:box") is None
    assert here.get("thing:get:cup") == "cup"


@pytest.mark.parametrize("rule", ["in force", "taken out"])
def test_a_load_that_stores_while_its_sweep_is_under_way_leaves_nothing(
    rule: str, open_cache: OpenCache, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases are swept before values, so a load cannot store behind the sweep and give up its lease before it."""
    here, there = pair(open_cache)
    begun, go = threading.Event(), threading.Event()
    value = ["old"]

    @there.cached("thing")
    def get(name: str) -> str:
        result = value[0]
        begun.set()
        assert go.wait(PATIENCE)
        return result

    loading = Background(get, "box")
    assert begun.wait(PATIENCE)
    value[0] = "new"
    if rule == "taken out":  # values first: what one look over the keyspace may come to
        remove = sweep._remove
        looks = [("", ""), (f"{here.space.namespace_prefix}!lease:{{", "}")]

        def values_first(remote: Any, part: Any, glob: str, before: str, after: str, progress: Any) -> None:
            remove(remote, part, glob, *looks.pop(0), progress)

        monkeypatch.setattr(sweep, "_remove", values_first)
    pause = Pause(monkeypatch, here.engine.remote, "scan", when=lambda *args: pause_at(args))
    passes: list[object] = []

    def pause_at(args: tuple[object, ...]) -> bool:
        passes.append(args)
        return len(passes) == 2

    sweeping = Background(here.invalidate, "thing:get:b*x")
    pause.wait()  # between the two looks
    go.set()
    assert loading.result() == "old"
    pause.let_go()
    sweeping.result()
    assert here.get("thing:get:box") == ("old" if rule == "taken out" else None)


def test_the_hint_is_given_once(open_cache: OpenCache, caplog: pytest.LogCaptureFixture) -> None:
    """Decorating with a glob says what it costs and what to do instead, and calling says it no more."""
    cache = open_cache()
    cache.cached("thing", operation="get")(lambda name: name)
    with caplog.at_level(logging.WARNING, "aikcache"):

        @cache.invalidates("thing:get:*{name}*")
        def update(name: str) -> None:
            pass

        for _ in range(3):
            update("box")
    (hint,) = [message for message in caplog.messages if "sweeps" in message]
    assert 'tags=("thing:{name}",)' in hint
