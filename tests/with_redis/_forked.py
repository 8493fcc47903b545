"""What `test_fork.py` runs in processes of multiprocessing: a module, for "spawn" imports it anew."""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Event
from typing import Any

import redis

from aikcache import Cache
from aikcache._coherence import channel
from aikcache.testing import wait_until

WITHIN = 30.0
channel.SILENCE = 2 * WITHIN  # a machine that stalls for three seconds is no reason to connect anew, and to say so


def make(url: str, instance: str) -> tuple[Cache, redis.Redis]:
    return Cache(url, instance=instance, timeout=20, connect_timeout=20, lease_wait=120), redis.Redis.from_url(
        url, decode_responses=True
    )


def child(url: str, instance: str, ready: Event) -> None:
    cache, client = make(url, instance)
    with cache:

        @cache.cached("thing")
        def get(name: str) -> str:
            return str(client.get("db:value"))

        assert get("box") == "old"
        wait_until(lambda: cache.stats().coherent, WITHIN, "the channel")
        assert get("box") == "old"
        ready.set()
        wait_until(lambda: get("box") == "new", WITHIN, "the push")
    client.close()


def main(method: str, url: str, instance: str) -> None:
    context: Any = multiprocessing.get_context(method)  # what all have, typeshed does not say of their base
    cache, client = make(url, instance)
    client.set("db:value", "old")
    with cache:
        cache.cached("thing", operation="get")(lambda name: name)
        cache.get("nothing:at:all")
        wait_until(lambda: cache.stats().coherent, WITHIN, "the channel")
        ready = [context.Event() for _ in range(2)]
        children = [context.Process(target=child, args=(url, instance, event)) for event in ready]
        for process in children:
            process.start()
        assert all(event.wait(WITHIN) for event in ready)
        client.set("db:value", "new")
        cache.invalidate("thing")
        for process in children:
            process.join(WITHIN)
        assert [process.exitcode for process in children] == [0, 0]
    client.close()
