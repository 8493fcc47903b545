"""Values without annotation: everything the codec promises comes back, the rest is refused with its path."""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import io
import random
import uuid
import zoneinfo
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache._codec import registry as _registered
from aikcache._codec.codec import JSON, TAGGED, Codec, register_type
from aikcache._codec.equality import exactly_equal
from aikcache._codec.tagged_reader import _READERS
from aikcache.errors import ConfigError, DecodeError, EncodeError

zones = st.none() | st.sampled_from(
    [
        dt.UTC,
        dt.timezone(dt.timedelta(hours=1)),
        dt.timezone(dt.timedelta(0), "zero"),
        dt.timezone(dt.timedelta(seconds=-1, microseconds=3), "odd \ud800"),
        zoneinfo.ZoneInfo("Europe/Rome"),
        zoneinfo.ZoneInfo("UTC"),
    ]
)
folds = st.sampled_from([0, 1])
hashable_atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.sampled_from(["!t", "!", "", -0.0, 2**64, 2**64 - 1, -(2**63), -(2**63) - 1])
    | st.binary()
    | st.builds(lambda at, fold, zone: at.replace(fold=fold, tzinfo=zone), st.datetimes(), folds, zones)
    | st.builds(lambda at, fold, zone: at.replace(fold=fold, tzinfo=zone), st.times(), folds, zones)
    | st.dates()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | zones
)


@st.composite
def hashable_atom(draw: st.DrawFn) -> object:
    """The union under a short name: hypothesis warns of the length of its repr."""
    return draw(hashable_atoms)


atoms = hashable_atom() | st.sampled_from([Decimal("NaN12"), Decimal("-sNaN")])
keys = st.recursive(hashable_atom(), lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner))
values = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.sets(keys, max_size=5)
        | st.frozensets(keys, max_size=5)
        | st.dictionaries(keys, inner, max_size=5)
        | st.dictionaries(st.text(), inner, max_size=5)
    ),
)


@pytest.fixture
def registry() -> Iterator[None]:
    """Whatever a test registers is forgotten after it."""
    types, names = dict(_registered.by_type), dict(_registered.by_name)
    yield
    _registered.by_type.clear()
    _registered.by_type.update(types)
    _registered.by_name.clear()
    _registered.by_name.update(names)


@given(values)
def test_round_trip(value: object) -> None:
    """Any supported value comes back the same, type for type, on the miss, on a hit, and where it is as annotated."""
    encoded = Codec().encode(value)
    assert exactly_equal(encoded.value, value)
    assert exactly_equal(Codec().decode(encoded.codec, encoded.payload), value)
    for annotation, kind in ((int, int), (list[str], list)):
        try:
            decoded = Codec(annotation).decode(encoded.codec, encoded.payload)
        except DecodeError:
            continue
        assert isinstance(decoded, kind)
        assert exactly_equal(decoded, value)


@given(values)
def test_json_only_where_it_is_exact(value: object) -> None:
    """What is stored as JSON is what orjson alone gives back the same."""
    encoded = Codec().encode(value)
    assert encoded.codec in (JSON, TAGGED)
    if encoded.codec == JSON:
        assert exactly_equal(orjson.loads(encoded.payload), value)


@pytest.mark.parametrize(
    "value",
    [
        -0.0,
        float("nan"),
        {"a": [float("-inf")]},
        [1, 1.0, True],
        (1, [2]),
        {1: "a", "1": "b", None: "c"},
        {"!t": [1]},
        {"a": {"!": 1, "b": 2}},
        [1e308, 1e308],
        "\ud800\udc00",
        {"\udfff": 1},
        2**20_000,
        {float("nan"), 1},
        uuid.UUID(int=3, is_safe=uuid.SafeUUID.safe),
        [[[]]] * 3,
        {(1, frozenset({b"x"})): {"deep": (None,)}},
    ],
    ids=lambda value: type(value).__name__,
)
def test_special_cases(value: object) -> None:
    """What other caches silently change comes back as it was."""
    encoded = Codec().encode(value)
    assert exactly_equal(Codec().decode(encoded.codec, encoded.payload), value)


class Text(str):
    __slots__ = ()


class Level(enum.IntEnum):
    LOW = 1


class Foo:
    pass


@pytest.mark.parametrize(
    ("value", "path", "what"),
    [
        ({"rows": [1, 2, 3, Foo()]}, "result['rows'][3]", "Foo"),
        (Foo(), "result", "Foo"),
        ([Text("a")], "result[0]", "Text"),
        ({"a": Level.LOW}, "result['a']", "Level"),
        ({Text("a"): 1}, "result{key}", "Text"),
        ({7: (1, OrderedDict())}, "result[7][1]", "OrderedDict"),
        ([defaultdict(list)], "result[0]", "defaultdict"),
        (Counter("a"), "result", "Counter"),
        ({(1, 2): Foo()}, "result[<tuple>]", "Foo"),
        ({Foo}, "result{member}", "type"),
        (bytearray(b"x"), "result", "bytearray"),
        (1j, "result", "complex"),
        (Ellipsis, "result", "ellipsis"),
        (iter([]), "result", "list_iterator"),
        ({"x" * 100: Foo()}, "result['" + "x" * 40 + "…']", "Foo"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_refused_with_path(value: object, path: str, what: str) -> None:
    """What would not come back equal is refused; the message says where, what, and the way out."""
    with pytest.raises(EncodeError) as caught:
        Codec().encode(value)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: {what} ")
    for way_out in ("annotate", "register_type", "built-in types"):
        assert way_out in str(caught.value)


def test_foreign_time_zone_is_refused() -> None:
    """A tzinfo class of somebody else's is refused with what to use instead."""

    class Zone(dt.tzinfo):
        def utcoffset(self, _: dt.datetime | None) -> dt.timedelta:
            return dt.timedelta(hours=1)

        def dst(self, _: dt.datetime | None) -> None:
            return None

        def tzname(self, _: dt.datetime | None) -> str:
            return "here"

    with pytest.raises(EncodeError, match=r"result\[0\]: a time zone of type .*Zone .*Use datetime.timezone"):
        Codec().encode([dt.datetime(2024, 1, 1, tzinfo=Zone())])


def test_a_zone_from_a_file_is_refused_whatever_its_key_says() -> None:
    """`ZoneInfo.from_file` takes any key, and its zone may be another than the one of that name."""
    data = next(path for root in zoneinfo.TZPATH if (path := Path(root, "Asia/Tokyo")).exists()).read_bytes()
    for key in ("Europe/Rome", None):
        zone = zoneinfo.ZoneInfo.from_file(io.BytesIO(data), key=key)
        for value in (zone, dt.datetime(2024, 1, 1, tzinfo=zone), dt.time(1, tzinfo=zone)):
            with pytest.raises(EncodeError, match=r"result\[0\]: a ZoneInfo from a file .*Make it by its name"):
                Codec().encode([value])
            assert exactly_equal(value, value)
        assert not exactly_equal(zone, zoneinfo.ZoneInfo("Europe/Rome"))
    other = zoneinfo.ZoneInfo.no_cache("Europe/Rome")
    assert exactly_equal(other, zoneinfo.ZoneInfo("Europe/Rome"))
    assert Codec().encode([dt.datetime(2024, 1, 1, tzinfo=other)]).codec == TAGGED


def cyclic(kind: str) -> object:
    inner: list[Any] = []
    inner += [inner, inner]
    return {"list": inner, "tuple": (inner,), "dict": {"a": inner, "b": b""}}[kind]


@pytest.mark.parametrize("kind", ["list", "tuple", "dict"])
def test_cycle_is_refused(kind: str) -> None:
    """A structure that holds itself is an EncodeError, not a RecursionError and not an endless loop."""
    with pytest.raises(EncodeError, match=r"levels deep, or in itself|more than"):
        Codec().encode(cyclic(kind))


def test_exponential_structure_is_refused() -> None:
    """Lists that share their parts, small in memory and endless as a tree, are refused."""
    value: list[Any] = []
    for _ in range(60):
        value = [value, value]
    with pytest.raises(EncodeError, match="a structure of more than"):
        Codec().encode(value)


@pytest.mark.parametrize("kind", [list, tuple])
def test_too_deep_is_refused(kind: type) -> None:
    """Nesting beyond the limit is an EncodeError; a reasonable depth is not."""
    value: object = 1
    for _ in range(100):
        value = kind([value])
    encoded = Codec().encode(value)
    assert exactly_equal(Codec().decode(encoded.codec, encoded.payload), value)
    for _ in range(10_000):
        value = kind([value])
    with pytest.raises(EncodeError):
        Codec().encode(value)


def test_handed_out_values_are_private() -> None:
    """What the caller of a miss, or of a hit, does to the value shows in no other caller's."""
    value = {"rows": [[1], (2, [3])]}
    encoded = Codec().encode(value)
    assert not encoded.shareable
    for taken in (encoded.value, Codec().decode(encoded.codec, encoded.payload)):
        assert isinstance(taken, dict)
        taken["rows"][1][1].append("mine")
        taken["rows"].clear()
    assert value == {"rows": [[1], (2, [3])]}
    assert Codec().decode(encoded.codec, encoded.payload) == value


@pytest.mark.parametrize("value", [None, 1, "a", 2**70, b"x", (1, "a", (2.5,)), frozenset({(1,)}), dt.date(2024, 1, 1)])
def test_immutable_values_are_shared(value: object) -> None:
    """A deeply immutable value is handed out itself, and marked as good for everybody."""
    encoded = Codec().encode(value)
    assert encoded.shareable
    assert encoded.value is value


@pytest.mark.parametrize("value", [[], {}, ([],), (1, ({},)), set(), [1]])
def test_mutable_values_are_copied(value: object) -> None:
    """A value that is mutable anywhere is handed out as a copy."""
    encoded = Codec().encode(value)
    assert not encoded.shareable
    assert encoded.value is not value
    assert exactly_equal(encoded.value, value)


@given(st.binary() | st.recursive(st.text(), st.lists).map(orjson.dumps))
def test_any_bytes_raise_decode_error_only(payload: bytes) -> None:
    """Whatever the bytes and the codec number, decode gives a value or a DecodeError."""
    for number in (-1, 0, 1, 2, 3, 255):
        try:
            Codec().decode(number, payload, bytes(8))
        except DecodeError:
            continue


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
)
tags = [*_READERS, "!", "!unknown"]


@given(st.dictionaries(st.sampled_from(tags), json_values, min_size=1, max_size=1))
def test_malformed_nodes_raise_decode_error_only(node: dict[str, object]) -> None:
    """A tagged node with any content gives a value or a DecodeError."""
    with contextlib.suppress(DecodeError):
        Codec().decode(TAGGED, orjson.dumps(node))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[" * 1_000,
        b"[" * 100_000,
        b'{"!t":' * 400 + b"[]" + b"}" * 400,
        b"[" * 1000 + b"]" * 1000,
        b'{"!td":[1e300,0,0]}',
        b'{"!td":[99999999999,0,0]}',
        b'{"!S":[1,1]}',
        b'{"!S":[[1]]}',
        b'{"!d":[1,2,1,3]}',
        b'{"!d":[1]}',
        b'{"!Z":"../../etc/passwd"}',
        b'{"!Z":"No/Where"}',
        b'{"!x":["nobody",1]}',
        b'{"!e":["http.HTTPStatus","OK"]}',
        b'{"!r":["os.system",0]}',
        b'{"!i":"confidential"}',
    ],
)
def test_hostile_payloads(payload: bytes) -> None:
    """Deep, overflowing, repeated and unknown things are a DecodeError that shows no value."""
    with pytest.raises(DecodeError) as caught:
        Codec().decode(TAGGED, payload)
    assert "confidential" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_mutated_payloads() -> None:
    """A tagged payload with random changes gives a value or a DecodeError."""
    rng = random.Random(4)
    payload = Codec().encode({(1, 2): [dt.datetime(2024, 1, 1, tzinfo=dt.UTC), b"x", {1.5, Decimal(2)}, 2**80]}).payload
    for _ in range(5000):
        changed = bytearray(payload)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        try:
            Codec().decode(TAGGED, bytes(changed))
        except DecodeError:
            continue


class Money:
    def __init__(self, cents: int, currency: str) -> None:
        self.cents, self.currency = cents, currency


def register_money(name: str = "money", cls: type[Any] = Money) -> None:
    register_type(cls, name=name, encode=lambda m: (m.cents, m.currency), decode=lambda pair: cls(*pair))


@pytest.mark.usefixtures("registry")
def test_registered_type() -> None:
    """A registered class comes back wherever it is nested, with or without annotation, as a copy."""
    register_money()
    value = {"price": [Money(5, "EUR")]}
    for codec in (Codec(), Codec(dict[str, list[Money]])):
        encoded = codec.encode(value)
        assert not encoded.shareable
        decoded: Any = Codec().decode(encoded.codec, encoded.payload, Codec().schema)
        assert type(decoded["price"][0]) is Money
        assert vars(decoded["price"][0]) == {"cents": 5, "currency": "EUR"}
        assert decoded["price"][0] is not value["price"][0]


@pytest.mark.usefixtures("registry")
def test_registered_subclass_is_not_covered() -> None:
    """A subclass of a registered class is another class."""
    register_money()
    with pytest.raises(EncodeError, match=r"result\[0\]: .*Euro cannot"):
        Codec().encode([type("Euro", (Money,), {})(1, "EUR")])


@pytest.mark.usefixtures("registry")
def test_registered_functions_that_raise() -> None:
    """A registered function that raises is an EncodeError or a DecodeError, as is one that gives another type."""
    register_type(Money, name="money", encode=lambda m: 1 // m.cents, decode=lambda n: n)
    with pytest.raises(EncodeError, match=r"result\[0\]: Money .*ZeroDivisionError") as caught:
        Codec().encode([Money(0, "EUR")])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(DecodeError):
        Codec().decode(TAGGED, b'{"!x":["money",1]}')
    with pytest.raises(EncodeError):
        Codec().encode(Money(1, "EUR"))


@pytest.mark.usefixtures("registry")
def test_registered_encode_without_end() -> None:
    """A registered encode that gives back its own argument is refused, not followed for ever."""
    register_type(Money, name="money", encode=lambda m: m, decode=lambda m: m)
    with pytest.raises(EncodeError, match="in itself"):
        Codec().encode(Money(1, "EUR"))


@pytest.mark.usefixtures("registry")
def test_register_twice() -> None:
    """The same registration again is fine, as when a module is reloaded; another one is a ConfigError."""
    register_money()
    register_money()
    with pytest.raises(ConfigError, match="registered as 'money' already"):
        register_money("cash")
    with pytest.raises(ConfigError, match="name 'money' is taken by"):
        register_money("money", Foo)
    reloaded = type("Money", (), {"__module__": Money.__module__, "__init__": Money.__init__})
    with pytest.raises(ConfigError, match="registered as 'money' already"):
        register_money("cash", reloaded)
    register_money("money", reloaded)
    assert type(Codec().encode([reloaded(1, "EUR")]).value[0]) is reloaded  # type: ignore[index]
    with pytest.raises(EncodeError):
        Codec().encode(Money(1, "EUR"))


@pytest.mark.parametrize(
    ("cls", "name", "encode"),
    [(3, "n", repr), (int, "n", repr), (dt.datetime, "n", repr), (Money, "", repr), (Money, 3, repr), (Money, "n", 3)],
)
@pytest.mark.usefixtures("registry")
def test_register_nonsense(cls: Any, name: Any, encode: Any) -> None:
    """A registration that could not work is a ConfigError where it is written."""
    with pytest.raises(ConfigError, match="register_type: "):
        register_type(cls, name=name, encode=encode, decode=repr)
