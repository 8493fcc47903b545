"""`deferred()`: invalidations inside a block are made at its end; inside, it is as if they were made already."""

from __future__ import annotations

import contextvars
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from aikcache import Cache
from aikcache._engine.deferred import Block
from aikcache._keys.patterns import Invalidation
from aikcache._remote.store import RedisStore

from ._workers import PATIENCE, PATIENT, Background, connect

pytestmark = pytest.mark.usefixtures("unhurried")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sqlalchemy_commit.py"
PATIENTLY = """
import functools, runpy, sys
import aikcache
aikcache.Cache = functools.partial(aikcache.Cache, timeout=20, connect_timeout=20)  # it would say that it waited longer
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
WAYS: dict[str, Callable[[Cache], object]] = {
    "key": lambda cache: cache.invalidate_key("thing:get:box"),
    "pattern": lambda cache: cache.invalidate("thing:get"),
    "tag": lambda cache: cache.invalidate_tags("things"),
    "glob": lambda cache: cache.invalidate("thing:get:b?x"),
    "glob in the background": lambda cache: cache.invalidate("thing:get:b?x", background=True),
    "pattern in the background": lambda cache: cache.invalidate("thing:get", background=True),
    "everything": lambda cache: cache.clear(),
    "decorated": lambda cache: cache.invalidates("thing:get:{name}")(lambda name: None)("box"),
}


class Rollback(Exception):
    pass


@pytest.fixture
def cache(redis_url: str, instance: str) -> Iterator[Cache]:
    with Cache(redis_url, instance=instance, **PATIENT) as cache:
        connect(cache)
        cache.set("thing:get:box", "old", tags=("things",))
        assert held(cache)
        yield cache


def held(cache: Cache) -> bool:
    """As everybody sees it who is not inside the block."""
    return contextvars.Context().run(cache.get, "thing:get:box") is not None


@pytest.mark.parametrize("way", WAYS)
def test_invalidations_are_made_when_the_block_succeeds(way: str, cache: Cache) -> None:
    """Inside the block nothing is invalidated for others; when it has succeeded, all is."""
    with cache.deferred():
        WAYS[way](cache)
        assert held(cache)
    assert not held(cache)


@pytest.mark.parametrize("way", WAYS)
def test_invalidations_are_made_when_the_block_raises(way: str, cache: Cache) -> None:
    """When the block raises, its invalidations are made too: values may come from rows that were rolled back."""
    with suppress(Rollback), cache.deferred():
        WAYS[way](cache)
        assert held(cache)
        raise Rollback
    assert not held(cache)


def test_a_block_leaves_no_sweep_to_others(cache: Cache) -> None:
    """In a block `background=True` returns no handle, for nothing runs before the block's end, which sweeps."""
    with cache.deferred():
        assert cache.invalidate("thing:get:b?x", background=True) is None
        assert len(cache.engine.sweeper) == 0
    assert not held(cache)


def test_invalidations_of_a_block_are_sent_at_once(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is invalidated inside, it is one exchange with Redis, and each name is in it once."""
    sent: list[tuple[object, object]] = []
    end = RedisStore.invalidate

    def record(self: RedisStore, groups: tuple[str, ...], keys: tuple[str, ...]) -> None:
        sent.append((groups, keys))
        end(self, groups, keys)

    monkeypatch.setattr(RedisStore, "invalidate", record)
    with cache.deferred():
        for _ in range(3):
            cache.invalidate_tags("a", "b")
            cache.invalidate("thing:get")
            cache.invalidate_key("thing:get:box", "thing:get:cup")
    full = cache.space.full
    assert sent == [(("#", "#a", "#b", "thing:get"), (full("thing:get:box"), full("thing:get:cup")))]


def test_an_inner_block_hands_on_to_the_outer_one(cache: Cache) -> None:
    """A block within a block invalidates nothing by itself: the outer one does at its end."""
    with cache.deferred():
        with cache.deferred():
            cache.invalidate_tags("things")
        assert held(cache)
    assert not held(cache)


def test_the_exception_goes_on(cache: Cache) -> None:
    """What a block raises is what its caller catches."""
    with pytest.raises(Rollback), cache.deferred():
        raise Rollback


def test_an_inner_block_that_raises_hands_on_all_the_same(cache: Cache) -> None:
    """What an inner block that raised had invalidated is invalidated with the outer one's own."""
    cache.set("thing:get:cup", "old")
    with cache.deferred():
        cache.invalidate_key("thing:get:cup")
        with suppress(Rollback), cache.deferred():
            cache.invalidate_tags("things")
            raise Rollback
        assert held(cache)
        assert cache.get("thing:get:box") is None
    assert not held(cache)
    assert cache.get("thing:get:cup") is None


def test_an_outer_block_that_raises_invalidates_what_the_inner_one_named(cache: Cache) -> None:
    """What an inner block handed on is invalidated with the outer one."""
    with suppress(Rollback), cache.deferred():
        with cache.deferred():
            cache.invalidate_tags("things")
        raise Rollback
    assert not held(cache)


def test_threads_do_not_mix(cache: Cache) -> None:
    """A block is its thread's: what another thread invalidates meanwhile is invalidated at once."""
    inside, go = threading.Event(), threading.Event()

    def block() -> None:
        with cache.deferred():
            cache.invalidate_key("thing:get:cup")
            inside.set()
            assert go.wait(PATIENCE)

    cache.set("thing:get:cup", "old")
    blocked = Background(block)
    assert inside.wait(PATIENCE)
    cache.invalidate_tags("things")
    assert not held(cache)
    assert cache.get("thing:get:cup") == "old"
    go.set()
    blocked.result()
    assert cache.get("thing:get:cup") is None


def test_contexts_do_not_mix(cache: Cache) -> None:
    """A block that another context of the same thread has open does not hold back invalidations here."""
    context = contextvars.copy_context()
    block = cache.deferred()
    context.run(block.__enter__)
    cache.invalidate_tags("things")
    assert not held(cache)
    context.run(block.__exit__, None, None, None)


def test_what_another_thread_adds_while_the_block_ends_is_invalidated(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes too late for what the block sends, and before the block forgets what it has sent."""
    found, sending, added, ended = (threading.Event() for _ in range(4))
    add = Block.add

    def add_late(block: Block, what: Invalidation) -> None:
        if threading.current_thread() is other:
            found.set()
            assert sending.wait(PATIENCE)
        add(block, what)

    with Cache() as cache:
        cache.set("thing:get:box", "old")
        cache.set("other:get:box", "old")
        turn_away, invalidate = cache.engine.local.turn_away, cache._invalidate

        def turn_away_late(block: int, groups: frozenset[str]) -> None:
            if threading.current_thread() is other and groups:
                added.set()
                assert ended.wait(PATIENCE)
            turn_away(block, groups)

        def invalidate_meanwhile(what: Invalidation) -> None:
            sending.set()
            assert added.wait(PATIENCE)
            invalidate(what)

        monkeypatch.setattr(Block, "add", add_late)
        monkeypatch.setattr(cache.engine.local, "turn_away", turn_away_late)
        monkeypatch.setattr(cache, "_invalidate", invalidate_meanwhile)
        other = threading.Thread(target=lambda: copied.run(cache.invalidate_key, "other:get:box"), daemon=True)
        with cache.deferred():
            copied = contextvars.copy_context()
            cache.invalidate_key("thing:get:box")
            other.start()
            assert found.wait(PATIENCE)
        ended.set()
        other.join(PATIENCE)
        assert cache.get_many(["thing:get:box", "other:get:box"]) == {}
        assert cache.engine.local.waiting == {}


def test_two_caches_do_not_mix(cache: Cache, redis_url: str, instance: str) -> None:
    """A block of one cache does not hold up another's."""
    with Cache(redis_url, instance=instance, version="v2") as other:
        other.set("thing:get:box", "old")
        with cache.deferred():
            other.invalidate_key("thing:get:box")
            assert other.get("thing:get:box") is None


def test_values_put_inside_are_put_at_once(cache: Cache) -> None:
    """`set` and `store` write when they are called, and the block's end invalidates what they wrote if it was named."""

    @cache.cached("thing")
    def stored(name: str) -> str:
        return "loaded"

    with cache.deferred():
        cache.set("thing:get:box", "new", tags=("things",))
        stored.store("stored", "box")
        assert cache.get("thing:get:box") == "new"
        assert stored("box") == "stored"
        cache.invalidate("thing:stored")
        assert stored("box") == "loaded"
        assert contextvars.Context().run(stored, "box") == "stored"
    assert cache.get("thing:get:box") == "new"
    assert stored("box") == "loaded"


def test_a_block_is_entered_once() -> None:
    """Entered again, before its end or after it, it would hold nothing back: that is an error."""
    with Cache() as cache:
        block = cache.deferred()
        with block, pytest.raises(RuntimeError, match="entered once"):
            block.__enter__()
        with pytest.raises(RuntimeError, match="entered once"):
            block.__enter__()


def test_without_a_url_it_is_the_same() -> None:
    """The local tier alone waits for the block as well."""
    with Cache() as cache:
        cache.set("thing:get:box", "old", tags=("things",))
        with cache.deferred():
            cache.invalidate_tags("things")
            assert held(cache)
        assert not held(cache)


def test_the_example_with_sqlalchemy_runs(redis_url: str) -> None:
    """The example commits, rolls back, and shows that readers never saw what was not committed."""
    pytest.importorskip("sqlalchemy")
    command = [sys.executable, "-W", "error", "-c", PATIENTLY, str(EXAMPLE), redis_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "inside the transaction: 12.5" in done.stdout
    assert "after the commit: 12.5" in done.stdout
    assert "after the rollback: 12.5" in done.stdout
