"""A session's values: kept exactly, and compared by what they are."""

from __future__ import annotations

import contextlib
import datetime as dt
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache import register_type
from aikcache.errors import DecodeError
from aikcache.sessions import values


class Price:
    """A class that was registered, with an equality of its own."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Price)

    __hash__ = None  # type: ignore[assignment]


register_type(Price, name="tests.sessions.Price", encode=lambda price: price.cents, decode=Price)


@pytest.mark.parametrize(
    "value",
    [
        None, 1, "é", b"x", (1, [2]), {1: "a"}, {"a", "b"}, frozenset({1}), uuid.UUID(int=5), 1.5, {"a": {"b": [1]}},
        dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=1))), dt.timedelta(1),
    ],
)  # fmt: skip
def test_what_is_kept_comes_back(value: object) -> None:
    """In value and type; and it is then unchanged."""
    data = values.encode("key", value)
    twin: Any = values.decode(data)
    assert (type(twin), twin) == (type(value), value)
    assert values.unchanged(twin, data)
    assert not values.unchanged([value], data)


def test_equal_sets_are_unchanged_whatever_their_bytes() -> None:
    """Their order in bytes differs from process to process."""
    one, two = {f"x{n}" for n in range(50)}, {f"x{n}" for n in reversed(range(50))}
    assert values.unchanged(one, values.encode("key", two))


def test_a_changed_instance_of_a_registered_class_is_noticed() -> None:
    """However deep, and whatever its own equality says."""
    for wrap in (lambda p: p, lambda p: [p], lambda p: {"a": (1, {"b": p})}, lambda p: {(1,): p}):
        data = values.encode("key", wrap(Price(5)))
        assert values.unchanged(wrap(Price(5)), data)
        assert not values.unchanged(wrap(Price(6)), data)


@given(st.binary(max_size=50))
def test_any_bytes_are_a_value_or_a_decode_error(data: bytes) -> None:
    """And nothing else."""
    with contextlib.suppress(DecodeError):
        values.decode(data)
    assert values.unchanged(object(), data) is False
