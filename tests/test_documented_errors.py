"""Whatever is given to a cache's methods as a key, a pattern, a tag or a value, only documented errors come out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache import Cache, ConfigError, EncodeError, InvalidKeyError

EXPECTED = (ConfigError, EncodeError, InvalidKeyError)

texts = (
    st.text(st.characters(exclude_categories=()), max_size=12)
    | st.text("ab:*?[]{}\\!~# \0\ud800-^%'", max_size=12)
    | st.sampled_from(["p:f:x", "p", "p:f:*", "*", "p:{x}", "p:f:{x.y}", "p:f:{x[0]}", "p:f:" + "x" * 3000, "x" * 3000])
)
objects = st.one_of(
    texts,
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**5000, -(10**5000), Decimal("1E999999"), Decimal("NaN"), timedelta.max, object(), Cache, 1j]),
    st.floats(),
    st.binary(max_size=4),
    st.lists(texts, max_size=2),
    st.dictionaries(texts, texts, max_size=2),
    st.tuples(texts),
)
tags = st.lists(objects, max_size=2) | texts
cache = Cache(instance="errors")


@given(objects, objects, tags, objects)
def test_only_documented_errors_come_out(key: Any, value: Any, tags: Any, other: Any) -> None:
    """Keys, patterns, tags, values and TTLs of any type are taken, or are one of three errors, none of them long."""
    calls: list[Callable[[], object]] = [
        lambda: cache.get(key),
        lambda: cache.get_many([key, other]),
        lambda: cache.set(key, value, tags=tags),
        lambda: cache.set("p:f:x", value, ttl=other),
        lambda: cache.set_many({key: value} if isinstance(key, str) else {"p:f:y": value}, tags=tags),
        lambda: cache.get_or_load(key, lambda: value, tags=tags),
        lambda: cache.invalidate(key),
        lambda: cache.invalidate(key, x=value),
        lambda: cache.invalidate("p:f:{x}", "p:{x}*", x=value),
        lambda: cache.invalidate_key(key),
        lambda: cache.invalidate_tags(*tags),
        lambda: cache.key(key, other, value),
        lambda: cache.key("p", "f", value, name=other),
    ]
    for call in calls:
        said = ""
        try:
            call()
        except EXPECTED as error:
            said = str(error)
        assert len(said) < 1000


@pytest.mark.parametrize("text", ["x" * 10**6, "{" + "x" * 10**6 + "}", "p:" + "[" * 10**6, "p q" * 10**6])
def test_no_error_is_as_long_as_what_it_is_about(text: str) -> None:
    """The message of an error about a long text shows its beginning."""
    for call in (cache.get, cache.invalidate, cache.invalidate_tags, cache.invalidate_key):
        with pytest.raises(EXPECTED) as caught:
            call(text)
        assert len(str(caught.value)) < 1000
