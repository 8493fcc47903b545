"""Every Python block of the documentation runs, and prints what stands below it as `#> …`."""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from prometheus_client import REGISTRY

import aikcache
from aikcache import tracing
from aikcache._decorators.registry import Registry
from aikcache._default import default
from aikcache.prometheus import CacheCollector
from aikcache.sessions import KeyRing, SessionStore

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if BLOCK.search(page.read_text(encoding="utf-8"))]
URLS = ("redis://localhost:6379/0", "redis://127.0.0.1:6379/0", "rediss://sessions:6379/0",
        "redis+sentinel://cache:…@s1,s2,s3/shop")  # fmt: skip
"""What pages write where the test has a server of its own."""

pytestmark = pytest.mark.servers


@pytest.fixture
def page_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A module that the blocks of a page are run in, as if they had been typed into one file.

    The default cache knows nothing of what other pages have decorated, which may have the same names.
    """
    monkeypatch.setattr(default, "_registry", Registry())
    monkeypatch.setattr(default, "_regions", {})
    module = types.ModuleType("page_of_the_docs")
    sys.modules[module.__name__] = module
    try:
        yield module
    finally:
        for value in list(vars(module).values()):
            close(value)
        aikcache.configure()
        tracing.uninstrument()
        del sys.modules[module.__name__]


def close(value: object) -> None:
    """Give back what a page has made: caches, sessions, rings, collectors."""
    if isinstance(value, Flask):
        for extension in value.extensions.values():
            close(extension)
    elif isinstance(value, SessionStore):
        value.close()
        value.ring.close()
    elif isinstance(value, (aikcache.Cache, KeyRing)):
        value.close()
    elif isinstance(value, CacheCollector):
        with contextlib.suppress(KeyError):  # it was never registered
            REGISTRY.unregister(value)


def run(block: str, module: types.ModuleType, url: str) -> list[str]:
    """What a block prints; the URLs in it are replaced by that of the test's server."""
    for written in URLS:
        block = block.replace(written, url)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, module.__name__, "exec"), vars(module))
    return printed.getvalue().splitlines()


def blocks(text: str) -> list[str]:
    return [re.sub(rf"^{found[1]}", "", found[2], flags=re.MULTILINE) for found in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).with_suffix("").as_posix())
def test_the_code_of_a_page_runs_and_prints_what_it_says(
    page: Path, page_module: types.ModuleType, redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In order, in one module, against a real server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {**os.environ, "AIKCACHE_MASTER_KEY": secrets.token_urlsafe(32)})
    for block in blocks(page.read_text(encoding="utf-8")):
        expected = re.findall(r"^ *#> ?(.*)$", block, re.MULTILINE)
        printed = run(block, page_module, redis_url)
        assert expected in ([], printed)


def test_a_wrong_output_is_noticed(page_module: types.ModuleType) -> None:
    """The comparison above can fail."""
    assert run("print(1 + 1)\n#> 3", page_module, "") == ["2"]
    assert blocks("  ```python\n  if 1:\n      x = 2\n  ```\n") == ["if 1:\n    x = 2\n"]
