"""Globs as Redis reads them: `*`, `?`, `[a-z]`, `[^a]`, and `\\` for the literal.

A glob may come from outside: pushed by another program that writes to Redis, or with an argument in one of its fields.
So matching is linear in the key, whatever the glob. Pure; never raises, because to Redis every text is a glob.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, takewhile
from os.path import commonprefix

MOST_GLOBS = 64
"""Globs that are matched one by one; more at once are replaced by one that covers them, or by everything."""
LONGEST_PART = 16
"""Characters between two `*` that are searched for at every place of a key."""
MOST_WIDE = 16
"""Places of one glob at which Redis may try several lengths."""
SHORTEST_HASHED = 60
"""Characters of the shortest parameter that stands in a key as its SHA-256, or one less."""
_SHA256 = "[0-9a-f]{64}"
_SEPARATORS = frozenset({":", r"\|"})
"""Of parameters, and of a name from its value; escaped in both."""


def covering(globs: Sequence[str]) -> str:
    """A glob by which Redis, which compares bytes, finds everything that one of these matches: one without a `*` in
    bytes, else their common beginning, and anything after it.
    """
    split = [_parts(glob) for glob in globs]
    if len(split) == 1 and not _may_be_hashed(split[0]):
        wide = [(any_bytes, list(run)) for any_bytes, run in groupby(split[0][0], _is_of_any_bytes)]
        if sum(any_bytes for any_bytes, _ in wide) <= MOST_WIDE:
            return "".join("?" * len(run) + "*" if any_bytes else "".join(run) for any_bytes, run in wide)
    return "".join(commonprefix([_beginning(parts) for parts in split])) + "*"  # noqa: RUF071  # of lists


def matcher(namespace_prefix: str, *globs: str) -> Callable[[str], object]:
    """A function that tells whether a full key (`namespace_prefix` and what follows) matches one of `globs`.

    More may match: where more than `LONGEST_PART` characters with a `?` or a class are between two `*`, such a wildcard
    is treated as a `*`; and a SHA-256 in a key stands for any text that may have become one.
    """
    split = [_parts(glob) for glob in globs]
    prefix, hashed = re.escape(namespace_prefix), [regex for parts in split for regex in _hashed(parts)]
    if all(len(part) <= LONGEST_PART for parts in split for part in parts[1:-1]):
        return re.compile(f"{prefix}(?:{'|'.join([*map(_as_regex, split), *hashed])})", re.DOTALL).fullmatch
    tests: list[Callable[[str], object]] = [_test(namespace_prefix, parts) for parts in split]
    if hashed:
        tests.append(re.compile(f"{prefix}(?:{'|'.join(hashed)})", re.DOTALL).fullmatch)
    return lambda key: any(test(key) for test in tests)


def colons(glob: str, most: int) -> Iterator[int]:
    """Where what a glob matches may have a colon after up to `most` characters, but for what a `*` takes in, and what
    follows that.
    """
    i, before, least = 0, "", 0
    while i < len(glob) and least <= most:
        start, char = i, glob[i]
        i += 1
        may_be_colon = char in ":?"
        if char == "\\" and i < len(glob):
            may_be_colon = glob[i] == ":"
            i += 1
        elif char == "[":
            found, i = _character_class(glob, i)
            may_be_colon = re.match(found, ":") is not None
        if may_be_colon and before != "*":
            yield start
        least += char != "*"
        before = char


def _may_be_hashed(parts: list[list[str]]) -> bool:
    """Whether what this matches may be so long that a part of it became a SHA-256."""
    return len(parts) > 1 or len(parts[0]) >= SHORTEST_HASHED


def _literal(parts: list[list[str]]) -> list[str]:
    """The characters before the first wildcard."""
    return list(takewhile(lambda char: not _is_wild(char), parts[0]))


def _beginning(parts: list[list[str]]) -> list[str]:
    """How everything begins that this matches, and the keys in which that became a SHA-256."""
    literal = _literal(parts)
    if not _may_be_hashed(parts):
        return literal
    colons = [i for i, char in enumerate(literal) if char == ":"]
    if len(colons) > 1:
        literal = literal[: colons[1] + 1]
    return literal


def _hashed(parts: list[list[str]]) -> list[str]:
    """Regular expressions of the keys in which something that this matches may stand as its SHA-256: all parameters
    together; or one of them, wherever it is, unless this has every parameter as a literal or as a `*`.
    """
    if not _may_be_hashed(parts):
        return []
    literal, beginning = _literal(parts), _beginning(parts)
    missing = 2 - beginning.count(":")
    found = ["".join(beginning) + "[^:]*:" * missing + _SHA256]
    chars = [char for part in parts for char in (*part, "*")][:-1]
    at = 0
    for is_separator, run in groupby(chars, _SEPARATORS.__contains__):
        text = list(run)
        if not is_separator and (missing or at >= len(beginning)) and _may_be_one(text):
            break
        at += len(text)
    else:
        return found
    at = min(at, max((i + 1 for i, char in enumerate(literal) if char in _SEPARATORS), default=0))
    start, rest = "".join(literal[:at]), "".join(takewhile(lambda char: char not in _SEPARATORS, literal[at:]))
    # Prefix and operation are never hashed.
    before = "".join(literal) + ".*[:|]" if missing else f"{start}(?:{rest}.*[:|])?"
    return [*found, f"{before}{_SHA256}(?:[:|].*)?"]


def _may_be_one(text: list[str]) -> bool:
    """Whether what stands between two separators may match a parameter, or the end of one, that is hashed."""
    if "*" in text:
        return set(text) != {"*"}  # which matches the SHA-256 too
    return len(text) >= SHORTEST_HASHED and not re.fullmatch(_SHA256, "".join(text))


def _is_of_any_bytes(char: str) -> bool:
    """Whether this may match a character of several bytes, or is no class that Redis would read alike."""
    return _is_wild(char) and (char == "." or char[1] == "^" or "\\" in char or not char.isascii())


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
