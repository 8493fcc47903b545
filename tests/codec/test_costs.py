"""Small payloads that would cost much: refused before anything is built, and written so that they never are."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from decimal import Decimal
from uuid import UUID

import pytest

from aikcache._codec.codec import TAGGED, TYPED, Codec
from aikcache._codec.costs import MAX_CONTAINERS, too_many_containers
from aikcache.errors import DecodeError

MODULUS = (1 << 61) - 1
"""Ints that differ by this have one hash."""

FORGED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
from uuid import UUID
import msgspec
from aikcache._codec.codec import JSON, TAGGED, TYPED, Codec
from aikcache.errors import DecodeError
M = (1 << 61) - 1
ints = ['{"!i":"%x"}' % (M * n) for n in range(1, 20_000)]
forged = {
    "set": (Codec(), TAGGED, ('{"!S":[%s]}' % ",".join(ints)).encode()),
    "dict": (Codec(), TAGGED, ('{"!d":[%s]}' % ",".join(each + ",0" for each in ints)).encode()),
    "typed": (Codec(set[UUID]), TYPED, msgspec.msgpack.encode([str(UUID(int=M * n)) for n in range(1, 40_000)])),
    "packed": (Codec(list[list[int]]), TYPED, msgspec.msgpack.encode([[]] * 300_000)),
    "containers": (Codec(), TAGGED, b'{"!t":[' + b",".join([b"[]"] * 2_000_000) + b"]}"),
    "open string": (Codec(dict), JSON, b"[" * 300_000 + b'"' + b'\\\\"' * 1_000_000),
    "open escape": (Codec(dict), JSON, b"[" * 300_000 + b'"' + b'\\\\"' * 1_000_000 + b"\\\\"),
}
codec, kind, payload = forged[sys.argv[1]]
try:
    codec.decode(kind, payload, codec.schema)
except DecodeError:
    print("refused")
"""


@pytest.mark.parametrize("what", ["set", "dict", "typed", "packed", "containers", "open string", "open escape"])
def test_a_forged_payload_costs_no_more_than_it_is_long(what: str) -> None:
    """Hashes that are all the same, containers without number, and strings without an end are refused, where they would
    take minutes, hours or GBs.
    """
    done = subprocess.run([sys.executable, "-c", FORGED, what], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.stderr) == ("refused", "")


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (Codec(), {MODULUS * n for n in range(1, 200)}),
        (Codec(), set(range(100_000))),
        (Codec(set[UUID]), {UUID(int=n) for n in range(20_000)}),
        (Codec(dict[Decimal, int]), {Decimal(n): n for n in range(20_000)}),
        (Codec(), [[] for _ in range(100_000)]),
    ],
    ids=["a few alike", "many ints", "many UUIDs", "many Decimals", "many lists"],
)
def test_what_honest_values_cost_is_paid(codec: Codec, value: object) -> None:
    """Large values, and a few hashes that are the same by chance, come back equal."""
    encoded = codec.encode(value)
    assert codec.decode(encoded.codec, encoded.payload, codec.schema) == value


def test_more_containers_than_are_read_are_not_written() -> None:
    """What would be refused when it is read is an `EncodeError`, so that the function's result is returned uncached."""
    with pytest.raises(Exception, match="more than 262144 containers"):
        Codec().encode([[] for _ in range(300_000)])
    assert {TAGGED, TYPED}
    with pytest.raises(DecodeError):
        Codec().decode(TAGGED, b"[" * 300_000, Codec().schema)


def test_brackets_in_a_long_text_are_no_containers_and_cost_no_memory() -> None:
    """They are told from those outside of strings without a note of each character."""
    payload = b'["' + b'[x],\\"' * MAX_CONTAINERS + b'"]'
    tracemalloc.start()
    try:
        assert not too_many_containers(payload)
        assert tracemalloc.get_traced_memory()[1] < len(payload)
    finally:
        tracemalloc.stop()
