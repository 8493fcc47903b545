"""Copies of mutable values, made in C and in Python: equal, of the same types, and of nobody else's."""

from __future__ import annotations

import datetime as dt
import gc
import signal
import sys
import threading
from collections import OrderedDict
from decimal import Decimal
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from aikcache import Cache
from aikcache._codec.equality import exactly_equal
from aikcache._compiled import fast
from aikcache._local.entry import EncodedValue
from aikcache._local.original import LEAVES, Original, _Original

KINDS = [_Original] if fast is None else [_Original, fast.Original]
both = pytest.mark.parametrize("kind", KINDS)
ATOMS: list[Any] = [
    "", "a", "é" * 50, 0, -1, 2**70, 1.5, float("nan"), -0.0, True, False, None, b"", b"x", Decimal("1.50"),
    UUID(int=7), dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.date(2024, 1, 1), dt.time(1, 2), dt.timedelta(1), dt.UTC,
]  # fmt: skip


class Named(NamedTuple):
    a: int


class Text(str):
    """Not exactly a str."""


def anything(random: Random, depth: int) -> Any:
    """A value of all that is copied."""
    kind = random.choice("ldt") if depth == 4 else random.choice("aaaaldt" if depth else "a")
    if kind == "a":
        return random.choice(ATOMS)
    items = [anything(random, depth - 1) for _ in range(random.choice([0, 1, 2, 3, 8]))]
    if kind == "d":
        return dict(zip([random.choice([f"k{i}", i, UUID(int=i)]) for i in range(len(items))], items, strict=True))
    return items if kind == "l" else tuple(items)


def containers(value: Any) -> list[Any]:
    """All that can be changed in a value, at any depth."""
    found, todo = [], [value]
    for part in todo:
        if type(part) in (dict, list):
            found.append(part)
        if type(part) in (dict, list, tuple):
            todo.extend(part.values() if type(part) is dict else part)
    return found


@both
def test_copies_of_random_values_are_equal_and_share_nothing_that_can_change(kind: Any) -> None:
    """Value and type are the same at every node; no two of original, copies and given value share a dict or a list."""
    seed = Random().randrange(1 << 32)
    print(f"seed {seed}")
    random = Random(seed)
    for _ in range(300):
        value = anything(random, 4)
        original = kind(value, LEAVES, True)
        copies = [original.copy(), original.copy(), value]
        assert all(exactly_equal(copy, value) for copy in copies)
        assert [list(c) for c in containers(copies[0])] == [list(c) for c in containers(value)]  # in the same order
        mutable = [part for copy in copies for part in containers(copy)]
        assert len({id(part) for part in mutable}) == len(mutable)
        expected = original.copy()
        for part in mutable:
            part.clear()
        assert exactly_equal(original.copy(), expected)


@both
@pytest.mark.parametrize(
    "value",
    [
        Named(1), OrderedDict(a=1), {1, 2}, frozenset({1}), bytearray(b"a"), "a", None, object(), Text("a"),
        [Text("a")], {"a": Named(1)}, {"a": [{1}]}, {Text("a"): 1}, {(1, 2): 3}, ([frozenset()],), [object()],
        {"a": {"b": (bytearray(),)}},
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_other_types_are_not_copied(kind: Any, value: Any) -> None:
    """Subclasses, sets, and what is not known: `TypeError`, before anything is kept."""
    with pytest.raises(TypeError):
        kind(value, LEAVES, True)


def nested(levels: int) -> Any:
    """A list of so many containers in one another, of all three types."""
    value: Any = [1]
    for i in range(levels - 1):
        value = [value, i] if i % 3 == 0 else {"a": value} if i % 3 == 1 else (value,)
    return [value]


def with_frames_left(left: int, work: Any) -> Any:
    """What `work()` returns where the recursion limit leaves it so many frames."""
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1  # type: ignore[assignment]

    def down(more: int) -> Any:
        return down(more - 1) if more else work()

    return down(sys.getrecursionlimit() - depth - left)


@both
def test_a_copy_of_a_deep_value_needs_no_deeper_stack(kind: Any) -> None:
    """A value of a hundred levels is copied with ten frames left, and one of any depth is copied or refused."""
    deep = nested(99)
    original = kind(deep, LEAVES, True)
    assert exactly_equal(with_frames_left(10, original.copy), deep)
    deeper = nested(20_000)
    try:
        levels = len(containers(kind(deeper, LEAVES, True).copy()))
    except TypeError:
        assert kind is not _Original
    else:
        assert levels == len(containers(deeper))


@pytest.mark.skipif(fast is None, reason="the extension is not in")
def test_a_hundred_thousand_copies_leave_no_reference() -> None:
    """Neither copies nor refused values change what their parts are referred to by."""
    part: Any = type("Part", (), {})()
    shared = [UUID(int=1), "a" * 50, 10**30, part]
    value = {"a": [shared[0], (shared[1], [shared[2]])], "b": {shared[0]: shared[1]}, "c": (shared[2],)}
    refused = {"a": [dict(enumerate(shared))]}
    original = Original(value, LEAVES, True)

    def work(count: int) -> None:
        for _ in range(count):
            original.copy()
            Original(value, LEAVES, True)
            with pytest.raises(TypeError):
                Original(refused, LEAVES, True)

    work(10)
    gc.collect()  # what other tests left of it
    things = [*shared, value, value["a"], original, Original, LEAVES]
    before = [sys.getrefcount(thing) for thing in things]
    for _ in range(100_000):
        original.copy()
    work(1000)
    gc.collect()
    assert [sys.getrefcount(thing) for thing in things] == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@both
def test_an_exception_of_a_signal_handler_leaves_nothing_broken(kind: Any) -> None:
    """Raised anywhere in a copy, it reaches the caller, and the next copy is whole."""
    value = {UUID(int=i): [i, {"a": [i], UUID(int=i): (i, [i])}] for i in range(300)}
    original = kind(value, LEAVES, True)

    class StoppedError(Exception):
        pass

    def stop(*_: object) -> None:
        fired.append(1)
        raise StoppedError

    def copy_until_stopped(i: int) -> None:
        signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + i % 40))
        while len(fired) == i:  # what it raises in a finaliser, or a callback of the collector's, is lost
            original.copy()

    fired: list[int] = []
    before, stopped = signal.signal(signal.SIGALRM, stop), 0
    gc.disable()  # whose callbacks of others would get most of them
    try:
        for i in range(200):
            try:
                copy_until_stopped(i)
            except StoppedError:
                stopped += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    assert 0 < stopped <= len(fired) == 200
    assert exactly_equal(original.copy(), value)


class TestInACache:
    """What a caller does with its value reaches neither the cache nor other callers."""

    @pytest.mark.parametrize("policy", ["s3fifo", "lru"])
    def test_no_change_reaches_another_caller(self, policy: Any) -> None:
        """Not of what a miss gave, nor of any hit; also in tuples, at any depth, and in `peek` and `many`."""
        made = nested(60)
        with Cache(policy=policy) as cache:

            @cache.cached("p")
            def f(a: int) -> Any:
                return made

            expected = f.bypass(0)
            answers = [f(0), f(0), f(0), f.peek(0), *f.many([0, 0]), f(a=0), cache.get(f.key(0)), f(0)]
            for i, answer in enumerate(answers):
                assert exactly_equal(answer, expected), i
                for part in containers(answer):
                    part.clear()
                assert exactly_equal(f(0), expected), i
            assert exactly_equal(made, nested(60))
            assert cache.stats().loads == 1

    def test_what_a_hit_gives_is_kept_once_it_is_decoded(self) -> None:
        """Built-in types are decoded for the first hit alone; a dataclass, and what is too deep in C, for each."""
        with Cache() as cache:

            @cache.cached("p")
            def f(a: int) -> Any:
                return {"a": [1]} if a else [{1}]

            for a, kinds in ((1, [EncodedValue, Original, Original]), (0, [EncodedValue] * 3)):
                held = []
                for _ in range(3):
                    f(a)
                    entry = cache.engine.local.peek(f.key(a))
                    assert entry is not None
                    held.append(type(entry.value))
                assert held == kinds
                assert f(a) == ({"a": [1]} if a else [{1}])
            assert cache.stats().local_hits == 6

    def test_hits_are_counted_under_threads_exactly(self) -> None:
        """Every call counts once, and every caller gets what is whole, while others clear."""
        calls, threads, interval = 5_000, 4, sys.getswitchinterval()
        wrong: list[object] = []
        with Cache() as cache:

            @cache.cached("p")
            def f(a: int) -> Any:
                return {"a": [a, {"b": [a]}]}

            def use(number: int) -> None:
                for i in range(calls):
                    a = i % 5
                    found = f(a)
                    if found != {"a": [a, {"b": [a]}]}:
                        wrong.append(found)
                    found["a"][1]["b"].append(number)
                    if i % 100 == number:
                        f.cache_clear()

            try:
                sys.setswitchinterval(1e-6)
                running = [threading.Thread(target=use, args=(number,), daemon=True) for number in range(threads)]
                for thread in running:
                    thread.start()
                for thread in running:
                    thread.join(300)
                    assert not thread.is_alive()
            finally:
                sys.setswitchinterval(interval)
            assert wrong == []
            stats = cache.stats()
            assert stats.hits + stats.misses == calls * threads
            assert stats.local_hits > stats.misses > 0

    def test_a_copy_too_large_for_the_bound_is_not_kept(self) -> None:
        """What is kept counts; where it does not fit, the value goes on being decoded, and stays."""
        with Cache(local_max_bytes=20_000) as cache:

            @cache.cached("p")
            def f(a: int) -> Any:
                return [[a + i] for i in range(300)]

            for a in range(1, 4):
                assert f(a) == f(a) == f(a) == [[a + i] for i in range(300)]
                assert type(cache.engine.local.peek(f.key(a)).value) is EncodedValue  # type: ignore[union-attr]
            assert cache.stats().local_hits == 6
            assert 0 < cache.engine.local.bytes <= 20_000
