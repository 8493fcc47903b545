"""Golden frames: what any released version stored decodes for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from aikcache._codec.codec import Codec
from aikcache._codec.equality import exactly_equal
from aikcache._codec.frame import Framer
from aikcache.errors import DecodeError
from tests.codec.wire import make_v2


@pytest.mark.parametrize("name", make_v2.CASES)
def test_golden_frame(name: str) -> None:
    """A frame of wire version 2 gives the value, tags and times that were stored, to the very type."""
    case = make_v2.CASES[name]
    data = (make_v2.DIRECTORY / f"{name}.bin").read_bytes()
    codec = Codec(case.annotation)
    frame = Framer(secret=case.secret, wall=lambda: make_v2.SEALED_AT).unpack(case.key, data)
    assert (frame.codec, frame.digest, frame.cost) == (case.codec, make_v2.DIGEST, 0.25)
    assert (frame.ttl_ms, frame.redis_ttl_ms, frame.tags) == (300_000, 360_000, case.tags)
    value = codec.decode(frame.codec, frame.payload, frame.schema)
    assert exactly_equal(value, case.value, codec.record_types)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent / "wire" / "v1").glob("*.bin")), ids=lambda path: path.stem
)
def test_version_1_is_a_miss(path: Path) -> None:
    """Frames of wire version 1, which no release has written, are refused as what they are."""
    sealed = "sealed" in path.stem
    with pytest.raises(DecodeError, match="sealed" if sealed else "no frame of wire version 2"):
        Framer(secret="golden secret of wire version 1" if sealed else None).unpack("any", path.read_bytes())


def test_every_file_has_a_case() -> None:
    """No golden file is left without a reader."""
    assert {path.stem for path in make_v2.DIRECTORY.glob("*.bin")} == set(make_v2.CASES)


def test_sizes_show_compression() -> None:
    """The compressed cases are compressed."""
    for name in ("json_compressed", "json_sealed_compressed"):
        payload = Codec().encode(make_v2.CASES[name].value).payload
        assert (make_v2.DIRECTORY / f"{name}.bin").stat().st_size < len(payload) / 2


@pytest.mark.parametrize("name", make_v2.CASES)
def test_other_key(name: str) -> None:
    """No golden frame is accepted under another key."""
    case = make_v2.CASES[name]
    data = (make_v2.DIRECTORY / f"{name}.bin").read_bytes()
    with pytest.raises(DecodeError):
        Framer(secret=case.secret, wall=lambda: make_v2.SEALED_AT).unpack(case.key + "0", data)
