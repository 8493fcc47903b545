"""A return annotation changes, as in a deployment: what was cached for the old one is a miss, and never handed out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from aikcache import Cache

from ._staging import pair, wait_for_push
from ._workers import PATIENCE, PATIENT, Background, connect

pytestmark = pytest.mark.usefixtures("unhurried")


@dataclass(frozen=True)
class Product:
    name: str


CHANGES: dict[str, tuple[Any, Any, Any, Any]] = {
    "int to str": (int, 7, str, "7"),
    "dict to dataclass": (dict[str, str], {"name": "tea"}, Product, Product("tea")),
    "list of int to list of str": (list[int], [1], list[str], ["1"]),
    "nothing to int": (None, "7", int, 7),
    "int to nothing": (int, 7, None, "7"),
    "dataclass to tuple": (Product, Product("tea"), tuple[str, ...], ("tea",)),
    "None to int": (type(None), None, int, 7),
}
Get = Callable[[], Any]


def declare(cache: Cache, annotation: Any, value: object) -> Any:
    """One and the same function as far as its key goes."""

    def get(number: int) -> Any:
        return value

    get.__annotations__ = {"number": int} if annotation is None else {"number": int, "return": annotation}
    return cache.cached("thing")(get)


def declare_many(cache: Cache, annotation: Any, value: object) -> Any:
    def get(numbers: list[int]) -> Any:
        return dict.fromkeys(numbers, value)

    get.__annotations__ = {} if annotation is None else {"return": dict[int, annotation]}
    return cache.cached_many("thing")(get)


@pytest.fixture(params=["without Redis", "in one process", "in two processes", "without a local tier"])
def caches(request: pytest.FixtureRequest, redis_url: str, instance: str) -> Iterator[tuple[Cache, Cache]]:
    """A cache before the deployment, and one after it."""
    options = {**PATIENT, "local_ttl": 0 if request.param == "without a local tier" else 60}
    with ExitStack() as stack:
        old = stack.enter_context(Cache(redis_url, instance=instance, **options))
        new = stack.enter_context(Cache(redis_url, instance=instance, **options))
        for cache in (old, new):
            connect(cache)
        if request.param == "without Redis":
            old = new = stack.enter_context(Cache())
        yield old, old if request.param == "in one process" else new


ROADS: dict[str, Callable[[Any, int], Any]] = {
    "a call": lambda f, number: f(number),
    "many": lambda f, number: f.many([number, number + 100])[0],
    "peek": lambda f, number: f.peek(number, default="nothing"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_old_type_is_not_handed_out(change: str, caches: tuple[Cache, Cache]) -> None:
    """After its annotation has changed a function gives what it returns now, on every path, and the new is kept."""
    before, old, after, new = CHANGES[change]
    f, g = declare(caches[0], before, old), declare(caches[1], after, new)
    for number, (fast_path, get) in enumerate(ROADS.items()):
        assert f.many([number, number + 100]) == [old, old]
        assert get(f, number) == old
        assert (f.explain(number)["answer"] != "load", g.explain(number)["answer"]) == (True, "load")
        found, expected = get(g, number), "nothing" if fast_path == "peek" else new
        assert (found, type(found)) == (expected, type(expected))
        assert g(number) == new
        assert (g.peek(number), type(g.peek(number))) == (new, type(new))
        assert f.peek(number) in (None, old)  # where the old one is held still, it is of its own type
        assert f(number) == old
    assert caches[1].stats().errors == 0


@pytest.mark.parametrize("change", CHANGES)
def test_cached_many_hands_out_no_old_type(change: str, caches: tuple[Cache, Cache]) -> None:
    """Nor does a function of many ids, whatever `cached` function of its name has stored; of one type they share."""
    before, old, after, new = CHANGES[change]
    f, g = declare(caches[0], before, old), declare_many(caches[1], after, new)
    assert f(1) == old
    found = g([1])[1]
    assert (found, type(found)) == (new, type(new))
    assert declare(caches[1], after, "another").peek(1) == new


def test_a_function_whose_type_changed_joins_no_flight(redis_url: str, instance: str) -> None:
    """A call that waited for another's load of another type loads for itself."""
    inside, go = threading.Event(), threading.Event()
    with Cache(redis_url, instance=instance, **PATIENT) as cache:
        connect(cache)

        def slow() -> int:
            inside.set()
            assert go.wait(PATIENCE)
            return 7

        first = Background(lambda: cache.get_or_load("thing:get:1", slow, type=int))
        assert inside.wait(PATIENCE)
        second = Background(lambda: cache.get_or_load("thing:get:1", lambda: "7", type=str))
        go.set()
        assert (first.result(), second.result()) == (7, "7")


def test_what_was_put_by_hand_is_given_where_it_fits(caches: tuple[Cache, Cache]) -> None:
    """A value put without a type is a hit for the functions of whose type it is, and for no other."""
    cache, other = caches
    fits, fails = declare(other, list[int], [2]), declare(other, list[str], ["2"])
    cache.set(fits.key(1), [1])
    assert (fits(1), fits(1), other.get(fits.key(1), type=list[int])) == ([1], [1], [1])
    assert (fails(1), fails(1)) == (["2"], ["2"])
    assert other.get(fits.key(1), "nothing", type=list[int]) == "nothing"
    assert other.get(fits.key(1)) == ["2"]


@pytest.mark.parametrize("kind", [int, list[int]])
def test_by_key_and_without_a_type_what_is_there_is_given(kind: Any, caches: tuple[Cache, Cache]) -> None:
    """`get` and `get_or_load` without `type` give what a function has stored; with another type they do not."""
    value: Any = 7 if kind is int else [7]
    f = declare(caches[0], kind, value)
    f(1)
    assert caches[1].get(f.key(1)) == caches[1].get_or_load(f.key(1), lambda: value * 2) == value
    assert caches[1].get(f.key(1), type=str) is None
    assert caches[1].get(f.key(1), type=kind) == value
    assert f.peek(1) == value
    assert caches[1].get_or_load(f.key(1), lambda: "another", type=str) == "another"
    assert f.peek(1) in (None, value)
    assert type(f(1)) is type(value)


@pytest.mark.parametrize("versions", [(1, 2), (None, 2), ("1.5", "1.6")])
@pytest.mark.parametrize("decorated", [True, False])
def test_the_plain_group_has_every_version_in_it(
    versions: tuple[Any, Any], decorated: bool, redis_url: str, instance: str
) -> None:
    """While a deploy mixes versions, an invalidation of `prefix:operation` covers all values, and so do tags."""
    with ExitStack() as stack:
        old, new = pair(lambda: stack.enter_context(Cache(redis_url, instance=instance, **PATIENT)))
        rows = {1: 0}

        def declare(cache: Cache, version: Any) -> Any:
            @cache.cached("thing", version=version, tags=("thing:{number}",))
            def get(number: int) -> int:
                return rows[number]

            return get

        gets = [declare(cache, version) for cache, version in zip((old, new), versions, strict=True)]
        third = new
        if not decorated:  # by a process without the function
            third, _ = pair(lambda: stack.enter_context(Cache(redis_url, instance=instance, **PATIENT)))
        ways: list[Callable[[Cache], object]] = [
            lambda cache: cache.invalidate("thing:get"),
            lambda cache: cache.invalidate("thing:get:*"),
            lambda cache: cache.invalidate_tags("thing:1"),
        ]
        for teller in (third, old):
            for end in ways:
                assert [get(1) for get in gets] == [rows[1]] * 2
                rows[1] += 1
                end(teller)
                for cache in {old, new} - {teller}:
                    wait_for_push(cache, teller)
                assert [get(1) for get in gets] == [rows[1]] * 2
