"""Exact deep equality, and immutability."""

from __future__ import annotations

import dataclasses
import datetime as dt
import sys
import uuid
import zoneinfo
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import combinations
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache._codec.equality import exactly_equal, immutable
from aikcache._records import RecordType, record_type_of

ROME = zoneinfo.ZoneInfo("Europe/Rome")
NOON = dt.datetime(2024, 10, 27, 2, 30)
ALL_DIFFERENT: list[Any] = [
    1,
    1.0,
    True,
    0,
    0.0,
    -0.0,
    False,
    None,
    "1",
    b"1",
    Decimal(1),
    Decimal("1.0"),
    Decimal("NaN"),
    float("nan"),
    [1],
    (1,),
    [1.0],
    [True],
    {1},
    {1.0},
    frozenset({1}),
    {1: 2},
    {1.0: 2},
    {1: 2.0},
    {1: 2, 3: 4},
    {3: 4, 1: 2},
    {0.0},
    {-0.0},
    {float("nan")},
    {float("nan"), 1},
    [[0.0]],
    [[-0.0]],
    NOON,
    NOON.replace(fold=1),
    NOON.replace(tzinfo=ROME),
    NOON.replace(tzinfo=ROME, fold=1),
    NOON.replace(tzinfo=dt.timezone(dt.timedelta(hours=2))),
    NOON.replace(tzinfo=dt.timezone(dt.timedelta(hours=2), "X")),
    NOON.replace(tzinfo=dt.UTC),
    NOON.replace(tzinfo=zoneinfo.ZoneInfo("UTC")),
    NOON.date(),
    NOON.time(),
    NOON.time().replace(fold=1),
    dt.timedelta(1),
    uuid.UUID(int=1),
    uuid.UUID(int=1, is_safe=uuid.SafeUUID.safe),
    [],
    (),
    {},
    set(),
]


def copy_of(value: Any) -> Any:
    """An equal object that is another one, also where Python would share."""
    if type(value) in (list, tuple, set, frozenset):
        return type(value)([copy_of(item) for item in value])
    if type(value) is dict:
        return {copy_of(key): copy_of(item) for key, item in value.items()}
    if type(value) is float:
        return float(repr(value))
    return value


@pytest.mark.parametrize("value", ALL_DIFFERENT, ids=lambda value: f"{type(value).__name__}")
def test_same_as_its_copy(value: Any) -> None:
    """A value is the same as its copy, nan included, wherever it is nested."""
    assert exactly_equal(value, copy_of(value))
    assert exactly_equal([(value,)], [(copy_of(value),)])


def test_no_two_are_the_same() -> None:
    """Values that differ in type, sign, fold, zone or order at any depth are not the same."""
    for a, b in combinations(ALL_DIFFERENT, 2):
        assert not exactly_equal(a, b), (a, b)
        assert not exactly_equal([{"x": (a,)}], [{"x": (b,)}]), (a, b)


@given(st.lists(st.sampled_from([1, True, 1.0, 0.0, -0.0, "a"])), st.lists(st.sampled_from([1, True, 1.0, -0.0, "a"])))
def test_lists_are_the_same_where_their_reprs_are(a: list[Any], b: list[Any]) -> None:
    """The fast path over a whole list gives what a look at each item would."""
    assert exactly_equal(a, b) == (repr(a) == repr(b))


def test_unknown_types_are_not_the_same() -> None:
    """Instances of an unknown class are only the same as themselves."""

    class Raising:
        def __eq__(self, _: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    raising = Raising()
    assert not exactly_equal(Raising(), raising)
    assert exactly_equal(raising, raising)


@pytest.mark.parametrize("value", [1, "a", (), (1, ("a", None)), frozenset({(1,)}), NOON.replace(tzinfo=ROME), ROME])
def test_immutable(value: object) -> None:
    """Atoms, and tuples and frozensets of them, are immutable."""
    assert immutable(value)


@pytest.mark.parametrize("value", [[], {}, set(), ([],), (1, ({},)), bytearray(), object(), type("T", (tuple,), {})()])
def test_mutable(value: object) -> None:
    """Containers that can change, whatever holds one, and instances of unknown classes are not immutable."""
    assert not immutable(value)


class Shown(NamedTuple):
    """Shows other items than it has."""

    id: int
    tags: list[str]

    def __iter__(self) -> Iterator[Any]:
        return iter((1, "x"))

    def __len__(self) -> int:
        return 0

    def __eq__(self, _: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


def test_a_named_tuple_is_what_it_holds_and_not_what_it_shows() -> None:
    """Its own `__iter__`, `__len__` and `__eq__` are asked neither whether it can change nor whether it is the same."""
    found = record_type_of(Shown)
    assert found is not None
    types: dict[type, RecordType] = {Shown: found}
    assert not immutable(Shown(1, []), types)
    assert exactly_equal(Shown(1, ["a"]), Shown(1, ["a"]), types)
    assert not exactly_equal(Shown(1, ["a"]), Shown(1, ["b"]), types)


class Pair(NamedTuple):
    left: int
    right: object


@dataclasses.dataclass(eq=False)
class Thing:
    """Compared by identity, so no copy of it is found in a set."""

    value: object


TYPES: dict[type, RecordType] = {cls: found for cls in (Thing, Pair) if (found := record_type_of(cls))}


def things() -> set[Thing]:
    """One thing for each value, and one that is in a thing in a set."""
    values = [*ALL_DIFFERENT, uuid.UUID(int=5), ROME, dt.time(1, tzinfo=ROME), Pair(1, float("nan"))]
    return {Thing(value) for value in [*values, *values, frozenset({Thing((1, float("nan")))})]}


def test_sets_of_what_is_compared_by_identity_are_the_same_by_content() -> None:
    """Each member needs an exactly equal one in the other set, as many times."""
    assert exactly_equal(things(), things(), TYPES)
    for value in ALL_DIFFERENT:
        first, second = things(), things()
        second.remove(next(thing for thing in second if exactly_equal(thing.value, value, TYPES)))
        assert not exactly_equal(first, second | {Thing("another")}, TYPES)


@pytest.mark.parametrize("make", [lambda i: Thing((i, float(i))), lambda i: Thing("alike")], ids=["unlike", "alike"])
def test_large_sets_of_what_is_compared_by_identity_cost_what_they_are_long(make: Callable[[int], Thing]) -> None:
    """Twice the members take twice the steps, not four times."""

    def steps(size: int) -> int:
        first, second = ({make(i) for i in range(size)} for _ in range(2))
        count = 0

        def note(_frame: object, event: str, _argument: object) -> None:
            nonlocal count
            count += event == "call"

        before = sys.getprofile()
        sys.setprofile(note)
        try:
            equal = exactly_equal(first, second, TYPES)
        finally:
            sys.setprofile(before)
        assert equal
        return count

    assert steps(400) < 2.5 * steps(200)
