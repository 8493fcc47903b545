"""`aikcache doctor`: findings with cures, and an exit status that a script can use."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import redis
from click.testing import Result

from aikcache.cli.doctor import report
from aikcache.cli.output import console
from aikcache.doctor import Finding
from aikcache.testing import Server

pytestmark = pytest.mark.servers

PATIENT = "60"


def test_findings_come_with_their_cures(run: Callable[..., Result], redis_url: str) -> None:
    """As text and as JSON; a default server has warnings, so the exit status is not 0."""
    told = run("doctor", "--url", redis_url, "--json", "--timeout", PATIENT)
    findings = json.loads(told.stdout)["findings"]
    assert told.exit_code == json.loads(told.stdout)["status"] >= 1
    memory = next(one for one in findings if one["check"] == "eviction" and one["severity"] == "warning")
    text = run("doctor", "--url", redis_url, "--timeout", PATIENT)
    assert memory["cure"] in text.stdout


def test_the_exit_code_is_2_where_there_are_errors(run: Callable[..., Result], own_server: Server) -> None:
    """A server that may evict sessions, and one that is not there."""
    with redis.Redis.from_url(own_server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    assert run("doctor", "--url", own_server.url, "--profile", "durable", "--timeout", PATIENT).exit_code == 2
    assert run("doctor", "--url", "redis://127.0.0.1:1", "--timeout", PATIENT).exit_code == 2


def test_terminal_escapes_in_a_servers_text_are_not_printed() -> None:
    """Control characters in a finding are not printed."""
    shown = console()
    with shown.capture() as captured:
        shown.print(report("redis://h", [Finding("x", "warning", "a\x1b[2Jb", "c\x9bd\x07", "")]))
    assert not {"\x1b", "\x9b", "\x07"} & set(captured.get())
