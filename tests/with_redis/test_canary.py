"""A whole cache that meets one fault after another: password, secret and values come out nowhere."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import Any

import pytest
import redis

from aikcache import AikcacheError, Cache
from aikcache._settings.secret import Opaque, Secret
from aikcache.errors import RemoteError
from aikcache.testing import Server, wait_until

from .._canary import shown
from ._workers import PATIENCE, PATIENT

PASSWORD = "canary-p4ssw0rd-canary"
SECRET = "canary-s3cr3t-0123456789-canary-xyz"
VALUE = "canary-v4lue-canary"
KEY = "canary:v1:put:by:1"


class Malformed:
    """A value that no codec knows, and whose representation would give it away."""

    def __repr__(self) -> str:
        return VALUE


class Attempts:
    """What raised, one after another."""

    def __init__(self) -> None:
        self.errors: list[AikcacheError] = []

    def __call__(self, work: Callable[[], object]) -> bool:
        try:
            work()
        except AikcacheError as error:
            self.errors.append(error)
            return False
        return True


def texts(root: object) -> Iterator[str]:
    """Every text and all bytes that can be reached from an object, but for what a `Secret` holds."""
    seen: set[int] = set()
    todo = [root]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, (type, ModuleType, FunctionType, FrameType, Secret, Opaque)):
            continue
        seen.add(id(thing))
        if isinstance(thing, (str, bytes, bytearray)):
            yield thing if isinstance(thing, str) else thing.decode("latin-1")
        todo += gc.get_referents(thing)


def state_of(cache: Cache) -> str:
    """What a cache says of itself, and where in it password or secret can be reached without asking a `Secret`."""
    held = list(texts([cache, cache.engine]))
    assert cache.config.instance in held
    assert not any(PASSWORD in text or SECRET in text for text in held)
    return f"{cache!r} {cache.config!r} {cache.health()} {cache.stats()}"


def spoil(raw: redis.Redis, key: str) -> None:
    """Whatever may stand at a key that is nothing of ours, with a value in it."""
    sealed = raw.get(key)
    assert isinstance(sealed, bytes)
    raw.set(key, sealed[:40] + VALUE.encode() + sealed[60:])


def use(cache: Cache, attempt: Attempts) -> None:
    """What a cache does, and what fails whatever the server says: unknown types, calls without a key, odd tags."""

    @cache.cached("thing", tags=("t:{n}",))
    def get(n: Any) -> Any:
        return Malformed() if n == 1 else [VALUE, n]

    for n in (1, 2, object()):
        attempt(lambda n=n: get(n))  # type: ignore[misc]
    attempt(lambda: get.many([2, 3]))
    attempt(lambda: get.explain(2))
    attempt(lambda: get.refresh(2))
    attempt(lambda: cache.set("put:by:1", [VALUE]))
    attempt(lambda: cache.set("put:by:2", Malformed()))
    attempt(lambda: cache.set("put:by:3", VALUE * 10**5))
    attempt(lambda: cache.set("put:by:4", VALUE, tags=("",)))
    attempt(lambda: cache.get("put:by:1"))
    attempt(lambda: cache.get_or_load("put:by:5", lambda: {Malformed(): VALUE}))
    attempt(lambda: get.invalidate(2))
    attempt(lambda: cache.invalidate("thing:*9*"))
    attempt(lambda: cache.invalidate_tags("t:2"))


def staged(cache: Cache, server: Server, raw: redis.Redis, attempt: Attempts) -> None:
    """The faults, one after another, and what the cache is used for under each."""
    use(cache, attempt)
    spoil(raw, KEY)
    use(cache, attempt)
    raw.delete(KEY)
    raw.lpush(KEY, VALUE)
    raw.publish("canary:v1:~refused", VALUE)
    raw.set("canary:v1:~glob:e:" + "*" * 20_000, VALUE)
    use(cache, attempt)
    raw.config_set("maxmemory", 1)
    use(cache, attempt)
    raw.config_set("maxmemory", 0)
    raw.config_set("requirepass", PASSWORD[::-1])
    raw.client_kill_filter(_type="normal", skipme=True)
    raw.client_kill_filter(_type="pubsub", skipme=True)
    wait_until(lambda: not attempt(cache.ping), PATIENCE, "the login to fail")
    use(cache, attempt)
    server.kill()
    wait_until(lambda: not attempt(cache.ping), PATIENCE, "the loss to be noticed")
    use(cache, attempt)


def test_no_fault_shows_password_secret_or_value(
    binary: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No line, error, traceback with local variables, state or text that the cache holds has what must not be seen."""
    caplog.set_level(logging.DEBUG)
    attempt = Attempts()
    with Server(binary=binary, port=0, password=PASSWORD, config=["save ''"]) as server:
        url = f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"
        with (
            redis.Redis.from_url(url) as raw,
            Cache(
                url, instance="canary", secret=SECRET, strict=True, journal=str(tmp_path / "journal"),
                max_value_bytes=10**5, local_max_entries=1, breaker_reset=0.01, **PATIENT,
            ) as cache,
        ):  # fmt: skip
            assert cache.wait_coherent(PATIENCE)
            states = [state_of(cache)]  # with connections that are open
            staged(cache, server, raw, attempt)
            states.append(state_of(cache))
    said = [f"{record.getMessage()} {record.args!r} {record.exc_text}" for record in caplog.records]
    assert {type(error).__name__ for error in attempt.errors} >= {"EncodeError", "InvalidKeyError"}
    assert any(isinstance(error, RemoteError) for error in attempt.errors)
    for text in (*said, *map(str, attempt.errors), *states, (tmp_path / "journal").read_text()):
        assert not any(canary in text for canary in (PASSWORD, PASSWORD[::-1], SECRET, VALUE)), text
    for error in attempt.errors:
        assert PASSWORD not in shown(error)
        assert SECRET not in shown(error)
