"""Runs the command in this process, without the environment of whoever runs the tests."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from aikcache.cli.command import aikcache
from aikcache.testing import Server

Run = Callable[..., Result]
PATIENT = "60"
"""Seconds for an answer of a server on a busy machine."""


@pytest.fixture
def redis_url(own_server: Server) -> str:
    """A server for each test: what a command leaves running for a moment meets no other test's values."""
    return own_server.url


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("ping", "--url", url)`: what the command says, and its exit status. `input` answers its questions."""
    for name in [name for name in os.environ if name.startswith("AIKCACHE_") and name != "AIKCACHE_REQUIRE_SERVERS"]:
        monkeypatch.delenv(name)

    def run(*arguments: str, input: str | None = None, **env: str) -> Result:
        return CliRunner(env=env).invoke(aikcache, arguments, input=input, catch_exceptions=False)

    return run
