"""ARCHITECTURE.md leads to files, classes and functions that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import aikcache

PACKAGE = Path(aikcache.__file__).parent
ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
NAMES = re.findall(r"`([\w/]+\.py): ([\w.]+)`", TEXT)
MODULES = sorted(set(re.findall(r"`(_\w+/[\w/]+)(?:\.py)?`", TEXT)))
TESTS = sorted(set(re.findall(r"`((?:[\w/]+/)?test_\w+\.py)`", TEXT)))


@pytest.mark.parametrize(("file", "name"), NAMES)
def test_where_is_what_names_what_is_there(file: str, name: str) -> None:
    """Each answer of the table is a file of the package, and a class, function, method or constant in it."""
    body = ast.parse((PACKAGE / file).read_text()).body
    for part in name.split("."):
        found = [one for one in body if part in _names(one)]
        assert found, part
        body = getattr(found[0], "body", [])


@pytest.mark.parametrize("module", MODULES)
def test_modules_that_are_named_exist(module: str) -> None:
    """A room's file, or a folder in a room."""
    assert (PACKAGE / f"{module}.py").exists() or (PACKAGE / module).is_dir()


@pytest.mark.parametrize("test", TESTS)
def test_tests_that_are_named_exist(test: str) -> None:
    """Below `tests`, or in the folder that the text is about."""
    assert list((ROOT / "tests").rglob(test))


def _names(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return {target.id for target in targets if isinstance(target, ast.Name)}
    return {str(getattr(statement, "name", ""))}
