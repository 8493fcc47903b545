"""Encodes a value to bytes and back, exactly: a hit equals a miss in value and in type, at every depth.

There are three forms; the value decides. JSON: for plain JSON values, by orjson, the fastest library there is. TYPED:
msgspec's msgpack, decoded by the return annotation; used only if the round-tripped value is proven equal. TAGGED: a
closed form for all other values that can be kept. A value that none of them can keep is an `EncodeError`, never
something similar.
The caller of a miss gets what a hit would get: a decoded copy, or the object itself if it is immutable.
A value is stored with the `schema` of its writer, and another schema is a `DecodeError`: another annotation does not
read it. A value put by hand without a type is read under every annotation that it is proven to fit.
A codec is immutable but for what it learns lazily about its annotation; learning twice is harmless, so any number of
threads may share one. `encode` raises only `EncodeError`, `decode` only `DecodeError`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aikcache._codec.class_table import Table
from aikcache._codec.costs import MAX_CONTAINERS, may_collide, too_many_containers, too_many_in_msgpack
from aikcache._codec.equality import exactly_equal, immutable
from aikcache._codec.plain import ATOMS, MAX_ITEMS, PLAIN, is_plain
from aikcache._codec.registry import by_type, register_type
from aikcache._concurrency.outside import BUGS, let_out
from aikcache._records import RecordType
from aikcache.errors import DecodeError, EncodeError

if TYPE_CHECKING:
    import msgspec

    from aikcache._codec.conforming import Check

__all__ = ["BY_HAND", "JSON", "TAGGED", "TYPED", "Codec", "Encoded", "load_all", "register_type"]

BY_HAND: Final = bytes(8)
"""The schema of a value put under a key by hand, without a type."""

JSON: Final = 0
TYPED: Final = 1
TAGGED: Final = 2

_LARGE: Final = 1 << 16
"""Bytes from which msgspec reads no flags, which may be a new value every few bytes."""
_NAMES: Final = {JSON: "JSON", TYPED: "typed", TAGGED: "tagged"}
_NO_ANNOTATION: Final = (None, Any, object, inspect.Parameter.empty)
_EMPTY_TABLE: Final = Table(None)


class Encoded(NamedTuple):
    """An encoded value."""

    codec: int
    payload: bytes
    value: object
    """What the caller of the miss gets: the original if deeply immutable, else a decoded copy."""
    shareable: bool
    """Deeply immutable: the local tier may give the same object to all callers."""


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
        nothing = any(annotation is nothing for nothing in _NO_ANNOTATION)
        # Built when first needed: while decorating, the classes of a forward reference may not exist yet.
        self._table: Table | None = _EMPTY_TABLE if nothing else None
        self._msgspec: tuple[msgspec.msgpack.Encoder, msgspec.msgpack.Decoder[Any]] | bool = not (
            nothing or isinstance(annotation, str)
        )
        # A value that does not fit the annotation is neither stored nor read. `_plain`: JSON types that need no check.
        self._check: Check | bool | None = None if nothing else True
        self._plain = PLAIN if nothing else frozenset[type]()
        self._anything = by_hand and nothing
        self._schema: bytes | None = BY_HAND if self._anything else None

    @property
    def schema(self) -> bytes:
        """8 bytes for the expected type: they change with the annotation, and with any class it reaches."""
        schema = self._schema
        if schema is None:
            schema = self._schema = self._get_table().digest
        return schema

    @property
    def record_types(self) -> Mapping[type, RecordType]:
        """The record classes and Enums that the annotation reaches."""
        return self._get_table().record_types

    def encode(self, value: object, *, unread: bool = False) -> Encoded:
        """The bytes of a value, and the value to return in its place. `unread`: nobody will get that one.

        Raises:
            EncodeError: some part would not come back equal (`path` and message say where and what to do), or the
                value does not fit the annotation.
        """
        try:
            encoded = self._encode(value, unread)
            if encoded.codec != TYPED and too_many_containers(encoded.payload):
                raise _refused(f"a structure of more than {MAX_CONTAINERS} containers", "Return less.")
            if encoded.codec != TYPED and not self._conforms(value, encoded.codec == JSON):
                raise EncodeError(
                    f"result: {type(value).__qualname__}, or something in it, is not what its annotation (or type=) "
                    "says, and so would not be read. Correct the annotation, or annotate with Any.",
                    "result",
                )
            return encoded
        except EncodeError:
            raise
        except Exception as error:  # user code runs: of classes, and of `register_type`
            let_out(error)
            what = f"{type(value).__qualname__} (encoding raised {type(error).__name__})"
            raise _refused(what) from error

    def _encode(self, value: object, unread: bool) -> Encoded:
        if plain := is_plain(value):
            if plain < 0:
                raise _refused(f"a structure of more than {MAX_ITEMS} items", "Return less.")
            try:
                payload = bytes(memoryview(self._dumps(value)))  # orjson's bytes keep its buffer, 4 KiB at least
            except TypeError:  # a long int, a lone surrogate, or too deep: try the tagged form
                pass
            else:
                shareable = type(value) in ATOMS
                return Encoded(JSON, payload, value if shareable or unread else self._loads(payload), shareable)
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
                value = _tagged().read(payload, self._get_table())
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
            # Without the cause: parsers quote the value in theirs.
            raise DecodeError(
                f"a {_NAMES.get(codec)} payload of {len(payload)} bytes does not decode: {type(error).__name__}."
            ) from None
        if not fits:
            raise _unlike()
        if other and not self._fits(value):
            raise DecodeError("what was put under this key by hand is not of the type expected.")
        return value

    def decode_all(self, codec: int, payloads: Sequence[bytes], refused: object) -> list[Any]:
        """As `decode`, for many payloads of one form and this schema. `refused`: in place of what that would refuse."""
        if codec == JSON and max(map(len, payloads), default=0) <= MAX_CONTAINERS:
            try:
                values = list(map(self._loads, payloads))
                # Parsed, and not looked into yet: all at once that takes a fifth of the time.
                if self._plain.issuperset(map(type, values)) or self._conform(values, True):
                    return values
            except BUGS as error:
                let_out(error)
        found = []
        for payload in payloads:
            try:
                found.append(self.decode(codec, payload))
            except DecodeError:
                found.append(refused)
        return found

    def reads(self, schema: bytes | None) -> bool:
        """Whether values with this schema may be read here; one that was put by hand is checked when it is read."""
        return schema == self.schema or schema == BY_HAND or self._anything

    def takes(self, value: object, giver: Codec) -> bool:
        """Whether an object that `giver` decoded, or accepted, may be returned by this codec too."""
        # Equal schemas, and the very same classes.
        if giver.schema == self.schema and giver.record_types.keys() == self.record_types.keys():
            return True
        return self._anything or (giver.schema == BY_HAND and self._fits(value))

    def _conforms(self, value: object, json: bool) -> bool:
        """Whether a value fits the annotation. `json`: it is plain JSON."""
        return self._conform([value], json)

    def _conform(self, values: Collection[Any], json: bool) -> bool:
        """Whether all of several values fit."""
        check = self._check
        if isinstance(check, bool):
            from aikcache._codec.conforming import check_of

            check = check_of(self.annotation, self._get_table())
            self._plain = PLAIN if check is None else check.plain
            self._check = check
        return check is None or check.test(values, json)

    def _fits(self, value: object) -> bool:
        """Whether a value that was stored without a type provably has the annotated one."""
        return self._get_table() is _EMPTY_TABLE or self._encode_typed(value) is not None

    def shareable(self, value: object) -> bool:
        """Whether a decoded value is deeply immutable, so that all callers may get the same object."""
        try:
            return immutable(value, self._get_table().record_types)
        except RecursionError:
            return False

    def _get_table(self) -> Table:
        table = self._table
        if table is None:
            table = self._table = Table(self.annotation)
        return table

    def _encode_typed(self, value: object) -> Encoded | None:
        """None where msgspec cannot keep the value exactly."""
        if not (pair := self._pair()):
            return None
        table = self._get_table()
        if by_type and not by_type.keys().isdisjoint(table.record_types):
            return None  # a class's registered functions take precedence
        encoder, decoder = pair
        try:
            body = encoder.encode(value)
            if self._is_costly(body):
                return None
            round_tripped = decoder.decode(body)
            if not exactly_equal(value, round_tripped, table.record_types):
                return None
            shareable = immutable(value, table.record_types)
        except Exception as error:
            let_out(error)
            return None
        return Encoded(TYPED, body, value if shareable else round_tripped, shareable)

    def _is_costly(self, payload: bytes) -> bool:
        """Whether msgspec may need too long for a payload, or make too many objects from it."""
        table = self._get_table()
        if table.flags and (len(payload) > _LARGE or not all(flag.may_combine(0) for flag in table.flags)):
            return True
        return too_many_in_msgpack(payload) or may_collide(payload, chosen=table.hashes_chosen, anything=table.open)

    def _decode_typed(self, payload: bytes) -> object:
        if not (pair := self._pair()):
            raise DecodeError("a typed payload cannot be read here: msgspec is missing, or the annotation is not its.")
        return pair[1].decode(payload)

    def _pair(self) -> tuple[msgspec.msgpack.Encoder, msgspec.msgpack.Decoder[Any]] | None:
        """msgspec's encoder and decoder for the annotation, or None; made once."""
        pair = self._msgspec
        if pair is True:
            pair = self._msgspec = False if self._get_table().hooked else _make_pair(self.annotation)
        return None if isinstance(pair, bool) else pair

    def _encode_tagged(self, value: object) -> Encoded:
        table, tagged = self._get_table(), _tagged()
        payload = bytes(memoryview(tagged.write(value, table)))  # as above
        round_tripped = tagged.read(payload, table)
        if not exactly_equal(value, round_tripped, table.record_types):
            raise _refused(f"{type(value).__qualname__}, or something in it,")
        shareable = immutable(value, table.record_types)
        return Encoded(TAGGED, payload, value if shareable else round_tripped, shareable)


def load_all() -> None:
    """Load now what a first value needs later: a child that is forked while a thread imports it can never import it."""
    import msgspec  # noqa: F401

    from aikcache._codec import conforming  # noqa: F401

    _tagged()


class _Tagged(NamedTuple):
    read: Callable[[bytes, Table], object]
    write: Callable[[object, Table], bytes]


@cache
def _tagged() -> _Tagged:
    """The tagged form, which a module that only decorates does not need."""
    from aikcache._codec import tagged_reader, tagged_writer

    return _Tagged(tagged_reader.read, tagged_writer.write)


def _refused(what: str, hint: str = "") -> EncodeError:
    from aikcache._codec.tagged_writer import cannot_store

    return cannot_store(what, "result", hint)


def _unlike() -> DecodeError:
    return DecodeError("the value is not of the type expected: it is forged, or was stored by other code.")


def _make_pair(annotation: Any) -> tuple[msgspec.msgpack.Encoder, msgspec.msgpack.Decoder[Any]] | bool:
    try:
        import msgspec

        return msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(annotation, strict=True)
    except Exception as error:
        let_out(error)
        return False
