"""Values with a return annotation: every kind of record comes back as what it was."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import functools
import subprocess
import sys
import threading
import types
import typing
import zoneinfo
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache._codec.codec import JSON, TAGGED, TYPED, Codec
from aikcache._codec.equality import exactly_equal
from aikcache.errors import DecodeError, EncodeError

T = TypeVar("T")
ROME = zoneinfo.ZoneInfo("Europe/Rome")
UserId = NewType("UserId", int)


class Color(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mode(enum.StrEnum):
    FAST = "fast"


class Perm(enum.Flag):
    R = 1
    W = 2
    X = 4


class Shape(enum.Enum):
    SQUARE = (1, 2)
    ROUND = object()


@dataclass
class Plain:
    x: int
    y: str = "y"
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Frozen:
    x: int
    when: dt.datetime | None = None


@dataclass
class Hidden:
    x: int
    total: float = field(init=False)
    calls: typing.ClassVar[int] = 0

    def __post_init__(self) -> None:
        type(self).calls += 1
        self.total = self.x * 2.0


@dataclass
class Node:
    value: Any
    next: Node | None = None
    children: list[Node] = field(default_factory=list)


@dataclass
class Box(Generic[T]):
    item: T


@dataclass
class Base:
    x: int


@dataclass
class Derived(Base):
    y: int = 2


@dataclass
class Cached:
    x: int

    @functools.cached_property
    def double(self) -> list[int]:
        return [self.x * 2]


@dataclass(frozen=True)
class FrozenCached:
    x: int

    @functools.cached_property
    def double(self) -> list[int]:
        return [self.x * 2]


class Pair(NamedTuple):
    left: int
    right: tuple[str, ...] = ()


class LoosePair(Pair):
    """A subclass without slots: its instances take attributes."""


Old = namedtuple("Old", "a b")


class Movie(TypedDict):
    name: str
    year: int
    at: dt.datetime


@attrs.define
class Attr:
    x: int
    y: list[int] = attrs.field(factory=list)


@attrs.frozen
class AttrFrozen:
    x: int
    y: tuple[int, ...] = ()


@attrs.define
class AttrLazy:
    x: int = attrs.field(validator=attrs.validators.instance_of(int))

    @functools.cached_property
    def double(self) -> int:
        return self.x * 2


@attrs.frozen(cache_hash=True)
class AttrHash:
    name: str


class Struct(msgspec.Struct):
    x: int
    y: str | msgspec.UnsetType = msgspec.UNSET


class StructFrozen(msgspec.Struct, frozen=True):
    x: int
    y: tuple[int, ...] = ()


class StructHooked(msgspec.Struct, kw_only=True, rename="camel"):
    some_x: int

    def __post_init__(self) -> None:
        self.some_x += 1


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    x: int
    when: dt.datetime | None = None
    node: Plain | None = None
    _secret: dict[str, Any] = pydantic.PrivateAttr(default_factory=dict)


class ModelGeneric(pydantic.BaseModel, Generic[T]):
    item: T


class Everything(NamedTuple):
    uuid: UUID
    price: Decimal
    day: dt.date
    delta: dt.timedelta
    members: set[int]
    mode: Mode
    level: Level


def run(script: str) -> str:
    """What a fresh interpreter prints."""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=root)
    return done.stdout.strip()


def private_model() -> Model:
    model = Model.model_validate({"x": 1, "more": {"a": 1}, "node": Plain(3)})
    model._secret["s"] = (1, 2)
    return model


EVERYTHING = Everything(
    UUID(int=5), Decimal("1.50"), dt.date(2024, 1, 1), dt.timedelta(1), {1, 2}, Mode.FAST, Level.LOW
)

# annotation, value, codec expected, whether one object is shared
CASES: list[tuple[Any, Any, int, bool]] = [
    (Plain, Plain(1, "a", ["b"]), TYPED, False),
    (list[Plain], [Plain(1), Plain(2)], TYPED, False),
    (Plain | None, None, JSON, True),
    (Plain | None, Plain(1), TYPED, False),
    (Annotated[Plain, "meta"], Plain(1), TYPED, False),
    (list[Plain | Frozen], [Frozen(1), Plain(2)], TAGGED, False),
    (Frozen, Frozen(1), TYPED, True),
    (Frozen, Frozen(1, dt.datetime(2024, 1, 1, tzinfo=ROME, fold=1)), TAGGED, True),
    (Frozen, Frozen(1, dt.datetime(2024, 1, 1)), TYPED, True),
    (Hidden, Hidden(3), TAGGED, False),
    (Node, Node(1, Node(2), [Node(3, None, [Node(4)])]), TYPED, False),
    (Node, Node((1, 2), Node({3})), TAGGED, False),
    (Box[int], Box(1), TYPED, False),
    (Box[int], Box[int](1), TYPED, False),
    (Box[Plain], Box(Plain(1)), TYPED, False),
    (Box, Box((1, Box(2))), TAGGED, False),
    (Base | Derived, Derived(1), TAGGED, False),
    (Cached, Cached(1), TYPED, False),
    (FrozenCached, FrozenCached(1), TYPED, False),
    (Pair, Pair(1, ("a",)), TYPED, True),
    (tuple[Pair, ...], (Pair(1), Pair(2)), TYPED, True),
    (LoosePair, LoosePair(1), TYPED, False),
    (Old, Old(1, {2: [3]}), TYPED, False),
    (Movie, Movie(name="a", year=1, at=dt.datetime(2024, 1, 1)), TYPED, False),
    (Color, Color.RED, TYPED, True),
    (dict[Color, Level], {Color.RED: Level.HIGH}, TYPED, False),
    (list[Level | int], [Level.LOW, 1, 2], TAGGED, False),
    (Mode, Mode.FAST, TYPED, True),
    (Perm, Perm.R | Perm.X, TYPED, True),
    (tuple[Perm, ...], (Perm.W | Perm.X, Perm(0)), TYPED, True),
    (Perm, Perm(0), TYPED, True),
    (tuple[Shape, ...], (Shape.SQUARE, Shape.ROUND), TAGGED, True),
    (list[Literal[Color.RED]], [Color.RED], TAGGED, False),
    (Attr, Attr(1, [2]), TYPED, False),
    (AttrFrozen, AttrFrozen(1, (2,)), TYPED, True),
    (AttrLazy, AttrLazy(2), TAGGED, False),
    (AttrHash, AttrHash("a"), TAGGED, True),
    (Struct, Struct(1), TYPED, False),
    (list[Any | Struct], [Struct(1, "a"), (Struct(2),)], TAGGED, False),
    (StructFrozen, StructFrozen(1, (1,)), TYPED, True),
    (StructHooked, StructHooked(some_x=1), TAGGED, False),
    (Model, Model(x=1), TAGGED, False),
    (list[Model], [private_model()], TAGGED, False),
    (ModelGeneric[int], ModelGeneric[int](item=1), TAGGED, False),
    (Everything, EVERYTHING, TYPED, False),
    (set[int], {1, 2}, TYPED, False),
    (dt.datetime, dt.datetime(2024, 1, 1, tzinfo=dt.UTC), TYPED, True),
    (dict[UserId, bytes], {UserId(1): b"x"}, TYPED, False),
    (float, float("nan"), TYPED, True),
    (int, 2**70, TAGGED, True),
]


@pytest.mark.parametrize(("annotation", "value", "codec", "shared"), CASES, ids=lambda part: str(part)[:40])
def test_round_trip(annotation: Any, value: Any, codec: int, shared: bool) -> None:
    """Every annotated kind comes back the same, by another codec of the same annotation too."""
    writer, reader = Codec(annotation), Codec(annotation)
    encoded = writer.encode(value)
    assert (encoded.codec, encoded.shareable) == (codec, shared)
    assert (encoded.value is value) == shared
    record_types = reader._get_table().record_types
    assert exactly_equal(encoded.value, value, record_types)
    assert exactly_equal(reader.decode(encoded.codec, encoded.payload, writer.schema), value, record_types)
    assert reader.shareable(value) == shared


@given(st.builds(Plain, st.integers(), st.text(), st.lists(st.text())) | st.builds(Node, st.floats() | st.binary()))
def test_any_field_values(value: object) -> None:
    """Dataclasses with any field values come back the same."""
    codec = Codec(Plain | Node)
    encoded = codec.encode(value)
    assert exactly_equal(
        codec.decode(encoded.codec, encoded.payload, codec.schema), value, codec._get_table().record_types
    )


@pytest.mark.parametrize("value", [1, 1.0, True, "1", None])
def test_field_of_another_type_than_annotated(value: Any) -> None:
    """A field keeps the type it has, not the one it is annotated with."""
    codec = Codec(Box[float])
    encoded = codec.encode(Box(value))
    decoded: Any = codec.decode(encoded.codec, encoded.payload, codec.schema)
    assert type(decoded.item) is type(value)
    assert decoded.item == value


def test_subclass_is_refused_with_path() -> None:
    """An instance of a subclass the annotation does not name is refused, and the message says where and what."""
    with pytest.raises(EncodeError) as caught:
        Codec(dict[str, list[Base]]).encode({"rows": [Base(1), Derived(1)]})
    assert caught.value.path == "result['rows'][1]"
    assert str(caught.value).startswith("result['rows'][1]: Derived cannot")


def test_field_is_in_the_path() -> None:
    """The path leads through fields."""
    with pytest.raises(EncodeError) as caught:
        Codec(Node).encode(Node(1, Node([0, 1j])))
    assert caught.value.path == "result.next.value[1]"


def test_without_annotation_records_are_refused() -> None:
    """Records come back as what they are only where the annotation names them; else they are refused."""
    for value in (Plain(1), Pair(1), Color.RED, Level.LOW, Mode.FAST, Attr(1), Struct(1), Model(x=1)):
        with pytest.raises(EncodeError, match=f"result: {type(value).__qualname__} cannot be stored"):
            Codec().encode(value)


def test_handed_out_records_are_private() -> None:
    """Changing a record changes neither another caller's copy nor the original."""
    codec, value = Codec(Node), Node(1, Node(2))
    encoded = codec.encode(value)
    for taken in (encoded.value, codec.decode(encoded.codec, encoded.payload, codec.schema)):
        assert isinstance(taken, Node)
        assert taken.next is not None
        taken.next.value = "mine"
        taken.children.append(Node("mine"))
    assert value == Node(1, Node(2)) == codec.decode(encoded.codec, encoded.payload, codec.schema)


def test_no_constructor_runs() -> None:
    """Decoding a dataclass runs neither __init__ nor __post_init__."""
    codec = Codec(Hidden)
    value = Hidden(1)
    encoded, before = codec.encode(value), Hidden.calls
    decoded: Any = codec.decode(encoded.codec, encoded.payload, codec.schema)
    assert decoded.total == 2.0
    assert Hidden.calls == before


def test_cached_properties_are_not_stored() -> None:
    """What functools.cached_property has stored is left out and computed again, for dataclasses and attrs."""
    for value in (Cached(1), FrozenCached(1), AttrLazy(1)):
        codec, expected = Codec(type(value)), value.double
        encoded = codec.encode(value)
        decoded: Any = codec.decode(encoded.codec, encoded.payload, codec.schema)
        assert b"double" not in encoded.payload
        assert decoded.double == expected


def test_attrs_cached_hash_is_not_carried_over() -> None:
    """The hash attrs keeps differs between processes: the copy computes its own."""
    value = AttrHash("a")
    before = Codec(AttrHash).encode(value).payload
    assert hash(value)
    after = Codec(AttrHash).encode(value).payload
    assert before == after
    assert hash(Codec(AttrHash).decode(TAGGED, after)) == hash(value)


def test_pydantic_state_is_kept() -> None:
    """Which fields were set, the extra ones and the private ones come back with a pydantic model."""
    codec = Codec(Model)
    encoded = codec.encode(private_model())
    decoded: Any = codec.decode(encoded.codec, encoded.payload, codec.schema)
    assert decoded == private_model()
    assert decoded.model_fields_set == {"x", "node", "more"}
    assert decoded.model_extra == {"more": {"a": 1}}
    assert decoded._secret == {"s": (1, 2)}


def versions(**fields: Any) -> Any:
    """A dataclass of the same path, as the next release of somebody's module has it."""
    return dataclasses.make_dataclass("Item", fields.items(), namespace={"__module__": "shop"})


@pytest.mark.parametrize(
    ("wrap", "of"),
    [(lambda item: item, lambda cls: cls), (lambda item: (item, 1), lambda cls: cls | Any)],
    ids=["typed", "tagged"],
)
@pytest.mark.parametrize(
    "changed",
    [
        {"a": int},
        {"a": int, "b": int, "c": int},
        {"a": int, "b": str},
        {"b": int, "a": int},
        {"a": int, "B": int},
    ],
    ids=["removed", "added", "retyped", "reordered", "renamed"],
)
def test_changed_class_is_a_decode_error(changed: Any, wrap: Any, of: Any) -> None:
    """A value of a class whose fields have changed since is a miss; of an equal class it is a hit."""
    old = versions(a=int, b=int)
    writer = Codec(of(old))
    encoded = writer.encode(wrap(old(1, 2)))
    equal = Codec(of(versions(a=int, b=int)))
    assert equal.schema == writer.schema
    equal.decode(encoded.codec, encoded.payload, writer.schema)
    with pytest.raises(DecodeError, match="changed"):
        Codec(of(versions(**changed))).decode(encoded.codec, encoded.payload, writer.schema)


def test_changed_enum_is_a_decode_error() -> None:
    """A member that changed its value makes stored members a miss."""
    old, new = enum.Enum("E", {"A": 1}, module="shop"), enum.Enum("E", {"A": 2}, module="shop")
    writer: Any = Codec(old | Any)
    encoded = writer.encode((old.A,))  # type: ignore[attr-defined]
    with pytest.raises(DecodeError, match="changed"):
        Codec(new | Any).decode(encoded.codec, encoded.payload, writer.schema)


@pytest.mark.parametrize(
    ("before", "after", "value"),
    [(tuple[int, ...], set[int], (1, 2)), (dt.date, str, dt.date(2024, 1, 1)), (set[int], list[int], {1})],
)
def test_changed_annotation_is_a_decode_error(before: Any, after: Any, value: Any) -> None:
    """A typed payload is never read by another annotation, even if it would fit."""
    encoded = Codec(before).encode(value)
    assert encoded.codec == TYPED
    with pytest.raises(DecodeError, match="annotation"):
        Codec(after).decode(encoded.codec, encoded.payload, Codec(before).schema)


def test_defaults_never_stand_in_for_stored_fields() -> None:
    """A field msgspec leaves out of its payload comes back as stored, or as a miss, when its default has changed."""

    union: Any = int | msgspec.UnsetType

    def make(default: Any) -> tuple[Any, Any]:
        attr = attrs.make_class(
            "A", {"_x": attrs.field(default=default, type=union)}, class_body={"__module__": "shop"}
        )
        field = ("x", union, default)
        return attr, msgspec.defstruct("S", [field], module="shop")

    for old, new in zip(make(msgspec.UNSET), make(1), strict=True):
        writer, reader = Codec(old), Codec(new)
        encoded = writer.encode(old())
        try:
            decoded: Any = reader.decode(encoded.codec, encoded.payload, writer.schema)
        except DecodeError:
            continue
        assert getattr(decoded, "_x", decoded) is msgspec.UNSET


def test_class_deep_below_changes_the_schema() -> None:
    """The schema covers every class reachable, through fields, generics, unions and aliases."""
    inner, other = versions(a=int), versions(a=str)
    typed_dict: Any = TypedDict
    wraps: list[Callable[[Any], Any]] = [
        lambda cls: dict[str, list[cls | None]],  # type: ignore[valid-type]
        lambda cls: Annotated[tuple[cls, ...], "x"],  # type: ignore[valid-type]
        lambda cls: NewType("Alias", cls),
        lambda cls: dataclasses.make_dataclass("Outer", [("inner", cls)]),
        lambda cls: typed_dict("Row", {"inner": cls}),
        lambda cls: Box[cls],  # type: ignore[valid-type]
    ]
    for wrap in wraps:
        assert len({Codec(wrap(cls)).schema for cls in (inner, other)}) == 2
        assert Codec(wrap(inner)).schema == Codec(wrap(inner)).schema


def test_schema_is_the_same_in_every_process() -> None:
    """The fingerprint has no addresses and no hash seeds in it."""
    script = (
        "from tests.codec.test_codec import *; print(Codec(Everything | Model | Shape | Node | Struct).schema.hex())"
    )
    assert len({run(script), run(script)}) == 1


def test_broken_forward_reference() -> None:
    """A field whose type cannot be resolved costs that field's classes, and nothing is raised."""
    cls: Any = dataclasses.make_dataclass("Broken", [("x", int), ("y", "NoSuchName"), ("z", "Plain")])
    cls.__module__ = __name__
    codec = Codec(list[cls])
    encoded = codec.encode([cls(1, (2,), Plain(3))])
    assert encoded.codec == TAGGED
    assert codec.decode(encoded.codec, encoded.payload, codec.schema) == [cls(1, (2,), Plain(3))]


def test_local_recursive_class() -> None:
    """A dataclass made in a function may refer to itself by name."""

    @dataclass
    class Local:
        value: int
        next: Local | None = None

    codec = Codec(Local)
    encoded = codec.encode(Local(1, Local(2)))
    assert codec.decode(encoded.codec, encoded.payload, codec.schema) == Local(1, Local(2))


def test_classes_of_one_path() -> None:
    """Two classes with the same path in one annotation are told apart."""
    one, two = versions(a=int), versions(a=int)
    codec = Codec(types.GenericAlias(tuple, (one, two)))
    encoded = codec.encode((one(1), two(1)))
    decoded: Any = codec.decode(encoded.codec, encoded.payload, codec.schema)
    assert [type(item) for item in decoded] == [one, two]


def test_records_with_state_elsewhere_are_refused() -> None:
    """A dataclass on top of a list, an exception or a finaliser has more state than its fields: it is refused."""

    @dataclass
    class Rows(list):  # type: ignore[type-arg]
        x: int

    @dataclass
    class Failure(Exception):
        x: int

    @dataclass
    class Handle:
        x: int

        def __del__(self) -> None:
            pass

    for cls in (Rows, Failure, Handle):
        with pytest.raises(EncodeError):
            Codec(cls).encode(cls(1))


def test_plain_json_is_json_whatever_the_annotation() -> None:
    """Plain JSON takes the fast path, and only its own annotation reads it again."""
    value = {"name": "a", "rows": [1, 2.5, None, True]}
    for annotation in (None, dict, dict[str, Any], Plain | dict[str, str | list[float | None]]):
        codec = Codec(annotation)
        encoded = codec.encode(value)
        assert encoded.codec == JSON
        assert codec.decode(JSON, encoded.payload, codec.schema) == value
        with pytest.raises(DecodeError, match="annotation"):
            Codec(Node).decode(JSON, encoded.payload, codec.schema)


def test_typed_bytes_raise_decode_error_only() -> None:
    """A typed payload cut or changed anywhere is a value of the annotated type or a DecodeError."""
    codec = Codec(Everything)
    payload = codec.encode(EVERYTHING).payload
    for at in range(len(payload)):
        for odd in (payload[:at], payload[:at] + bytes([payload[at] ^ 0x55]) + payload[at + 1 :]):
            try:
                assert type(codec.decode(TYPED, odd, codec.schema)) is Everything
            except DecodeError:
                continue


def test_threads_share_a_codec() -> None:
    """Threads that use one codec for the first time at once all get their values."""
    codec, wrong, start = Codec(list[Node]), [], threading.Barrier(8)

    def work(number: int) -> None:
        value = [Node(number, Node(str(number)))]
        start.wait()
        for _ in range(100):
            encoded = codec.encode(value)
            if codec.decode(encoded.codec, encoded.payload, codec.schema) != value:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_import_is_cheap() -> None:
    """Importing codec and frame loads the standard library alone."""
    script = (
        "import sys, aikcache._codec.codec, aikcache._codec.frame;"
        "print([m for m in 'orjson msgspec zstandard cryptography pydantic attrs attr'.split() if m in sys.modules])"
    )
    assert run(script) == "[]"
