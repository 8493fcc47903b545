"""The cost of arguments that an attacker chooses: in proportion to their length."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from aikcache import Cache, InvalidKeyError
from aikcache._decorators.batch_function import MAX_COLLIDING
from aikcache._keys.chosen import LONGEST, MAX_CROWD
from aikcache._keys.rendering import MAX_PARTS

MILLION = 10**6
P = 2**61 - 1
"""Numbers that differ by this have one hash."""


def peak(work: Callable[[], object]) -> int:
    """Bytes that `work` holds at most, at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def key(value: object) -> str:
    return Cache(instance="chosen").key("p", "f", value)


class Asked:
    """Of a given hash and equal to nothing: how many keys a dict compares with one of that hash."""

    def __init__(self, hashed: int) -> None:
        self.hashed, self.count = hashed, 0

    def __hash__(self) -> int:
        return self.hashed

    def __eq__(self, other: object) -> bool:
        self.count += 1
        return False


def crowd(table: dict[Any, Any], local_key: object) -> int:
    asked = Asked(hash(local_key))
    assert asked not in table
    return asked.count


@pytest.mark.parametrize(
    "value",
    [
        "a" * MILLION, " " * MILLION, "\N{EURO SIGN}" * MILLION, "\ud800" * MILLION, b"\0" * MILLION,
        1 << 8 * MILLION, [["\N{EURO SIGN}" * MILLION]], Decimal("1" * MILLION),
    ],
    ids=["plain", "spaces", "wide", "surrogates", "bytes", "an int", "nested", "a Decimal"],
)  # fmt: skip
def test_a_million_characters_are_hashed_and_not_written_out(value: object) -> None:
    """A long argument is hashed before it is escaped: its key takes few copies of it, whatever it is made of."""
    assert peak(lambda: key(value)) < 7 * MILLION
    assert len(key(value)) < 100


def test_a_nested_value_is_not_copied_at_each_level() -> None:
    """A long part that stands in many places, or below many levels, is hashed in each and copied in none."""
    wide = ["x" * MILLION] * 50
    deep: Any = "x" * MILLION
    for _ in range(50):
        deep = {"in": deep, "on": [deep] if not isinstance(deep, dict) else 1}
    assert peak(lambda: key(wide)) < 7 * MILLION
    assert peak(lambda: key(deep)) < 7 * MILLION


def test_a_long_name_and_a_long_tag_are_hashed_too() -> None:
    """So are names of keyword arguments, and the fields of tags and patterns."""
    cache = Cache(instance="chosen")
    long = "\N{EURO SIGN}" * MILLION

    @cache.cached("p", tags=("user:{name}",))
    def f(name: str, **more: int) -> int:
        return len(name)

    calls: list[Callable[[], object]] = [
        lambda: f.key("a", **{long: 1}),
        lambda: f(long),
        lambda: cache.invalidate("p:f:{name}", name=long),
        lambda: cache.key("p", "f", **{long: 1}),
    ]
    for call in calls:
        assert peak(call) < 10 * MILLION


def test_what_holds_too_much_is_no_part_of_a_key() -> None:
    """A container of more than MAX_PARTS values, counted deep and as often as they stand there, has no key."""
    cache = Cache(instance="chosen")
    twice: Any = ["x"]
    for _ in range(40):
        twice = [twice, twice]
    for value in (list(range(MAX_PARTS + 1)), [[0] * (MAX_PARTS // 2)] * 2, dict.fromkeys(range(MAX_PARTS + 1)), twice):
        with pytest.raises(InvalidKeyError, match="more than 100000 values"):
            key(value)
    with pytest.raises(InvalidKeyError, match="more than 100000 values"):
        cache.key("p", "f", *range(MAX_PARTS + 1))

    @cache.cached("p")
    def f(value: Any) -> int:
        return len(value)

    assert f(twice) == f(twice) == 2
    assert cache.stats().errors == 2
    assert len(key(list(range(MAX_PARTS)))) < 100


@pytest.mark.parametrize(
    "make",
    [lambda i: (i * P,), lambda i: (UUID(int=i * P),), lambda i: (i * P, 1), lambda i: (-i * P, i * P)],
    ids=["ints", "UUIDs", "two", "negative"],
)
def test_arguments_of_one_hash_do_not_crowd_a_table(make: Callable[[int], tuple[Any, ...]]) -> None:
    """However many ids of one hash are cached, a look-up meets a few; all of them are held, and hit."""
    cache = Cache(instance="chosen")

    @cache.cached("p")
    def f(a: int, b: int = 0) -> str:
        return f"{a} {b}"

    @cache.cached("p", operation="by_id")
    def by_id(a: UUID) -> str:
        return str(a)

    called: Any = by_id if type(make(1)[0]) is UUID else f
    many = [make(i) for i in range(1, 1001)]
    results = [called(*args) for args in many]
    table = cache.engine.local.regions[f"p:{called.__name__}"][0].table
    local_keys = [args[0].int if called is by_id else (*args, 0)[:2] for args in many]
    assert max(crowd(table, local_key) for local_key in local_keys) <= MAX_CROWD
    assert len(table) == 1000
    before = called.cache_info()
    assert [called(*args) for args in many] == results
    after = called.cache_info()
    assert (after.hits - before.hits, after.misses - before.misses) == (1000, 0)
    assert [called.peek(*args) for args in many] == results
    called.invalidate(*many[-1])
    called.invalidate(*many[0])
    assert called.peek(*many[-1]) is called.peek(*many[0]) is None
    called.cache_clear()
    assert called.peek(*many[500]) is None


def test_many_ids_of_one_hash_are_not_made_a_dict_of() -> None:
    """`cached_many` hands ids that were chosen for their hash to its function as they are, and caches nothing."""
    cache = Cache(instance="chosen")
    given: list[list[int]] = []

    @cache.cached_many("p")
    def f(ids: list[int]) -> dict[int, int]:
        given.append(ids)
        return {}

    chosen = [i * P for i in range(MAX_COLLIDING + 2)]
    assert f(chosen) == {}
    assert given.pop() == chosen
    assert cache.stats().errors == 1
    f([1] * (MAX_COLLIDING + 2))
    assert given.pop() == [1]
    f(list(range(MAX_COLLIDING + 2)))
    assert given.pop() == list(range(MAX_COLLIDING + 2))
    assert cache.stats().errors == 1


def test_long_arguments_are_not_held() -> None:
    """The local tier holds the entry of a long argument without the argument, and hits it."""
    cache = Cache(instance="chosen", local_max_bytes=100_000)

    @cache.cached("p")
    def f(text: str, other: bytes = b"") -> int:
        return len(text)

    def call(i: int, length: int) -> int:
        return f(f"{i}".rjust(length), b"x" * length)

    call(0, LONGEST + 1)  # what is made once
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        assert [call(i, MILLION) for i in range(20)] == [MILLION] * 20
        assert tracemalloc.get_traced_memory()[0] - before < MILLION
    finally:
        tracemalloc.stop()
    assert [call(i, MILLION) for i in range(20)] == [MILLION] * 20
    assert (f.cache_info().hits, f.cache_info().currsize) == (20, 21)
    f.invalidate("0".rjust(MILLION), b"x" * MILLION)
    call(0, MILLION)
    assert f.cache_info().hits == 20


@pytest.mark.parametrize("policy", ["s3fifo", "lru"])
def test_arguments_that_are_held_are_counted(policy: Any) -> None:
    """`local_max_bytes` counts what the arguments of its entries take."""
    cache = Cache(instance="chosen", local_max_bytes=100_000, policy=policy)

    @cache.cached("p")
    def f(text: str) -> None: ...

    for i in range(1000):
        f(f"{i}".rjust(LONGEST))
    assert 100_000 / 3 / LONGEST < f.cache_info().currsize < 100_000 / LONGEST
