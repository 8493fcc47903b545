"""What is read of a session: any reply is a record, a tombstone, nothing, or damage."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache.sessions.records import DamagedError, Record, Tombstone, name_of, new_id, parse

GOOD = [b"~v", b"1", b"~c", b"5", b"~a", b"9", b"~i", b"3", b"~e", b"0", b"~w", b"t", b"fa", b"x" * 40]


def test_a_record_is_read() -> None:
    """With its sealed fields by key; a tombstone is told from it."""
    record = parse(GOOD, 1000, 100, 5)
    assert isinstance(record, Record)
    assert (record.created, record.finish, record.epoch, dict(record.fields)) == (5, 9, 0, {"a": b"x" * 40})
    assert parse([b"~x", b"1", b"~to", b"z"], 1000, 100, 5) == Tombstone(b"z")
    assert parse([], -2, 100, 5) is None
    assert "x" * 40 not in repr(record)


@pytest.mark.parametrize(
    ("flat", "ttl", "most"),
    [
        (GOOD, -1, 100),
        (GOOD, 1000, 20),
        ([*GOOD, b"fb", b"short"], 1000, 100),
        ([*GOOD, b"f\xff", b"x" * 40], 1000, 100),
        ([*GOOD, b"f" + b"n" * 300, b"x" * 40], 1000, 1000),
        ([*GOOD, b"~e", b"-1"], 1000, 100),
        ([*GOOD, b"~v", b"2"], 1000, 100),
        ([*GOOD, b"odd"], 1000, 100),
    ],
)
def test_what_is_no_record_is_damage(flat: list[bytes], ttl: int, most: int) -> None:
    """Without an end, over its limits, or with parts of another form."""
    with pytest.raises(DamagedError):
        parse(flat, ttl, most, 5)


@given(st.lists(st.sampled_from([*GOOD, b"~x", b"~to", b""]) | st.binary(max_size=45), max_size=30), st.integers(-2, 9))
def test_any_reply_is_a_record_or_damage(flat: list[bytes], ttl: int) -> None:
    """And never another exception."""
    with contextlib.suppress(DamagedError):
        parse(flat, ttl, 1000, 5)


def test_an_id_is_random_and_named_by_its_digest() -> None:
    """The name has 43 characters and does not show the id."""
    ids = {new_id() for _ in range(100)}
    assert len({name_of(id) for id in ids}) == 100
    assert {len(name_of(id)) for id in ids} == {43}
