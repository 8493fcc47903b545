"""Patterns and templates: what they come to, that fields are escaped, and what is wrong with a malformed one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aikcache import Cache, ConfigError, InvalidKeyError
from aikcache._keys.patterns import Target, Template, groups_of, resolve, tag_group, tag_text

KEYS = ["p:f:1", "p:f:'1'", "p:f:a", "p:g:1", "p:g:a:b|1", "pp:f:1", "q:f:1", "q:f:", "q", "q:f"]
anything = st.text(st.characters(exclude_categories=()), max_size=12) | st.text("*?[]{}:|%ab1-^\\ ", max_size=8)


def full_cache() -> Cache:
    cache = Cache()
    for key in KEYS:
        cache.set(key, key)
    return cache


def left(cache: Cache) -> list[str]:
    return [key for key in KEYS if cache.get(key) is not None]


class TestResolve:
    @pytest.mark.parametrize(
        ("pattern", "kind", "name"),
        [
            ("*", "group", "*"),
            ("p", "group", "p"),
            ("p:*", "group", "p"),
            ("p:f", "group", "p:f"),
            ("p:f:*", "group", "p:f"),
            ("p:f:1", "key", "p:f:1"),
            ("p:f:", "key", "p:f:"),
            ("p:f:1:a|2", "key", "p:f:1:a|2"),
            ("p*", "glob", "p*"),
            ("*:f", "glob", "*:f"),
            ("p:*:1", "glob", "p:*:1"),
            ("p:f:1:*", "glob", "p:f:1:*"),
            ("p:f?", "glob", "p:f?"),
            ("p:[fg]", "glob", "p:[fg]"),
            ("**", "glob", "**"),
        ],
    )
    def test_is_a_group_a_key_or_a_glob(self, pattern: str, kind: str, name: str) -> None:
        """A trailing `*` part adds nothing to a group, three parts are a key, any other wildcard is a glob."""
        target = resolve(pattern)
        assert (target.kind, target.name) == (kind, name)

    @pytest.mark.parametrize(
        "pattern", ["", " ", "a b", "a\n", "{a}", "a:b:{", "\x7f", "\x00", ":", ":a", "a:", "-a", "é"]
    )
    def test_refuses_what_can_be_none(self, pattern: str) -> None:
        """Spaces, braces, control characters and empty or odd names are a `ConfigError`."""
        with pytest.raises(ConfigError, match="pattern"):
            resolve(pattern)

    @given(anything)
    @example("a:\ud800")
    def test_any_text_is_a_target_or_an_error_of_its_own(self, text: str) -> None:
        """Nothing else comes of a text, and every target is one of the text's own; a lone surrogate is no key's."""
        try:
            target = resolve(text)
        except (ConfigError, InvalidKeyError):
            return
        assert target == Target(target.kind, target.name)
        assert target.name in (text, text.removesuffix(":*"))

    @pytest.mark.parametrize(
        ("key", "groups"),
        [
            ("i:v:q", ("*", "q")),
            ("i:v:q:f", ("*", "q", "q:f")),
            ("i:v:q:f:1:2", ("*", "q", "q:f")),
            ("i:v:q:f.2:1", ("*", "q", "q:f", "q:f.2")),
            ("i:v:q:a.b.1.2:x", ("*", "q", "q:a", "q:a.b", "q:a.b.1", "q:a.b.1.2")),
            ("i:v:q:.b:x.y", ("*", "q", "q:.b")),
            ("i:v:q:" + ".".join("abcdefgh"), ("*", "q", "q:a", "q:a.b", "q:a.b.c", "q:a.b.c.d", "q:a.b.c.d.e.f.g.h")),
        ],
    )
    def test_groups_of_a_key(self, key: str, groups: tuple[str, ...]) -> None:
        """A key is in everything, in its prefix, in its prefix:operation, and in what that may be a version of."""
        assert groups_of(key, "i:v:") == groups


class TestEnds:
    @pytest.mark.parametrize(
        ("pattern", "survivors"),
        [
            ("*", []),
            ("p", ["pp:f:1", "q:f:1", "q:f:", "q", "q:f"]),
            ("p:*", ["pp:f:1", "q:f:1", "q:f:", "q", "q:f"]),
            ("p:f", ["p:g:1", "p:g:a:b|1", "pp:f:1", "q:f:1", "q:f:", "q", "q:f"]),
            ("p:f:*", ["p:g:1", "p:g:a:b|1", "pp:f:1", "q:f:1", "q:f:", "q", "q:f"]),
            ("q:f", ["p:f:1", "p:f:'1'", "p:f:a", "p:g:1", "p:g:a:b|1", "pp:f:1", "q"]),
            ("p:f:1", ["p:f:'1'", "p:f:a", "p:g:1", "p:g:a:b|1", "pp:f:1", "q:f:1", "q:f:", "q", "q:f"]),
            ("p:*:1", ["p:f:'1'", "p:f:a", "p:g:a:b|1", "pp:f:1", "q:f:1", "q:f:", "q", "q:f"]),
            ("p*:f:?", ["p:f:'1'", "p:g:1", "p:g:a:b|1", "q:f:1", "q:f:", "q", "q:f"]),
            ("?:[^f]:*", ["p:f:1", "p:f:'1'", "p:f:a", "pp:f:1", "q:f:1", "q:f:", "q", "q:f"]),
            ("p:[f-g]:1", ["p:f:'1'", "p:f:a", "p:g:a:b|1", "pp:f:1", "q:f:1", "q:f:", "q", "q:f"]),
            ("p:f:\\*", KEYS),
            ("z", KEYS),
        ],
    )
    def test_what_a_pattern_names_and_nothing_else(self, pattern: str, survivors: list[str]) -> None:
        """Groups, keys and globs invalidate exactly what they match; a prefix does not match a longer one."""
        cache = full_cache()
        cache.invalidate(pattern)
        assert left(cache) == survivors

    def test_several_at_once(self) -> None:
        """All patterns of one call are invalidated."""
        cache = full_cache()
        cache.invalidate("p", "q:f:1", "pp*")
        assert left(cache) == ["q:f:", "q", "q:f"]

    @given(anything)
    def test_a_field_names_its_own_key_and_no_other(self, value: str) -> None:
        """Whatever user input fills a pattern's field, only the entry of that value is invalidated."""
        cache = Cache()

        @cache.cached("p")
        def f(q: str) -> str:
            return q

        others = [other for other in ("", "*", "a", "1", "a:b") if other != value]
        for one in (value, *others):
            f(one)
        cache.invalidate("p:f:{q}", q=value)
        assert f.peek(value, default="gone") == "gone"
        assert [f.peek(other, default="gone") for other in others] == others

    @pytest.mark.parametrize("pattern", ["p:f:[z-a]", "*[b-a]", "p:f:[^x9-0]*"])
    def test_a_range_that_goes_downwards_is_refused(self, pattern: str) -> None:
        """It is a `ConfigError` that shows the range; a glob that comes from Redis means what it means to Redis."""
        with pytest.raises(ConfigError, match=r"a range must go upwards, got \[.-.\]"):
            Cache().invalidate(pattern)

    def test_a_pattern_has_a_length(self) -> None:
        """One that is longer than any key, escapes included, is a `ConfigError` with both numbers."""
        with pytest.raises(ConfigError, match="at most 2048 characters, got 2053"):
            Cache().invalidate("p:f:*" + "x" * 2048)

    def test_a_wildcard_beside_a_field_is_one(self) -> None:
        """A `*` of the template matches while that of a field does not."""
        cache = Cache()

        @cache.cached("p")
        def f(q: str, page: int = 1) -> str:
            return q

        for page in (1, 2):
            f("*", page)
            f("x", page)
        cache.invalidate("p:f:{q}:*", q="*")
        assert [f.peek("*", page) for page in (1, 2)] == [None, None]
        assert [f.peek("x", page) for page in (1, 2)] == ["x", "x"]

    def test_a_field_that_was_not_given_is_refused(self) -> None:
        """A pattern's field without an argument of its name is a `ConfigError` that lists those there are."""
        with pytest.raises(ConfigError, match=r"'p:f:\{id\}' names 'id', which is no argument.*it can name user"):
            Cache().invalidate("p:f:{id}", user=1)

    def test_a_pattern_that_is_no_str_is_refused(self) -> None:
        """Anything else than text is a `ConfigError` that says which."""
        with pytest.raises(ConfigError, match="a pattern must be a str, got int"):
            Cache().invalidate(1)  # type: ignore[arg-type]


@dataclass
class Resource:
    id: UUID
    names: list[str]

    @property
    def broken(self) -> int:
        raise RuntimeError("canary")


class TestTemplate:
    def test_fields_reach_into_arguments(self) -> None:
        """A field may name an attribute or an item of an argument."""
        template = Template("p:f:{r.id}:{r.names[0]}:{d[k]}", ["r", "d"], "a pattern")
        values = {"r": Resource(UUID(int=1), ["a:b"]), "d": {"k": 2}}
        assert template.fill(values, str) == "p:f:00000000-0000-0000-0000-000000000001:a:b:2"

    @pytest.mark.parametrize("text", ["{r.broken}", "{r.nothing}", "{r.names[7]}", "{r[0]}"])
    def test_a_field_that_cannot_be_reached_is_an_invalid_key(self, text: str) -> None:
        """Whatever reaching raises comes out as `InvalidKeyError`, which names its type alone, with its cause."""
        template = Template(text, ["r"], "a pattern")
        with pytest.raises(InvalidKeyError, match=f"the field {re.escape(text)} of .* cannot be filled") as caught:
            template.fill({"r": Resource(UUID(int=1), [])}, str)
        assert caught.value.__cause__ is not None
        assert str(caught.value).endswith(f"cannot be filled: {type(caught.value.__cause__).__name__}")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{nothing}", "names 'nothing', which is no argument of the function; it can name r"),
            ("{}", "names 'an unnamed field'"),
            ("{0}", "names '0'"),
            ("{r!r}", "must have plain fields, as in {r}"),
            ("{r:>8}", "must have plain fields, as in {r}"),
            ("{r", "is not a template"),
            ("r}", "is not a template"),
        ],
    )
    def test_a_malformed_template_says_what_is_wrong(self, text: str, message: str) -> None:
        """A field that is no argument, a conversion, a format, and a stray brace are each a `ConfigError`."""
        with pytest.raises(ConfigError, match=re.escape(message)):
            Template(text, ["r"], "a tag")

    def test_no_arguments_at_all(self) -> None:
        """A function without arguments can be named nothing of."""
        with pytest.raises(ConfigError, match="it can name none"):
            Template("{x}", [], "a tag")


class TestTags:
    def test_a_tag_is_text_without_type(self) -> None:
        """`1` and `"1"` give one tag, and separators are escaped."""
        assert tag_text("1") == tag_text(1) == "1"
        assert tag_text("a:b") == "a%3Ab"
        assert tag_text(UUID(int=1)) == str(UUID(int=1))

    @pytest.mark.parametrize("tag", ["", "x" * 513, 1, None])
    def test_malformed_tags_are_refused(self, tag: object) -> None:
        """A tag is a str of 1 to 512 characters, anywhere."""
        with pytest.raises(InvalidKeyError, match="a tag must be a str of 1 to 512 characters"):
            tag_group(tag)  # type: ignore[arg-type]
        with pytest.raises(InvalidKeyError, match="a tag must be a str of 1 to 512 characters"):
            Cache().invalidate_tags(tag)  # type: ignore[arg-type]
