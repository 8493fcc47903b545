"""Every example runs, and prints what it says at its end. (The catalog and those with sessions: elsewhere.)"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from aikcache.testing import available_servers

from .conftest import PATIENT

EXAMPLES = Path(__file__).parents[2] / "examples"
TESTED_ELSEWHERE = {"catalog", "flask_sessions", "django_sessions", "sqlalchemy_commit"}
NAMES = ["quickstart", "script", "stale_serving", "batch", "own_type", "own_client", "metrics", "sentinel"]
AS_A_PROGRAM = f"""
import inspect, runpy, sys
from aikcache import CacheConfig
inspect.unwrap(CacheConfig.__init__).__kwdefaults__.update({PATIENT!r})
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

pytestmark = pytest.mark.servers


def expected(name: str) -> list[str]:
    """What an example says that it prints."""
    _, _, end = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").partition("\n# It prints:\n")
    return re.findall(r"^#   (.*)$", end, re.MULTILINE)


@pytest.mark.skipif(not available_servers(), reason="no server is installed")
@pytest.mark.parametrize("name", NAMES)
def test_an_example_prints_what_it_says(name: str) -> None:
    """In a process of its own, where warnings are errors, on the private servers that it starts."""
    command = [sys.executable, "-W", "error", "-c", AS_A_PROGRAM, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected(name) != []


def test_no_example_is_forgotten() -> None:
    """Each program under `examples/` is in one of the lists, and on the page of examples."""
    programs = {path.stem for path in EXAMPLES.glob("[!_]*.py")}
    assert programs == TESTED_ELSEWHERE | set(NAMES)
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\.\./examples/(\w+)\.py$", page, re.MULTILINE)) == programs
