"""The races that coherence stands on, each staged on a real server: with the rule in force, and with it taken out.

`model/protocol.py` has the same rules. Two caches with channels of their own stand for two processes; methods that stop
when told put their steps in the order that hurts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from aikcache import Cache
from aikcache._engine import invalidation
from aikcache._engine.invalidation import InvalidationListener
from aikcache._local.tier import LocalTier
from aikcache._redis.reply import Command
from aikcache._remote.commands import Commands
from aikcache._remote.stamps import Stamps
from aikcache._remote.store import RedisStore
from aikcache.testing import wait_until

from ._staging import Pause, kill_channel, lose_a_reply, pair, wait_for_push
from ._workers import PATIENCE, PATIENT, Background, connect

pytestmark = pytest.mark.usefixtures("unhurried")

OLD, NEW = "old", "new"
LONG = {**PATIENT, "local_ttl": 600, "default_ttl": 600}
OpenCache = Callable[..., Cache]
both = pytest.mark.parametrize("rule", ["in force", "taken out"])


@pytest.fixture
def open_cache(redis_url: str, instance: str) -> Iterator[OpenCache]:
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(Cache(redis_url, instance=instance, **{**LONG, **settings}))


class Source:
    """What the cached functions of a test read, and how often they did."""

    def __init__(self) -> None:
        self.value = OLD
        self.loads = 0
        self.before_return: Callable[[], object] = lambda: None

    def bind(self, cache: Cache) -> Callable[[str], str]:
        @cache.cached("thing", operation="get", tags=("things",))
        def get(name: str) -> str:
            self.loads += 1
            value = self.value
            self.before_return()
            return value

        return get

    def bind_late(self, cache: Cache) -> Callable[[str], str]:
        @cache.cached("thing", operation="late", tags=lambda result, name: ("things",))
        def late(name: str) -> str:
            self.loads += 1
            value = self.value
            self.before_return()
            return value

        return late


@pytest.fixture
def source() -> Source:
    return Source()


def held(cache: Cache, key: str = "thing:get:box") -> object:
    """What the local tier holds, trusted or not."""
    entry = cache.engine.local.peek(cache.space.full(key))
    return None if entry is None else entry.value


WAYS: dict[str, Callable[[Cache], object]] = {
    "key": lambda cache: cache.invalidate_key("thing:get:box"),
    "group": lambda cache: cache.invalidate("thing"),
    "tag": lambda cache: cache.invalidate_tags("things"),
    "glob": lambda cache: cache.invalidate("thing:get:b?x"),
    "everything": lambda cache: cache.clear(),
}


# local_guard


@both
@pytest.mark.parametrize("way", WAYS)
def test_an_answer_that_a_push_overtook_is_not_filed(
    way: str, rule: str, open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old answer on its way from Redis to the local tier is refused if its invalidation arrived in between."""
    here, there = pair(open_cache)
    get, get_there = source.bind(here), source.bind(there)
    assert get_there("box") == OLD
    if rule == "taken out":
        fill = LocalTier.fill
        monkeypatch.setattr(
            LocalTier,
            "fill",
            lambda self, key, region, local_key, epoch, *args, **kwargs: fill(
                self, key, region, local_key, region.epoch, *args, **kwargs
            ),
        )
    pause = Pause(monkeypatch, here.engine.local, "fill")
    reader = Background(get, "box")
    pause.wait()
    source.value = NEW
    WAYS[way](there)
    wait_for_push(here, there)
    assert Background(get, "box").result() == NEW
    pause.let_go()
    assert reader.result() == OLD  # it asked before
    assert held(here) == (OLD if rule == "taken out" else NEW)
    if rule == "in force":
        assert get("box") == get_there("box") == NEW
        assert source.loads == 2


@pytest.mark.parametrize("way", ["group", "tag"])
def test_an_answer_that_ones_own_invalidation_overtook_is_not_filed(
    way: str, open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same holds for this cache's own invalidation, whose echo it ignores."""
    here, there = pair(open_cache)
    get = source.bind(here)
    source.bind(there)("box")
    pause = Pause(monkeypatch, here.engine.remote, "read", after=True)
    reader = Background(get, "box")
    pause.wait()
    source.value = NEW
    WAYS[way](here)
    pause.let_go()
    assert reader.result() == OLD
    assert held(here) is None
    assert get("box") == NEW


@pytest.mark.parametrize(
    ("way", "rule"), [*((way, "in force") for way in (*WAYS, "own group", "own key")), ("key", "taken out")]
)
def test_a_fast_path_read_that_an_invalidation_overtook_is_not_filed(
    way: str, rule: str, open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast path, judged by stamps cached before the question, guarantees the same."""
    here, there = pair(open_cache)
    get, get_there = source.bind(here), source.bind(there)
    assert get_there("box") == OLD
    wait_for_push(here, there)  # of the stamps that were made
    assert get("cup") == OLD  # so that here all stamps are cached
    if rule == "taken out":
        fill = LocalTier.fill
        monkeypatch.setattr(
            LocalTier,
            "fill",
            lambda self, key, region, local_key, epoch, *args, **kwargs: fill(
                self, key, region, local_key, region.epoch, *args, **kwargs
            ),
        )
    pause = Pause(monkeypatch, here.engine.remote, "fast_get", after=True)
    reader = Background(get, "box")
    pause.wait()
    source.value = NEW
    WAYS[way.removeprefix("own ")](here if "own" in way else there)
    wait_for_push(here, there)
    pause.let_go()
    reader.result()  # it asked before: either will do
    assert (held(here) == OLD) is (rule == "taken out")
    if rule == "in force":
        assert get("box") == get_there("box") == NEW


def test_a_value_read_by_key_is_not_filed_when_its_tag_was_invalidated(
    open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process that knows of a value's tags only from the value, their invalidation covers a reply on its way."""
    here, there = pair(open_cache)
    get_there = source.bind(there)
    assert get_there("box") == OLD
    pause = Pause(monkeypatch, here.engine.local, "fill")
    reader = Background(here.get, "thing:get:box")
    pause.wait()
    source.value = NEW
    there.invalidate_tags("things")
    wait_for_push(here, there)
    pause.let_go()
    assert reader.result() == OLD
    assert held(here) is None
    assert here.get("thing:get:box") is None


# stamp_guard, forget_own_stamp


@both
def test_a_stamp_that_a_push_overtook_is_not_cached(
    rule: str, open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stamp read before an invalidation and cached after its push would make old values look fresh."""
    here, there = pair(open_cache)
    get, get_there = source.bind(here), source.bind(there)
    assert get_there("box") == get_there("cup") == OLD
    if rule == "taken out":
        remember = Stamps.remember
        monkeypatch.setattr(
            Stamps,
            "remember",
            lambda self, groups, stamps, epoch: remember(self, groups, stamps, self.epoch),
        )
    pause = Pause(monkeypatch, here.engine.remote, "read", after=True)
    reader = Background(get, "box")
    pause.wait()
    source.value = NEW
    there.invalidate_tags("things")
    wait_for_push(here, there)
    pause.let_go()
    assert reader.result() == OLD
    assert get("cup") == (OLD if rule == "taken out" else NEW)


@both
def test_after_ones_own_invalidation_the_stamp_is_unknown(
    rule: str, open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After invalidating a group its stamp is read again: another process may have invalidated it since."""
    here, there = pair(open_cache)
    third = open_cache()
    connect(third)
    get, get_third = source.bind(here), source.bind(third)
    get("cup")
    written: dict[str, bytes] = {}
    expect = Stamps.expect

    def expecting(self: Stamps, group: str, stamp: bytes) -> None:
        if self is here.engine.stamps:
            written[group] = stamp
        expect(self, group, stamp)

    monkeypatch.setattr(Stamps, "expect", expecting)
    pause = Pause(monkeypatch, here.engine.remote, "invalidate", after=True)
    writer = Background(here.invalidate_tags, "things")
    pause.wait()
    assert get_third("box") == OLD  # under the stamp that `here` has just written
    source.value = NEW
    there.invalidate_tags("things")
    wait_for_push(here, there)
    pause.let_go()
    writer.result()
    if rule == "taken out":
        stamps = here.engine.stamps
        stamps.remember(["#things"], [written["#things"]], stamps.epoch)
    assert get("box") == (OLD if rule == "taken out" else NEW)


# The lease of a doomed load


def test_an_invalidated_load_is_not_waited_for(open_cache: OpenCache, source: Source) -> None:
    """A call after a group's invalidation takes the lease of a running load, whose loader stores nothing."""
    here, there = pair(open_cache)
    get, get_there = source.bind(here), source.bind(there)
    begun, go = threading.Event(), threading.Event()

    def stop() -> None:
        begun.set()
        assert go.wait(PATIENCE)

    source.before_return = stop
    loading = Background(get, "box")
    assert begun.wait(PATIENCE)
    source.before_return = lambda: None
    source.value = NEW
    there.invalidate("thing")
    assert get_there("box") == NEW
    assert source.loads == 2
    go.set()
    assert loading.result() == OLD
    wait_for_push(here, there)  # under the old stamps it would load once more
    assert get("box") == get_there("box") == NEW
    assert source.loads == 2


# own_drops_local


@both
@pytest.mark.parametrize("way", ["key", "group", "tag"])
def test_an_invalidation_drops_what_its_own_process_holds(
    way: str, rule: str, open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When an invalidation returns, its own local tier holds nothing of it, because its own push is ignored."""
    here, there = pair(open_cache)
    get = source.bind(here)
    assert get("box") == OLD == held(here)
    if rule == "taken out":
        for name in ("drop_group", "drop_key"):
            drop = getattr(LocalTier, name)
            skip = lambda self, *args, drop=drop: None if self is here.engine.local else drop(self, *args)  # noqa: E731
            monkeypatch.setattr(LocalTier, name, skip)
    source.value = NEW
    WAYS[way](here)
    wait_for_push(there, here)
    assert get("box") == (OLD if rule == "taken out" else NEW)


# The channel is cut, or starved


@both
def test_on_reconnecting_what_was_held_is_dropped(
    rule: str, open_cache: OpenCache, source: Source, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was invalidated while the channel was cut is gone when it is back."""
    here, there = pair(open_cache)
    get = source.bind(here)
    assert get("box") == OLD
    if rule == "taken out":
        live = InvalidationListener.channel_live
        monkeypatch.setattr(
            InvalidationListener,
            "channel_live",
            lambda self, *, emptied, alive_at: live(self, emptied=False, alive_at=alive_at),
        )
    pause = Pause(monkeypatch, here.engine.channel, "_connect_and_listen")
    connects = kill_channel(here, redis_url)
    pause.wait()
    source.value = NEW
    there.clear()
    pause.let_go()
    wait_until(lambda: here.stats().channel_connects > connects, PATIENCE, "the channel")
    wait_until(lambda: here.engine.channel.live.is_set(), PATIENCE, "the channel")  # type: ignore[union-attr]
    assert held(here) == (OLD if rule == "taken out" else None)


@both
def test_while_the_channel_is_cut_stamps_are_asked_for(
    rule: str, open_cache: OpenCache, source: Source, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that is not answered locally sees what others have invalidated while the channel is cut."""
    here, there = pair(open_cache)
    get, get_there = source.bind(here), source.bind(there)
    assert get("cup") == get_there("box") == OLD
    if rule == "taken out":
        monkeypatch.setattr(Stamps, "forget_all", lambda self, **kwargs: None)
    pause = Pause(monkeypatch, here.engine.channel, "_connect_and_listen")
    kill_channel(here, redis_url)
    pause.wait()
    source.value = NEW
    there.invalidate_tags("things")
    assert get("box") == (OLD if rule == "taken out" else NEW)
    pause.let_go()


@both
def test_a_starved_channel_cannot_make_hits_stale_for_long(
    rule: str, open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hit compares with `trusted_until` by itself, so a process that was paused serves nothing beyond it."""
    here, there = open_cache(max_staleness=1), open_cache()
    connect(here)
    connect(there)
    get = source.bind(here)
    if rule == "taken out":
        monkeypatch.setattr(LocalTier, "trust_until", lambda self, trusted_until: None)
    assert get("box") == OLD
    pause = Pause(monkeypatch, here.engine.channel, "_pushed")
    source.value = NEW
    there.invalidate_key("thing:get:box")
    pause.wait()  # the channel's thread does nothing any more
    if rule == "taken out":
        here.engine.local.region("thing:get").trusted_until = float("inf")
        with pytest.raises(TimeoutError):
            wait_until(lambda: get("box") == NEW, 1.5)
    else:
        wait_until(lambda: get("box") == NEW, PATIENCE, "`trusted_until` to pass")
    pause.let_go()


# Echoes


@both
def test_creating_a_stamp_does_not_invalidate_the_load_that_created_it(
    rule: str, open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cold cache creates stamps with its first load, receives their pushes, and holds the value all the same."""
    here = open_cache()
    connect(here)
    if rule == "taken out":
        monkeypatch.setattr(Stamps, "expected", lambda self, group: False)
    get = source.bind(here)
    before = here.stats().pushes
    source.before_return = lambda: wait_until(lambda: here.stats().pushes > before, PATIENCE, "the echo")
    pause = Pause(monkeypatch, here.engine.local, "fill")
    reader = Background(get, "box")
    pause.wait()
    wait_for_push(here, open_cache())
    pause.let_go()
    assert reader.result() == OLD
    assert held(here) == (None if rule == "taken out" else OLD)
    assert source.loads == 1


@both
@pytest.mark.parametrize("way", ["key", "group", "tag"])
def test_the_echo_of_an_own_invalidation_does_not_invalidate_the_next_load(
    way: str, rule: str, open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Write, read, read costs one load, and the second read is a local hit, however late the echo arrives."""
    here, there = pair(open_cache)
    get = source.bind(here)
    get("box")
    wait_for_push(
        here, there
    )  # of the stamps that this has made; an echo still on its way would be taken for the next one
    if rule == "taken out":
        monkeypatch.setattr(Stamps, "expected", lambda self, group: False)
    source.value, source.loads = NEW, 0
    pause = Pause(monkeypatch, here.engine.channel, "_pushed")
    WAYS[way](here)
    pause.wait()
    assert get("box") == NEW
    pause.let_go()
    wait_for_push(here, there)
    assert held(here) == (None if rule == "taken out" and way != "key" else NEW)
    assert get("box") == NEW
    assert source.loads == 1


@both
def test_an_echo_that_comes_with_an_invalidation_of_another_process_counts(
    rule: str, open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis pushes once for a stamp written twice in one cycle: the push is an echo if the expected stamp is still
    there.
    """
    here, there = pair(open_cache)
    get, get_there = source.bind(here), source.bind(there)
    assert get_there("cup") == OLD
    wait_for_push(here, there)  # of the stamps that were made
    if rule == "taken out":  # expected, and so taken for ours
        monkeypatch.setattr(
            Stamps, "is_unchanged", lambda self, group, stamp: bool(self._expected.pop(group, ())) or True
        )
    assert here.engine.remote is not None
    # The two writes are one push: `here` announces its own, and another's is what stands there when it arrives.
    here.engine.stamps.expect("#things", b"8 bytes!")
    assert get("cup") == OLD == held(here, "thing:get:cup")
    source.value = NEW
    there.invalidate_tags("things")
    wait_for_push(here, there)
    assert held(here, "thing:get:cup") == (OLD if rule == "taken out" else None)
    assert get("cup") == (OLD if rule == "taken out" else NEW)
    assert get_there("cup") == NEW


@both
def test_a_stamp_that_was_merely_read_is_not_an_echo(
    rule: str, open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that ensures a tag's new stamp does not ignore its writer's push, if that is still to come."""
    here, there = pair(open_cache)
    get = source.bind(here)
    assert get("box") == OLD == held(here)
    if rule == "taken out":  # as it once was: what a reader knows counts as its own
        expect = Stamps.expect

        def expect_what_is_known(self: Stamps, group: str, stamp: bytes) -> None:
            expect(self, group, stamp)
            if self is here.engine.stamps and (current := there.engine.remote.read_stamps([group])[0]):  # type: ignore[union-attr]
                self._expected[group] = (*self._expected[group], current)

        monkeypatch.setattr(Stamps, "expect", expect_what_is_known)
    here.engine.stamps._cached.clear()  # as when there are too many: it costs a read
    channel = Pause(monkeypatch, here.engine.channel, "_pushed")
    source.value = NEW
    there.invalidate_tags("things")
    channel.wait()
    seeing_to_it = Pause(monkeypatch, here.engine.remote, "_ask_in_order")
    reader = Background(get, "cup")
    seeing_to_it.wait()
    pushes = here.stats().pushes
    channel.let_go()
    wait_until(lambda: here.stats().pushes > pushes, PATIENCE, "the push")
    wait_for_push(here, there)
    seeing_to_it.let_go()
    assert reader.result() == NEW
    wait_for_push(here, there)
    assert held(here) == (OLD if rule == "taken out" else None)
    assert get("box") == (OLD if rule == "taken out" else NEW)


@both
def test_of_two_markers_of_one_key_in_one_push_that_of_the_other_process_counts(
    rule: str, open_cache: OpenCache, source: Source, redis_url: str
) -> None:
    """A marker names its writer, so another's invalidation of the same key in the same cycle is no echo."""
    here, there = pair(open_cache)
    get = source.bind(here)
    assert get("box") == OLD == held(here)
    remotes = here.engine.remote, there.engine.remote
    assert remotes[0] is not None
    assert remotes[1] is not None
    writers = [remotes[0].writer, remotes[1].writer if rule == "in force" else remotes[0].writer]
    with redis.Redis.from_url(redis_url) as client, client.pipeline() as together:
        for writer in writers:
            together.set(here.space.key_marker(here.space.full("thing:get:box"), writer), "1")
        together.execute()
    wait_for_push(here, there)
    assert held(here) == (None if rule == "in force" else OLD)


def test_an_extended_stamp_invalidates_nothing_once_its_push_was_handled(open_cache: OpenCache, source: Source) -> None:
    """The push of an unchanged stamp is ignored by the process that extended its life."""
    here, there = pair(open_cache)
    get = source.bind(here)
    get("box")
    wait_for_push(here, there)

    @here.cached("thing", operation="longer", ttl=7200, tags=("things",))
    def longer(name: str) -> str:
        return source.value

    assert longer("box") == OLD
    wait_for_push(here, there)
    assert held(here) == OLD


# Tags that only the result names


@both
def test_of_a_tag_only_the_result_names_the_stamp_of_any_tag_is_read_last(
    rule: str, open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running load is not stored under the new stamp of a tag that only its result names."""
    here, there = pair(open_cache)
    late, late_there = source.bind_late(here), source.bind_late(there)
    ask = RedisStore._ask_in_order
    end = RedisStore.invalidate

    def ended_in_between(self: RedisStore, *parts: Any) -> list[object]:
        if self is not here.engine.remote or len(parts) < 2 or not parts[1] or source.loads != 1 or source.value == NEW:
            return ask(self, *parts)
        source.value = NEW
        if rule == "in force":  # the tag's own stamp is read, then it ends, then that of any tag is read
            first = ask(self, parts[0], [])
            end(there.engine.remote, ("#", "#things"), ())  # type: ignore[arg-type]
            return [*first, *ask(self, [], parts[1])]
        last = ask(self, [], parts[1])
        end(there.engine.remote, ("#", "#things"), ())  # type: ignore[arg-type]
        return [*ask(self, parts[0], []), *last]

    monkeypatch.setattr(RedisStore, "_ask_in_order", ended_in_between)
    assert late("box") == OLD
    assert source.value == NEW
    assert late_there("box") == (OLD if rule == "taken out" else NEW)


# resent_with_new_stamp


@both
@pytest.mark.parametrize("way", ["group", "tag", "everything"])
def test_an_invalidation_whose_reply_was_lost_revives_nothing_when_it_is_sent_again(
    way: str, rule: str, open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was stored and invalidated between an invalidation and its second sending stays invalidated."""
    here, there = pair(open_cache)
    get_there = source.bind(there)

    def meanwhile() -> None:
        assert get_there("box") == OLD  # under the stamp that has just been written
        source.value = NEW
        WAYS[way](there)

    if rule == "taken out":
        invalidations = Commands.invalidations
        first: list[list[Command]] = []

        def the_same(commands: Commands, *args: Any) -> list[Command]:
            if here.engine.remote is None or commands is not here.engine.remote.commands:
                return invalidations(commands, *args)
            if not first:
                first.append(invalidations(commands, *args))
            return first[0]

        monkeypatch.setattr(Commands, "invalidations", the_same)
    lose_a_reply(monkeypatch, here, meanwhile)
    WAYS[way](here)
    assert source.value == NEW
    assert get_there("box") == (OLD if rule == "taken out" else NEW)


def test_pending_or_not_the_stamp_of_any_tag_is_written_first(open_cache: OpenCache) -> None:
    """However tags are invalidated together, the stamp of any tag is written before all others."""
    cache = open_cache()
    connect(cache)
    recovery = cache.engine.recovery
    assert recovery is not None
    sent: list[tuple[str, ...]] = []
    end = RedisStore.invalidate

    def record(self: RedisStore, groups: tuple[str, ...], keys: tuple[str, ...]) -> None:
        sent.append(groups)
        end(self, groups, keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RedisStore, "invalidate", record)
        cache.invalidate_tags("a", "b")
        with cache.deferred():
            cache.invalidate("thing")
            cache.invalidate_tags("b")
            cache.invalidate_tags("a")
        for tag in ("a", "b", "a"):
            recovery.add(invalidation.of(cache.engine, (), (tag,)))
        recovery.send()
    assert len(sent) == 3
    for groups in sent:
        assert groups[0] == "#"
        assert {"#a", "#b"} <= set(groups)


# Cache.set


def without_lease(patch: pytest.MonkeyPatch) -> None:
    """Let `set` store its value under any lease, and take none."""
    patch.setattr(RedisStore, "take", lambda self, wanted, lease_ms, *, unlink: None)

    def put(self: RedisStore, items: Sequence[tuple[str, bytes, bytes, int]]) -> list[bool]:
        sets: list[Command] = [("SET", key, frame, "PX", str(redis_ttl_ms)) for key, _, frame, redis_ttl_ms in items]
        self._ask([*sets, *(mark for key, *_ in items for mark in self.commands.push_key(key))])
        return [True] * len(items)

    patch.setattr(RedisStore, "put", put)


@both
def test_a_value_put_by_hand_does_not_survive_its_invalidation(
    rule: str, open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that `Cache.set` stores late, after its key was invalidated, is not stored."""
    here, there = pair(open_cache)
    get = source.bind(here)
    if rule == "taken out":
        without_lease(monkeypatch)
    held = Pause(monkeypatch, there.engine.remote, "put")
    setting = Background(lambda: there.set("thing:get:box", OLD, tags=("things",)))
    held.wait()
    source.value = NEW
    here.invalidate_key("thing:get:box")
    held.let_go()
    setting.result()
    assert get("box") == (OLD if rule == "taken out" else NEW)


@both
def test_a_value_put_by_hand_invalidates_the_running_load(
    rule: str, open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load that began before `Cache.set` does not overwrite what was set."""
    here, there = pair(open_cache)
    get = source.bind(here)
    if rule == "taken out":
        without_lease(monkeypatch)
    begun, go = threading.Event(), threading.Event()

    def stop() -> None:
        begun.set()
        assert go.wait(PATIENCE)

    source.before_return = stop
    loading = Background(get, "box")
    assert begun.wait(PATIENCE)
    there.set("thing:get:box", NEW, tags=("things",))
    go.set()
    assert loading.result() == OLD
    assert there.get("thing:get:box") == (OLD if rule == "taken out" else NEW)


# maker_drops_local


@both
def test_creating_a_stamp_drops_what_is_held_from_before(
    rule: str, open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch, raw: redis.Redis
) -> None:
    """Where a stamp was evicted before its push is handled, the push is taken for that of the one made in its place."""
    here, there = pair(open_cache)
    get = source.bind(here)
    other = here.cached("thing", operation="other", consistency="strong")(lambda name: name)
    assert get("box") == OLD
    other("cup")
    wait_for_push(here, there)
    assert get("box") == OLD
    if rule == "taken out":
        monkeypatch.setattr(LocalTier, "start_groups", lambda self, groups, asked: None)
    channel = Pause(monkeypatch, here.engine.channel, "_handle")
    source.value = NEW
    there.invalidate("thing")
    raw.unlink(there.space.stamp("thing"))  # as an eviction does
    channel.wait()
    other("cup")  # it finds none, and makes one
    channel.let_go()
    wait_for_push(here, there)
    assert get("box") == (OLD if rule == "taken out" else NEW)
