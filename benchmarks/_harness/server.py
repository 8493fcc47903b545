"""The server that a question is asked of, and what is stored in it.

One server for both sides of every comparison. Unless `--url` names one, it is started here, with a unix socket and a
TCP port, and lives as long as its question. On a server that was named nothing is flushed: all keys are below the
instance `bench-PID`, or begin with it, and are removed one group at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from random import Random
from typing import Any

import redis

from aikcache.testing import Server
from benchmarks._harness.measure import CAN_PIN, one_core

INSTANCE = f"bench-{os.getpid()}"
WORDS = ("cache", "module", "parser", "index", "reader", "stream", "handler", "object", "session", "value", "table")


@contextmanager
def servers(url: str | None) -> Iterator[dict[str, str]]:
    """URLs by transport: the one given, or those of a server of our own."""
    if url is not None:
        try:
            yield {url.split(":", 1)[0]: url}
        finally:
            _remove(url)
        return
    with Server(port=0) as server:
        yield {"unix": f"unix://{server.socket}", "tcp": server.url}


def places(url: str | None) -> Iterator[tuple[str, str]]:
    """Where round trips are measured, by name, and the URL; whoever asks must measure before it asks for the next.

    Over the socket and over TCP, with the server on the caller's core if that can be, and then with both left alone.
    """
    for pinned in (True, False) if url is None and CAN_PIN else (False,):
        with one_core() if pinned else nullcontext(), servers(url) as urls:
            for transport, at in urls.items():
                yield transport + (", one core" if pinned else ""), at


def _remove(url: str) -> None:
    client = redis.Redis.from_url(url)
    for pattern in (f"{INSTANCE}*", f"*{INSTANCE}*"):
        for key in client.scan_iter(match=pattern, count=1000):
            client.unlink(key)
    client.close()


def record(size: int, seed: int = 1) -> dict[str, Any]:
    """A catalog's record of `size` bytes as JSON: identifiers, numbers, text, a list, nested objects."""
    random = Random(seed)
    made: dict[str, Any] = {
        "id": f"{random.getrandbits(128):032x}",
        "name": f"{random.choice(WORDS)}.{random.choice(WORDS)}",
        "version": 3,
        "public": True,
        "parent": None,
        "owner": {"id": random.getrandbits(32), "name": random.choice(WORDS)},
        "score": round(random.random(), 6),
        "fields": [],
    }
    length = len(_json(made))
    while length < size - 90:
        name = f"{random.choice(WORDS)}_{random.getrandbits(16):x}"
        made["fields"].append({"name": name, "kind": random.choice(WORDS), "line": random.getrandbits(12)})
        length += len(_json(made["fields"][-1])) + (len(made["fields"]) > 1)
    made["doc"] = ""
    short = size - len(_json(made))
    while len(made["doc"]) < short:
        made["doc"] = (made["doc"] + random.choice(WORDS) + " ")[:short]
    return made


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
