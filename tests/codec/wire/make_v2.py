"""The golden frames of wire version 2: what each file in `v2/` holds, and the script that wrote them, once.

A file is never written again: it stands for entries that users' Redis servers hold. A new case gets a new file; a
new wire version gets a script and a directory of its own, and this one stays.
"""

import datetime as dt
import enum
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

DIRECTORY = Path(__file__).parent / "v2"
SECRET = "golden secret of wire version 2"
DIGEST = bytes(range(16))
SEALED_AT = 1_800_000_000.0


class Color(enum.Enum):
    RED = "red"


@dataclass(frozen=True)
class Point:
    x: int
    y: float
    color: Color


# Class paths are part of the fingerprint, wherever this file is imported from.
Color.__module__ = Point.__module__ = "golden"


class Case(NamedTuple):
    """One golden frame: its value, how it was packed, and what the reader has to say about its type."""

    value: object
    codec: int
    annotation: Any = None
    key: str = "catalog:v1:resource:get_by_id:1"
    tags: tuple[str, ...] = ()
    secret: str | None = None


ROME = dt.datetime(2024, 10, 27, 2, 30, 0, 1, tzinfo=ZoneInfo("Europe/Rome"), fold=1)
NAMED = dt.datetime(2024, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=-3), "BRT"))

CASES: dict[str, Case] = {
    "json": Case({"id": 1, "rows": [[1.5, -0.0, None], {"ü": True}], "big": 2**64 - 1}, 0),
    "json_atom": Case("text", 0),
    "json_tags": Case([1, 2], 0, tags=("resource:1", "", "line\nbreak", "lone \ud800", "Größe")),
    "json_key": Case(None, 0, key="catalog:v1:search:run:Größe|\u2028 1"),
    "json_compressed": Case([{"name": "row", "number": number} for number in range(200)], 0),
    "json_sealed": Case({"secret": ["value"]}, 0, tags=("t",), secret=SECRET),
    "json_sealed_compressed": Case(["abcdefgh" * 4] * 100, 0, secret=SECRET),
    "typed": Case((dt.date(2024, 1, 2), dt.date(2024, 1, 3)), 1, tuple[dt.date, ...]),
    "typed_record": Case([Point(1, 2.5, Color.RED)], 1, list[Point]),
    "tagged": Case(
        {
            "tuple": (1, [2], {}),
            "sets": ({1, 2}, frozenset({"a"})),
            "bytes": b"\x00\xff",
            "floats": [float("inf"), float("-inf"), float("nan")],
            "ints": [2**64, -(2**63) - 1],
            "str": "lone \udfff",
            "keys": {1: "int", (1, "2"): "tuple", None: "none", "!t": "bang"},
            "!t": 0,
            "times": [ROME, NAMED, dt.datetime(2024, 1, 1), dt.date(2024, 1, 1), dt.time(1, 2, 3, 4, fold=1)],
            "delta": dt.timedelta(days=-1, microseconds=7),
            "decimals": [Decimal("-0.00"), Decimal("1E+30"), Decimal("NaN")],
            "uuid": UUID(int=7),
        },
        2,
    ),
    "tagged_record": Case((Point(1, 2, Color.RED), Color.RED), 2, tuple[Point, Color]),
}


def write() -> None:
    """Write the files that do not exist yet."""
    from aikcache._codec.codec import Codec
    from aikcache._codec.frame import Framer

    for name, case in CASES.items():
        codec = Codec(case.annotation)
        encoded = codec.encode(case.value)
        if encoded.codec != case.codec:
            sys.exit(f"{name}: expected codec {case.codec}, got {encoded.codec}")
        framer = Framer(secret=case.secret, wall=lambda: SEALED_AT)
        data = framer.pack(
            case.key,
            codec=encoded.codec,
            schema=codec.schema,
            digest=DIGEST,
            cost=0.25,
            ttl_ms=300_000,
            redis_ttl_ms=360_000,
            tags=case.tags,
            payload=encoded.payload,
        )
        path = DIRECTORY / f"{name}.bin"
        if not path.exists():
            path.write_bytes(data)


if __name__ == "__main__":
    write()
