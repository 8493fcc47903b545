"""Forged payloads: what they can make a reader build."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import enum
import types
import typing
import uuid
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, NamedTuple, NewType, TypedDict

import attrs
import msgspec
import orjson
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache._codec import registry
from aikcache._codec.codec import JSON, TAGGED, TYPED, Codec, register_type
from aikcache.errors import DecodeError, EncodeError

UserId = NewType("UserId", int)
Rest = typing.TypeVarTuple("Rest")


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Account:
    name: str
    admin: bool = False
    parent: Account | None = None
    color: Color = Color.RED
    note: str = None  # type: ignore[assignment]

    def may(self, what: str) -> bool:
        return self.admin or what == "read"


@attrs.define(slots=False)
class Row:
    x: int


class Pair(NamedTuple):
    left: int
    right: tuple[str, ...] = ()


class LoosePair(Pair):
    """A subclass without slots: its instances take attributes."""


class Open(msgspec.Struct, dict=True):
    """Its instances take attributes."""

    x: int

    def total(self) -> int:
        return self.x


class Form(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    x: int
    _kept: int = 0


class Movie(TypedDict):
    name: str
    year: int


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents


class Rich(Money):
    """A subclass, registered by itself."""


decoded: list[object] = []


def money(cls: type[Any]) -> Any:
    def decode(cents: object) -> object:
        decoded.append(cents)
        return cls(cents)

    return decode


@pytest.fixture
def registered() -> Iterator[None]:
    """`Money` and `Rich`, known for the test alone."""
    types, names = dict(registry.by_type), dict(registry.by_name)
    register_type(Money, name="money", encode=lambda money: money.cents, decode=money(Money))
    register_type(Rich, name="rich", encode=lambda money: money.cents, decode=money(Rich))
    decoded.clear()
    yield
    for known, before in ((registry.by_type, types), (registry.by_name, names)):
        known.clear()
        known.update(before)  # type: ignore[arg-type]


ANOTHER: list[tuple[Any, Any]] = [
    (bool, {}),
    (bool, 1),
    (bool, None),
    (str, ["a"]),
    (int, 1.5),
    (int | None, "1"),
    (UserId, "1"),
    (list[int], [1, "a"]),
    (list[str], {"a": 1}),
    (Sequence[str], [["a"]]),
    (Sequence[str], {}),
    (dict[str, bool], {"a": True, "b": {"$ne": 1}}),
    (dict[int, str], {"1": "a"}),
    (dict[str, list[dict[str, int]]], {"a": [{"b": 1}, {"b": []}]}),
    (Mapping[str, str], {"a": None}),
    (tuple[int, ...], [1]),
    (Movie, {"name": "a"}),
    (Movie, {"name": "a", "year": "1"}),
    (list[Movie], [{"name": "a", "year": 1}, {"name": {}, "year": 1}]),
    (Literal["a", "b"], "c"),
    (Literal[1], True),
    (Account, {"name": "a", "admin": True}),
    (dt.datetime, "2024-01-01T00:00:00"),
    (Color, "red"),
    (int | list[int | None], [None, [1]]),
]


@pytest.mark.parametrize(("annotation", "value"), ANOTHER, ids=str)
def test_json_that_is_not_of_the_annotation_is_refused(annotation: Any, value: Any) -> None:
    """Plain JSON of another type than the annotation is a decode error, in each form, however deep it is."""
    codec = Codec(annotation)
    for form in (JSON, TAGGED):
        with pytest.raises(DecodeError, match="not of the type expected"):
            codec.decode(form, orjson.dumps(value), codec.schema)


@pytest.mark.parametrize(("annotation", "value"), ANOTHER, ids=str)
def test_what_is_not_of_its_annotation_is_not_stored(annotation: Any, value: Any) -> None:
    """A value that no reader would accept is an error that names its type and the remedy."""
    with pytest.raises(EncodeError, match=r"^result: \w+, or something in it, is not what its annotation"):
        Codec(annotation).encode(value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (float, 1),
        (int, True),
        (int | None, None),
        (UserId, 1),
        (object, {"a": 1}),
        (list, [1, "a"]),
        (list[Any], [1, "a"]),
        (Sequence[int], [1, 2]),
        (Mapping[str, float], {"a": 1}),
        (dict[str, int | list[str]], {"a": 1, "b": ["c"]}),
        (Movie, {"name": "a", "year": 1, "more": []}),
        (list[Movie], []),
        (Literal["a", 1] | None, 1),
        ("Unresolved", {"a": 1}),
        (Account | dict[str, int], {"a": 1}),
        (list[dict[str, "Unresolved"]], [{"a": {}}]),  # type: ignore[name-defined]  # noqa: F821
    ],
    ids=str,
)
def test_json_that_is_of_the_annotation_is_read(annotation: Any, value: Any) -> None:
    """What type checkers take for the annotated type, and what is left open, is stored as JSON and read."""
    codec = Codec(annotation)
    encoded = codec.encode(value)
    assert encoded.codec == JSON
    for checked in (False, True):
        assert codec.decode(JSON, encoded.payload, codec.schema, checked=checked) == value


@pytest.mark.parametrize(
    ("annotation", "right", "wrong"),
    [
        (tuple[int, *tuple[str, ...]], [(1,), (1, "a"), (1, "a", "b")], [(), ("a",), (1, "a", 2), (1, 2, "b")]),
        (tuple[*tuple[str, ...], int], [(1,), ("a", "b", 1)], [(), ("a",), (1, 1)]),
        (tuple[int, *tuple[str, ...], bool], [(1, True), (1, "a", True)], [(1,), (1, 2, True), (1, "a", "b")]),
        (tuple[int, typing.Unpack[tuple[str, ...]]], [(1, "a", "b")], [(1, 2)]),  # noqa: UP044
        (tuple[int, *tuple[str, bool]], [(1, "a", True)], [(1, "a"), (1, "a", True, True), (1, True, True)]),
        (tuple[int, *tuple[str, *tuple[bool, ...]]], [(1, "a"), (1, "a", True)], [(1,), (1, "a", "b")]),
        (tuple[int, *tuple[Pair, ...]], [(1, Pair(1))], [(1, 1)]),
        (tuple[int, *Rest], [(1, "a", 2)], [(), ("a",)]),  # type: ignore[valid-type]
        (tuple[*tuple[int, ...]], [(), (1, 2)], [("a",)]),
    ],
    ids=str,
)  # fmt: skip
def test_a_tuple_with_any_number_of_items_in_it_fits_place_by_place(
    annotation: Any, right: list[object], wrong: list[object]
) -> None:
    """What a hint unpacks stands for as many items as are left, all of its type."""
    codec = Codec(list[annotation])
    encoded = codec.encode(right)
    assert codec.decode(encoded.codec, encoded.payload, codec.schema) == right
    assert codec.schema != Codec(list[tuple[int, tuple[str, ...]]]).schema
    for value in wrong:
        with pytest.raises(EncodeError, match="is not what its annotation"):
            codec.encode([*right, value])


@pytest.mark.parametrize(
    "value",
    [
        Account("a", parent=Account("b", color="red")),  # type: ignore[arg-type]
        Account({"$ne": 1}),  # type: ignore[arg-type]
        Account("a", admin=1),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_a_field_of_another_type_is_refused(value: Account) -> None:
    """In the tagged form, which could hold anything, a record's fields are of their types as in the typed one."""
    loose, codec = Codec(Any | Account), Codec(Account)
    payload = orjson.dumps(forged(value))
    assert loose.decode(TAGGED, payload, loose.schema)
    with pytest.raises(DecodeError, match="not of the type expected"):
        codec.decode(TAGGED, payload, codec.schema)
    with pytest.raises(EncodeError):
        codec.encode(value)


def forged(value: object) -> object:
    """The tagged form of an account, whatever is in it."""
    if isinstance(value, Account):
        state = [part for item in vars(value).items() for part in (item[0], forged(item[1]))]
        return {"!r": ["tests.codec.test_conforming.Account", 0, *state]}
    return {"!e": ["tests.codec.test_conforming.Color", "RED"]} if value is Color.RED else value


def test_a_record_of_the_tagged_form_is_read() -> None:
    """A forgery that is of the annotation in every field is a value like any other."""
    codec, value = Codec(Account), Account("a", True, Account("b"))
    assert codec.decode(TAGGED, orjson.dumps(forged(value)), codec.schema) == value


@pytest.mark.parametrize(
    ("cls", "body"),
    [
        (Account, [0, "name", "a", "may", True]),
        (Account, [0, "name", "a", "more", 1]),
        (Account, [0, "name", "a", "__class__", 1]),
        (Row, [0, "x", 1, "y", 2]),
        (LoosePair, [2, 1, {"!t": []}, "left", 2]),
        (Open, [0, "x", 1, "total", 7]),
    ],
)
def test_state_that_is_no_field_is_refused(cls: type, body: list[object]) -> None:
    """An instance is given no attribute that its class does not declare: it could hide a method, or a field."""
    codec = Codec(cls)
    payload = orjson.dumps({"!r": [f"tests.codec.test_conforming.{cls.__qualname__}", *body]})
    with pytest.raises(DecodeError):
        codec.decode(TAGGED, payload, codec.schema)


@pytest.mark.parametrize(
    "changed",
    [
        {"__pydantic_fields_set__": 7},
        {"__pydantic_fields_set__": {"!S": [7]}},
        {"__pydantic_extra__": 7},
        {"__pydantic_extra__": {"!d": [7, 7]}},
        {"__pydantic_private__": [7]},
    ],
    ids=str,
)
def test_what_pydantic_keeps_of_its_own_is_as_it_keeps_it(changed: dict[str, object]) -> None:
    """A forged set of the fields that were set, or forged extra fields, would raise later, where the model is used."""
    codec, model = Codec(Form), Form(x=1, more=2)  # type: ignore[call-arg]
    encoded = codec.encode(model)
    assert codec.decode(TAGGED, encoded.payload, codec.schema) == model
    [(tag, [name, count, *state])] = orjson.loads(encoded.payload).items()
    forged = {**dict(zip(state[::2], state[1::2], strict=True)), **changed}
    payload = orjson.dumps({tag: [name, count, *(part for item in forged.items() for part in item)]})
    with pytest.raises(DecodeError):
        codec.decode(TAGGED, payload, codec.schema)


def flags_of_its_own() -> Any:
    """A new class, because it keeps what a test makes of it. It takes any bits, as most do."""
    return enum.IntFlag("Rights", {"READ": 1, "WRITE": 2}, module=__name__)


def listed(hint: Any) -> Any:
    """The hint of a list of it."""
    return types.GenericAlias(list, hint)


def test_honest_combinations_of_flags_come_back() -> None:
    """Also with bits that no member has, and for the process that never saw them."""
    rights = flags_of_its_own()
    codec = Codec(listed(rights | int))
    value = [rights.READ, rights(3), rights(0), rights(-1), rights(1 << 40), 3]
    encoded = codec.encode(value)
    assert encoded.codec == TAGGED
    other = flags_of_its_own()
    found: Any = Codec(listed(other | int)).decode(TAGGED, encoded.payload, codec.schema)
    assert found == value
    assert list(map(type, found)) == [other] * 5 + [int]


@pytest.mark.parametrize("form", [TAGGED, TYPED])
def test_forged_flags_do_not_stay(form: int) -> None:
    """An Enum keeps all its combinations for ever: from bytes some thousands are made at most."""
    rights = flags_of_its_own()
    codec = Codec(listed(rights))
    for start in range(1 << 30, (1 << 30) + 100_000, 1000):
        numbers = list(range(start, start + 1000))
        nodes = [{"!e": ["tests.codec.test_conforming.Rights", number]} for number in numbers]
        payload = orjson.dumps(nodes) if form == TAGGED else msgspec.msgpack.encode(numbers)
        with contextlib.suppress(DecodeError):
            assert codec.decode(form, payload, codec.schema) == numbers
    keeps = rights(1 << 60) is rights(1 << 60)  # CPython 3.11.2 keeps none with unknown bits
    assert (16_000 if keeps else 0) < len(rights._value2member_map_) < 20_000
    known = [rights(3), rights(1 << 30), rights(1 << 50)]
    encoded = codec.encode(known)
    assert codec.decode(encoded.codec, encoded.payload, codec.schema) == known


def test_long_forged_flags_are_refused() -> None:
    """Bits far beyond the members, and many flags that msgspec would make at once."""
    rights = flags_of_its_own()
    codec = Codec(listed(rights))
    node = {"!e": ["tests.codec.test_conforming.Rights", {"!i": hex(1 << 5000)}]}
    many = msgspec.msgpack.encode(list(range(1 << 30, (1 << 30) + 30_000)))
    for form, payload in ((TAGGED, orjson.dumps([node])), (TYPED, many)):
        with pytest.raises(DecodeError):
            codec.decode(form, payload, codec.schema)
    assert len(rights._value2member_map_) == 2


@pytest.mark.parametrize(("cls", "body"), [(Account, [0, "name", "a"]), (Row, [0])])
def test_a_record_without_all_its_fields_is_refused(cls: type, body: list[object]) -> None:
    """A reader would meet an AttributeError wherever it looked at the field; it is not written either."""
    codec = Codec(cls)
    payload = orjson.dumps({"!r": [f"tests.codec.test_conforming.{cls.__qualname__}", *body]})
    with pytest.raises(DecodeError):
        codec.decode(TAGGED, payload, codec.schema)
    for value in (Account("a"), Row(1)):
        if isinstance(value, cls):
            vars(value).popitem()
            with pytest.raises(EncodeError, match=f"{cls.__qualname__} without a value for its field"):
                Codec(Any | cls).encode(value)


@pytest.mark.parametrize("value", [Account("a"), Row(1), LoosePair(1)], ids=lambda value: type(value).__qualname__)
def test_a_record_with_more_than_its_fields_is_not_stored(value: Any) -> None:
    """What would be refused when it is read is refused when it is stored, with its name."""
    value.surprise = (1,)
    name = type(value).__qualname__
    with pytest.raises(
        EncodeError, match=rf"^result\[0\]: {name}.surprise, which is no field, .* Declare it"
    ) as caught:
        Codec(list[type(value)]).encode([value])  # type: ignore[misc]
    assert caught.value.path == "result[0]"


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("annotation", [int, str | None, list[int], Account, dict[str, list[Rich]]], ids=str)
def test_a_registered_decoder_runs_only_where_it_is_reached(annotation: Any) -> None:
    """A forged node of a registered class runs nothing for a function that could not have returned one."""
    codec = Codec(annotation)
    for node in ({"!x": ["money", 1]}, [{"!x": ["money", 1]}], {"a": [{"!x": ["money", 1]}]}):
        with pytest.raises(DecodeError):
            codec.decode(TAGGED, orjson.dumps(node), codec.schema)
    assert decoded == []
    with pytest.raises(EncodeError):
        codec.encode([Money(1)])


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("annotation", [None, object, list, list[Any], list[Money], Sequence[Money | int]], ids=str)
def test_a_registered_class_is_kept_where_it_is_reached(annotation: Any) -> None:
    """A registered class, or subclass, comes back where the annotation says so or leaves it open."""
    codec = Codec(annotation)
    encoded = codec.encode([Money(1), Rich(2)])
    value: Any = codec.decode(encoded.codec, encoded.payload, codec.schema)
    assert [(type(item), item.cents) for item in value] == [(Money, 1), (Rich, 2)]


# What may be found anywhere in a value of each annotation.
ATOMS = {type(None), bool, int, float, str}
REACHED: dict[Any, set[type]] = {
    bool: {bool},
    str: {str},
    int | None: {int, bool, type(None)},
    list[int]: {list, int, bool},
    dict[str, list[bool]]: {dict, str, list, bool},
    set[uuid.UUID]: {set, uuid.UUID},
    dict[uuid.UUID, Decimal]: {dict, uuid.UUID, Decimal},
    tuple[dt.date, ...]: {tuple, dt.date, dt.datetime},
    Movie: {dict, list, *ATOMS},
    Account: {Account, Color, str, bool, type(None)},
    list[Pair]: {list, Pair, tuple, int, bool, str},
    Row | Color: {Row, Color, int, bool},
}


def record(name: str, one: object, other: object) -> object:
    state = {
        "Account": [
            "name",
            one,
            "admin",
            other,
            "parent",
            None,
            "color",
            {"!e": ["tests.codec.test_conforming.Color", "RED"]},
        ],
        "Pair": [],
    }.get(name, ["x", one])
    items = [one, other] if name == "Pair" else []
    return {"!r": [f"tests.codec.test_conforming.{name}", len(items), *items, *state]}


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "name", "x", "red", "2024-01-01", "0" * 32]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "year", "x", "!t"]), inner, max_size=3)
        | st.builds(lambda tag, items: {tag: items}, st.sampled_from(["!t", "!S", "!F", "!d"]), st.lists(inner))
        | st.builds(lambda tag, item: {tag: item}, st.sampled_from(["!u", "!n", "!date", "!x", "!s", "!i"]), inner)
        | st.builds(record, st.sampled_from(["Account", "Row", "Pair", "Movie"]), inner, inner)
        | st.just({"!e": ["tests.codec.test_conforming.Color", "RED"]})
    ),
    max_leaves=8,
)


@given(plain, st.sampled_from(list(REACHED)), st.sampled_from([JSON, TAGGED, TYPED]))
def test_nothing_is_built_that_the_annotation_does_not_reach(value: object, annotation: Any, form: int) -> None:
    """Whatever the payload and its form, reading gives a value of the annotation's types alone, or a DecodeError."""
    codec = Codec(annotation)
    payload = msgspec.msgpack.encode(value) if form == TYPED else orjson.dumps(value)
    try:
        found = codec.decode(form, payload, codec.schema)
    except DecodeError:
        return
    assert kinds(found) <= REACHED[annotation]


@given(st.binary(max_size=60), st.sampled_from(list(REACHED)), st.sampled_from([JSON, TAGGED, TYPED, 3]))
def test_any_bytes_are_a_decode_error(payload: bytes, annotation: Any, form: int) -> None:
    """Whatever the bytes, reading gives a value of the annotation's types alone, or a DecodeError."""
    codec = Codec(annotation)
    try:
        found = codec.decode(form, payload, codec.schema)
    except DecodeError:
        return
    assert kinds(found) <= REACHED[annotation]


def kinds(value: Any) -> set[type]:
    """The types of a value and of all that is in it."""
    inner: list[Any] = []
    if isinstance(value, dict):
        inner = [*value, *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        inner = list(value)
    elif isinstance(value, Account | Row):
        inner = list(vars(value).values())
    return {type(value)}.union(*map(kinds, inner))


def test_flags_that_no_other_process_would_take_are_refused() -> None:
    """Before they are stored; members of any size are taken."""
    rights = flags_of_its_own()
    with pytest.raises(EncodeError, match="more bits than its class"):
        Codec(rights).encode(rights(1 << 70))

    class Wide(enum.IntFlag):
        READ = 1 << 70

    codec = Codec(Wide)
    encoded = codec.encode(Wide.READ)
    assert codec.decode(encoded.codec, encoded.payload, codec.schema) is Wide.READ
