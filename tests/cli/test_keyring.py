"""`aikcache keyring`: what it lists, changes and makes, and that no key is ever shown."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import Result

from aikcache import CacheConfig
from aikcache.sessions import KeyRing

pytestmark = pytest.mark.servers

MASTER, OTHER = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
PATIENT = "60"
Ask = Callable[..., Any]


@pytest.fixture
def ring(redis_url: str) -> Iterator[KeyRing]:
    """An application's ring, with one key, which it looks after only when it is used."""
    config = CacheConfig(url=redis_url, instance="shop", timeout=60, connect_timeout=60)
    with closing(KeyRing(instance="shop", master_key=MASTER, config=config, refresh=3600)) as ring:
        ring.refresh()
        yield ring


@pytest.fixture
def ask(run: Callable[..., Result], redis_url: str) -> Ask:
    """`ask("list")`: the answer as JSON, if the command succeeds; no answer holds what lies in Redis of a key."""

    def ask(*arguments: str, master: str = MASTER) -> Any:
        given = ("--url", redis_url, "--instance", "shop", "--timeout", PATIENT, "--json")
        done = run("keyring", arguments[0], *given, *arguments[1:], AIKCACHE_MASTER_KEY=master)
        assert done.exit_code == 0, done.stderr
        with redis.Redis.from_url(redis_url) as client:
            wrapped = [value.split()[-1].decode() for name, value in client.hgetall("shop:keyring").items()
                       if name.startswith(b"k:")]  # fmt: skip
        assert not [text for text in (MASTER, OTHER, *wrapped) if text in done.output]
        return json.loads(done.stdout)

    return ask


def test_keys_are_listed_and_made_only_when_asked_for(ring: KeyRing, ask: Ask, run: Any, redis_url: str) -> None:
    """`list` changes nothing, not even an empty ring; `rotate` makes a key, which seals a little later."""
    (first,) = ask("list")["keys"]
    assert (first["id"], first["state"]) == (ring.keys()[0].id, "active")
    made = ask("rotate", "--lifetime", "7")
    assert made["expires"] - made["activates"] == pytest.approx(7 * 86400)
    assert [key["id"] for key in ask("list")["keys"]] == [first["id"], made["id"]]
    text = run(
        "keyring", "list", "--url", redis_url, "--instance", "shop", "--timeout", PATIENT, AIKCACHE_MASTER_KEY=MASTER
    )
    assert "active, seals now" in text.stdout
    empty = run(
        "keyring", "list", "--url", redis_url, "--instance", "nobody", "--timeout", PATIENT, AIKCACHE_MASTER_KEY=MASTER
    )
    assert (empty.exit_code, "there is no key ring nobody:keyring" in empty.stderr) == (1, True)
    with redis.Redis.from_url(redis_url) as client:
        assert client.exists("nobody:keyring") == 0


def test_a_revoked_key_opens_nothing(ring: KeyRing, ask: Ask, run: Any, redis_url: str) -> None:
    """It is asked for first; afterwards another key seals."""
    (first,) = ask("list")["keys"]
    given = ("--url", redis_url, "--instance", "shop", "--timeout", PATIENT)
    refused = run("keyring", "revoke", *given, first["id"], input="n\n", AIKCACHE_MASTER_KEY=MASTER)
    assert refused.exit_code == 1
    assert ask("list")["keys"][0]["state"] == "active"
    assert ask("revoke", first["id"], "--reason", "lost laptop", "--yes") == {"revoked": 1}
    states = {key["id"]: key["state"] for key in ask("list")["keys"]}
    assert states.pop(first["id"]) == "revoked"
    assert list(states.values()) == ["active"]
    assert ask("revoke", "--before", "2001-01-01", "--yes") == {"revoked": 0}
    ring.refresh()
    infos = ring.keys()
    assert {key.state for key in infos} == {"revoked", "active"}


def test_a_master_key_is_exchanged(ring: KeyRing, ask: Ask, tmp_path: Path, run: Any, redis_url: str) -> None:
    """`new-master` writes one for its owner alone; `rewrap` brings the ring under it; the old one opens nothing."""
    file = tmp_path / "master"
    made = run("keyring", "new-master", str(file))
    new = file.read_text().strip()
    assert (made.exit_code, new in made.output, file.stat().st_mode & 0o777) == (0, False, 0o600)
    assert run("keyring", "new-master", str(file)).exit_code == 1
    assert run("keyring", "new-master", "-").stdout.strip() != new
    assert ask("rewrap", master=f"{new},{MASTER}") == {"rewrapped": 1, "unreadable": 0}
    assert len(ask("list", master=new)["keys"]) == 1
    old = run(
        "keyring", "list", "--url", redis_url, "--instance", "shop", "--timeout", PATIENT, AIKCACHE_MASTER_KEY=MASTER
    )
    assert (old.exit_code, "can be opened" in old.stderr) == (1, True)


def test_the_key_ring_is_on_the_server_of_the_sessions(ring: KeyRing, run: Any, redis_url: str) -> None:
    """AIKCACHE_SESSION_URL goes before AIKCACHE_URL, and --url before both; a missing master key is an error."""
    there = {"AIKCACHE_SESSION_URL": redis_url, "AIKCACHE_URL": "redis://127.0.0.1:1", "AIKCACHE_INSTANCE": "shop"}
    assert run("keyring", "list", "--timeout", PATIENT, AIKCACHE_MASTER_KEY=MASTER, **there).exit_code == 0
    away = run(
        "keyring", "list", "--url", "redis://127.0.0.1:1", "--timeout", PATIENT, AIKCACHE_MASTER_KEY=MASTER, **there
    )
    assert (away.exit_code, "Nothing listens" in away.stderr) == (1, True)
    without = run("keyring", "list", **there)
    assert (without.exit_code, "--allow-plaintext" in without.stderr) == (2, True)
