"""`aikcache stats` and `aikcache top`: the figures of all processes, once and again; a terminal that is restored."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from click.testing import Result
from rich.console import Group

from aikcache import Cache
from aikcache._engine.fleet import Member
from aikcache._engine.reading import Reading
from aikcache.cli import live
from aikcache.cli.fleet import Snapshot
from aikcache.cli.output import console
from aikcache.cli.top import View, looks, rate, sparkline
from aikcache.errors import RemoteUnavailableError
from aikcache.testing import Server

from ..with_redis._staging import Refusal

pytestmark = pytest.mark.servers

Run = Callable[..., Result]
PATIENT = "60"
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
from aikcache.cli import main
main()
"""
_names = itertools.count()


@pytest.fixture
def metrics() -> str:
    """A name of metrics that no other test's caches have."""
    return f"of_the_command_{next(_names)}"


@pytest.fixture
def fleet(redis_url: str, metrics: str) -> Iterator[Cache]:
    """A process that has made calls, and published: `p:twice` was called three times, twice from memory."""
    with Cache(
        redis_url, instance="shop", metrics=metrics, publish_interval=3600, timeout=60, connect_timeout=60,
        max_staleness=600,
    ) as cache:  # fmt: skip
        twice = cache.cached("p", operation="twice")(lambda x: x * 2)
        assert cache.get("q:once:x") is None  # the channel's start empties the local tier
        assert cache.wait_coherent(60)
        assert [twice(4), twice(4), twice(4)] == [8, 8, 8]
        cache.fleet()
        yield cache


@pytest.fixture
def ask(run: Run, redis_url: str, metrics: str) -> Run:
    """A command on that server."""
    return lambda *words, **env: run(
        *words, "--url", redis_url, "--instance", "shop", "--timeout", PATIENT, AIKCACHE_METRICS=metrics, **env
    )


def test_stats_add_up_all_processes(fleet: Cache, ask: Run) -> None:
    """As JSON and as tables; asking adds no process and no call."""
    for _ in range(2):
        figures = json.loads(ask("stats", "--json").stdout)
        counted = figures["operations"]["p:twice"]
        assert (counted["hits"], counted["misses"], counted["loads"]) == (2, 1, 1)
        assert [process["pid"] for process in figures["processes"]] == [os.getpid()]
        assert figures["pending_invalidations"] == figures["open_breakers"] == 0
    text = ask("stats").stdout
    assert "1 process on 1 host" in text
    assert "1 load, 0 stale, 1 write" in text
    assert "p:twice" in text
    assert "\x1b" not in text


def test_top_shows_rates(fleet: Cache, ask: Run) -> None:
    """Once, and as JSON: what flowed on the average since the process began."""
    text = ask("top", "--once").stdout
    assert "66.7%" in text
    assert "breaker closed" in text
    figures = json.loads(ask("top", "--json").stdout)
    assert figures["operations"]["p:twice"]["hit_rate"] == pytest.approx(2 / 3)
    assert figures["per_second"]["calls"] > 0


def test_where_no_process_publishes_stats_says_so(ask: Run, redis_url: str) -> None:
    """An empty server has no process, and no hit rate: a dash, and null."""
    text = " ".join(ask("stats").stdout.split())
    assert "No process has published anything" in text
    assert "Are --instance and AIKCACHE_METRICS right?" in text
    once = ask("top", "--once").stdout
    assert "no process is alive" in once
    assert "–" in once
    assert json.loads(ask("stats", "--json").stdout)["totals"]["hit_rate"] is None
    with redis.Redis.from_url(redis_url) as client:
        assert [key for key in client.scan_iter() if b"!{fleet:" in key] == []


@pytest.mark.parametrize("kind", Refusal.KINDS)
def test_a_server_that_refuses_writes_is_the_reason_why_there_are_no_figures(
    ask: Run, own_server: Server, kind: str
) -> None:
    """No process can publish there; the way out is named as well."""
    with contextlib.closing(Refusal(kind, own_server)) as refusal:
        refusal.begin()
        for words in (["stats"], ["top", "--once"]):
            text = " ".join(ask(*words).stdout.split())
            assert f"None can publish now, because the server refuses: {kind}. " in text
            assert ("the primary's address" if kind == "READONLY" else "`aikcache doctor` says more") in text
            assert json.loads(ask(words[0], "--json").stdout)["refused"].startswith(f"the server refuses: {kind}. ")


def test_old_totals_come_with_the_reason_why_no_process_is_alive(fleet: Cache, ask: Run, own_server: Server) -> None:
    """What was published before the server refused is shown."""
    fleet.close()
    with contextlib.closing(Refusal("NOREPLICAS", own_server)) as refusal:
        refusal.begin()
        text = ask("stats").stdout
    assert "p:twice" in text
    assert "None can publish now, because the server refuses: NOREPLICAS" in text


def test_watching_goes_on_until_it_is_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal the views follow one another."""
    waits = iter([None, None])

    def wait(interval: float) -> None:
        if next(waits, "over") == "over":
            raise KeyboardInterrupt

    views = iter(["first", "second", "third", "never"])
    live.watch(lambda: next(views), 2.0, wait)
    assert capsys.readouterr().out.split() == ["first", "second", "third"]


def test_a_view_shows_the_last_figures_while_redis_is_down() -> None:
    """What never answered at all is an error."""
    member = Member("a", "h", 1, 0.0, True, Reading({"hits": {("p:f", "local"): 3.0}, "uptime_seconds": {(): 1.0}}))
    answers: list[Snapshot | Exception] = [Snapshot(member.reading, [member]), RemoteUnavailableError("gone")]

    def read() -> Snapshot:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    draw = looks(View("shop", "redis://h"), read)
    assert "gone" not in shown(draw())
    assert "these are old figures: gone" in shown(draw())
    answers.append(RemoteUnavailableError("gone"))
    with pytest.raises(RemoteUnavailableError):
        looks(View("shop", "redis://h"), read)()


def test_a_sparkline_is_as_high_as_the_rates() -> None:
    """From 0 to 1, with a gap where nothing flowed, in the colours of hit rates."""
    made = sparkline([0.0, 0.5, None, 0.8, 1.0])
    assert made.plain == "▁▅ ▇█"
    assert [str(span.style) for span in made.spans] == ["red", "red", "dim", "yellow", "green"]


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(0, "–"), (1234.5, "1,234/s"), (12.34, "12.3/s"), (0.05, "3.0/min"), (0.001, "3.6/h"), (1e-9, "<0.1/h")],
)
def test_a_rate_is_shown_in_the_unit_that_fits(per_second: float, text: str) -> None:
    """A dash is nothing at all."""
    assert rate(per_second) == text


def test_ctrl_c_restores_the_screen(fleet: Cache, redis_url: str, metrics: str) -> None:
    """In a terminal: the other screen is left, the cursor is back, and the exit status is 0."""
    master, slave = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "AIKCACHE_METRICS": metrics, "COLUMNS": "120", "LINES": "40"}
    command = [sys.executable, "-c", PROGRAM, "top", "--url", redis_url, "--instance", "shop", "--timeout", PATIENT]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environ)
    os.close(slave)
    try:
        output, deadline = b"", time.monotonic() + 120
        while b"p:twice" not in output and select.select([master], [], [], deadline - time.monotonic())[0]:
            output += os.read(master, 65536)
        assert b"p:twice" in output
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while chunk := os.read(master, 65536):
                output += chunk
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert b"Traceback" not in output
    for on, off in ((b"\x1b[?1049h", b"\x1b[?1049l"), (b"\x1b[?25l", b"\x1b[?25h")):
        assert output.rindex(on) < output.rindex(off)


def shown(view: Group) -> str:
    made = console()
    with made.capture() as captured:
        made.print(view)
    return captured.get()
