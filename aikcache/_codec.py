"""A value to bytes and back, exactly: a hit equals a miss in value and in type, however deep.

Three forms, chosen by the value. JSON: it is plain JSON already, and orjson is the fastest there is. TYPED: msgspec's
msgpack read back by the return annotation, taken only when the twin it gives is proven the same. TAGGED: a closed form
for everything else that can be kept. What none of them can keep is an `EncodeError`, never something similar.
What the caller of a miss gets has taken the road of a hit: a decoded copy, or the object itself if it is immutable.
A codec is immutable but for what it learns lazily about its annotation; learning twice is harmless, so any number of
threads may share one. `encode` raises `EncodeError`, `decode` raises `DecodeError`, and neither anything else.
"""

from __future__ import annotations

import inspect
from itertools import chain
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aikcache._registered import by_type, register_type
from aikcache._same import immutable, same
from aikcache._schema import Table
from aikcache._tagged_read import read
from aikcache._tagged_write import way_out, write
from aikcache.errors import DecodeError, EncodeError

if TYPE_CHECKING:
    import msgspec

__all__ = ["JSON", "TAGGED", "TYPED", "Codec", "Encoded", "register_type"]

JSON: Final = 0
TYPED: Final = 1
TAGGED: Final = 2

_NAMES: Final = {JSON: "JSON", TYPED: "typed", TAGGED: "tagged"}
_ATOMS: Final = frozenset({str, int, float, bool, type(None)})
_PLAIN: Final = _ATOMS | {list, dict}
_STR: Final = frozenset({str})
_JSON_DEPTH: Final = 254  # orjson's own limit
# More than fit 16 MiB of JSON. It stops structures that share their parts, and are exponentially large as a tree.
_MAX_ITEMS: Final = 1 << 23
_NOTHING_KNOWN: Final = (None, Any, object, type(None), inspect.Parameter.empty)
_NO_KNOWLEDGE: Final = Table(None)
_ID_BYTES: Final = 8


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
    """

    __slots__ = ("_annotation", "_dumps", "_loads", "_msgspec", "_table")

    def __init__(self, annotation: object = None) -> None:
        import orjson

        self._annotation = annotation
        self._dumps = orjson.dumps
        self._loads = orjson.loads
        known = not (any(annotation is nothing for nothing in _NOTHING_KNOWN) or isinstance(annotation, str))
        # Read when first needed: while decorating, the classes a forward reference names may not exist yet.
        self._table: Table | None = None if known else _NO_KNOWLEDGE
        self._msgspec: tuple[msgspec.msgpack.Encoder, msgspec.msgpack.Decoder[Any]] | bool = known

    @property
    def schema(self) -> bytes:
        """8 bytes that change with any class reachable from the annotation; all zero when there is none."""
        return self._known().fingerprint

    def encode(self, value: object) -> Encoded:
        """The bytes of a value, and what to hand out in its place.

        Raises:
            EncodeError: something in it would not come back equal; `path` and message say where, what, and the way out.
        """
        try:
            if _is_plain(value):
                try:
                    payload = bytes(memoryview(self._dumps(value)))  # orjson's own keeps its buffer: 4 KiB at least
                except TypeError:  # a long int, a lone surrogate, or too deep: the tagged form knows
                    pass
                else:
                    shared = type(value) in _ATOMS
                    return Encoded(JSON, payload, value if shared else self._loads(payload), shared)
            return self._encode_typed(value) or self._encode_tagged(value)
        except EncodeError:
            raise
        except Exception as error:
            what = f"{type(value).__qualname__} (encoding raised {type(error).__name__})"
            raise way_out(what, "result") from error

    def decode(self, codec: int, payload: bytes, schema: bytes | None = None) -> object:
        """The value of a payload.

        Args:
            codec: the form `encode` chose.
            payload: its bytes.
            schema: the writer's `schema`; None trusts it to be this one's.

        Raises:
            DecodeError: the bytes are corrupt, or of a class that has changed since.
        """
        try:
            if codec == JSON:
                return self._loads(payload)
            if codec == TAGGED:
                table = self._known()
                return read(payload, table, current=schema is None or schema == table.fingerprint)
            if codec == TYPED:
                return self._decode_typed(payload, schema)
        except DecodeError:
            raise
        except Exception as error:
            # Without the cause: parsers put what they choked on, which is the value, into theirs.
            raise DecodeError(
                f"a {_NAMES.get(codec)} payload of {len(payload)} bytes does not decode: {type(error).__name__}."
            ) from None
        raise DecodeError("the payload's codec is unknown: it is of another version of aikcache.")

    def shareable(self, value: object) -> bool:
        """Whether a decoded value is deeply immutable, so that one object may be handed to everybody."""
        try:
            return immutable(value, self._known().shapes)
        except RecursionError:
            return False

    def _known(self) -> Table:
        table = self._table
        if table is None:
            table = self._table = Table(self._annotation)
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
            twin = decoder.decode(body)
            if not same(value, twin, table.shapes):
                return None
            shared = immutable(value, table.shapes)
        except Exception:
            return None
        return Encoded(TYPED, table.typed_id + body, value if shared else twin, shared)

    def _decode_typed(self, payload: bytes, schema: bytes | None) -> object:
        table = self._known()
        # The id covers the annotation too: a tuple read as a set, or a date as a str, would pass for valid.
        if payload[:_ID_BYTES] != table.typed_id or (schema is not None and schema != table.fingerprint):
            raise DecodeError("the return annotation, or a class of it, has changed since the value was stored.")
        if not (pair := self._pair()):
            raise DecodeError("a typed payload cannot be read here: msgspec is missing, or the annotation is not its.")
        return pair[1].decode(memoryview(payload)[_ID_BYTES:])

    def _pair(self) -> tuple[msgspec.msgpack.Encoder, msgspec.msgpack.Decoder[Any]] | None:
        """msgspec's encoder and decoder for the annotation, or None; made once."""
        pair = self._msgspec
        if pair is True:
            pair = self._msgspec = False if self._known().hooked else _make_pair(self._annotation)
        return None if isinstance(pair, bool) else pair

    def _encode_tagged(self, value: object) -> Encoded:
        table = self._known()
        payload = write(value, table)
        twin = read(payload, table)
        if not same(value, twin, table.shapes):
            raise way_out(f"{type(value).__qualname__}, or something in it,", "result")
        shared = immutable(value, table.shapes)
        return Encoded(TAGGED, payload, value if shared else twin, shared)


def _make_pair(annotation: Any) -> tuple[msgspec.msgpack.Encoder, msgspec.msgpack.Decoder[Any]] | bool:
    try:
        import msgspec

        return msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(annotation, strict=True)
    except Exception:
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
