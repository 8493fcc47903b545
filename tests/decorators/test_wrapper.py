"""The generated wrapper: any function that Python can define gets one that behaves as the function does."""

from __future__ import annotations

import builtins
import inspect
import traceback
from collections.abc import Callable
from inspect import Parameter, Signature
from keyword import kwlist
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache import Cache, ConfigError

OWN = [f"_aikcache_{name}" for name in (
    "table", "trusted_until",
    "key", "entry", "type", "clock", "miss", "late", "other", "KeyError", "type_0", "default_a",
    "skips", "beside", "call", "bind", "x",
)]  # fmt: skip
NAMES = ["type", "clock", "entry", "key", "args", "self_", "f", "cached", "KeyError", "match", "_", "__x", "é"]


def define(header: str, name: str = "f") -> Callable[..., Any]:
    found: dict[str, Any] = {}
    exec(f"def {name}({header}): return locals()", found)
    function: Callable[..., Any] = found[name]
    return function


def named(name: str) -> Callable[..., Any]:
    def function(a: int) -> int:
        return a

    function.__name__ = function.__qualname__ = name
    return function


def claiming(*names: str) -> Callable[..., Any]:
    def function(*args: int) -> tuple[int, ...]:
        return args

    parameters = [Parameter("a", Parameter.POSITIONAL_OR_KEYWORD) for _ in names]
    for parameter, name in zip(parameters, names, strict=True):
        parameter._name = name  # type: ignore[attr-defined]  # as what builds a signature by hand may do
    function.__signature__ = Signature.__new__(Signature)  # type: ignore[attr-defined]
    function.__signature__._parameters = {p.name: p for p in parameters}  # type: ignore[attr-defined]
    function.__signature__._return_annotation = Signature.empty  # type: ignore[attr-defined]
    return function


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_may_have_any_name(name: str) -> None:
    """Whatever its parameters are called, with a default or without, a cached function does what it did."""
    fn = define(f"{name}, more=1, *, other_{name}=2")
    cached = Cache().cached("p", operation="f")(fn)
    for _ in range(2):
        assert cached("x") == fn("x")
        assert cached(1, 2, **{f"other_{name}": "y"}) == fn(1, 2, **{f"other_{name}": "y"})
    assert cached.cache_info().hits == 2


@pytest.mark.parametrize("decorator", ["cached", "cached_many"])
@pytest.mark.parametrize("name", OWN)
def test_a_parameter_that_would_stand_for_a_part_of_the_wrapper_is_refused(name: str, decorator: str) -> None:
    """The wrapper's own names are refused when decorating."""
    with pytest.raises(ConfigError, match="does not begin with"):
        getattr(Cache(), decorator)("p", operation="f")(define(f"{name}"))


@pytest.mark.parametrize(
    "names",
    [("a, b=print('x')",), ("class",), ("__debug__",), ("\N{LATIN SMALL LIGATURE FI}",), ("a b",), ("",), ("a\n",)],
)
def test_a_signature_that_no_function_can_have_is_refused(names: tuple[str, ...]) -> None:
    """What a `__signature__` calls a parameter becomes source only where Python would take it as it is."""
    with pytest.raises(ConfigError, match="must have a name"):
        Cache().cached("p", operation="f")(claiming(*names))


def test_a_wrong_signature_raises_the_functions_own_error() -> None:
    """A call is bound as the `__signature__` says, and goes to the function, which raises what it raises."""

    def one(a: int) -> int:
        return a

    one.__signature__ = inspect.signature(lambda a, b: a)  # type: ignore[attr-defined]
    cached: Any = Cache().cached("p")(one)
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        cached(1, 2)
    assert Cache().cached("p", operation="f")(claiming("a", "b"))(1, b=2) == (1, 2)


@pytest.mark.parametrize(
    "name", ["class", "None", "__debug__", "\N{LATIN SMALL LIGATURE FI}", "a b", "", "a\0b", "\ud800", *OWN]
)
def test_a_function_may_have_any_name(name: str) -> None:
    """The wrapper is not called by the function's name in its own source, which may be none or one of its own names."""
    cached = Cache().cached("p", operation="f")(named(name))
    assert [cached(1), cached(1), cached(a=1)] == [1, 1, 1]
    assert cached.cache_info().hits == 2
    assert cached.__name__ == cached.__qualname__ == name
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        cached.key()


def test_a_module_may_have_any_name() -> None:
    """So may its module, which the wrapper's traceback names."""
    for name in ("a\0b", "a\nb", "\ud800", None):
        fn = named("f")
        fn.__module__ = name  # type: ignore[assignment]
        assert Cache().cached("p")(fn)(1) == 1


def test_tracebacks_show_the_functions_name() -> None:
    """The wrapper's frame has the function's name."""

    @Cache().cached("p")
    def get(a: int) -> int:
        raise LookupError

    with pytest.raises(LookupError) as caught:
        get(1)
    frames = [frame for frame in traceback.extract_tb(caught.value.__traceback__) if "wrapper of" in frame.filename]
    assert [frame.name for frame in frames] == ["get"]


identifiers = st.sampled_from([*NAMES, *kwlist, *OWN, *dir(builtins), "ª", "ſ", "x" * 1000]) | st.text(max_size=5)


@given(st.lists(identifiers, max_size=4), st.booleans())
def test_any_parameters_are_accepted_or_refused(names: list[str], defaults: bool) -> None:
    """A function that Python defines is cached and answers, or is refused with `ConfigError`, and never otherwise."""
    header = ", ".join(f"{name}=None" if defaults else name for name in names)
    try:
        fn = define(header)
        arguments = fn(*names)
    except (SyntaxError, ValueError, TypeError):  # no function, or not of these parameters
        return
    try:
        cached = Cache().cached("p", operation="f")(fn)
    except ConfigError:
        assert any(name.startswith("_aikcache_") for name in names) or "self" in names or "cls" in names
        return
    assert cached(*names) == cached(*names) == arguments
