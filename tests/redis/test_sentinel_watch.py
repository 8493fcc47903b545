"""What a Sentinel sends to the one that watches it is untrusted. No server."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from hiredis import PushNotification

from aikcache._redis import sentinel_watch
from aikcache._redis.sentinel_watch import Watch
from aikcache.errors import RemoteUnavailableError

PUSH = PushNotification([b"message", b"+switch-master", b"shop a 1 b 1"])


@pytest.mark.parametrize("sent", [[PUSH], [b"one"]], ids=["pushes", "a part of its answers"])
def test_a_sentinel_that_sends_but_does_not_answer_counts_as_silent(
    sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its questions would pile up, and its answers would get older and older."""
    asked = itertools.count()
    ticks = itertools.count(step=0.25)
    monkeypatch.setattr(sentinel_watch, "time", SimpleNamespace(monotonic=lambda: next(ticks)))

    def poll(seconds: float) -> list[Any]:
        assert next(asked) < 1000
        return sent

    connection: Any = SimpleNamespace(send_command=lambda *words: None, poll=poll, close=lambda: None)
    service: Any = SimpleNamespace(
        service="shop",
        within=1.0,
        beat=0.25,
        connect=lambda address, deadline: (connection, "name"),
        questions=lambda: [("PING",)] * 4,
        opinion=lambda *given: None,
        record_opinion=lambda *given: True,
    )
    with pytest.raises(RemoteUnavailableError, match="silent"):
        Watch(service, ("a", 1))._listen()
