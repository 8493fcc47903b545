"""What JSON keeps exactly: what is written in C and in Python says the same, and orjson proves it right."""

from __future__ import annotations

import enum
import uuid
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache._codec.equality import exactly_equal
from aikcache._codec.plain import DEPTH, MAX_ITEMS, _is_plain, is_plain, is_plain_in_python

compiled = pytest.mark.skipif(_is_plain is is_plain_in_python, reason="the extension is not in")


class Level(enum.IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()


ODD = [(), (1,), b"", {1}, Level.LOW, Text("x"), uuid.UUID(int=1), float("nan"), float("inf"), 1j, object, 1e308]
atoms = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
keys = st.text(max_size=2) | st.sampled_from([1, None, Text("k"), True])
values = st.recursive(
    atoms | st.sampled_from(ODD),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)


@compiled
@given(values, st.integers(0, 5), st.integers(0, 12))
def test_c_says_what_python_says(value: Any, depth: int, most: int) -> None:
    """Where neither runs out of items; else they may have come to something else first."""
    said = [_is_plain(value, depth, most), is_plain_in_python(value, depth, most)]
    assert said[0] == said[1] or -1 in said
    assert _is_plain(value, depth, MAX_ITEMS) == is_plain_in_python(value, depth, MAX_ITEMS)


@given(values)
def test_what_is_plain_comes_back_equal(value: Any) -> None:
    """In value and in type, at every depth."""
    if is_plain(value):
        try:
            data = orjson.dumps(value)
        except TypeError:  # an int of more than 64 bits
            return
        assert exactly_equal(orjson.loads(data), value)


@pytest.mark.parametrize("check", [is_plain, lambda value: is_plain_in_python(value, DEPTH, MAX_ITEMS)])
def test_what_shares_its_parts_or_holds_itself_takes_no_time(check: Any) -> None:
    """A list of 2**60 items is too large, and a list in itself too deep."""
    many: list[Any] = []
    for _ in range(60):
        many = [many, many]
    assert check(many) == -1
    itself: list[Any] = []
    itself.append(itself)
    assert check(itself) == 0
    assert check(0.0) == check([1e308, 1e308]) == 1
