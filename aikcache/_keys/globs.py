"""Globs as Redis reads them: `*`, `?`, `[a-z]`, `[^a]`, and `\\` for the literal.

A glob may come from outside: pushed by another program that writes to Redis, or with an argument in one of its fields.
So matching is linear in the key, whatever the glob. Pure; never raises, because to Redis every text is a glob.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from os.path import commonprefix

MOST_GLOBS = 64
"""Globs that are matched one by one; more at once are replaced by one that covers them, or by everything."""
LONGEST_PART = 16
"""Characters between two `*` that are searched for at every place of a key."""


def covering(globs: Sequence[str]) -> str:
    """A glob that matches everything that one of these matches: their common beginning, and anything after it."""
    if len(globs) == 1:
        return globs[0]
    return re.split(r"[*?\[\\]", commonprefix(globs), maxsplit=1)[0] + "*"  # noqa: RUF071  # letter by letter


def matcher(namespace_prefix: str, *globs: str) -> Callable[[str], object]:
    """A function that tells whether a full key (`namespace_prefix` and what follows) matches one of `globs`.

    Exact, unless more than `LONGEST_PART` characters with a `?` or a class are between two `*`. There such a wildcard
    is treated as a `*`, so more may match.
    """
    split = [_parts(glob) for glob in globs]
    if all(len(part) <= LONGEST_PART for parts in split for part in parts[1:-1]):
        return re.compile(f"{re.escape(namespace_prefix)}(?:{'|'.join(map(_as_regex, split))})", re.DOTALL).fullmatch
    tests = [_test(namespace_prefix, parts) for parts in split]
    return lambda key: any(test(key) for test in tests)


def _parts(glob: str) -> list[list[str]]:
    """The regular expression of each character, for every part between two `*`."""
    parts: list[list[str]] = [[]]
    i = 0
    while i < len(glob):
        char = glob[i]
        i += 1
        if char == "*":
            parts.append([])
        elif char == "?":
            parts[-1].append(".")
        elif char == "\\" and i < len(glob):
            parts[-1].append(re.escape(glob[i]))
            i += 1
        elif char == "[":
            found, i = _character_class(glob, i)
            parts[-1].append(found)
        else:
            parts[-1].append(re.escape(char))
    return parts


def _as_regex(parts: list[list[str]]) -> str:
    """Every part between two `*` is matched at its first place, and never searched for again: an atomic group.

    Otherwise `*?*?*?x` would be tried in every combination. The last part is searched for at the end alone.
    """
    first, *rest = parts
    if not rest:
        return "".join(first)
    *middle, last = rest
    found_first = "".join(f"(?>.*?{''.join(part)})" for part in middle if part)
    return f"{''.join(first)}{found_first}(?=.{{{len(last)}}})(?>.*)(?<={''.join(last)})"


def _test(namespace_prefix: str, parts: list[list[str]]) -> Callable[[str], bool]:
    """The same with a search for each part. That is linear for a literal, where a group would be tried at every
    place.
    """
    first, *rest = parts
    *middle, last = rest or [[]]
    begins = re.compile(re.escape(namespace_prefix) + "".join(first), re.DOTALL).match
    finds = [re.compile(text, re.DOTALL).search for part in middle for text in _pieces(part)]
    ends = re.compile("".join(last), re.DOTALL).match

    def test(key: str) -> bool:
        found = begins(key)
        for find in finds:
            if found is None:
                return False
            found = find(key, found.end())
        if found is None:
            return False
        rest_at = len(key) - len(last)
        return found.end() <= rest_at and ends(key, rest_at) is not None if rest else found.end() == len(key)

    return test


def _pieces(part: list[str]) -> list[str]:
    """What to search for a part by: the whole, or the literal pieces of a long one."""
    if len(part) <= LONGEST_PART or not any(map(_is_wild, part)):
        return ["".join(part)]
    pieces = [""]
    for char in part:
        if _is_wild(char):
            pieces.append("")
        else:
            pieces[-1] += char
    return [piece for piece in pieces if piece]


def _is_wild(char: str) -> bool:
    return char == "." or (len(char) > 1 and char[0] == "[")


def _character_class(glob: str, i: int) -> tuple[str, int]:
    """The class that begins at `i`, after its bracket, and where it ends; without a closing bracket at the glob's
    end.
    """
    negated = glob[i : i + 1] == "^"
    i += negated
    body = ""
    while i < len(glob) and glob[i] != "]":
        if glob[i] == "\\" and i + 1 < len(glob):
            body += re.escape(glob[i + 1])
            i += 2
        elif glob[i + 1 : i + 2] == "-" and i + 2 < len(glob):
            low, high = sorted((glob[i], glob[i + 2]))
            body += f"{re.escape(low)}-{re.escape(high)}"
            i += 3
        else:
            body += re.escape(glob[i])
            i += 1
    if not body:  # an empty class matches nothing, its negation anything
        return "." if negated else r"[^\s\S]", i + 1
    return f"[{'^' if negated else ''}{body}]", i + 1
