"""The static types: `typing/api.py` holds for mypy --strict and for pyright, with nothing ignored in vain."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
API = ROOT / "tests" / "decorators" / "typing" / "api.py"
PYRIGHT_CONFIG = API.with_name("pyrightconfig.json")
WRONG = "# type: ignore[arg-type]  # pyright: ignore[reportArgumentType]"


def mypy(file: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    # Silent: what is wrong within the package is `make check`'s to find.
    options = ["--strict", "--warn-unused-ignores", "--follow-imports=silent", "--cache-dir", str(cache)]
    command = [sys.executable, "-m", "mypy", *options, str(file)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def pyright(project: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyright", "-p", str(project), "--pythonpath", sys.executable]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mypy's cache, so that its second run is quick."""
    pytest.importorskip("mypy")
    return tmp_path_factory.mktemp("mypy")


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """The same file with one wrong line that is not marked, and one right line that is."""
    text = API.read_text(encoding="utf-8") + f"\nget_by_id('1')\nget_by_id(ID)  {WRONG}\n"
    shutil.copy(PYRIGHT_CONFIG, tmp_path)
    config = (tmp_path / PYRIGHT_CONFIG.name).read_text(encoding="utf-8")
    (tmp_path / PYRIGHT_CONFIG.name).write_text(config.replace("../..", str(ROOT)), encoding="utf-8")
    file = tmp_path / API.name
    file.write_text(text, encoding="utf-8")
    return file


def test_mypy_agrees(cache: Path) -> None:
    """mypy --strict finds every right use right, and every wrong one wrong."""
    done = mypy(API, cache)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pyright_agrees() -> None:
    """pyright finds every right use right, and every wrong one wrong."""
    pytest.importorskip("pyright")
    done = pyright(API.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_would_notice(cache: Path, spoilt: Path) -> None:
    """An unmarked mistake and a mark without a mistake each fail mypy's run."""
    done = mypy(spoilt, cache)
    assert done.returncode == 1
    assert 'incompatible type "str"; expected "UUID"' in done.stdout
    assert 'Unused "type: ignore" comment' in done.stdout


def test_pyright_would_notice(spoilt: Path) -> None:
    """An unmarked mistake and a mark without a mistake each fail pyright's run."""
    pytest.importorskip("pyright")
    done = pyright(spoilt.parent)
    assert done.returncode == 1
    assert "reportArgumentType" in done.stdout
    assert "reportUnnecessaryTypeIgnoreComment" in done.stdout
