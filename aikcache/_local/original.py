"""A mutable value of built-in types, of which each caller gets a copy: a third of what decoding it again takes.

`_entry.c` has the same in C. Both keep a copy of their own, in which nothing ever changes. Its dicts, lists and tuples
are copied, in exactly those types; all else must be of `ATOMS`, immutable, and is shared by the copies. However deep a
value is, a copy of it needs no deeper stack.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

from aikcache._codec.equality import ATOMS
from aikcache._compiled import fast

LEAVES = (str, int, float, bool, type(None), *(ATOMS - {str, int, float, bool, type(None)}))
"""The most frequent first."""
_CONTAINERS = (dict, list, tuple)


class Branch(NamedTuple):
    """A container with others in it."""

    inside: int  # the branch that it is in; -1: none
    key: Any  # where in that
    parts: Any  # what is in it, a list in place of a tuple
    flat: list[tuple[Any, Any]]  # those of its containers that have none in them, under their keys


class _Original:
    """A value as the steps that copy it: one for each branch, each before those that are in it."""

    __slots__ = ("_branches", "_tuples")

    def __init__(self, value: Any, leaves: tuple[type, ...], quick: object) -> None:
        if type(value) not in _CONTAINERS:
            raise TypeError(f"{type(value).__name__} is not copied")
        kinds = frozenset(leaves)
        self._branches: list[Branch] = []
        self._tuples: list[int] = []
        self._add(-1, None, value)
        for at, branch in enumerate(self._branches):  # which become more meanwhile
            for key, item in _items(branch.parts):
                if type(item) in kinds and type(key) in kinds:
                    continue
                if type(item) not in _CONTAINERS or type(key) not in kinds:
                    raise TypeError(f"{type(item).__name__} under {type(key).__name__} is not copied")
                if type(item) is tuple and _fixed(item, kinds):
                    continue
                branch.parts[key] = None  # not the caller's own
                if type(item) is not tuple and kinds.issuperset(map(type, chain.from_iterable(_items(item)))):
                    branch.flat.append((key, item.copy()))
                else:
                    self._add(at, key, item)

    def _add(self, inside: int, key: Any, container: Any) -> None:
        if type(container) is tuple:
            self._tuples.append(len(self._branches))
        self._branches.append(
            Branch(inside, key, list(container) if type(container) is tuple else container.copy(), [])
        )

    def copy(self) -> Any:
        """A copy that nobody else has."""
        made: list[Any] = []
        for inside, key, parts, flat in self._branches:
            container = parts.copy()
            for name, part in flat:
                container[name] = part.copy()
            made.append(container)
            if inside >= 0:
                made[inside][key] = container
        for at in reversed(self._tuples):  # the innermost first
            made[at] = tuple(made[at])
            inside, key, _, _ = self._branches[at]
            if inside >= 0:
                made[inside][key] = made[at]
        return made[0]


def _items(container: Any) -> Iterable[tuple[Any, Any]]:
    return container.items() if type(container) is dict else enumerate(container)


def _fixed(value: tuple[Any, ...], kinds: frozenset[type]) -> bool:
    """Whether nothing in a tuple can change: copies share it."""
    todo: list[Any] = [value]
    for part in todo:
        if type(part) is tuple:
            todo.extend(part)
        elif type(part) not in kinds:
            return False
    return True


Original: Any = _Original if fast is None else fast.Original
