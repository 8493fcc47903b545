"""`aikcache doctor`: findings with cures, and an exit status that a script can use."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import redis
from click.testing import Result

from aikcache.cli.doctor import report
from aikcache.cli.output import console
from aikcache.doctor import Finding, Severity, checks
from aikcache.testing import Server

pytestmark = pytest.mark.servers

PATIENT = "60"


def test_findings_come_with_their_cures(run: Callable[..., Result], redis_url: str) -> None:
    """As text and as JSON; a default server has warnings, so the exit status is not 0."""
    done = run("doctor", "--url", redis_url, "--json", "--timeout", PATIENT)
    findings = json.loads(done.stdout)["findings"]
    assert done.exit_code == json.loads(done.stdout)["status"] >= 1
    memory = next(one for one in findings if one["check"] == "eviction" and one["severity"] == "warning")
    text = run("doctor", "--url", redis_url, "--timeout", PATIENT)
    assert memory["cure"] in text.stdout


def test_the_exit_code_is_2_where_there_are_errors(run: Callable[..., Result], own_server: Server) -> None:
    """A server that may evict sessions, and one that is not there."""
    with redis.Redis.from_url(own_server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    assert run("doctor", "--url", own_server.url, "--profile", "durable", "--timeout", PATIENT).exit_code == 2
    assert run("doctor", "--url", "redis://127.0.0.1:1", "--timeout", PATIENT).exit_code == 2


def test_the_exit_code_is_0_where_nothing_is_wrong(
    run: Callable[..., Result], own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a warning the exit status is 0; a version with known flaws is one, whatever else is in order."""
    monkeypatch.setattr(checks, "SLOW", 60)  # a busy machine is no finding
    monkeypatch.setattr(checks, "SKEWED", 60)
    with redis.Redis.from_url(own_server.url) as client:
        client.config_set("maxmemory", "256mb")
        client.config_set("maxmemory-policy", "allkeys-lfu")
        client.config_set("client-output-buffer-limit", "normal 64mb 16mb 30")
        client.config_set("maxmemory-clients", "5%")
        client.acl_setuser(
            "shop", enabled=True, passwords=["+sesame"], keys=["*"], channels=["*"], categories=["+@all"]
        )
    url = own_server.url.replace("://", "://shop:sesame@")
    done = run("doctor", "--url", url, "--json", "--timeout", PATIENT)
    wrong = {(one["severity"], one["check"]) for one in json.loads(done.stdout)["findings"] if one["severity"] != "ok"}
    assert wrong <= {("warning", "version")}
    assert done.exit_code == len(wrong)


@pytest.mark.parametrize(
    ("found", "status"),
    [([], 0), (["ok"], 0), (["ok", "unknown"], 0), (["unknown", "warning", "ok"], 1), (["warning", "error", "ok"], 2)],
)
def test_the_exit_code_is_that_of_the_worst_finding(
    found: list[Severity], status: int, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be looked at counts as nothing."""
    monkeypatch.setattr(
        "aikcache.cli.doctor.examine", lambda *_, **__: [Finding("x", one, "here", "so", "do") for one in found]
    )
    assert run("doctor", "--url", "redis://h").exit_code == status
    assert json.loads(run("doctor", "--url", "redis://h", "--json").stdout)["status"] == status


@pytest.mark.parametrize(
    ("user", "reason", "cure"),
    [("nobody:wrong@", "WRONGPASS", "The user or the password is wrong"), ("", "NOAUTH", "The server wants a pass")],
)
def test_the_cure_of_a_refused_login_names_the_url(
    user: str, reason: str, cure: str, run: Callable[..., Result], own_server: Server
) -> None:
    """And not to look at the firewall."""
    with redis.Redis.from_url(own_server.url) as client:
        client.config_set("requirepass", "sesame")
        done = run("doctor", "--url", own_server.url.replace("://", f"://{user}"), "--json", "--timeout", PATIENT)
        client.config_set("requirepass", "")
    (away,) = [one for one in json.loads(done.stdout)["findings"] if one["check"] == "reachable"]
    assert (done.exit_code, reason in away["evidence"], away["cure"].startswith(cure)) == (2, True, True)


def test_terminal_escapes_in_a_servers_text_are_not_printed() -> None:
    """Control characters in a finding are not printed."""
    shown = console()
    with shown.capture() as captured:
        shown.print(report("redis://h", [Finding("x", "warning", "a\x1b[2Jb", "c\x9bd\x07", "")]))
    assert not {"\x1b", "\x9b", "\x07"} & set(captured.get())
