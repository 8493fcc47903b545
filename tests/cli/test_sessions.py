"""`aikcache sessions`: a subject's sessions, listed and ended; nothing that is in them is shown."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import redis

from aikcache import CacheConfig
from aikcache.sessions import KeyRing, SessionStore, Set

pytestmark = pytest.mark.servers

MASTER = secrets.token_urlsafe(32)
PATIENT = "60"


@pytest.fixture
def store(redis_url: str) -> Iterator[SessionStore]:
    """An application's sessions."""
    config = CacheConfig(url=redis_url, instance="shop", timeout=60, connect_timeout=60)
    with (
        closing(KeyRing(instance="shop", master_key=MASTER, config=config, refresh=3600)) as ring,
        closing(SessionStore(redis_url, ring=ring, instance="shop", timeout=60, connect_timeout=60)) as store,
    ):
        yield store


@pytest.fixture
def ask(run: Callable[..., Any], redis_url: str) -> Callable[..., Any]:
    """`ask("list", "user-7")`, on that server."""
    given = ("--url", redis_url, "--instance", "shop", "--timeout", PATIENT)
    return lambda *words, **more: run("sessions", words[0], *given, *words[1:], AIKCACHE_MASTER_KEY=MASTER, **more)


def log_in(store: SessionStore, subject: str, label: str) -> str:
    """The cookie of a new session."""
    session = store.open(None)
    session["secret"] = "hunter2-of-the-canary"
    session.bind(subject, label)
    cookie = store.commit(session)
    assert isinstance(cookie, Set)
    return cookie.value


def test_a_subjects_sessions_are_listed_and_ended(store: SessionStore, ask: Callable[..., Any]) -> None:
    """One by its handle, or all; those of others go on."""
    cookies = [log_in(store, "user-7", "phone\x1b[2J"), log_in(store, "user-7", "desk")]
    other = log_in(store, "user-8", "desk")
    done = ask("list", "user-7", "--json")
    found = {one["label"]: one["handle"] for one in json.loads(done.stdout)["sessions"]}
    assert found.keys() == {"phone\x1b[2J", "desk"}
    text = ask("list", "user-7")
    assert found["desk"] in text.stdout
    assert "\x1b" not in text.stdout
    assert not [word for word in ("hunter2", *cookies) if word in done.output + text.output]
    foreign = ask("end", "user-8", "--handle", found["desk"], "--yes")
    assert (foreign.exit_code, "no session with that handle" in foreign.stderr) == (1, True)
    assert json.loads(ask("end", "user-7", "--handle", found["desk"], "--yes", "--json").stdout) == {"ended": 1}
    assert [one.label for one in store.sessions("user-7")] == ["phone\x1b[2J"]
    assert ask("end", "user-7", input="n\n").exit_code == 1
    assert ask("end", "user-7", input="y\n").stdout == "Ended 1 session.\n"
    assert ask("list", "user-7").stdout == "No session of this subject lives.\n"
    assert store.open(other)["secret"] == "hunter2-of-the-canary"


def test_listing_sessions_creates_no_key_ring(ask: Callable[..., Any], redis_url: str) -> None:
    """An empty server stays empty."""
    said = ask("list", "user-7")
    assert (said.exit_code, "no application has used sessions there yet" in said.stderr) == (1, True)
    assert "there is no key ring shop:keyring" in said.stderr
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys("shop:*") == []
