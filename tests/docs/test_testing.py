"""The files of docs/testing.md are a project whose tests pass."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```\{code-block\} python\n:caption: (\S+)\n\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE))


def test_the_projects_of_the_page_pass(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file as it stands there, in a process of their own; warnings are errors."""
    for name in ("AIKCACHE_URL", "DJANGO_SETTINGS_MODULE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{pytester.path}")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:valkey -W error")
    assert TEXT.count("```") == 2 * len(FILES)
    for name, code in FILES.items():
        path = pytester.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(code, encoding="utf-8")
    done = pytester.runpytest_subprocess("-p", "pytest_aikcache")
    done.assert_outcomes(passed=19)
