"""The examples of what aikcache works with: processes, time limits, greenlets, a preloaded application."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aikcache import Cache, EncodeError, InvalidKeyError
from aikcache.testing import Server, wait_until

from .test_examples import EXAMPLES, expected

pytestmark = pytest.mark.servers

HERE = EXAMPLES / "works_with"
PROGRAMS = ["processes", "time_limits", "greenlets"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_prints_what_it_says(name: str, redis_url: str) -> None:
    """On a server of either kind."""
    command = [sys.executable, "-W", "error", str(HERE / f"{name}.py"), redis_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected(f"works_with/{name}") != []


@pytest.mark.parametrize("kind", ["float64", "float32", "int64", "uint8", "bool_", "str_", "bytes_", "datetime64"])
def test_numpy_scalars_are_part_of_a_key_only_when_normalized(kind: str) -> None:
    """By themselves they are no part of a key and no result; made a plain value they are that value."""
    numpy = pytest.importorskip("numpy")
    given = {"str_": "1", "bytes_": b"1", "datetime64": "2026-11-01"}.get(kind, 1)
    scalar = getattr(numpy, kind)(given)
    plain = scalar.item()
    runs: list[object] = []

    def identity(value: object) -> object:
        runs.append(value)
        return value

    bare = Cache().cached("bare")(identity)
    assert bare(scalar) == bare(scalar) == plain
    with pytest.raises(InvalidKeyError, match=rf"numpy\.{kind.rstrip('_')}.* cannot be part of a key.*normalize="):
        Cache(strict=True).cached("bare")(identity)(scalar)
    made = Cache(strict=True).cached("made", normalize={"value": lambda it: getattr(it, "item", lambda: it)()})(
        identity
    )
    with pytest.raises(EncodeError, match="cannot be stored"):  # what is normalized is the key alone
        made(scalar)
    assert len(runs) == 3
    assert type(made(plain)) is type(plain)
    assert (made(scalar), made.key(scalar), len(runs)) == (plain, made.key(plain), 4)


LATE = """
import sys
from aikcache import Cache

early = Cache(sys.argv[1], instance="late")

from gevent import monkey

monkey.patch_all()

import gevent

for cache in (early, Cache(sys.argv[1], instance="late")):

    @cache.cached("square", ttl=300)
    def square(x: int) -> int:
        gevent.sleep(0)
        return x * x

    jobs = [gevent.spawn(square, number % 10) for number in range(50)]
    gevent.joinall(jobs, raise_error=True)
    print([job.value for job in jobs[:5]], cache.health().status)
"""


def test_a_monkey_patch_after_the_import_is_logged_and_nothing_hangs(redis_url: str) -> None:
    """gevent's patch comes too late for the sockets: calls are answered without Redis, and the log says what to do."""
    command = [sys.executable, "-c", LATE, redis_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[0, 1, 4, 9, 16] degraded"] * 2
    assert "sockets were monkey-patched after the import of aikcache. Call gevent's monkey.patch_all()" in done.stderr


def test_no_example_is_forgotten() -> None:
    """Each is tested here, and on the page."""
    assert {path.stem for path in HERE.glob("*.py")} == {*PROGRAMS, "preload"}
    page = (EXAMPLES.parent / "docs" / "works-with.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\.\./examples/works_with/(\w+)\.py", page)) == {*PROGRAMS, "preload"}


class Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


def ask(path: Path, method: str = "GET", where: str = "/") -> Any:
    link = Unix(path)
    with contextlib.closing(link):
        link.request(method, where)
        answer = link.getresponse().read()
        return json.loads(answer) if answer else None


def test_a_preloaded_application_shares_what_its_master_loaded(own_server: Server, tmp_path: Path) -> None:
    """Both workers answer with the master's value; after one of them has invalidated it, with one worker's."""
    listening = own_server.directory / "gunicorn.sock"
    options = {"--workers": "2", "--chdir": HERE, "--bind": f"unix:{listening}", "--worker-tmp-dir": tmp_path}
    command = [sys.executable, "-m", "gunicorn", "--preload", "--no-control-socket", "preload:app"]
    command += [str(word) for option in options.items() for word in option]
    env = {**os.environ, "AIKCACHE_URL": own_server.url, "AIKCACHE_TIMEOUT": "20", "AIKCACHE_CONNECT_TIMEOUT": "20"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as master:
        try:

            def answers() -> dict[int, int]:
                """By worker, who loaded what it answers with; empty: not both have answered."""
                assert master.poll() is None, "gunicorn has ended"
                found: dict[int, int] = {}
                with contextlib.suppress(OSError):
                    for _ in range(20):
                        answer = ask(listening)
                        found[answer["answered_by"]] = answer["loaded_by"]
                return found if len(found) == 2 else {}

            first = wait_until(answers, 120, "both workers")
            assert set(first.values()) == {master.pid}
            ask(listening, "POST", "/change")

            def new_value() -> bool:
                loaders = set((answers() or {master.pid: master.pid}).values())
                return len(loaders) == 1 and loaders <= set(first)

            wait_until(new_value, 120, "the value that one of the workers has loaded")
        finally:
            master.terminate()
            said = master.communicate(timeout=120)[0]
    assert master.returncode == 0, said
    assert "Traceback" not in said
