"""Golden frames: what any released version stored decodes for ever."""

from __future__ import annotations

import pytest

from aikcache._codec import Codec
from aikcache._frame import Framer
from aikcache._same import same
from aikcache.errors import DecodeError
from tests.wire import make_v1


@pytest.mark.parametrize("name", make_v1.CASES)
def test_golden_frame(name: str) -> None:
    """A frame of wire version 1 gives the value, tags and times that were stored, to the very type."""
    case = make_v1.CASES[name]
    data = (make_v1.DIRECTORY / f"{name}.bin").read_bytes()
    codec = Codec(case.annotation)
    frame = Framer(secret=case.secret).unpack(case.key, data)
    assert (frame.codec, frame.digest, frame.cost) == (case.codec, make_v1.DIGEST, 0.25)
    assert (frame.ttl_ms, frame.keep_ms, frame.tags) == (300_000, 360_000, case.tags)
    value = codec.decode(frame.codec, frame.payload, frame.schema)
    assert same(value, case.value, codec._known().shapes)


def test_every_file_has_a_case() -> None:
    """No golden file is left without a reader."""
    assert {path.stem for path in make_v1.DIRECTORY.glob("*.bin")} == set(make_v1.CASES)


def test_sizes_show_compression() -> None:
    """The compressed cases are compressed."""
    for name in ("json_compressed", "json_sealed_compressed"):
        payload = Codec().encode(make_v1.CASES[name].value).payload
        assert (make_v1.DIRECTORY / f"{name}.bin").stat().st_size < len(payload) / 2


@pytest.mark.parametrize("name", make_v1.CASES)
def test_other_key(name: str) -> None:
    """No golden frame is accepted under another key."""
    case = make_v1.CASES[name]
    data = (make_v1.DIRECTORY / f"{name}.bin").read_bytes()
    with pytest.raises(DecodeError):
        Framer(secret=case.secret).unpack(case.key + "0", data)
