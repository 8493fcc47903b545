"""A value to bytes and back, exactly: a hit equals a miss in value and in type, however deep.

Three forms, chosen by the value. JSON: it is plain JSON already, and orjson is the fastest there is. TYPED: msgspec's
msgpack read back by the return annotation, taken only when the twin it gives is proven the same. TAGGED: a closed form
for everything else that can be kept. What none of them can keep is an `EncodeError`, never something similar.
What the caller of a miss gets has taken the path of a hit: a decoded copy, or the object itself if it is immutable.
What one annotation stored, another does not read: a value goes with the `schema` of its writer, and any other is a
`DecodeError`. A value put by hand without a type is everybody's for whose annotation it is proven to be right.
A codec is immutable but for what it learns lazily about its annotation; learning twice is harmless, so any number of
threads may share one. `encode` raises `EncodeError`, `decode` raises `DecodeError`, and neither anything else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import chain
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aikcache._codec.class_table import Table
from aikcache._codec.conforming import Check, check_of
from aikcache._codec.costs import MAX_CONTAINERS, may_collide, too_many_containers, too_many_packed
from aikcache._codec.equality import immutable, same
from aikcache._codec.registry import by_type, register_type
from aikcache._codec.tagged_reader import read
from aikcache._codec.tagged_writer import way_out, write
from aikcache._concurrency.outside import let_out
from aikcache._records import RecordType
from aikcache.errors import DecodeError, EncodeError

if TYPE_CHECKING:
    import msgspec

__all__ = ["BY_HAND", "JSON", "TAGGED", "TYPED", "Codec", "Encoded", "register_type"]

BY_HAND: Final = bytes(8)
"""The schema of a value put under a key by hand, without a type."""

JSON: Final = 0
TYPED: Final = 1
TAGGED: Final = 2

_NAMES: Final = {JSON: "JSON", TYPED: "typed", TAGGED: "tagged"}
_ATOMS: Final = frozenset({str, int, float, bool, type(None)})
_PLAIN: Final[frozenset[Any]] = _ATOMS | {list, dict}
_STR: Final = frozenset({str})
_JSON_DEPTH: Final = 254  # orjson's own limit
# More than fit 16 MiB of JSON. It stops structures that share their parts, and are exponentially large as a tree.
_MAX_ITEMS: Final = 1 << 23
_NOTHING_KNOWN: Final = (None, Any, object, inspect.Parameter.empty)
_NO_KNOWLEDGE: Final = Table(None)


class QuickSteps(NamedTuple):
    """The steps of `Codec.decode` for short JSON."""

    parse: Callable[[bytes], object]
    plain: frozenset[type]
    """Types of which anything is a value."""
    conform: Callable[[Collection[object]], bool]
    """Whether all of some values of other types are of the annotation."""


class Encoded(NamedTuple):
    """What became of a value."""

    codec: int
    payload: bytes
    value: object
    """What the caller of the miss is handed: the original if deeply immutable, else a decoded copy."""
    shared: bool
    """Deeply immutable: the local tier may hand the same object to everybody."""


class Codec:
    """The codec of one function, or of one `type=`.

    Args:
        annotation: the resolved return annotation. None, Any, `inspect.Parameter.empty` and names that were never
            resolved mean that nothing is known: built-in and registered types are kept all the same.
        by_hand: for values by key. Without an annotation it takes whatever is there, as it was stored.
    """

    __slots__ = ("_anything", "_check", "_dumps", "_loads", "_msgspec", "_plain", "_schema", "_table", "annotation")

    def __init__(self, annotation: object = None, *, by_hand: bool = False) -> None:
        import orjson

        self.annotation = annotation
        self._dumps = orjson.dumps
        self._loads = orjson.loads
        nothing = any(annotation is nothing for nothing in _NOTHING_KNOWN)
        # Read when first needed: while decorating, the classes a forward reference names may not exist yet.
        self._table: Table | None = _NO_KNOWLEDGE if nothing else None
        self._msgspec: tuple[msgspec.msgpack.Encoder, msgspec.msgpack.Decoder[Any]] | bool = not (
            nothing or isinstance(annotation, str)
        )
        # What is not of the annotation is neither stored nor read. `_plain`: types of JSON that are not looked into.
        self._check: Check | bool | None = None if nothing else True
        self._plain = _PLAIN if nothing else frozenset[type]()
        self._anything = by_hand and nothing
        self._schema: bytes | None = BY_HAND if self._anything else None

    @property
    def schema(self) -> bytes:
        """8 bytes for what is expected here: they change with the annotation, and with any class it reaches."""
        schema = self._schema
        if schema is None:
            schema = self._schema = self._known().digest
        return schema

    @property
    def shapes(self) -> Mapping[type, RecordType]:
        """The record classes and Enums that the annotation reaches."""
        return self._known().shapes

    def encode(self, value: object) -> Encoded:
        """The bytes of a value, and what to hand out in its place.

        Raises:
            EncodeError: something in it would not come back equal; `path` and message say where, what, and the way out.
                Or it is not what the annotation says.
        """
        try:
            encoded = self._encode(value)
            if encoded.codec != TYPED and too_many_containers(encoded.payload):
                raise way_out(f"a structure of more than {MAX_CONTAINERS} containers", "result", "Return less.")
            if encoded.codec != TYPED and not self._conforms(value, encoded.codec == JSON):
                raise EncodeError(
                    f"result: {type(value).__qualname__}, or something in it, is not what its annotation (or type=) "
                    "says, and so would not be read. Correct the annotation, or annotate with Any.",
                    "result",
                )
            return encoded
        except EncodeError:
            raise
        except Exception as error:  # user code among it: of classes, and what `register_type` was given
            let_out(error)
            what = f"{type(value).__qualname__} (encoding raised {type(error).__name__})"
            raise way_out(what, "result") from error

    def _encode(self, value: object) -> Encoded:
        if _is_plain(value):
            try:
                payload = bytes(memoryview(self._dumps(value)))  # orjson's own keeps its buffer: 4 KiB at least
            except TypeError:  # a long int, a lone surrogate, or too deep: the tagged form knows
                pass
            else:
                shared = type(value) in _ATOMS
                return Encoded(JSON, payload, value if shared else self._loads(payload), shared)
        return self._encode_typed(value) or self._encode_tagged(value)

    def decode(self, codec: int, payload: bytes, schema: bytes | None = None, *, checked: bool = False) -> object:
        """The value of a payload.

        Args:
            codec: the form `encode` chose.
            payload: its bytes.
            schema: the writer's `schema`; None: it has been compared already.
            checked: it was encoded or decoded in this process before, for the same schema.

        Raises:
            DecodeError: the bytes are corrupt, or were stored for another annotation, or for a class that has changed.
        """
        other = schema is not None and schema != self._schema and schema != self.schema
        if other and not self.reads(schema):
            raise DecodeError("the return annotation, or type=, or a class of it has changed since it was stored.")
        try:
            if len(payload) > MAX_CONTAINERS and codec != TYPED and not checked and too_many_containers(payload):
                raise DecodeError(f"a payload of more than {MAX_CONTAINERS} containers.")
            if codec == JSON:
                value = self._loads(payload)
                if type(value) in self._plain or (checked and not other):
                    return value
                fits = self._conforms(value, True)
            elif codec == TAGGED:
                value = read(payload, self._known())
                fits = (checked and not other) or self._conforms(value, False)
            elif codec == TYPED and not other:
                if not checked and self._is_costly(payload):
                    raise DecodeError("a typed payload that may cost too much: it is not so written.")
                return self._decode_typed(payload)
            else:
                raise DecodeError("the payload is of an annotated type, or of another version of aikcache: pass type=.")
        except DecodeError:
            raise
        except Exception as error:
            let_out(error)
            # Without the cause: parsers put what they choked on, which is the value, into theirs.
            raise DecodeError(
                f"a {_NAMES.get(codec)} payload of {len(payload)} bytes does not decode: {type(error).__name__}."
            ) from None
        if not fits:
            raise _unlike()
        if other and not self._fits(value):
            raise DecodeError("what was put under this key by hand is not of the type expected.")
        return value

    def quick(self) -> QuickSteps:
        """`decode` for JSON of at most MAX_CONTAINERS bytes, for loops."""
        return QuickSteps(self._loads, self._plain, partial(self._conform, json=True))

    def reads(self, schema: bytes | None) -> bool:
        """Whether what was stored with this schema may be read here; what was put by hand is looked at then."""
        return schema == self.schema or schema == BY_HAND or self._anything

    def takes(self, value: object, giver: Codec) -> bool:
        """Whether an object that `giver` decoded, or let pass, may be handed out as one of this codec's own."""
        if giver.schema == self.schema and giver.shapes.keys() == self.shapes.keys():  # the very same classes
            return True
        return self._anything or (giver.schema == BY_HAND and self._fits(value))

    def _conforms(self, value: object, json: bool) -> bool:
        """Whether a value is what the annotation says. `json`: it is plain JSON."""
        return self._conform([value], json)

    def _conform(self, values: Collection[Any], json: bool) -> bool:
        """Whether all of some values are."""
        check = self._check
        if isinstance(check, bool):
            check = check_of(self.annotation, self._known())
            self._plain = _PLAIN if check is None else check.plain
            self._check = check
        return check is None or check.test(values, json)

    def _fits(self, value: object) -> bool:
        """Whether a value that was stored without a type is provably of the annotated one."""
        return self._known() is _NO_KNOWLEDGE or self._encode_typed(value) is not None

    def shareable(self, value: object) -> bool:
        """Whether a decoded value is deeply immutable, so that one object may be handed to everybody."""
        try:
            return immutable(value, self._known().shapes)
        except RecursionError:
            return False

    def _known(self) -> Table:
        table = self._table
        if table is None:
            table = self._table = Table(self.annotation)
        return table

    def _encode_typed(self, value: object) -> Encoded | None:
        """None where msgspec cannot keep the value exactly."""
        if not (pair := self._pair()):
            return None
        table = self._known()
        if by_type and not by_type.keys().isdisjoint(table.shapes):
            return None  # what its own functions say about a class goes first
        encoder, decoder = pair
        try:
            body = encoder.encode(value)
            if self._is_costly(body):
                return None
            twin = decoder.decode(body)
            if not same(value, twin, table.shapes):
                return None
            shared = immutable(value, table.shapes)
        except Exception as error:
            let_out(error)
            return None
        return Encoded(TYPED, body, value if shared else twin, shared)

    def _is_costly(self, payload: bytes) -> bool:
        """Whether msgspec may need too long, or make too many objects, of a payload."""
        table = self._known()
        return too_many_packed(payload) or may_collide(payload, chosen=table.hashes_chosen, anything=table.open)

    def _decode_typed(self, payload: bytes) -> object:
        if not (pair := self._pair()):
            raise DecodeError("a typed payload cannot be read here: msgspec is missing, or the annotation is not its.")
        return pair[1].decode(payload)

    def _pair(self) -> tuple[msgspec.msgpack.Encoder, msgspec.msgpack.Decoder[Any]] | None:
        """msgspec's encoder and decoder for the annotation, or None; made once."""
        pair = self._msgspec
        if pair is True:
            pair = self._msgspec = False if self._known().hooked else _make_pair(self.annotation)
        return None if isinstance(pair, bool) else pair

    def _encode_tagged(self, value: object) -> Encoded:
        table = self._known()
        payload = write(value, table)
        twin = read(payload, table)
        if not same(value, twin, table.shapes):
            raise way_out(f"{type(value).__qualname__}, or something in it,", "result")
        shared = immutable(value, table.shapes)
        return Encoded(TAGGED, payload, value if shared else twin, shared)


def _unlike() -> DecodeError:
    return DecodeError("the value is not of the type expected: it is forged, or was stored by other code.")


def _make_pair(annotation: Any) -> tuple[msgspec.msgpack.Encoder, msgspec.msgpack.Decoder[Any]] | bool:
    try:
        import msgspec

        return msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(annotation, strict=True)
    except Exception as error:
        let_out(error)
        return False


def _is_plain(value: Any) -> bool:
    """Whether orjson keeps the value exactly, or refuses it: level by level, each in a few calls at C speed.

    orjson turns tuples into lists, UUIDs and Enums into their values and nan into null without a word, so every type is
    looked at first. Too long ints, lone surrogates and too deep nesting it refuses itself.
    """
    kind = type(value)
    if kind in _ATOMS:
        return kind is not float or isfinite(value)
    lists, dicts = ([value], []) if kind is list else ([], [value])
    if kind is not list and kind is not dict:
        return False
    left = _MAX_ITEMS
    for _ in range(_JSON_DEPTH + 1):
        if dicts and not set(map(type, chain.from_iterable(dicts))) <= _STR:
            return False
        items = list(chain.from_iterable(lists))
        for mapping in dicts:
            items += mapping.values()
        kinds = set(map(type, items))
        if not kinds <= _PLAIN or (float in kinds and not _all_finite(items)):
            return False
        if list not in kinds and dict not in kinds:
            return True
        left -= len(items)
        if left < 0:
            raise way_out(f"a structure of more than {_MAX_ITEMS} items", "result", "Return less.")
        lists = [item for item in items if type(item) is list] if list in kinds else []
        dicts = [item for item in items if type(item) is dict] if dict in kinds else []
    return False


def _all_finite(items: list[Any]) -> bool:
    floats = [item for item in items if type(item) is float]
    # Their sum is finite, or one of them is not, or it overflowed: then each is looked at.
    return isfinite(sum(floats)) or all(map(isfinite, floats))
