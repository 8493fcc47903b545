"""What an invalidation names: templates, and the groups, keys and globs they come to.

A template is text with fields, `resource:get_by_id:{resource.id}`, filled from a call's arguments (and its result).
A field's value is written as the key would write it, escaped, so it never separates and never acts as a wildcard; only
what stands in the template does. What comes out is resolved here, once, to one of three targets:

    group   `*`, `prefix`, `prefix:*`, `prefix:operation`, `prefix:operation:*`: ended by one fresh stamp
    key     `prefix:operation:parameters` without a wildcard: unlinked, with its lease
    glob    anything else with a wildcard: swept

Tags are groups too, named `#tag`. A tag's fields are written as text without their types: `1` and `"1"` give the same
tag, which ends more than need be and never less.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from string import Formatter
from typing import Literal

from . import _keys
from ._config import check_name
from .errors import ConfigError, InvalidKeyError

EVERYTHING = "*"
ANY_TAG = "#"
"""The group whose stamp every tag's invalidation renews: it tells whether tags known only after the load still hold."""
_FORMATTER = Formatter()
_WILD = re.compile(r"[*?\[]")
_UNFIT = re.compile(r"[\s{}\x00-\x1f\x7f]")
MAX_TAG = 512


@dataclass(frozen=True, slots=True)
class Target:
    """What one pattern ends: `name` is a group, a key below the space's lead, or a glob below it."""

    kind: Literal["group", "key", "glob"]
    name: str


@dataclass(frozen=True, slots=True)
class Ending:
    """What one invalidation ends: groups by name, keys in full, globs below the space's lead."""

    groups: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    globs: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.groups or self.keys or self.globs)

    def names(self) -> list[tuple[str, str]]:
        return [(kind, name) for kind in ("groups", "keys", "globs") for name in getattr(self, kind)]


def joined(names: Sequence[tuple[str, str]]) -> Ending:
    """Many (kind, name) as one ending."""
    kinds: dict[str, list[str]] = {"groups": [], "keys": [], "globs": []}
    for kind, name in names:
        kinds[kind].append(name)
    kinds["groups"].sort(key=ANY_TAG.__ne__)  # it comes before all tags, and on a cluster before all groups
    return Ending(tuple(kinds["groups"]), tuple(kinds["keys"]), tuple(kinds["globs"]))


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


def groups_of(key: str, lead: str) -> tuple[str, ...]:
    """The groups that a key is in by its own form: everything, its prefix, its prefix:operation."""
    parts = key[len(lead) :].split(":", 2)
    return (EVERYTHING, parts[0]) if len(parts) == 1 else (EVERYTHING, parts[0], f"{parts[0]}:{parts[1]}")


def resolve(pattern: str) -> Target:
    """A pattern, with its fields filled, as what it ends."""
    if pattern == EVERYTHING:
        return Target("group", EVERYTHING)
    if not isinstance(pattern, str) or not pattern or pattern[0] in "~!" or _UNFIT.search(pattern):
        raise ConfigError(
            "a pattern must be prefix[:operation[:parameters]] without spaces or control characters, and must not "
            f"begin with '~' or '!', got {pattern!r}."
        )
    parts = pattern.split(":", 2)
    if parts[-1] == "*":
        parts.pop()
    if _WILD.search(":".join(parts)):
        return Target("glob", pattern)
    if len(parts) == 3:
        return Target("key", pattern)
    for what, part in zip(("a pattern's prefix", "a pattern's operation"), parts, strict=False):
        check_name(what, part)
    return Target("group", ":".join(parts))


def covering(globs: Sequence[str]) -> str:
    """A glob that matches whatever one of these does: what all begin with, and anything after it."""
    if len(globs) == 1:
        return globs[0]
    return re.split(r"[*?\[\\]", commonprefix(globs), maxsplit=1)[0] + "*"  # noqa: RUF071  # letter by letter


def matcher(lead: str, *globs: str) -> Callable[[str], re.Match[str] | None]:
    """Whether a full key matches one of `globs`, as Redis would say.

    That is `*`, `?`, `[a-z]`, `[^a]`, and `\\` for the literal.
    """
    return re.compile(f"{re.escape(lead)}(?:{'|'.join(map(_as_regex, globs))})", re.DOTALL).fullmatch


def _as_regex(glob: str) -> str:
    out, i = [], 0
    while i < len(glob):
        char = glob[i]
        i += 1
        if char == "*":
            out.append(".*")
        elif char == "?":
            out.append(".")
        elif char == "\\" and i < len(glob):
            out.append(re.escape(glob[i]))
            i += 1
        elif char == "[" and "]" in glob[i:]:
            close = glob.index("]", i)
            out.append(_character_class(glob[i:close]))
            i = close + 1
        else:
            out.append(re.escape(char))
    return "".join(out)


def _character_class(inside: str) -> str:
    negated = "^" if inside.startswith("^") else ""
    body = re.sub(r"([\\\[\]&~|^])", r"\\\1", inside.removeprefix("^"))
    # an empty class matches nothing, its negation anything, as in Redis
    return f"[{negated}{body}]" if body else ("." if negated else "(?!)")


class Template:
    """Text with fields, checked against the names it may use when it is made, which is when a function is decorated."""

    __slots__ = ("_parts", "text")

    def __init__(self, text: str, names: Iterable[str], what: str) -> None:
        if not isinstance(text, str):
            raise ConfigError(f"{what} must be a str, got {type(text).__name__}.")
        self.text = text
        self._parts: list[tuple[str, str | None]] = []
        known = list(names)
        try:
            parsed = list(_FORMATTER.parse(text))
        except ValueError as error:
            raise ConfigError(f"{what} {text!r} is not a template: {error}.") from None
        for literal, name, spec, conversion in parsed:
            self._parts.append((literal, name))
            if name is None:
                continue
            root = re.split(r"[.\[]", name, maxsplit=1)[0]
            if root not in known:
                raise ConfigError(
                    f"{what} {text!r} names {root or 'an unnamed field'!r}, which is no argument of the function; "
                    f"it can name {', '.join(known) or 'none'}."
                )
            if spec or conversion:
                raise ConfigError(f"{what} {text!r} must have plain fields, as in {{{name}}}, without '!' or ':'.")

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
                    raise InvalidKeyError(
                        f"the field {{{name}}} of {self.text!r} cannot be filled: {error!r}"
                    ) from error
        return "".join(out)

    def fields(self) -> list[str]:
        """The names in its fields, in order."""
        return [name for _, name in self._parts if name is not None]

    def fill_with(self, text: str) -> str:
        """The text with the same in every field, to see its form."""
        return "".join(literal + ("" if name is None else text) for literal, name in self._parts)


def tag_text(value: object) -> str:
    """A field's value in a tag: as text, escaped, and without its type."""
    if isinstance(value, str):
        return _keys.escape(value)
    return _keys.parameter(value)
