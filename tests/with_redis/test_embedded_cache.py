"""A cache on a server of its own: `embedded://` for one process, `embedded:///DIR` for all that name the directory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

import aikcache
from aikcache import Cache
from aikcache._embedded.sockets import answers as _answers
from aikcache._embedded.sockets import short_directory
from aikcache.testing import available_servers, wait_until

from ._workers import PATIENCE, PATIENT, Worker

pytestmark = pytest.mark.skipif(
    not available_servers() and os.environ.get("AIKCACHE_REQUIRE_SERVERS") != "1", reason="no server is installed"
)


def answers(place: Path) -> bool:
    """Whether a server answers there, which a busy machine may make it do late."""
    return _answers(place, timeout=PATIENCE)


@pytest.fixture
def directory() -> Iterator[Path]:
    place = short_directory()
    yield place
    wait_until(lambda: not answers(place / "server.sock"), PATIENCE, "the end of the embedded server")


def square(url: str, instance: str, n: int) -> tuple[int, int]:
    """A call in a cache of its own, and how many loads it took."""
    with Cache(url, instance=instance, local_ttl=0, **PATIENT) as cache:
        value = cache.get_or_load(f"thing:square:{n}", lambda: n * n)
        return value, cache.stats().loads


def test_two_processes_that_name_a_directory_share_one_server(directory: Path, worker: Worker) -> None:
    """What one process cached at embedded:///DIR another finds there, and an invalidation reaches it."""
    url = f"embedded://{directory}"
    with Cache(url, local_ttl=0, **PATIENT) as cache:
        assert cache.get_or_load("thing:square:3", lambda: 9) == 9
        assert worker.run(square, url, "aikernel", 3) == (9, 0)
        cache.invalidate("thing")
        assert worker.run(square, url, "aikernel", 3) == (9, 1)
        assert cache.get("thing:square:3") == 9
        cache.ping()


def test_the_last_process_that_closes_stops_the_server(directory: Path, worker: Worker) -> None:
    """The server of a directory lives as long as any process uses it, and ends with the last."""
    url = f"embedded://{directory}"
    socket = directory / "server.sock"
    with Cache(url, instance="shared", local_ttl=0, **PATIENT) as cache:
        cache.set("thing:put:1", 1)
        assert worker.run(square, url, "shared", 2) == (4, 1)
        assert answers(socket)
        assert cache.get("thing:put:1") == 1
    wait_until(lambda: not socket.exists(), PATIENCE, "the end of the server")
    with Cache(url, instance="shared", local_ttl=0, **PATIENT) as cache:
        assert cache.get("thing:put:1") is None
        assert cache.get_or_load("thing:put:1", lambda: 2) == 2


def test_caches_of_one_process_share_its_private_server(worker: Worker) -> None:
    """Two caches at embedded:// in one process share values; another process has a server of its own."""
    with Cache("embedded://", local_ttl=0, **PATIENT) as first, Cache("embedded://", local_ttl=0, **PATIENT) as second:
        assert first.get_or_load("thing:square:3", lambda: 9) == 9
        assert second.get("thing:square:3") == 9
        assert worker.run(square, "embedded://", "aikernel", 3) == (9, 1)
        assert first.health().ok
        assert second.health().ok


def test_the_embedded_server_listens_on_no_port_and_keeps_nothing_on_disk(directory: Path) -> None:
    """The server of embedded:///DIR is reached by its socket alone, which is ours alone, and saves no data."""
    with Cache(f"embedded://{directory}", **PATIENT) as cache:
        cache.set("thing:put:1", 1)
        socket = directory / "server.sock"
        with redis.Redis(unix_socket_path=str(socket), decode_responses=True) as client:
            settings = client.config_get("port", "save", "appendonly")
        assert settings == {"port": "0", "save": "", "appendonly": "no"}
        assert socket.stat().st_mode & 0o077 == 0
        assert directory.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("where", ["private", "shared"])
def test_the_embedded_servers_memory_is_no_problem_of_its_user(where: str, directory: Path) -> None:
    """It is bounded, and full it makes room: nothing that could be set elsewhere is asked for."""
    with Cache("embedded://" if where == "private" else f"embedded://{directory}", instance="m", **PATIENT) as cache:
        health = cache.health()
        assert health.server == "reachable"
        assert not {problem.kind for problem in health.problems} & {"memory", "eviction"}


def test_a_directory_that_cannot_be_used_costs_the_caching_or_says_so(tmp_path: Path) -> None:
    """A directory others can write to is refused by `ping` in words, before anything is started in it."""
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with Cache(f"embedded://{open_to_all}") as cache:
        with pytest.raises(aikcache.errors.AikcacheError, match="writable by"):
            cache.ping()
        assert list(open_to_all.iterdir()) == []
        cache.set("thing:x:1", 1)
        cache.invalidate("thing:*")
        assert (cache.get("thing:x:1"), cache.get_or_load("thing:x:1", lambda: 2)) == (None, 2)
        assert "writable by" in str(cache.health().problems)


SCRIPT = """
import sys
from aikcache import Cache
cache = Cache(sys.argv[1], instance="script", timeout=20, connect_timeout=20)
assert cache.get_or_load("thing:x:1", lambda: 1) == 1
assert cache.health().ok
"""


@pytest.mark.parametrize("where", ["private", "shared"])
def test_a_script_that_uses_it_exits_silently_and_leaves_no_server(where: str, directory: Path) -> None:
    """A script that never closes its cache ends with status 0, says nothing, and its server ends too."""
    url = "embedded://" if where == "private" else f"embedded://{directory}"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, url],
        env={**os.environ, "PYTHONPATH": str(Path(aikcache.__file__).parents[1]), "TMPDIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
    wait_until(lambda: not list(directory.glob("**/server.sock")), PATIENCE, "the end of the server")


def test_a_worker_that_is_killed_does_not_keep_the_server(directory: Path, victim: Worker) -> None:
    """A process killed while it uses the server does not keep it alive, nor end it for the others."""
    url = f"embedded://{directory}"
    with Cache(url, instance="shared", local_ttl=0, **PATIENT) as cache:
        cache.ping()
        victim.run(keep, url, "thing:put:1")
        victim.kill()
        assert cache.get("thing:put:1") == "kept"
    wait_until(lambda: not (directory / "server.sock").exists(), PATIENCE, "the end of the server")


_kept: list[Cache] = []


def keep(url: str, key: str) -> None:
    """Set a value and go on using the server."""
    _kept.append(Cache(url, instance="shared", **PATIENT))
    _kept[-1].set(key, "kept")
