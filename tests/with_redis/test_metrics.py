"""What is exported of round trips to a real server."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

from prometheus_client import CollectorRegistry

from aikcache import Cache
from aikcache.prometheus import CacheCollector
from aikcache.testing import Server, wait_until

from ._workers import PATIENCE, PATIENT

_prefixes = itertools.count()


def read(prefix: str, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(CacheCollector(prefix))
    return registry.get_sample_value(f"{prefix}_cache_{name}", labels)


def test_round_trips_are_in_two_histograms(redis_url: str, instance: str) -> None:
    """Each remote hit is one round trip of its operation, and one `get`; the buckets and the count agree."""
    prefix = f"remote{next(_prefixes)}"
    with Cache(redis_url, instance=instance, local_ttl=0, metrics=prefix, **PATIENT) as cache:
        price = cache.cached("shop", operation="price")(lambda name: len(name))
        assert cache.wait_coherent(PATIENCE)
        price("tea")
        before = read(prefix, "command_seconds_count", command="get") or 0
        for _ in range(300):
            price("tea")
        assert (read(prefix, "command_seconds_count", command="get") or 0) - before >= 300
        count = read(prefix, "latency_seconds_count", operation="shop:price")
        assert read(prefix, "latency_seconds_bucket", operation="shop:price", le="+Inf") == count
        assert (read(prefix, "latency_seconds_sum", operation="shop:price") or 0) > 0
        assert read(prefix, "hits_total", operation="shop:price", tier="remote") == 300
        assert read(prefix, "writes_total", operation="shop:price") == 1
        assert (read(prefix, "bytes_written_total", operation="shop:price") or 0) > 0
        cache.invalidate("shop:*")
        assert read(prefix, "invalidations_total", kind="group", direction="out") == 1


def test_a_scrape_does_not_wait_for_a_server_that_hangs(own_server: Server, instance: str) -> None:
    """With Redis stopped a scrape gives this process's figures at once, and the error of who asked."""
    prefix = f"hanging{next(_prefixes)}"
    settings: Any = {"timeout": 0.2, "connect_timeout": 0.2, "breaker_failures": 1, "breaker_reset": 3600}
    with Cache(own_server.url, instance=instance, local_ttl=0, metrics=prefix, **settings) as cache:
        price = cache.cached("shop", operation="price")(lambda name: len(name))
        price("tea")
        own_server.pause()
        try:
            price("milk")
            began = time.monotonic()
            assert read(prefix, "breaker_open") == 1
            assert read(prefix, "breaker_changes_total", state="open") == 1
            errors = sum(
                sample.value
                for family in CacheCollector(prefix).collect()
                if family.name == f"{prefix}_cache_command_errors"
                for sample in family.samples
            )
            assert errors >= 1
            assert time.monotonic() - began < 60  # no more than a hang is told from progress by
        finally:
            own_server.resume()


def test_what_the_open_breaker_refuses_is_no_round_trip(own_server: Server, instance: str) -> None:
    """Else thousands of refusals, a few microseconds each, hide that Redis answers nothing."""
    prefix = f"open{next(_prefixes)}"
    settings: Any = {"timeout": 0.2, "connect_timeout": 0.2, "breaker_failures": 1, "breaker_reset": 3600}

    def exchanges() -> tuple[float, float]:
        families = [family for family in CacheCollector(prefix).collect() if "_cache_command_" in family.name]
        samples = [sample for family in families for sample in family.samples]
        names = f"{prefix}_cache_command_seconds_count", f"{prefix}_cache_command_errors_total"
        counted = [sum(sample.value for sample in samples if sample.name == name) for name in names]
        return counted[0], counted[1]

    with Cache(own_server.url, instance=instance, metrics=prefix, **settings) as cache:
        price = cache.cached("shop", operation="price")(lambda name: len(name))
        price("tea")
        own_server.pause()
        try:
            while not cache.health().breaker_open:
                price("milk")
                cache.invalidate_key(price.key("milk"))
            wait_until(lambda: not cache.engine.stamps.trusted, PATIENCE, "the channel's end")
            before = exchanges()
            for number in range(50):
                price(f"a{number}")
                price.many([f"b{number}", f"c{number}"])
                price.invalidate(f"a{number}")
                cache.invalidate("shop:*")
            assert exchanges() == before
            assert before[1] >= 1
        finally:
            own_server.resume()


def test_waits_refreshes_and_bytes_read_are_counted(redis_url: str, instance: str) -> None:
    """A call that waits for another's load, a stale value renewed in the background, and what a remote hit read."""
    prefix = f"counted{next(_prefixes)}"
    loading, go = threading.Event(), threading.Event()
    with Cache(redis_url, instance=instance, local_ttl=0, metrics=prefix, **PATIENT) as cache:

        @cache.cached("shop", operation="slow")
        def slow(name: str) -> int:
            loading.set()
            assert go.wait(PATIENCE)
            return len(name)

        threads = [threading.Thread(target=slow, args=("tea",)) for _ in range(2)]
        threads[0].start()
        assert loading.wait(PATIENCE)
        threads[1].start()
        wait_until(lambda: read(prefix, "waits_total", operation="shop:slow") == 1, PATIENCE, "the wait to be counted")
        go.set()
        for thread in threads:
            thread.join()
        price = cache.cached("shop", operation="price", ttl=0.05, stale_ttl=3600)(lambda name: len(name))
        price("tea")
        wait_until(
            lambda: bool(price("tea")) and bool(read(prefix, "refreshes_total", operation="shop:price")),
            PATIENCE,
            "a renewal to be counted",
        )
        written = read(prefix, "bytes_written_total", operation="shop:slow") or 0
        before = read(prefix, "bytes_read_total", operation="shop:slow") or 0
        slow("tea")
        assert (read(prefix, "bytes_read_total", operation="shop:slow") or 0) - before == written
        assert read(prefix, "sweeps_running") == 0


def test_errors_are_counted_by_their_class(redis_url: str, instance: str) -> None:
    """What cannot be encoded is an `EncodeError` of its operation, and other classes stand at 0."""
    prefix = f"wrong{next(_prefixes)}"
    with Cache(redis_url, instance=instance, metrics=prefix, **PATIENT) as cache:
        cache.cached("shop", operation="price")(lambda name: object())("tea")
        labels = {"operation": "shop:price"}
        assert read(prefix, "errors_total", **labels, error_type="EncodeError") == 1
        assert read(prefix, "errors_total", **labels, error_type="RemoteTimeoutError") == 0
        assert cache.stats().errors == 1
