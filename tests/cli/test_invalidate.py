"""`aikcache invalidate`: it reaches every process, each step is reported, and a failure is an error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from aikcache import Cache
from aikcache.testing import Server, wait_until

pytestmark = pytest.mark.servers

PATIENT = "60"
KEYS = ["a:f:1", "a:f:2", "b:f:1"]


@pytest.fixture
def cache(redis_url: str) -> Iterator[Cache]:
    """An application's cache, which sees what Redis holds. Two of its values have a tag."""
    with Cache(redis_url, instance="shop", consistency="strong", timeout=60, connect_timeout=60) as cache:
        cache.set("a:f:1", 1, ttl=600, tags=("t",))
        cache.set("a:f:2", 2, ttl=600)
        cache.set("b:f:1", 3, ttl=600, tags=("t", "u"))
        yield cache


@pytest.fixture
def ask(run: Callable[..., Any], redis_url: str) -> Callable[..., Any]:
    """`ask("a:*")`, on that server."""
    given = ("--url", redis_url, "--instance", "shop", "--timeout", PATIENT)
    return lambda *words, **more: run("invalidate", *given, *words, **more)


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["a"], ["b:f:1"]),
        (["a:f:2", "b"], ["a:f:1"]),
        (["*:1"], ["a:f:2"]),
        (["--key", "a:f:1", "--key", "shop:v1:a:f:2"], ["b:f:1"]),
        (["--tag", "t"], ["a:f:2"]),
        (["--tag", "u", "a:f"], []),
        (["*", "--yes"], []),
    ],
)
def test_what_is_named_is_invalidated_and_counted_before(
    cache: Cache, ask: Callable[..., Any], words: list[str], left: list[str]
) -> None:
    """A dry run counts it and changes nothing."""
    dry = ask(*words, "--dry-run", "--json")
    assert json.loads(dry.stdout)["keys"] == len(KEYS) - len(left)
    assert sorted(cache.get_many(KEYS)) == KEYS
    done = ask(*words)
    assert (done.exit_code, "Invalidated for all processes of shop" in done.stdout) == (0, True)
    wait_until(lambda: sorted(cache.get_many(KEYS)) == left, 60, "the invalidation to be pushed")


def test_invalidating_everything_asks_for_confirmation(cache: Cache, ask: Callable[..., Any]) -> None:
    """No, or no answer, leaves all as it was; so does a call without names."""
    for pattern in ("*", "*:*"):
        assert ask(pattern, input="n\n").exit_code == 1
        assert ask(pattern).exit_code == 1
    assert ask().exit_code == 2
    assert sorted(cache.get_many(KEYS)) == KEYS
    assert ask("*", input="y\n").exit_code == 0
    wait_until(lambda: cache.get_many(KEYS) == {}, 60, "the invalidation to be pushed")


def test_other_processes_drop_what_they_hold(ask: Callable[..., Any], redis_url: str) -> None:
    """A local tier drops the entry."""
    with Cache(redis_url, instance="shop", timeout=60, connect_timeout=60, max_staleness=600) as other:
        other.get("a:f:1")  # the channel's start empties the local tier
        assert other.wait_coherent(60)
        other.set("a:f:1", 1, ttl=600)
        assert ask("a:f:1").exit_code == 0
        wait_until(lambda: other.get("a:f:1") is None, 60, "the invalidation to arrive")


def test_a_sweep_shows_its_progress_in_a_terminal(cache: Cache, ask: Callable[..., Any]) -> None:
    """On standard error; elsewhere there is none."""
    assert "sweeping" not in ask("*:2").output
    swept = ask("*:1", "--json", FORCE_COLOR="1", TERM="xterm")
    assert "sweeping" in swept.stderr
    assert json.loads(swept.stdout)["removed_by_sweeps"] == 2


def test_an_invalidation_that_redis_refuses_exits_with_an_error(run: Callable[..., Any], tcp_server: Server) -> None:
    """A server that takes no writes, a user who may not write, and none at all: exit status 1, and what to do."""
    with redis.Redis.from_url(tcp_server.url) as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+hello", "+ping", "+get", "+scan")
        client.config_set("min-replicas-to-write", 1)
    reader = tcp_server.url.replace("redis://", "redis://reader:pw@")
    given = ("--instance", "shop", "--timeout", PATIENT)
    for words in (["a"], ["--tag", "t"], ["*:1"]):
        said = run("invalidate", "--url", tcp_server.url, *given, *words)
        assert (said.exit_code, "NOREPLICAS" in said.stderr) == (1, True)
        said = run("invalidate", "--url", reader, *given, *words)
        assert (said.exit_code, "repeat it" in said.stderr, "users.acl" in said.stderr) == (1, True, True)
    assert run("invalidate", "--url", "redis://127.0.0.1:1", *given, "a").exit_code == 1


def test_an_invalid_pattern_is_a_usage_error(ask: Callable[..., Any]) -> None:
    """As in the library."""
    assert ask("a b").exit_code == 2
    assert ask("--key", "a:*").exit_code == 2
