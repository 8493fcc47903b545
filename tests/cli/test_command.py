"""The command as a whole: where it gets its server from, how it fails, and what it never shows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import click
import pytest
import redis
from click.testing import Result

from aikcache.cli.command import aikcache
from aikcache.testing import Server

pytestmark = pytest.mark.servers

PASSWORD = "hunter2-of-the-canary"
PATIENT = "60"


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    """All commands that do something, by the words that name them."""
    found = []
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += leaves(command, (*path, name))
        else:
            found.append(((*path, name), command))
    return found


def test_every_command_says_what_it_does_and_answers_in_json(run: Callable[..., Result]) -> None:
    """Each has a help text; each but those whose output is a file, a server or a script takes --json."""
    without = {("completion",), ("serve-metrics",), ("keyring", "new-master")}
    for path, command in leaves(aikcache):
        assert command.help, path
        assert path in without or "as_json" in {parameter.name for parameter in command.params}, path
        assert run(*path, "--help").exit_code == 0


def test_the_server_is_that_of_the_environment_or_of_the_option(run: Callable[..., Result], redis_url: str) -> None:
    """AIKCACHE_URL says where; --url says it otherwise; neither is wrong usage."""
    assert "Pass --url" in run("ping").stderr
    assert run("ping").exit_code == 2
    done = run("ping", "--json", "--timeout", PATIENT, AIKCACHE_URL=redis_url)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["seconds"] > 0
    assert run("ping", "--url", redis_url, "--timeout", PATIENT, AIKCACHE_URL="redis://127.0.0.1:1").exit_code == 0


def test_what_an_application_sets_for_itself_is_passed_over(run: Callable[..., Result], redis_url: str) -> None:
    """The command holds nothing locally, opens no journal and publishes nothing, whatever the environment says."""
    own = {"ENABLED": "0", "JOURNAL": "/nowhere/journal", "PUBLISH_INTERVAL": "30", "LOCAL_TTL": "5"}
    env = {f"AIKCACHE_{name}": value for name, value in own.items()}
    assert run("ping", "--url", redis_url, "--timeout", PATIENT, **env).exit_code == 0


def test_a_setting_that_does_not_exist_is_named(run: Callable[..., Result]) -> None:
    """A misspelt variable is what the library takes it for."""
    said = run("ping", AIKCACHE_ULR="redis://127.0.0.1:1")
    assert (said.exit_code, "Did you mean AIKCACHE_URL?" in said.stderr) == (2, True)


def test_a_server_that_is_away_is_one_line(run: Callable[..., Result]) -> None:
    """Nothing listens: the message says so, and what to look at."""
    said = run("ping", "--url", "redis://127.0.0.1:1/0", "--timeout", PATIENT)
    assert said.exit_code == 1
    assert "Nothing listens there" in said.stderr
    assert "Traceback" not in said.output


def test_a_wrong_password_is_reported_and_not_shown(run: Callable[..., Result], tcp_server: Server) -> None:
    """No command shows a password: neither the right one nor the wrong one."""
    with redis.Redis.from_url(tcp_server.url) as client:
        client.config_set("requirepass", PASSWORD)
    place = tcp_server.url.removeprefix("redis://")
    right, wrong = f"redis://:{PASSWORD}@{place}", f"redis://:x{PASSWORD}@{place}"
    said = run("ping", "--url", wrong, "--timeout", PATIENT)
    assert (said.exit_code, "password is wrong" in said.stderr) == (1, True)
    assert "wants a password" in run("ping", "--url", tcp_server.url, "--timeout", PATIENT).stderr
    done = run("ping", "--url", right, "--timeout", PATIENT)
    assert done.stdout.startswith(f"redis://{place} answers in ")
    for output in (said.output, done.output, run("doctor", "--url", right, "--timeout", PATIENT).output):
        assert PASSWORD not in output


def test_without_its_packages_the_command_says_which_to_install() -> None:
    """`pip install aikcache` alone leaves a command that names its extra."""
    code = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name: None if name == 'rich' else find(name)\n"
        "from aikcache.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, "pip install 'aikcache[cli]'" in done.stderr) == (2, True)


def test_it_runs_as_a_module() -> None:
    """`python -m aikcache` is the command."""
    done = subprocess.run([sys.executable, "-m", "aikcache", "--version"], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("aikcache, version ")


@pytest.mark.parametrize("url", ["redis://:hunter2-of-the-canary@h:x/0", "hunter2-of-the-canary"])
def test_an_invalid_url_is_not_shown(run: Callable[..., Result], url: str) -> None:
    """Whatever is wrong with a URL, the message does not repeat it."""
    said = run("ping", "--url", url)
    assert (said.exit_code, PASSWORD in said.output) == (2, False)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_its_words(run: Callable[..., Result], shell: str) -> None:
    """The script asks the command itself."""
    assert "_AIKCACHE_COMPLETE" in run("completion", shell).stdout
    words = run(
        _AIKCACHE_COMPLETE=f"{shell}_complete",
        COMP_WORDS="aikcache keyring ro",
        COMP_CWORD="ro" if shell == "fish" else "2",
    )
    assert "rotate" in words.stdout
