"""`aikcache show`: one value in Redis, and all that the library knows of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pprint import pformat
from typing import Any

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from aikcache._cache import Cache
from aikcache._codec.codec import JSON, TAGGED, TYPED, Codec
from aikcache._codec.costs import may_collide, too_many_in_msgpack
from aikcache._codec.frame import SEALED, ZSTD, Frame
from aikcache._engine.call import Attempt
from aikcache._keys.patterns import tag_group
from aikcache.cli.failures import Failure
from aikcache.cli.output import console, json_option, say_json, size, span, word
from aikcache.cli.refusal import refusal
from aikcache.cli.target import Target, targeted
from aikcache.errors import DecodeError, InvalidKeyError

FORMS = {JSON: "JSON", TYPED: "msgpack, by the function's annotation", TAGGED: "tagged"}
LONG = 4000
"""Characters of a value that are shown."""
NEAT, DEEPEST = 20_000, 50
"""Characters and levels of a value that is laid out in lines: `pformat` takes time in proportion to their product."""
_NO_BRACKETS = bytes(set(range(256)) - set(b"[](){}"))
UNSHOWN = "(too large or too deep to be shown)"
"""What stands for a number of more than 4300 digits, or for lists in lists a thousand times."""


@click.command
@targeted
@click.argument("key")
@click.option("--full", is_flag=True, help="The whole value, however long.")
@click.option("--no-value", is_flag=True, help="All but the value.")
@json_option
def show(target: Target, key: str, *, full: bool, no_value: bool, as_json: bool) -> None:
    """Show the value under KEY, with or without instance and version: type, age, ttl, tags, stamps, size.

    A class of the application's is shown as plain data. A sealed value needs AIKCACHE_SECRET.
    """
    with target.cache() as cache:
        found, refused = look(cache, key), refusal(cache)
    if as_json:
        as_dict = {**found.as_dict(), "refused": refused}
        say_json(as_dict if no_value else {**as_dict, "value": _jsonable(found.value)})
    else:
        note = [] if refused is None else [Text(f"No process uses it now, because {refused}", style="yellow")]
        console().print(Group(found.facts(), *note, *([] if no_value else [Text(), Text(found.text(full=full))])))


@dataclass(frozen=True, slots=True)
class Found:
    """What lies under a key. Times are seconds; `current`: nothing that it belongs to was invalidated since."""

    key: str
    value: object
    type: str
    form: str
    current: bool
    age: float
    fresh: float
    kept: float
    load: float
    tags: tuple[str, ...]
    stamps: Mapping[str, str | None]
    stored: int
    payload: int
    compressed: bool
    sealed: bool

    def as_dict(self) -> dict[str, Any]:
        """For programs, without the value."""
        return {
            "key": self.key, "type": self.type, "form": self.form, "current": self.current,
            "age_seconds": self.age, "ttl_seconds": self.fresh, "kept_seconds": self.kept,
            "load_seconds": self.load, "tags": self.tags, "stamps": self.stamps, "bytes": self.stored,
            "payload_bytes": self.payload, "compressed": self.compressed, "sealed": self.sealed,
        }  # fmt: skip

    def facts(self) -> Table:
        """For people."""
        made = Table.grid(padding=(0, 2, 0, 0))
        answers = (
            "answers calls" if self.current and self.fresh > 0 else "is stale" if self.current else "is invalidated"
        )
        style = "green" if self.current and self.fresh > 0 else "yellow"
        left = f"fresh for {span(self.fresh)}" if self.fresh > 0 else f"stale for {span(-self.fresh)}"
        smaller = f", compressed from {size(self.payload)}" if self.compressed else ""
        stamps = [f"{group} {stamp or 'none'}" for group, stamp in self.stamps.items()]
        rows: list[tuple[str, str | Text]] = [
            ("key", word(self.key, 2000)),
            ("state", Text(answers, style=style)),
            ("type", word(f"{self.type} ({self.form})")),
            ("age", f"at most {span(self.age)}; its load took {span(self.load)}"),
            ("ttl", f"{left}, kept for {span(self.kept)}"),
            ("tags", word(", ".join(self.tags) or "none", 2000)),
            ("stamps", Text("\n").join(word(line, 600) for line in stamps)),
            ("size", f"{size(self.stored)}{smaller}{', sealed' if self.sealed else ''}"),
        ]
        for name, value in rows:
            made.add_row(Text(name, style="bold"), value)
        return made

    def text(self, *, full: bool) -> str:
        """The value, as Python writes it: nothing in it reaches the terminal as a control character."""
        if self.payload > 100 * LONG and not full:
            return f"({size(self.payload)}: --full shows it)"
        try:
            plain = repr(self.value)
            fits = len(plain) <= NEAT and _depth(plain) <= DEEPEST
            text = pformat(self.value, width=100, sort_dicts=False) if fits else plain
        except (ValueError, RecursionError):
            return UNSHOWN
        return text if full or len(text) <= LONG else f"{text[:LONG]}… ({len(text) - LONG} more characters: --full)"


def look(cache: Cache, key: str) -> Found:
    """Ask Redis. Raises `RemoteError`, or `Failure`: there is no value, or none that can be read."""
    tier = cache.engine.remote_tier
    assert tier is not None
    attempt = Attempt(cache._call(key, cache._policy, lambda: None), cache.engine.clock())
    # Without the write that a process's own reads carry: a server that refuses writes shows its values as well.
    (read,), stamps = tier.remote.read([attempt.key], attempt.call.groups)
    if read.data is None:
        raise Failure(
            f"there is no value under {attempt.key}. Is --instance right? `aikcache keys` lists what there is."
        )
    frame, tags = _frame(cache, attempt.key, read.data)
    stamps += tier.remote.read_stamps(tags) if tags else []
    attempt.stamps = dict(zip((*attempt.call.groups, *tags), stamps, strict=True))
    attempt.server_generation = tier.stamps.server_generation
    fresh, kept = frame.seconds_left(read.pttl)
    value, kind = _value(cache._codec, frame)
    return Found(
        key=attempt.key, value=value, type=kind, form=FORMS.get(frame.codec, "unknown"),
        current=tier.current(attempt, frame), age=max(round(frame.redis_ttl_ms / 1000 - kept, 3), 0.0),
        fresh=round(fresh, 3), kept=round(kept, 3), load=round(frame.cost, 6), tags=frame.tags,
        stamps={group: None if stamp is None else stamp.hex() for group, stamp in attempt.stamps.items()},
        stored=len(read.data), payload=len(frame.payload), compressed=bool(read.data[3] & ZSTD),
        sealed=bool(read.data[3] & SEALED),
    )  # fmt: skip


def _frame(cache: Cache, key: str, data: bytes) -> tuple[Frame, list[str]]:
    """A value's frame, and the groups of its tags."""
    tier = cache.engine.remote_tier
    assert tier is not None
    try:
        frame = tier.framer.unpack(key, data)
        return frame, [tag_group(tag) for tag in frame.tags]
    except DecodeError as error:
        hint = " It is sealed: set AIKCACHE_SECRET." if len(data) > 3 and data[3] & SEALED else ""
        raise Failure(f"{error}{hint if cache.config.secret is None else ''}") from None
    except InvalidKeyError:
        raise Failure(f"the value under {key} has tags that are none.") from None


def _value(codec: Codec, frame: Frame) -> tuple[object, str]:
    """A value and its type's name, without the function's annotation: classes of the application's are plain data."""
    import msgspec

    try:
        if frame.codec != TYPED:
            value = codec.decode(frame.codec, frame.payload)
        elif too_many_in_msgpack(frame.payload) or may_collide(frame.payload, chosen=False, anything=True):
            raise DecodeError("too costly to be read without its annotation")
        else:
            value = msgspec.msgpack.decode(frame.payload)
            return value, f"{type(value).__name__}, or what the annotation makes of it"
    except (DecodeError, msgspec.DecodeError, ValueError, RecursionError):
        return frame.payload.decode("utf-8", "backslashreplace"), "a class of the application's"
    return value, type(value).__name__


def _depth(text: str) -> int:
    """How deep what is written there is nested, at most: brackets in texts count as well."""
    brackets = text.encode("ascii", "replace").translate(None, _NO_BRACKETS)
    return max(accumulate(1 if char in b"[({" else -1 for char in brackets), default=0)


def _jsonable(value: object) -> Any:
    """Itself if JSON has it, else as Python writes it."""
    try:
        try:
            if _depth(json.dumps(value)) <= DEEPEST:
                return value
        except TypeError:
            pass
        return repr(value)
    except (ValueError, RecursionError):
        return UNSHOWN
