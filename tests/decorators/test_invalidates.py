"""`@invalidates` in one process: what it invalidates, when, and that it never makes the function fail."""

from __future__ import annotations

import contextvars
import functools
import inspect
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import pytest

from aikcache import Cache, ConfigError


@dataclass
class Resource:
    id: Any
    owner: str = "me"


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache() as made:
        yield made


@pytest.fixture
def get(cache: Cache) -> Any:
    """A cached function of an id, with a tag; `held(get)` says for which ids it holds a value."""

    @cache.cached("resource", tags=("resource:{id}",))
    def get(id: Any) -> str:
        return f"value {id}"

    return get


@pytest.fixture
def search(cache: Cache) -> Any:
    @cache.cached("search")
    def search(query: str, page: int = 1) -> str:
        return query

    return search


IDS = (1, 2, "1", "*", "a:b")


def fill(get: Any, search: Any) -> None:
    for id in IDS:
        get(id)
    for query in ("x", "*"):
        search(query)


def held(get: Any) -> list[Any]:
    return [id for id in IDS if get.peek(id) is not None]


@pytest.mark.parametrize(
    ("patterns", "tags", "left", "searches"),
    [
        (("resource:get:{resource.id}",), (), [2, "1", "*", "a:b"], 2),
        ((), ("resource:{resource.id}",), [2, "*", "a:b"], 2),
        (("search:*",), (), list(IDS), 0),
        (("resource:get", "search"), (), [], 0),
        (("resource:*:{resource.id}",), (), [2, "1", "*", "a:b"], 2),
        (("*",), (), [], 0),
        (("resource:get:{result.id}",), (), [1, "1", "*", "a:b"], 2),
        (("search:search:{result.owner}:*",), ("resource:{result.id}",), [1, "1", "*", "a:b"], 1),
    ],
)
def test_invalidates_what_its_templates_name(
    cache: Cache, get: Any, search: Any, patterns: Any, tags: Any, left: list[Any], searches: int
) -> None:
    """Patterns and tags are filled from arguments and result, and invalidate exactly what they name."""

    @cache.invalidates(*patterns, tags=tags)
    def update(resource: Resource) -> Resource:
        return Resource(2, "x")

    fill(get, search)
    assert update(Resource(1)) == Resource(2, "x")
    assert held(get) == left
    assert sum(search.peek(query) is not None for query in ("x", "*")) == searches


@pytest.mark.parametrize("id", IDS)
def test_a_field_invalidates_exactly_its_own_keys(cache: Cache, get: Any, search: Any, id: Any) -> None:
    """Whatever an argument holds, also wildcards and separators, only that argument's entry is invalidated."""

    @cache.invalidates("resource:get:{id}")
    def update(id: Any) -> None: ...

    fill(get, search)
    update(id)
    assert held(get) == [other for other in IDS if other is not id]


def test_after_is_after_the_function_and_only_on_success(cache: Cache, get: Any, search: Any) -> None:
    """By default it invalidates when the function has returned; if that raises, nothing is invalidated."""

    @cache.invalidates("resource")
    def update(fail: bool) -> list[Any]:
        if fail:
            raise LookupError("no")
        return held(get)

    fill(get, search)
    with pytest.raises(LookupError, match="no"):
        update(True)
    assert held(get) == list(IDS)
    assert update(False) == list(IDS)
    assert held(get) == []


def test_before_is_before_the_function(cache: Cache, get: Any, search: Any) -> None:
    """With `when="before"` it invalidates first, also if the function then raises."""

    @cache.invalidates("resource", when="before")
    def update(fail: bool) -> list[Any]:
        if fail:
            raise LookupError("no")
        return held(get)

    fill(get, search)
    assert update(False) == []
    fill(get, search)
    with pytest.raises(LookupError):
        update(True)
    assert held(get) == []


def test_both_invalidates_what_was_cached_meanwhile(cache: Cache, get: Any, search: Any) -> None:
    """With `when="both"` what the function itself caused to be cached is invalidated too."""

    @cache.invalidates("resource", when="both")
    def update() -> list[Any]:
        before = held(get)
        fill(get, search)
        return before

    fill(get, search)
    assert update() == []
    assert held(get) == []


def test_has_the_name_docstring_and_signature_of_the_function(cache: Cache) -> None:
    """Signature, name, docstring and `__wrapped__` are the function's; arguments and result pass through untouched."""

    def update(a: int, /, *rest: int, b: str = "x", **more: int) -> tuple[Any, ...]:
        """Changes it."""
        return a, rest, b, more

    wrapped = cache.invalidates("p:f:{a}:{rest[0]}", tags=("t:{b}:{more[z]}",))(update)
    assert (wrapped.__name__, wrapped.__doc__) == ("update", "Changes it.")
    assert inspect.signature(wrapped) == inspect.signature(update)
    assert wrapped(1, 2, 3, z=4) == (1, (2, 3), "x", {"z": 4})
    with pytest.raises(TypeError):
        wrapped()  # type: ignore[call-arg]


def test_methods_and_defaults_can_be_named(cache: Cache, get: Any, search: Any) -> None:
    """`{self...}` and parameters left to their default are fields like any other."""

    class Store:
        id = 2

        @cache.invalidates("resource:get:{self.id}", "resource:get:{other}")
        def update(self, other: int = 1) -> None: ...

    fill(get, search)
    Store().update()
    assert held(get) == ["1", "*", "a:b"]


class Awkward:
    """Its property and its key fail."""

    @property
    def id(self) -> int:
        raise RuntimeError("no id")

    def __cache_key__(self) -> str:
        raise RuntimeError("no key")


@pytest.mark.parametrize(
    ("patterns", "tags", "left", "searches"),
    [
        (("resource:get:{x.id}",), (), [], 2),
        (("resource:get:{x}",), (), [], 2),
        (("search:search:{x.nothing}",), (), list(IDS), 0),
        (("resource:{x.id}:1",), (), [], 2),
        (("resource:ge?:{x.id}",), (), [], 2),
        (("resource:[g]et:{x.id}",), (), [], 2),
        (("resource:g*:{x.id}",), (), [], 2),
        (("resource:get]:{x.id}",), (), [], 2),
        ((), ("resource:{x.id}",), [], 2),
        ((), ("resource:{x}",), [], 2),
    ],
)
def test_a_field_that_cannot_be_filled_invalidates_more_and_never_less(
    cache: Cache,
    get: Any,
    search: Any,
    caplog: pytest.LogCaptureFixture,
    patterns: Any,
    tags: Any,
    left: list[Any],
    searches: int,
) -> None:
    """Then all that the template could have named is invalidated, with one warning, and the result is returned."""

    @cache.invalidates(*patterns, tags=tags)
    def update(x: object) -> str:
        return "done"

    fill(get, search)
    assert update(Awkward()) == "done"
    assert held(get) == left
    assert sum(search.peek(query) is not None for query in ("x", "*")) == searches
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert caplog.text.count("could not name what to invalidate") == 1


@pytest.mark.parametrize("tag", ["x" * 600, "€" * 60, "x:" * 300, "\ud800" * 100], ids=ascii)
def test_a_long_argument_invalidates_what_it_names(cache: Cache, get: Any, search: Any, tag: str) -> None:
    """A tag that is too long becomes a digest, on caching and on invalidating, and covers nothing else."""

    @cache.cached("page", tags=("page:{name}",))
    def page(name: str) -> str:
        return name

    @cache.invalidates(tags=("page:{name}",))
    def update(name: str) -> str:
        return "done"

    fill(get, search)
    for name in (tag, tag + "y", "short"):
        page(name)
    assert update(tag) == "done"
    assert [page.peek(name) for name in (tag, tag + "y", "short")] == [None, tag + "y", "short"]
    assert held(get) == list(IDS)


def test_many_long_arguments_name_their_key(cache: Cache) -> None:
    """All parameters of a pattern are a digest where they are one in the key."""
    names = list("abcdefghij")
    values: dict[str, Any] = {name: name * 63 for name in names}

    @cache.cached("page")
    def page(a: str, b: str, c: str, d: str, e: str, f: str, g: str, h: str, i: str, j: str) -> str:
        return a

    page(**values)
    page(**{**values, "j": "other"})
    cache.invalidate("page:page:" + ":".join(f"{{{name}}}" for name in names), **values)
    assert page.peek(**values) is None
    assert page.peek(**{**values, "j": "other"}) is not None


def test_an_argument_that_makes_no_tag_invalidates_all_with_such_tags(
    cache: Cache, get: Any, search: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """All that the field might have named is invalidated, and nothing with other tags or without tags."""

    @cache.cached("page", tags=("page:{name}",))
    def page(name: str) -> str:
        return name

    @cache.invalidates(tags=("page:{name.id}",))
    def update(name: str) -> str:
        return "done"

    fill(get, search)
    page("a")
    assert update("a") == "done"
    assert page.peek("a") is None
    assert held(get) == list(IDS)
    assert "it invalidated what has tags like 'page:{name.id}' (page:page)" in caplog.text


@pytest.mark.parametrize("step", [1, 2, 3])
def test_its_first_calls_may_be_made_at_once(cache: Cache, step: int) -> None:
    """Another thread's call comes between two lines of the first: both check the patterns, and both succeed."""

    @cache.invalidates("a", "b")
    def change() -> int:
        return 1

    code: Any = change.__code__
    lines: list[int] = []

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code is not code:
            return None
        if event == "line":
            lines.append(frame.f_lineno)
            if len(lines) == step:
                other = threading.Thread(target=change)
                other.start()
                other.join()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        assert change() == 1
    finally:
        sys.settrace(before)


def test_works_on_a_closed_cache(cache: Cache) -> None:
    """After `close` the function is called as ever."""

    @cache.invalidates("p", tags=("t",))
    def update() -> str:
        return "done"

    cache.close()
    assert update() == "done"


class TestBadInput:
    @pytest.mark.parametrize(
        ("patterns", "options", "message"),
        [
            (
                ("p:f:{nothing}",),
                {},
                "a pattern 'p:f:\\{nothing\\}' names 'nothing', which is no argument .* x, result",
            ),
            (("p:f:{}",), {}, "names 'an unnamed field'"),
            (("p:f:{x!s}",), {}, "must have plain fields"),
            (("p:f:{x",), {}, "is not a template"),
            (("p f",), {}, "a pattern must be prefix\\[:operation\\[:parameters\\]\\] without spaces"),
            ((":f",), {}, "a pattern's prefix must be letters"),
            (("",), {}, "a pattern must be prefix"),
            ((1,), {}, "a pattern must be a str, got int"),
            ((), {}, "it names nothing to invalidate. Give a pattern, as in @invalidates\\('search'\\)"),
            (("p:f:{result.id}",), {"when": "before"}, "names 'result', which is no argument"),
            (("p:f:{result.id}",), {"when": "both"}, "names 'result', which is no argument"),
            (("p",), {"when": "later"}, "when must be one of after, before, both, got 'later'"),
            ((), {"tags": "t:{x}"}, "a tags tuple is needed, as in tags=\\('t:\\{x\\}',\\), got a str"),
            ((), {"tags": ("t:{y}",)}, "a tag 't:\\{y\\}' names 'y'"),
            (("~a:b:c",), {}, "pattern"),
            (("p:f:{x.__class__}",), {}, "what begins with '_' is nobody else's to read"),
            ((), {"tags": ("t:{x[_secret]}",)}, "what begins with '_' is nobody else's to read"),
        ],
        ids=str,
    )
    def test_templates(self, cache: Cache, patterns: Any, options: dict[str, Any], message: str) -> None:
        """Each mistake in a decoration is a `ConfigError` while decorating."""

        def update(x: int) -> int:
            return x

        with pytest.raises(ConfigError, match=message):
            cache.invalidates(*patterns, **options)(update)

    def test_only_plain_functions_can_be_decorated(self, cache: Cache) -> None:
        """Coroutines, generators, classes and method objects are each a `TypeError` with a way out."""

        async def coroutine() -> None: ...

        def generator(cls: Any = None) -> Any:
            yield 1

        things: list[tuple[Any, str]] = [
            (coroutine, "@invalidates is synchronous, and .*coroutine is `async def`"),
            (generator, "@invalidates cannot .*generator"),
            (Resource, "@invalidates decorates functions, and Resource is a class"),
            (classmethod(generator), "@invalidates goes below @classmethod"),
            (len, "@invalidates decorates plain functions"),
        ]
        for thing, message in things:
            with pytest.raises(TypeError, match=message):
                cache.invalidates("p")(thing)


class TestDeferred:
    def test_waits_for_the_block_to_succeed(self, cache: Cache, get: Any, search: Any) -> None:
        """Inside `deferred()` nothing is invalidated, but the block itself no longer sees it; at its end all is."""

        @cache.invalidates("resource:get:{id}")
        def update(id: Any) -> None: ...

        fill(get, search)
        with cache.deferred():
            update(1)
            cache.invalidate("search")
            cache.invalidate_tags("resource:2")
            assert held(get) == ["1", "*", "a:b"]
            assert search.peek("x") is None
            assert contextvars.Context().run(held, get) == list(IDS)
            assert contextvars.Context().run(search.peek, "x") == "x"
        assert contextvars.Context().run(held, get) == ["1", "*", "a:b"]
        assert search.peek("x") is None

    def test_invalidates_also_when_the_block_raises(self, cache: Cache, get: Any, search: Any) -> None:
        """A block that raises may have cached what it has rolled back, so its invalidations are made."""
        fill(get, search)

        def roll_back() -> None:
            with cache.deferred():
                cache.invalidate("resource")
                raise LookupError

        with pytest.raises(LookupError):
            roll_back()
        assert held(get) == []
        assert search.peek("x") == "x"


def test_an_unknown_prefix_is_reported_once(cache: Cache, get: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A misspelt prefix is reported at the first call, when all modules have decorated, with the nearest there is."""

    @cache.invalidates("resources", "later", "{id}:x", "*:get:{id}", tags=("resource:{id}",))
    def update(id: Any) -> None: ...

    @cache.cached_many("later")
    def later(ids: list[int]) -> dict[int, int]:
        return {}

    caplog.clear()  # what a glob costs is said when decorating
    cache.set("byhand:x", 1)
    update(1)
    update(1)
    cache.invalidate("byhand", "resources:get", "resource", "*")
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "update: the pattern 'resources': no function decorated in this process has the prefix 'resources'; "
        "did you mean 'resource'?"
    )
    for i in range(300):
        cache.invalidate(f"made{i}")
    assert len(caplog.records) == 100


def test_a_decorator_in_between_that_adds_arguments_costs_no_result(
    cache: Cache, get: Any, search: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Its signature is that of the function below, which its arguments do not fit: all that may be meant is ended."""

    def connected(fn: Any) -> Any:
        @functools.wraps(fn)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return fn("connection", *args, **kwargs)

        return wrapper

    @cache.invalidates("resource:get:{id}", tags=("resource:{id}",))
    @connected
    def update(connection: str, id: int) -> str:
        return f"{connection} {id}"

    fill(get, search)
    assert update(1) == "connection 1"
    assert held(get) == []
    assert "could not name what to invalidate" in caplog.text
