"""Globs in time that is linear in the key, whoever wrote them; `with_redis/test_sweep.py` compares them with Redis."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aikcache._keys import globs
from aikcache._keys.globs import LONGEST_PART, colons, covering, matcher
from aikcache._keys.rendering import joined, label

letters = st.text("ab", max_size=3 * LONGEST_PART)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Of processor time. A regular expression gives way to signal handlers, and to no other thread."""

    def stop(number: int, frame: object) -> NoReturn:
        pytest.fail(f"more than {seconds} seconds of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize(
    "glob",
    [
        "*?" * 20 + "!", "*a" * 20 + "!", "*[ab]" * 20 + "!", "a*" * 500, "*" * 2000 + "!", "*" + "a" * 2000 + "b*",
        "*" + "a?" * 1000 + "b*", "*" + "?" * 2000 + "b*", "*" + "[ab]" * 500 + "c*", "*a" * 1000 + "b",
    ],
    ids=lambda glob: glob[:5],
)  # fmt: skip
def test_no_glob_is_slow(glob: str) -> None:
    """No wildcards are tried in every combination, and no part at every place: the work grows with the key alone."""
    keys = ["a" * length for length in (20, 200, 1000, *[100_000] * 200)]
    matches = matcher("", glob)
    with at_most(20):
        for key in keys:
            matches(key)


@given(st.lists(st.text("ab*?[]^-\\", max_size=6), min_size=1, max_size=4), st.text("ab*[\\", max_size=6))
def test_what_covers_globs_matches_what_they_match(several: list[str], key: str) -> None:
    """Whatever one of several globs matches, all together match, and so does the one that covers them."""
    matched = any(matcher("", glob)(key) for glob in several)
    assert bool(matcher("", *several)(key)) == matched
    assert matcher("", covering(several))(key) or not matched


def as_redis_does(text: str) -> str:
    """Bytes as characters, of which Redis takes each for one."""
    return text.encode().decode("latin-1")


@given(st.lists(st.text("aé€*?[]^-\\", max_size=6), min_size=1, max_size=2), st.text("aé€", max_size=6))
@example(["?"], "é")
@example(["[a-€]"], "é")
@example(["[^a]"], "€")
@example(["[a"], "a")
def test_redis_finds_what_is_matched_though_it_compares_bytes(several: list[str], key: str) -> None:
    """A `?` is one byte to it, and a character may have four."""
    pattern = as_redis_does(covering(several))
    assert exactly(pattern + "}", as_redis_does(key) + "}") or not any(exactly(glob, key) for glob in several)


def exactly(glob: str, key: str) -> bool:
    return re.fullmatch(globs._as_regex(globs._parts(glob)), key, re.DOTALL) is not None


short = st.builds("a".__add__, st.text("ab/", max_size=5))
long = st.builds(lambda start, end: start + "z" * 60 + end, short, short)


@st.composite
def globs_of_calls(draw: st.DrawFn) -> tuple[str, str]:
    """A call's key, and a glob that matches what the key would be if nothing became a hash."""
    bare = draw(st.lists(short | long, max_size=4)) + draw(st.sampled_from([[], ["b" * 60] * 8]))
    named = [(label, draw(short | long)) for label in draw(st.lists(st.just("n"), max_size=2))]
    readable = ":".join([*bare, *(f"{label}|{value}" for label, value in named)])
    glob = f"p:f:{readable}"
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(glob)))
        end = min(at + draw(st.integers(0, 80)), len(glob))
        glob = f"{glob[:at]}*{glob[end:]}"
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(glob) - 1))
        glob = glob[:at] + ("*" if glob[at] == "*" else "?") + glob[at + 1 :]
    assert exactly(glob, f"p:f:{readable}")
    return glob, f"p:f:{joined(bare, named)}"


@given(globs_of_calls())
@example(("p:f:home/*:*", f"p:f:{joined(['home/' + 'a' * 60, 'b'], [])}"))
@example(("p:f:" + "z" * 64 + ":*", f"p:f:{joined(['z' * 64, 'a'], [])}"))
@example(("p:f:a?home/*", f"p:f:{joined(['a', 'home/' + 'a' * 60], [])}"))
@example(("p:f:*a/*:b", f"p:f:{joined(['b', 'a/' + 'a' * 60, 'b'], [])}"))
@example(("p:*a/", f"p:f:{joined(['a' * 64 + '/'], [])}"))
@example(("p:f:" + "?" * 64, f"p:f:{joined(['a' * 64], [])}"))
@example(("p:f:" + "?" * 61, f"p:f:{joined([10**60], [])}"))
@example(("p:f:k*", f"p:f:{joined([], [(label('k' * 64), 'a')])}"))
def test_a_glob_matches_calls_whose_parameters_became_a_hash(call: tuple[str, str]) -> None:
    """Whatever the glob would match if nothing were hashed: one parameter, several, or all together."""
    glob, key = call
    assert matcher("i:v:", glob)("i:v:" + key)
    assert matcher("", covering([glob]))(key)


SHA = "0f" * 32


@pytest.mark.parametrize(
    ("glob", "keys"),
    [
        ("p:f:a:*", [f"p:f:{SHA}:a", f"p:f:{SHA}:*", f"p:g:{SHA}", f"p:f:b:{SHA}"]),
        ("p:f:*:a", [f"p:f:{SHA}:b", f"p:f:a:{SHA}"]),
        ("p:f:a/*", [f"p:f:b:{SHA}", f"p:f2:{SHA}", f"q:f:{SHA}", f"p:f:b{SHA}", f"p:f:{SHA}b"]),
        ("p:f:a:b*", [f"p:f:b:{SHA}", f"p:f:{SHA}:b"]),
        ("p:f:a?c", [f"p:f:{SHA}", f"p:f:a:{SHA}"]),
        (f"p:f:{SHA}:*", [f"p:f:{SHA[::-1]}:a"]),
    ],
)
def test_a_hash_that_no_such_call_has_is_not_matched(glob: str, keys: list[str]) -> None:
    """What is before the first wildcard holds; and a `*` alone matches every parameter as it stands."""
    assert [key for key in keys if matcher("", glob)(key)] == []


@given(letters, st.lists(letters, min_size=1, max_size=3), letters, letters)
@example("", ["a" * (LONGEST_PART + 1)], "", "a" * (LONGEST_PART + 1))
@example("a", ["a" * (LONGEST_PART + 1)], "a", "a" * (LONGEST_PART + 2))
def test_long_literal_parts_are_matched_exactly(first: str, middle: list[str], last: str, key: str) -> None:
    """However long what stands between two `*` is, it matches what a regular expression does."""
    glob = "*".join((first, *middle, last))
    for text in (key, first + "b".join(middle) + last):
        assert bool(matcher("p:", glob)(f"p:{text}")) == bool(re.fullmatch(glob.replace("*", "(?s:.*)"), text))
        assert not matcher("p:", glob)(text)


@given(st.text("ab?*", min_size=LONGEST_PART + 1, max_size=60), st.text("ab", max_size=60))
def test_long_parts_with_wildcards_match_no_less(text: str, key: str) -> None:
    """There a wildcard may be taken for a `*`: too much is invalidated, never too little."""
    glob = f"*{text}*"
    exact: Callable[[str], object] = re.compile(globs._as_regex(globs._parts(glob)), re.DOTALL).fullmatch
    assert matcher("", glob)(key) or not exact(key)


@pytest.mark.parametrize("glob", ["p:f:a*", "p:f:a*b", "a*", "*a:*a" + "?" * 20 + "*"])
def test_no_look_for_a_hash_is_slow(glob: str) -> None:
    """Each beginning of one is tried once."""
    matches = matcher("", glob)
    with at_most(20):
        for key in ("p:f:" + f":{SHA[1:]}" * 2000, "p:f:" + ":" * 100_000, "p:f:" + "a" * 100_000 + "!"):
            for _ in range(20):
                matches(key)


def test_a_colon_is_looked_for_where_a_name_may_end() -> None:
    """Not beyond the longest, whatever the glob; in no class that has none, nor after a `*`, which goes on."""
    assert [*colons("?" * 100_000, 3)] == [0, 1, 2, 3]
    assert [*colons("*" * 100_000 + "a:", 3)] == [100_001]
    assert [*colons(r"a:b[c:]d[e]\:f*:g*h:", 100)] == [1, 3, 11, 19]
