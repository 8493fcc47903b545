"""What an invalidation names: templates, and the groups, keys and globs that they become when filled.

A template is text with fields, `resource:get_by_id:{resource.id}`, filled from a call's arguments (and its result).
A field's value is written as the key would write it, escaped, so it never separates and never acts as a wildcard; only
the template's own text does. The filled text is resolved here, once, to one of three targets:

    group   `*`, `prefix`, `prefix:*`, `prefix:operation`, `prefix:operation:*`: invalidated by one new stamp
    key     `prefix:operation:parameters` without a wildcard: unlinked, with its lease
    glob    anything else with a wildcard: swept

Tags are groups too, named `#tag`. A tag's fields are written as text without their types: `1` and `"1"` give the same
tag, which may invalidate too much and never too little.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from string import Formatter
from typing import Literal, NamedTuple

from aikcache._concurrency.outside import let_out
from aikcache._keys import rendering
from aikcache._keys.keyspace import Keyspace
from aikcache._settings.checks import check_name
from aikcache.errors import ConfigError, InvalidKeyError

EVERYTHING = "*"
ANY_TAG = "#"
"""The group whose stamp every tag's invalidation renews: it shows whether a tag known only after the load still holds.
"""
_FORMATTER = Formatter()
_WILD = re.compile(r"[*?\[]")
_CLASS = r"(?<!\\)\[\^?((?:\\.|[^]\\])*)\]"
_RANGE = r"\\.|(.)-(.)|."
_UNFIT = re.compile(r"[\s{}\x00-\x1f\x7f]")
_SURROGATE = r"[\ud800-\udfff]"
MAX_TAG = 512
MAX_DOTS = 4
"""Dots of an operation before which a group ends; each costs a stamp, and keys by hand may be users' own."""
_SHOWN = 200
"""Characters of a text that a message shows."""
MAX_PATTERN = 2048
"""Characters of a pattern, filled."""


class Target(NamedTuple):
    """What one pattern invalidates. `name`: a group, or a key or glob below the key space's `namespace_prefix`."""

    kind: Literal["group", "key", "glob"]
    name: str


class Invalidation(NamedTuple):
    """What one invalidation names: groups by name, keys in full, globs below the key space's `namespace_prefix`."""

    groups: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    globs: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.groups or self.keys or self.globs)

    def names(self) -> list[tuple[str, str]]:
        return [(kind, name) for kind in ("groups", "keys", "globs") for name in getattr(self, kind)]


def joined(names: Sequence[tuple[str, str]]) -> Invalidation:
    """Many (kind, name) as one ending."""
    kinds: dict[str, list[str]] = {"groups": [], "keys": [], "globs": []}
    for kind, name in names:
        kinds[kind].append(name)
    kinds["groups"].sort(key=ANY_TAG.__ne__)  # it comes before all tags, and on a cluster before all groups
    return Invalidation(tuple(kinds["groups"]), tuple(kinds["keys"]), tuple(kinds["globs"]))


def check_tags(tags: object) -> None:
    """A collection of tags. A single str is refused, because iterating it would give its letters."""
    if isinstance(tags, str):
        raise InvalidKeyError(f"tags must be a collection of tags, as in tags=({tags[:80]!r},), got a str.")


def tag_group(tag: str) -> str:
    """The group of a tag."""
    if not isinstance(tag, str) or not 0 < len(tag) <= MAX_TAG:
        raise InvalidKeyError(f"a tag must be a str of 1 to {MAX_TAG} characters, got {type(tag).__name__}.")
    if not tag.isascii():
        try:
            tag.encode()
        except UnicodeEncodeError:
            raise InvalidKeyError("a tag must be text that UTF-8 can write, got one with a lone surrogate.") from None
    return "#" + tag


def groups_of(key: str, namespace_prefix: str) -> tuple[str, ...]:
    """The groups that a key is in by its own form: everything, its prefix, its prefix:operation.

    An operation is also in the group of what is before each of its first dots: `price.2` may be version 2 of `price`,
    which a process that has another version, or none, names plainly.
    """
    prefix, *rest = key[len(namespace_prefix) :].split(":", 2)
    if not rest:
        return (EVERYTHING, prefix)
    words = rest[0].split(".", MAX_DOTS)
    plain = [f"{prefix}:{'.'.join(words[:count])}" for count in range(1, len(words)) if words[0]]
    return (EVERYTHING, prefix, *plain, f"{prefix}:{rest[0]}")


def is_wild(text: str) -> bool:
    """Whether a pattern with this in it is a glob."""
    return _WILD.search(text) is not None


@lru_cache(1024)
def resolve(pattern: str) -> Target:
    """A pattern, with its fields filled, as what it invalidates. Remembered: most are resolved again and again."""
    if pattern == EVERYTHING:
        return Target("group", EVERYTHING)
    if not isinstance(pattern, str) or not pattern or pattern[0] in "~!" or _UNFIT.search(pattern):
        raise ConfigError(
            "a pattern must be prefix[:operation[:parameters]] without spaces or control characters, and must not "
            f"begin with '~' or '!', got {str(pattern)[:80]!r}."
        )
    if len(pattern) > MAX_PATTERN:
        raise ConfigError(
            f"a pattern must have at most {MAX_PATTERN} characters, got {len(pattern)}. Invalidate by a tag instead."
        )
    if not pattern.isascii() and re.search(_SURROGATE, pattern):
        raise InvalidKeyError("a pattern must be text that UTF-8 can write, got one with a lone surrogate.")
    parts = pattern.split(":", 2)
    if parts[-1] == "*":
        parts.pop()
    if is_wild(":".join(parts)):
        for low, high in [found for inside in re.findall(_CLASS, pattern) for found in re.findall(_RANGE, inside)]:
            if low > high:
                raise ConfigError(f"a range must go upwards, got [{low}-{high}] in the pattern {pattern[:_SHOWN]!r}.")
        return Target("glob", pattern)
    if len(parts) == 3:
        return Target("key", ":".join([*parts[:2], rendering.shortened(parts[2])]))
    for what, part in zip(("a pattern's prefix", "a pattern's operation"), parts, strict=False):
        check_name(what, part)
    return Target("group", ":".join(parts))


def is_name(kind: object, name: object, space: Keyspace) -> bool:
    """Whether this is a (kind, name) of an `Invalidation` in a key space; for names from elsewhere."""
    if not isinstance(name, str):
        return False
    try:
        if kind == "keys":
            return name.startswith(space.namespace_prefix) and space.full(name) == name
        if kind == "groups":
            return tag_group(name[1:]) == name if name[:1] == "#" and name != ANY_TAG else _is_group(name, space)
        return kind == "globs" and resolve(name).kind == "glob"
    except (ConfigError, InvalidKeyError):
        return False


def _is_group(name: str, space: Keyspace) -> bool:
    """Also of a key by hand, whose first two parts may be anything that a key may be."""
    return name in (EVERYTHING, ANY_TAG) or (name.count(":") < 2 and space.full(name) == space.namespace_prefix + name)


class Template:
    """Text with fields, checked against the names it may use when it is made, which is when a function is decorated."""

    __slots__ = ("_parts", "text")

    def __init__(self, text: str, names: Iterable[str], what: str) -> None:
        if not isinstance(text, str):
            raise ConfigError(f"{what} must be a str, got {type(text).__name__}.")
        self.text = text
        self._parts: list[tuple[str, str | None]] = []
        if "{" not in text and "}" not in text:
            self._parts.append((text, None))
            return
        known = list(names)
        try:
            parsed = list(_FORMATTER.parse(text))
        except ValueError as error:
            raise ConfigError(f"{what} {text[:_SHOWN]!r} is not a template: {error}.") from None
        for literal, name, spec, conversion in parsed:
            self._parts.append((literal, name))
            if name is None:
                continue
            if "._" in name or "[_" in name:
                raise ConfigError(
                    f"{what} {text[:_SHOWN]!r} names {name[:_SHOWN]!r}: what begins with '_' is nobody else's to read."
                )
            root = re.split(r"[.\[]", name, maxsplit=1)[0]
            if root not in known:
                raise ConfigError(
                    f"{what} {text[:_SHOWN]!r} names {root[:_SHOWN] or 'an unnamed field'!r}, which is no argument of "
                    f"the function; it can name {', '.join(known)[:_SHOWN] or 'none'}."
                )
            if spec or conversion:
                raise ConfigError(
                    f"{what} {text[:_SHOWN]!r} must have plain fields, as in {{{name[:_SHOWN]}}}, without '!' or ':'."
                )

    def fill(self, values: Mapping[str, object], render: Callable[[object], str]) -> str:
        """The text with its fields filled. Whatever a field's access raises comes out as `InvalidKeyError`."""
        out = []
        for literal, name in self._parts:
            out.append(literal)
            if name is not None:
                try:
                    value, _ = _FORMATTER.get_field(name, (), values)
                    out.append(render(value))
                except Exception as error:
                    let_out(error)
                    raise InvalidKeyError(
                        f"the field {{{name[:_SHOWN]}}} of {self.text[:_SHOWN]!r} cannot be filled: "
                        f"{type(error).__name__}"
                    ) from error
        return "".join(out)

    def fill_tag(self, values: Mapping[str, object]) -> str:
        """A tag with its fields filled. One that comes out too long is its fixed part and a SHA-256 of the whole."""
        text = self.fill(values, tag_text)
        if len(text) <= MAX_TAG:
            tag_group(text)
            return text
        return f"{self.fixed}{rendering.digest(text.encode())}"

    @property
    def fixed(self) -> str:
        """What stands before the first field."""
        return self._parts[0][0] if self._parts else ""

    def fields(self) -> list[str]:
        """The names in its fields, in order."""
        return [name for _, name in self._parts if name is not None]

    def fill_with(self, text: str) -> str:
        """The text with the same in every field, to see its form."""
        return "".join(literal + ("" if name is None else text) for literal, name in self._parts)


def tag_text(value: object) -> str:
    """A field's value in a tag: as text, escaped, and without its type; its SHA-256 where no tag would be so long."""
    if isinstance(value, str):
        return (
            rendering.escape(value)
            if len(value) <= MAX_TAG
            else rendering.digest(value.encode("utf-8", "surrogatepass"))
        )
    return rendering.parameter(value)
