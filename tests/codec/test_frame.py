"""The frame: what is packed comes back, and nothing else ever does."""

from __future__ import annotations

import os
import random
import struct
import sys
import threading
import zlib
from typing import Any

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers import aead
from hypothesis import given
from hypothesis import strategies as st

from aikcache._codec.codec import Codec
from aikcache._codec.frame import Frame, Framer
from aikcache.errors import ConfigError, DecodeError, EncodeError

KEY = "catalog:v1:resource:get_by_id:1"
MUTATIONS = int(os.environ.get("AIKCACHE_MUTATIONS", "20000"))

# Any str, lone surrogates too: the default leaves them out.
any_str = st.text(st.characters(exclude_categories=()))


def pack(framer: Framer, payload: bytes = b"[1,2]", key: str = KEY, **changes: Any) -> bytes:
    settings: dict[str, Any] = {
        "codec": 0,
        "schema": b"schema!!",
        "digest": bytes(range(16)),
        "cost": 0.5,
        "ttl_ms": 300_000,
        "redis_ttl_ms": 360_000,
        "tags": ("resource:1",),
        **changes,
    }
    return framer.pack(key, payload=payload, **settings)


def resum(data: bytes) -> bytes:
    """The frame with the checksum a forger would give it."""
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def with_payload(packed: bytes) -> bytes:
    """A frame that claims to be compressed, with this payload."""
    head = bytearray(pack(Framer(), b"", tags=()))[:-4]
    head[3] |= 1
    return resum(bytes(head) + packed + bytes(4))


@given(
    key=any_str,
    tags=st.lists(any_str).map(tuple),
    payload=st.binary(max_size=3000),
    codec=st.integers(0, 255),
    ttl=st.integers(0, 2**64 - 1),
    secret=st.sampled_from([None, "s3cret"]),
)
def test_round_trip(key: str, tags: tuple[str, ...], payload: bytes, codec: int, ttl: int, secret: str | None) -> None:
    """Every field comes back as it was packed, whatever characters key and tags are made of."""
    framer = Framer(secret=secret, compress_min_bytes=100)
    data = pack(framer, payload, key, tags=tags, codec=codec, ttl_ms=ttl)
    frame = framer.unpack(key, data)._replace(sealed_ms=None)
    assert frame == Frame(codec, b"schema!!", bytes(range(16)), 0.5, ttl, 360_000, tags, payload)


def test_is_a_frame() -> None:
    """What unpack gives is a Frame with types as declared."""
    frame = Framer().unpack(KEY, pack(Framer()))
    assert type(frame) is Frame
    assert [type(field) for field in frame] == [int, bytes, bytes, float, int, int, tuple, bytes, type(None)]


def test_compresses_only_where_it_saves() -> None:
    """Payloads below the limit, and those that do not shrink by a tenth, are stored as they are."""
    framer = Framer(compress_min_bytes=1000)
    noise = random.Random(1).randbytes(5000)
    assert len(pack(framer, b"a" * 999)) > 999
    assert len(pack(framer, b"a" * 1000)) < 200
    assert pack(framer, noise).endswith(noise[-100:] + pack(framer, noise)[-4:])


def test_too_large_is_refused_on_both_sides() -> None:
    """A payload beyond max_value_bytes is neither written nor read, and the message holds both numbers."""
    small, large = Framer(max_value_bytes=2000), Framer()
    with pytest.raises(EncodeError, match="2001 bytes encoded > max_value_bytes 2000"):
        pack(small, b"a" * 2001)
    for payload in (b"a" * 2001, random.Random(1).randbytes(2001)):
        with pytest.raises(DecodeError, match="max_value_bytes 2000"):
            small.unpack(KEY, pack(large, payload))
    with pytest.raises(DecodeError):
        small.unpack(KEY, bytes(2 * 2**20))
    assert len(small.unpack(KEY, pack(small, b"a" * 2000)).payload) == 2000


def test_huge_tags_are_refused() -> None:
    """Tags that no reader would accept are an EncodeError when they are written."""
    with pytest.raises(EncodeError, match="key and tags"):
        pack(Framer(), tags=("x" * 2**20,))


@pytest.mark.parametrize("changes", [{"digest": b"short"}, {"schema": b"longer than eight"}])
def test_fixed_sizes(changes: dict[str, Any]) -> None:
    """A digest or schema of another length is refused, never padded or cut."""
    with pytest.raises(ValueError, match="16 bytes"):
        pack(Framer(), **changes)


def test_zstd_bomb_is_refused() -> None:
    """A few KB that declare 100 MiB are refused by their declared size, before anything is inflated."""
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(100 * 2**20))
    assert len(bomb) < 20_000
    with pytest.raises(DecodeError, match="inflates to 104857600 bytes"):
        Framer().unpack(KEY, with_payload(bomb))


def test_unknown_content_size_is_refused() -> None:
    """A zstd frame that does not say how large it becomes is refused."""
    with pytest.raises(DecodeError, match="inflates to -1 bytes"):
        Framer().unpack(KEY, with_payload(zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 5000)))


def test_extra_zstd_data_is_refused() -> None:
    """Bytes after the zstd frame, and a second zstd frame, are refused."""
    good = zstandard.ZstdCompressor().compress(b"x" * 4000)
    assert Framer().unpack(KEY, with_payload(good)).payload == b"x" * 4000
    for changed in (good + b"x", good + good, good[:-1], b"", b"no zstd", b"\x50\x2a\x4d\x18\x01\x00\x00\x00x"):
        with pytest.raises(DecodeError):
            Framer().unpack(KEY, with_payload(changed))


def test_other_key_is_refused() -> None:
    """A frame is only read under the key it was packed for: the reply to another command is a miss."""
    data = pack(Framer())
    for key in (KEY + "0", KEY[:-1], "", KEY.upper(), "\ud800"):
        with pytest.raises(DecodeError, match="of another key"):
            Framer().unpack(key, data)


@pytest.mark.parametrize("secret", [None, "s3cret"])
def test_every_truncation_is_refused(secret: str | None) -> None:
    """No beginning of a frame passes for a frame, and no frame with something after it."""
    framer = Framer(secret=secret)
    data = pack(framer)
    for size in range(len(data)):
        with pytest.raises(DecodeError):
            framer.unpack(KEY, data[:size])
    with pytest.raises(DecodeError):
        framer.unpack(KEY, data + b"\0")


@pytest.mark.parametrize("secret", [None, "s3cret"])
def test_every_flipped_bit_is_refused(secret: str | None) -> None:
    """A frame with any one bit flipped is refused."""
    framer = Framer(secret=secret)
    data = bytearray(pack(framer))
    for bit in range(len(data) * 8):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecodeError):
            framer.unpack(KEY, bytes(data))
        data[bit // 8] ^= 1 << bit % 8
    assert framer.unpack(KEY, bytes(data)).payload == b"[1,2]"


def mutated(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    choice = rng.randrange(5)
    if choice == 0:
        del changed[rng.randrange(len(changed)) :]
    elif choice == 1:
        return rng.randbytes(rng.randrange(200))
    elif choice == 2:
        at = rng.randrange(len(changed))
        changed[at:at] = rng.randbytes(rng.randrange(1, 9))
    else:
        for _ in range(rng.randrange(1, 6)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("secret", [None, "s3cret"])
def test_mutations_never_give_a_wrong_value(secret: str | None) -> None:
    """Cut, flipped, stretched and random bytes are a DecodeError: nothing else is raised, no other value comes out."""
    framer, codec, rng = Framer(secret=secret), Codec(), random.Random(18)
    values: list[object] = [{"id": 1, "rows": [[1.5, None]]}, (1, {2: b"x"}), ["abcdefgh"] * 400]
    frames = []
    for value in values:
        encoded = codec.encode(value)
        frames.append((value, pack(framer, encoded.payload, codec=encoded.codec, schema=codec.schema)))
    for _ in range(MUTATIONS // 2):
        value, data = rng.choice(frames)
        changed = mutated(rng, data)
        try:
            frame = framer.unpack(KEY, changed)
        except DecodeError:
            continue
        assert changed == data
        assert codec.decode(frame.codec, frame.payload, frame.schema) == value


def test_forged_checksums_raise_decode_error_only() -> None:
    """After a change with a repaired checksum, codec and framer give a DecodeError or a frame."""
    framer, rng, codec = Framer(), random.Random(19), Codec()
    payloads = [codec.encode(value) for value in ({"a": [1.5]}, (1, 2), {(1, 2): {3}}, ["abcdefgh"] * 400)]
    frames = [pack(framer, encoded.payload, codec=encoded.codec, schema=codec.schema) for encoded in payloads]
    for _ in range(MUTATIONS):
        data = resum(mutated(rng, rng.choice(frames)) + bytes(4))
        try:
            frame = framer.unpack(KEY, data)
            codec.decode(frame.codec, frame.payload, frame.schema)
        except DecodeError:
            continue


def alike(
    framer: Framer, first: bytes, data: bytes, name: bytes = KEY.encode(), *, timed: bool = False
) -> bytes | None:
    """What a batch reads of one frame: the same alone and among others."""
    (alone,) = framer.alike(first, [name], [data], timed=timed)
    among = framer.alike(first, [b"first", name, b"first"], [first, data, first], timed=timed)
    assert among[1] == alone
    assert among[0] == among[2] == framer.unpack("first", first).payload
    return alone


def test_what_is_alike_is_read_as_by_unpack() -> None:
    """Of frames with one head the quick way gives the payload that `unpack` gives, or leaves them to it."""
    framer, rng = Framer(max_value_bytes=4000), random.Random(20)
    whole: dict[str, Any] = {"tags": (), "redis_ttl_ms": 300_000}
    for body in (b"[1,2]", b"abcdefgh" * 400):
        first = pack(framer, body, "first", **whole)
        frames = [pack(framer, other, **whole) for other in (body, body[1:], body + body[:100])]
        name = KEY.encode()
        for data in frames:
            assert alike(framer, first, data) == framer.unpack(KEY, data).payload
            assert alike(framer, first, data, name + b"x") is None
            assert alike(framer, first, data, name[:-1]) is None
        large = zstandard.ZstdCompressor().compress(bytes(4001)) if len(body) > 1024 else bytes(4001)
        endless = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100))
        head = frames[0][: 57 + len(name)]
        for data in (
            pack(framer, body, tags=()),
            pack(framer, body, redis_ttl_ms=300_000),
            pack(framer, body, **whole, digest=bytes(16)),
            pack(framer, body, **whole, schema=bytes(8)),
            pack(framer, body, **whole, codec=1),
            pack(framer, body, **whole, cost=-1.0),
            pack(framer, body, **whole, cost=float("inf")),
            pack(framer, body, **whole, cost=float("nan")),
            resum(head + large + bytes(4)),
        ):
            assert alike(framer, first, data) is None
        empty_blocks = b"\x28\xb5\x2f\xfd\x20\x00" + bytes(3 * 360_000) + b"\x01\x00\x00"  # no value, but a large frame
        if len(body) > 1024:
            assert alike(framer, first, resum(head + empty_blocks + bytes(4))) is None
            assert alike(framer, first, resum(head + endless + bytes(4))) is None
        bare = struct.pack("<fQQII", 0.5, 300_000, 300_000, 8, 0)
        short = first[:29] + bare + b"abcd"
        short += struct.pack("<I", zlib.crc32(short))
        assert alike(framer, first, short, short[-8:]) is None  # its checksum would be a part of its key
        for _ in range(MUTATIONS // 4):
            data = mutated(rng, rng.choice(frames))
            data = resum(data + bytes(4)) if rng.random() < 0.5 else data
            payload = alike(framer, first, data)
            if payload is not None:
                assert payload == framer.unpack(KEY, data).payload


def test_what_is_alike_lives_as_the_first_where_that_is_asked_for() -> None:
    """A batch that is filed locally reads the life of the first frame for all; another reads only what Redis ends."""
    framer = Framer()
    first = pack(framer, key="first", tags=())
    lives: list[tuple[dict[str, Any], bool, bool]] = [
        ({}, True, True),
        ({"ttl_ms": 1}, False, False),
        ({"redis_ttl_ms": 1}, False, False),
        ({"ttl_ms": 7, "redis_ttl_ms": 7}, False, True),
    ]
    for life, timed, untimed in lives:
        data = pack(framer, tags=(), **life)
        assert (alike(framer, first, data, timed=True) is not None) == timed
        assert (alike(framer, first, data) is not None) == untimed


def test_sealed_frames_are_not_alike() -> None:
    """Each of them is opened by itself."""
    framer = Framer(secret="s3cret")
    data = pack(framer, tags=())
    assert framer.alike(data, [KEY.encode()] * 2, [data] * 2, timed=False) == [None, None]


@given(st.binary() | st.none() | st.text() | st.integers())
def test_anything_is_a_decode_error(data: Any) -> None:
    """Whatever is given in place of a frame is a DecodeError."""
    for framer in (Framer(), Framer(secret="s3cret")):
        with pytest.raises(DecodeError):
            framer.unpack(KEY, data)


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), -1.0])
def test_impossible_cost_is_refused(cost: float) -> None:
    """A cost that would upset the arithmetic of early refresh is refused."""
    with pytest.raises(DecodeError, match="impossible header"):
        Framer().unpack(KEY, pack(Framer(), cost=cost))


def test_other_version_is_refused() -> None:
    """A frame of another wire version, with a valid checksum, is refused as such."""
    data = bytearray(pack(Framer()))
    data[2] = 1
    with pytest.raises(DecodeError, match="no frame of wire version 2"):
        Framer().unpack(KEY, resum(bytes(data)))


def test_sealed_hides_and_varies() -> None:
    """A sealed frame shows neither key nor payload, and no two seals are alike."""
    framer = Framer(secret=b"\x00\xff" * 16)
    data, again = pack(framer, b"visible"), pack(framer, b"visible")
    assert b"visible" not in data
    assert KEY.encode() not in data
    assert data != again
    assert framer.unpack(KEY, again).payload == b"visible"


def test_seal_needs_the_secret_and_the_key() -> None:
    """Another secret, or another key, does not open a sealed frame."""
    data = pack(Framer(secret="s3cret"))
    with pytest.raises(DecodeError, match="not sealed with this secret"):
        Framer(secret="other").unpack(KEY, data)
    with pytest.raises(DecodeError, match="not sealed with this secret"):
        Framer(secret="s3cret").unpack(KEY + "0", data)


def test_a_sealed_frame_ends_by_the_clock() -> None:
    """A sealed value is read until a minute after its expiry, and not later, even if it was put back."""
    now = [1_000_000.0]
    framer, plain = Framer(secret="s3cret", wall=lambda: now[0]), Framer()
    data = pack(framer, redis_ttl_ms=360_000)
    now[0] += 360 + 59.5
    frame = framer.unpack(KEY, data)
    assert frame.sealed_ms == 500
    now[0] += 0.5
    with pytest.raises(DecodeError, match="sealed to expire 60 seconds ago: an older value was put back, or two hosts"):
        framer.unpack(KEY, data)
    assert plain.unpack(KEY, pack(plain)).sealed_ms is None
    for ms in (2**64 - 1, 0):
        assert framer.unpack(KEY, pack(framer, redis_ttl_ms=ms)).redis_ttl_ms == ms


def test_a_sealed_frame_that_stays_too_long_is_over() -> None:
    """A sealed value without a TTL in Redis, or with a longer one than at sealing, is neither fresh nor kept."""
    now = [1_000_000.0]
    framer, plain = Framer(secret="s3cret", wall=lambda: now[0]), Framer()
    sealed, unsealed = framer.unpack(KEY, pack(framer)), plain.unpack(KEY, pack(plain))
    assert sealed.seconds_left(360_000) == unsealed.seconds_left(360_000) == (300.0, 360.0)
    assert sealed.seconds_left(420_000) == (360.0, 420.0)  # two hosts' clocks may differ
    for pttl in (-1, 420_001, 10**12):
        assert sealed.seconds_left(pttl) == (-60.0, 0.0)
        assert unsealed.seconds_left(pttl)[0] > 0


def test_of_several_secrets_each_is_read_and_the_first_seals() -> None:
    """While secrets are exchanged, processes with the old, the new, and both in either order read what they should."""
    old, new, both, turned = Framer(secret="old"), Framer(secret="new"), ["old", "new"], ("new", "old")
    for framer in (Framer(secret=both), Framer(secret=turned)):
        assert framer.unpack(KEY, pack(old)).payload == framer.unpack(KEY, pack(new)).payload == b"[1,2]"
    assert old.unpack(KEY, pack(Framer(secret=both))).payload == b"[1,2]"
    assert new.unpack(KEY, pack(Framer(secret=turned))).payload == b"[1,2]"
    for reader, data in ((new, pack(Framer(secret=both))), (Framer(secret=both), pack(Framer(secret="other")))):
        with pytest.raises(DecodeError, match="not sealed with this secret"):
            reader.unpack(KEY, data)


def test_each_sealed_frame_has_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key seals two frames, so there is no number of frames after which the seal weakens."""
    keys: list[bytes] = []
    real = aead.AESGCM

    def recorded(key: bytes) -> aead.AESGCM:
        keys.append(key)
        return real(key)

    monkeypatch.setattr(aead, "AESGCM", recorded)
    framer = Framer(secret="s3cret")
    frames = [pack(framer) for _ in range(1000)]
    assert len(set(keys)) == 1000
    assert len({data[4:28] for data in frames}) == 1000


def test_no_downgrade() -> None:
    """A framer with a secret refuses unsealed frames, one without refuses sealed ones, whatever their flags claim."""
    sealing, plain = Framer(secret="s3cret"), Framer()
    for data in (pack(plain), pack(sealing)):
        for flags in range(256):
            claimed = bytearray(data)
            claimed[3] = flags
            other = sealing if data[3] == 0 else plain
            for forged in (bytes(claimed), resum(bytes(claimed))):
                with pytest.raises(DecodeError):
                    other.unpack(KEY, forged)


def test_empty_secret() -> None:
    """An empty secret is a mistake, not a way to say "unsealed"."""
    for secret in ("", b"", [], ["s3cret", ""]):
        with pytest.raises(ConfigError, match="secret must not be empty"):
            Framer(secret=secret)


def test_missing_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package a secret is refused when the framer is made, with what to install."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ConfigError, match=r"pip install 'aikcache\[crypto\]'"):
        Framer(secret="s3cret")


def test_threads_share_a_framer() -> None:
    """Threads that pack and unpack with one framer, compressed and sealed, never see each other's values."""
    framer, wrong, start = Framer(secret="s3cret"), [], threading.Barrier(8)

    def work(number: int) -> None:
        payload = bytes([number]) * 20_000
        start.wait()
        for _ in range(200):
            if framer.unpack(KEY, pack(framer, payload)).payload != payload:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_messages_hold_no_values() -> None:
    """A message about a frame names the key, never what is stored."""
    data = bytearray(pack(Framer(), b"confidential"))
    data[-1] ^= 1
    with pytest.raises(DecodeError) as caught:
        Framer().unpack(KEY, bytes(data))
    assert "confidential" not in str(caught.value)
    assert KEY in str(caught.value)


def test_what_inflates_too_much_is_neither_written_nor_read() -> None:
    """Some kilobytes do not become megabytes: such a payload is refused by its declared size, and written as it is."""
    packed = zstandard.ZstdCompressor().compress(b"[]," * 2**20)
    assert len(packed) < 2000
    with pytest.raises(DecodeError, match="inflates to 3145728 bytes, from"):
        Framer().unpack(KEY, with_payload(packed))
    kept: dict[str, Any] = {"tags": (), "redis_ttl_ms": 300_000}
    first = pack(Framer(), b"abcdefgh" * 400, **kept)
    bomb = resum(first[: 57 + len(KEY)] + packed + bytes(4))
    assert Framer().alike(first, [KEY.encode()] * 3, [first, bomb, first], timed=False) == [  # as batches read
        *(b"abcdefgh" * 400, None, b"abcdefgh" * 400)
    ]
    for size in (2**12, 2**13, 3 * 2**20):
        data = pack(Framer(), bytes(size))
        assert (len(data) > size) == (size > 2**12)
        assert Framer().unpack(KEY, data).payload == bytes(size)
    some = random.Random(1)
    sample = b"".join(some.randbytes(2**15) + bytes(2**19) for _ in range(4))
    assert len(pack(Framer(), sample)) < 2**18


def test_too_many_tags_are_neither_written_nor_read() -> None:
    """A frame has 4096 tags at most: each asks for a stamp."""
    tags = tuple(map(str, range(4096)))
    good = pack(Framer(), tags=tags)
    assert Framer().unpack(KEY, good).tags == tags
    with pytest.raises(EncodeError, match="at most 4096 tags, got 4097"):
        pack(Framer(), tags=(*tags, "more"))
    bare = pack(Framer(), tags=())
    marks = b"x\xff" * 4097
    forged = bare[:53] + struct.pack("<I", len(marks)) + bare[57 : 57 + len(KEY)] + marks + bare[57 + len(KEY) :]
    with pytest.raises(DecodeError):
        Framer().unpack(KEY, resum(forged))
