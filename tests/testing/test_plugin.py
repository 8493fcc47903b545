"""The pytest plugin, as a project that has aikcache installed runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from aikcache import testing
from aikcache.testing.sentinel import OPS

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]
SHOP = """
from aikcache import cached

RUNS = []

@cached("price", ttl=60)
def price(product: str) -> int:
    RUNS.append(product)
    return len(RUNS)

@cached("odd", ttl=60)
def odd(x: int) -> object:
    return object()
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project of another folder, with a module of cached functions."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{pytester.path}")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:valkey -p no:pytester -W error")
    pytester.makepyfile(shop=SHOP)
    return pytester


def passes(project: pytest.Pytester, code: str, count: int) -> None:
    """The tests of a file pass, in a process of their own."""
    project.makepyfile(test_shop=code)
    project.runpytest_subprocess("-p", "pytest_aikcache").assert_outcomes(passed=count)


def test_each_test_has_an_empty_default_cache(project: pytest.Pytester) -> None:
    """`cache` is what the module-level decorators use, and in this process alone; afterwards there is none again."""
    code = """
import aikcache
from shop import RUNS, price

def test_one(cache):
    assert aikcache.default_cache() is cache
    assert (price("tea"), price("tea"), len(RUNS)) == (1, 1, 1)

def test_other(cache):
    assert (price("tea"), cache.config.url) == (2, None)

def test_without(monkeypatch):
    monkeypatch.setenv("AIKCACHE_TIMEOUT", "7")
    assert aikcache.default_cache().config.timeout == 7
"""
    passes(project, code, 3)


def test_the_default_cache_of_an_application_is_put_back(project: pytest.Pytester) -> None:
    """With its settings, because a test has closed it."""
    code = """
import aikcache
from shop import price

aikcache.configure(instance="app", default_ttl=7)

def test_one(cache):
    assert cache.config.default_ttl == 300

def test_other():
    config = aikcache.default_cache().config
    assert (config.instance, config.default_ttl) == ("app", 7)
    assert price("tea") == price("tea")
"""
    passes(project, code, 2)


def test_what_an_applications_own_cache_has_decorated_is_cached_all_along(project: pytest.Pytester) -> None:
    """In the cache of a test, which is empty, and after it."""
    code = """
import aikcache
from aikcache.testing import assert_loads

app = aikcache.configure(instance="app")

@app.cached("rate")
def rate(currency: str) -> float:
    return 1.5

def test_before():
    with assert_loads(rate, 1):
        rate("EUR"), rate("EUR")

def test_one(cache):
    with assert_loads(rate, 1):
        rate("EUR"), rate("EUR")
    assert cache.stats().hits == 1

def test_after():
    with assert_loads(rate, 1):
        rate("EUR"), rate("EUR")
"""
    passes(project, code, 3)


def test_on_a_real_server_each_test_begins_empty_too(project: pytest.Pytester) -> None:
    """A test that takes `redis_server` as well has its cache there; `cache_settings` are the project's own."""
    code = """
import pytest
from shop import RUNS, price

@pytest.fixture
def cache_settings():
    return {"default_ttl": 5}

@pytest.mark.parametrize("n", [1, 2])
def test_it(redis_server, cache, n):
    assert cache.health().server == "reachable"
    assert cache.config.default_ttl == 5
    price("tea")
    assert len(RUNS) == n
"""
    passes(project, code, 2)


def test_the_clock_of_a_test_is_the_caches(project: pytest.Pytester) -> None:
    """A value expires when the test says so, in functions that were decorated long before."""
    code = """
from shop import price

def test_before(cache):
    assert price("tea") == price("tea")

def test_it(cache, fake_clock):
    first = price("tea")
    fake_clock.advance(59.9)
    assert price("tea") == first
    fake_clock.advance(0.2)
    assert price("tea") == first + 1

def test_afterwards_real_time_counts(cache):
    assert price("tea") == price("tea")
"""
    passes(project, code, 3)


def test_two_caches_see_each_others_invalidations(project: pytest.Pytester) -> None:
    """What one invalidates is gone in the other, which had it in memory."""
    code = """
from aikcache.testing import wait_until

def test_it(two_caches):
    one, other = two_caches
    one.set("price:by-hand:tea", 3)
    assert wait_until(lambda: other.get("price:by-hand:tea")) == 3
    one.invalidate("price")
    wait_until(lambda: other.get("price:by-hand:tea") is None)
"""
    passes(project, code, 1)


def test_without_a_cache_every_call_runs_its_function(project: pytest.Pytester) -> None:
    """Whatever was cached before, in whichever cache."""
    code = """
import aikcache
from aikcache.testing import assert_loads
from shop import price

aikcache.configure()
price("tea")

def test_it(no_cache):
    with assert_loads(price, 2):
        assert price("tea") != price("tea")

def test_afterwards():
    with assert_loads(price, 0):
        price("tea")
"""
    passes(project, code, 2)


def test_what_cannot_be_kept_fails_a_strict_test(project: pytest.Pytester) -> None:
    """In others it is returned."""
    code = """
import pytest
from aikcache import EncodeError
from shop import odd

def test_strict(strict_cache):
    with pytest.raises(EncodeError):
        odd(1)

def test_lax(cache):
    odd(1)
"""
    passes(project, code, 2)


def test_a_run_that_does_not_use_it_notices_nothing(project: pytest.Pytester) -> None:
    """Nothing of aikcache is imported, and `cache` is pytest's own."""
    code = """
import sys

def test_it(cache, request):
    assert "aikcache" not in sys.modules
    assert cache is request.config.cache
    cache.set("some/value", 1)
    assert cache.get("some/value", None) == 1
"""
    passes(project, code, 1)


def test_it_is_installed_as_a_plugin() -> None:
    """Under its module's name, so that naming it once more changes nothing."""
    setup = (ROOT / "setup.py").read_text()
    assert '"pytest11": ["pytest_aikcache = pytest_aikcache"]' in setup
    assert 'py_modules=["pytest_aikcache"]' in setup


def test_what_the_starters_need_is_installed_with_them() -> None:
    """The configuration that a topology is started with is data of the package."""
    assert '"aikcache.testing": ["ops/*.conf", "ops/*.acl"]' in (ROOT / "setup.py").read_text()
    assert OPS.parent == Path(testing.__file__).parent
    assert {"redis.conf", "sentinel.conf", "users.acl"} <= {file.name for file in OPS.iterdir()}
