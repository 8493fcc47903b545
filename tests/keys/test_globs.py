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
from aikcache._keys.globs import LONGEST_PART, covering, matcher

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
