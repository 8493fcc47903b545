"""What has been decorated, by prefix:operation: two functions of one key are refused, one defined again replaces.

A notebook's cell that runs again, `importlib.reload`, and a script that is also imported under its own name define the
same function anew: the module (or the file) and the qualified name are the same. The new one then takes the old one's
place, with a local table of its own, because its parameters may be other ones; a function made by a factory is the same
code each time, and keeps its table.

Threads: single steps of a dictionary; two threads that decorate the same name at once may each take it for new.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Iterable
from types import CodeType
from typing import Any, NamedTuple

from aikcache._concurrency.reporter import log
from aikcache._concurrency.shared import items
from aikcache._keys.globs import colons, matcher
from aikcache._keys.patterns import is_wild
from aikcache.errors import ConfigError

MOST_REPORTED = 100
"""Prefixes that are reported at most: what makes patterns from data could invent them for ever."""


class Definition(NamedTuple):
    """A decorated function, and where it is written."""

    module: str
    qualname: str
    code: CodeType

    @property
    def place(self) -> str:
        return f"{self.code.co_filename}:{self.code.co_firstlineno}"

    def again(self, other: Definition) -> bool:
        """Whether the other is the same function, defined once more."""
        same_file = self.code.co_filename == other.code.co_filename
        return self.qualname == other.qualname and (self.module == other.module or same_file)


class Registry:
    """The functions decorated for one cache."""

    __slots__ = ("_definitions", "_reported", "_tagged", "_versioned", "prefixes")

    def __init__(self) -> None:
        self._definitions: dict[str, Definition] = {}
        self._reported: set[str] = set()
        self._versioned: dict[str, tuple[str, ...]] = {}  # prefix:operation: the names it has in keys
        self._tagged: dict[str, tuple[str, ...]] = {}  # prefix:operation: how its tags begin
        self.prefixes: set[str] = set()

    def declare(self, name: str, fn: Callable[..., Any], where: str) -> bool:
        """Note a function. True: it takes an earlier one's place. Raises `ConfigError` if another has its name."""
        self.prefixes.add(name.split(":", 1)[0])
        code = inspect.unwrap(fn).__code__
        mine = Definition(fn.__module__, fn.__qualname__, code)
        other = self._definitions.get(name)
        if other is not None and not mine.again(other):
            raise ConfigError(
                f"{where} ({mine.place}): {name} is already the key of {other.qualname} ({other.place}), so each would "
                f"answer for the other. Pass operation= with another name."
            )
        self._definitions[name] = mine
        return other is not None and other.code is not code

    def note_version(self, name: str, version: int | str | None) -> None:
        """Note what an operation with a version is called in keys."""
        if version is not None:
            plain = name.removesuffix(f".{version}")
            self._versioned[plain] = tuple(dict.fromkeys((*self._versioned.get(plain, ()), name)))

    def note_tags(self, name: str, begin: Iterable[str]) -> None:
        """Note how the tags of an operation begin."""
        self._tagged[name] = tuple(dict.fromkeys((*self._tagged.get(name, ()), *begin)))

    def tagged(self, begin: str) -> list[str]:
        """The operations that may carry a tag which begins so."""
        return [
            name
            for name, known in items(self._tagged)
            if any(tag.startswith(begin) or begin.startswith(tag) for tag in known)
        ]

    def meant(self, pattern: str) -> list[str]:
        """What a pattern names: itself, and what it would be with the versions of its operation."""
        if not self._versioned:
            return [pattern]
        found = dict.fromkeys((pattern, *self._versioned.get(pattern, ())))
        for place in colons(pattern, max(map(len, list(self._versioned)))):
            begin, rest = pattern[:place], pattern[place:]
            if is_wild(begin) or "\\" in begin:
                matches = matcher("", begin)
                names: Iterable[str] = [
                    one for base, versions in items(self._versioned) if matches(base) for one in versions
                ]
            else:
                names = self._versioned.get(begin, ())
            if rest[0] == "\\" or (not is_wild(rest) and ("\\" in rest or "]" in rest)):  # a glob, as the pattern is
                rest = "[:]" + rest.removeprefix("\\")[1:]
            found.update(dict.fromkeys(name + rest for name in names))
        return list(found)

    def check_prefix(self, where: str, pattern: str, others: Collection[str] = ()) -> None:
        """Report, once, a pattern whose prefix is that of no decorated function, nor of an operation among `others`."""
        prefix = pattern.split(":", 1)[0]
        if prefix in self.prefixes or prefix in self._reported or not prefix or not prefix.isascii():
            return
        if any(char in prefix for char in "*?[{\\") or len(self._reported) >= MOST_REPORTED:
            return
        if any(name.split(":", 1)[0] == prefix for name in list(others)):  # used by its keys: `Cache.set`
            self.prefixes.add(prefix)
            return
        self._reported.add(prefix)
        import difflib  # here, because only this message needs it

        near = difflib.get_close_matches(prefix, self.prefixes, 1)
        hint = (
            f"did you mean {near[0]!r}?" if near else "check its spelling, unless another process's functions have it."
        )
        log.log(
            logging.WARNING,
            "%s the pattern %r: no function decorated in this process has the prefix %r; %s",
            where, pattern, prefix, hint,
        )  # fmt: skip
