"""The frames of a batch: what is written in C and in Python tells the same ones apart."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache._codec.alike import alike, alike_in_python
from aikcache._codec.frame import Framer

compiled = pytest.mark.skipif(alike is alike_in_python, reason="the extension is not in")
HEAD = b"ak\x02\x00\x00" + bytes(24)
FIRST = HEAD + struct.pack("<fQQII", 0.5, 1, 1, 1, 0)
NAMES = [b"", b"a", b"ab"]
COSTS = [-0.0, -1.0, 1e38, 2.0**127, float("inf"), float("nan")]
LIVES = [(2, 2), (1, 2), (2, 1), (2**64 - 1, 1)]


@st.composite
def named_frames(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A name and a frame, which is mostly wrong in one place."""
    name, wrong = draw(st.sampled_from(NAMES)), draw(st.sampled_from(["", "", *"hclstnz"]))
    head = draw(st.sampled_from([HEAD[:-1] + b"x", b"x" + HEAD[1:]])) if wrong == "h" else HEAD
    cost = draw(st.sampled_from(COSTS)) if wrong == "c" else 0.5
    life = draw(st.sampled_from(LIVES)) if wrong == "l" else (1, 1)
    size = draw(st.sampled_from([0, 1, 2, 2**32 - 1])) if wrong == "s" else len(name)
    tags = draw(st.sampled_from([1, 2**31])) if wrong == "t" else 0
    key = draw(st.sampled_from([b"b", b"ba", *NAMES])) if wrong == "n" else name
    data = head + struct.pack("<fQQII", cost, *life, size, tags) + key + draw(st.binary(max_size=9))
    return name, data[: draw(st.sampled_from([28, 56, 57, 60, 61, 62]))] if wrong == "z" else data


@compiled
@given(
    st.lists(named_frames()),
    st.integers(0, 10) | st.just(2**62),
    st.integers(0, 80) | st.just(2**62),
    st.booleans(),
)
def test_in_c_as_in_python(found: list[tuple[bytes, bytes]], largest: int, longest: int, timed: bool) -> None:
    """Whatever the bytes and the limits, both give the same payloads."""
    names, data = [name for name, _ in found], [data for _, data in found]
    assert alike(FIRST, names, data, largest, longest, timed) == alike_in_python(
        FIRST, names, data, largest, longest, timed
    )


@pytest.mark.parametrize("read", [alike, alike_in_python])
def test_a_frame_that_is_alike_gives_its_payload(read: Callable[..., Any]) -> None:
    """Where all fits, what stands between key and checksum comes back, even if that is nothing."""
    lives = {"cost": 1.0, "ttl_ms": 1, "redis_ttl_ms": 1}
    whole: dict[str, Any] = {"codec": 0, "schema": bytes(8), "digest": bytes(16), "tags": (), **lives}
    data = [Framer().pack(name, payload=name.encode() * 2, **whole) for name in ("a", "bc", "")]
    for timed in (False, True):
        assert read(data[0], [b"a", b"bc", b""], data, 4, 67, timed) == [b"aa", b"bcbc", b""]
        assert read(data[0], [b"a", b"bc", b""], data, 3, 67, timed) == [b"aa", None, b""]
        assert read(data[0], [b"a", b"bc", b""], data, 4, 66, timed) == [b"aa", None, b""]
        for life, fits in ((1, 1), True), ((2, 2), not timed), ((1, 2), False):
            frame = HEAD + struct.pack("<fQQII", 0.5, *life, 1, 0) + b"apay" + bytes(4)
            assert read(FIRST, [b"a"], [frame], 9, 99, timed) == [b"pay" if fits else None]


@compiled
@pytest.mark.parametrize(
    "arguments",
    [
        (HEAD, [], []),
        (FIRST, [b"a"], []),
        (FIRST, [], [b"a"]),
        (FIRST, ["a"], [b"a"]),
        (FIRST, [b"a", b"a"], [b"a", None]),
        (FIRST, (b"a",), [b"a"]),
        ("head", [], []),
    ],
)
def test_other_types_are_refused(arguments: tuple[Any, ...]) -> None:
    """The compiled one takes lists of bytes, one as long as the other, and says so of anything else."""
    with pytest.raises(TypeError):
        alike(arguments[0], arguments[1], arguments[2], 1, 1, False)
