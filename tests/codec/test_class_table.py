"""What a return annotation expects, in 8 bytes: who reads what another has stored, and who does not."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import inspect
import uuid
import zoneinfo
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar, Union

import pytest

from aikcache._codec.codec import BY_HAND, Codec
from aikcache._codec.equality import exactly_equal
from aikcache._decorators.signature import item_type, return_type
from aikcache.errors import DecodeError


class Color(enum.Enum):
    RED = "red"


class Pair(NamedTuple):
    left: int
    right: Color


class Row(TypedDict, total=False):
    pairs: list[Pair]


@dataclasses.dataclass
class Product:
    id: uuid.UUID
    rows: Optional[dict[str, Row]]  # noqa: UP045
    when: dt.datetime | None = None


SAID: dict[str, Any] = {
    "nothing": None,
    "None": type(None),
    "unresolved": "Unresolved",
    "unresolved, another": "Other",
    "int": int,
    "str": str,
    "dict": dict,
    "list of int": list[int],
    "list of str": list[str],
    "optional": int | None,
    "literal": Literal["a"],
    "literal, another": Literal["b"],
    "literal of another type": Literal[b"a"],
    "record": Product,
    "list of records": list[Product],
    "type variable": TypeVar("T", bound=int),
    "type variable, bound otherwise": TypeVar("T", bound=str),
}


def test_each_annotation_has_a_schema_of_its_own() -> None:
    """No two annotations that say something different share a schema, and none has that of values put by hand."""
    schemas = {Codec(annotation).schema for annotation in SAID.values()}
    assert len(schemas) == len(SAID)
    assert BY_HAND not in schemas
    assert Codec(by_hand=True).schema == BY_HAND


def test_equivalent_annotations_have_one_schema() -> None:
    """Ways to write one annotation, and to say nothing, do not differ."""
    old, union = Optional[int], Union[str, int]  # noqa: UP007, UP045
    for one, other in ((old, int | None), (union, str | int), (Annotated[int, "x"], int), (NewType("Id", int), int)):
        assert Codec(one).schema == Codec(other).schema
    assert len({Codec(nothing).schema for nothing in (None, Any, object, inspect.Parameter.empty)}) == 1


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (None, "536fd5a56c585c00"),
        (int, "5a179dfef41d6f6a"),
        (dict[str, list[uuid.UUID]] | None, "4d7d01e437f61e36"),
        (Literal[1, "a"], "eda53297d916aae4"),
        (Path, "9ef7932fd5c87e14"),
        (zoneinfo.ZoneInfo, "f89212db347495d2"),
        (list[Product], "9687c8c451022fd5"),
    ],
    ids=str,
)
def test_schemas_are_those_of_every_python_version(annotation: Any, schema: str) -> None:
    """What an annotation comes to is fixed: processes of several Python versions share what they cache."""
    assert Codec(annotation).schema.hex() == schema


@pytest.mark.parametrize("value", [7, "text", [1, 2], {"a": 1}, (1, 2), dt.date(2024, 1, 1), Decimal(1)], ids=str)
def test_a_value_put_by_hand_is_read_where_it_is_of_the_type(value: Any) -> None:
    """A value put without a type is read only by functions whose annotation it provably fits."""
    encoded = Codec(by_hand=True).encode(value)
    kinds = [int, str, list[int], dict[str, int], tuple[int, ...], dt.date, Decimal, list[str], Product]
    readers = [
        kind for kind in kinds for by_hand in (False, True) if reads(Codec(kind, by_hand=by_hand), encoded, value)
    ]
    assert len(readers) == 2
    assert reads(Codec(), encoded, value)
    assert reads(Codec(by_hand=True), encoded, value)


def reads(codec: Codec, encoded: Any, value: object) -> bool:
    try:
        return exactly_equal(codec.decode(encoded.codec, encoded.payload, BY_HAND), value)
    except DecodeError:
        return False


@pytest.mark.parametrize(("annotation", "value"), [(str, "text"), (dict[str, int], {"a": 1}), (Any, (1, 2))], ids=str)
def test_by_key_and_without_a_type_a_value_is_read_as_it_was_stored(annotation: Any, value: object) -> None:
    """What describes itself is read whatever it was stored for."""
    writer = Codec(annotation)
    encoded = writer.encode(value)
    assert exactly_equal(Codec(by_hand=True).decode(encoded.codec, encoded.payload, writer.schema), value)
    with pytest.raises(DecodeError):
        Codec(bytes, by_hand=True).decode(encoded.codec, encoded.payload, writer.schema)


@pytest.mark.parametrize("wrap", [lambda pair: pair, lambda pair: (pair, 1)], ids=["typed", "tagged"])
def test_by_key_and_without_a_type_no_record_is_read(wrap: Any) -> None:
    """A class comes from an annotation or `type` alone, never from what is stored."""
    writer = Codec(Pair | Any)
    encoded = writer.encode(wrap(Pair(1, Color.RED)))
    with pytest.raises(DecodeError):
        Codec(by_hand=True).decode(encoded.codec, encoded.payload, writer.schema)


def test_an_object_is_handed_on_only_where_its_class_is_the_very_one() -> None:
    """A class made anew under the same name, as by a notebook's cell, is another: its readers decode for themselves."""

    def make() -> Any:
        return dataclasses.make_dataclass("Remade", [("x", int)], frozen=True)

    old, new = make(), make()
    assert Codec(old).schema == Codec(new).schema
    assert Codec(old).takes(old(1), Codec(old))
    assert not Codec(new).takes(old(1), Codec(old))
    assert Codec(by_hand=True).takes(old(1), Codec(old))
    assert Codec(int).takes(1, Codec(by_hand=True))
    assert not Codec(str).takes(1, Codec(by_hand=True))


def test_a_return_type_is_resolved_whatever_the_parameters_are() -> None:
    """A parameter's name that only type checkers know does not hide the return annotation."""

    def f(x: Unknown) -> Product:  # type: ignore[name-defined]  # noqa: F821
        raise NotImplementedError

    def g(x: int) -> dict[int, Unknown]:  # type: ignore[name-defined]  # noqa: F821
        raise NotImplementedError

    def nothing(x):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    assert return_type(f) is Product
    assert return_type(g) == "dict[int, Unknown]"
    assert return_type(nothing) is None
    assert item_type(return_type(g)) == "Unknown"
    assert item_type(dict[int, Product]) is Product
    assert item_type("no annotation!") is item_type("Unknown") is item_type(int) is None
