"""Files and functions stay small enough to be read at once. (Parameters and booleans: ruff, in `pyproject.toml`.)"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import aikcache

PACKAGE = Path(aikcache.__file__).parent
FILE, FUNCTION = 350, 40
"""Lines at most; a function's without its docstring."""
HOT = "on the way of every hit: a call more would cost what the steps themselves do"
SETTINGS = "it takes settings or arguments apart, one after the other"
LONG = {
    "_decorators/batch_function.call": HOT,
    "_decorators/cached_function.miss": HOT,
    "_decorators/decorators.cached": SETTINGS,
    "_decorators/signature.__init__": SETTINGS,
    "_decorators/wrapper.make": HOT,
    "_engine/fast_path.many": HOT,
    "_engine/fast_path.one": HOT,
    "_engine/policy.make": SETTINGS,
    "_engine/strong.one": HOT,
    "_engine/strong.many": HOT,
    "_settings/config.__post_init__": SETTINGS,
    "sessions/store.__init__": SETTINGS,
}
"""Functions that are longer, and why."""


@functools.cache
def trees() -> list[tuple[str, str, ast.Module]]:
    paths = sorted(PACKAGE.rglob("*.py"))
    texts = [path.read_text(encoding="utf-8") for path in paths]
    names = [path.relative_to(PACKAGE).with_suffix("").as_posix() for path in paths]
    return [(name, text, ast.parse(text)) for name, text in zip(names, texts, strict=True)]


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def lines(function: ast.FunctionDef) -> int:
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def long_tuple(annotation: ast.expr | None) -> bool:
    """Whether a type has a tuple of more than two in it."""
    return annotation is not None and any(
        isinstance(node, ast.Subscript)
        and ast.unparse(node.value) == "tuple"
        and isinstance(node.slice, ast.Tuple)
        and len(node.slice.elts) > 2
        for node in ast.walk(annotation)
    )


def test_no_file_is_longer_than_the_limit() -> None:
    """A file has at most 350 lines."""
    assert {name: text.count("\n") for name, text, _ in trees() if text.count("\n") > FILE} == {}


def test_no_function_is_longer_than_the_limit() -> None:
    """A function has at most 40 lines beside its docstring; those that are longer are named here, with the reason."""
    long = [f"{name}.{f.name}" for name, _, tree in trees() for f in functions(tree) if lines(f) > FUNCTION]
    assert [name for name in long if name not in LONG] == []


def test_what_has_more_than_two_parts_has_names_for_them() -> None:
    """No function returns a tuple of three, and no field holds one."""
    returned = [f"{name}.{f.name}" for name, _, tree in trees() for f in functions(tree) if long_tuple(f.returns)]
    fields = [
        f"{name}.{ast.unparse(node.target)}"
        for name, _, tree in trees()
        for owner in ast.walk(tree)
        if isinstance(owner, ast.ClassDef)
        for node in ast.walk(owner)
        if isinstance(node, ast.AnnAssign)
        and (node in owner.body or isinstance(node.target, ast.Attribute))
        and long_tuple(node.annotation)
    ]
    assert returned + fields == []
