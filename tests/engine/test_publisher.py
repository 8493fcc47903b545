"""The log line, and when there is a thread; without a server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

import pytest

from aikcache import Cache, CacheConfig, CacheStats, ConfigError
from aikcache._engine.publisher import line
from aikcache.testing import wait_until

PATIENCE = 20.0


def publishers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "aikcache-publisher"}


def published(records: Iterable[logging.LogRecord], instance: str) -> logging.LogRecord | None:
    lines = [record for record in records if getattr(record, "aikcache_instance", None) == instance]
    return lines[-1] if lines else None


def test_the_line_is_as_it_was_asked_for() -> None:
    """Hours do not end at 24, and the rate has two digits."""
    stats = CacheStats(
        uptime=100 * 3600 + 23 * 60 + 45.9, local_hits=9000, remote_hits=245, misses=755, writes=7, evictions=3,
        errors=2, bytes_written=123456, operations={},
    )  # fmt: skip
    assert line(stats) == (
        "Cache Metrics - Uptime: 100:23:45, Hit Rate: 92.45%, Hits: 9245, Misses: 755, Writes: 7, Evictions: 3, "
        "Errors: 2, Bytes Written: 123456"
    )


def test_each_interval_has_a_line_with_its_figures_as_fields(caplog: pytest.LogCaptureFixture) -> None:
    """The record holds numbers beside the text, and the instance."""
    with caplog.at_level(logging.INFO, "aikcache"), Cache(instance="reported", publish_interval=0.05) as cache:
        price = cache.cached("shop", operation="price")(lambda name: len(name))
        for _ in range(4):
            price("tea")
        wait_until(
            lambda: getattr(published(caplog.records, "reported"), "aikcache_hits", 0) == 3,
            PATIENCE,
            "a line with 3 hits",
        )
        record = published(caplog.records, "reported")
        assert record is not None
        assert "Hit Rate: 75.00%, Hits: 3, Misses: 1" in record.getMessage()
        assert record.__dict__["aikcache_hit_rate"] == 0.75


def test_an_unused_cache_has_no_thread_and_a_closed_one_stops_it() -> None:
    """It starts with the first load, and `None` and `metrics=None` have none at all."""
    before = publishers()
    with Cache() as cache, Cache(publish_interval=None) as silent, Cache(metrics=None) as unexported:
        decorated = [made.cached("shop", operation="price")(lambda name: len(name)) for made in (silent, unexported)]
        for price in decorated:
            price("tea")
        assert publishers() <= before
        cache.cached("shop", operation="price")(lambda name: len(name))("tea")
        wait_until(lambda: len(publishers() - before) == 1, PATIENCE, "the thread")
    wait_until(lambda: not publishers() - before, PATIENCE, "the thread to end")


@pytest.mark.parametrize("bad", [0, 1e-6, -1, float("nan"), "60", True])
def test_an_invalid_interval_is_refused(bad: object) -> None:
    """The message names the setting; for 0 also the way out."""
    with pytest.raises(ConfigError, match="publish_interval must be") as caught:
        CacheConfig(publish_interval=bad)  # type: ignore[arg-type]
    assert bad not in (0, 1e-6) or bad is False or "publish_interval=None" in str(caught.value)


def test_the_environment_can_switch_it_off() -> None:
    """An empty variable is None."""
    with Cache.from_env({"AIKCACHE_PUBLISH_INTERVAL": ""}) as cache:
        assert cache.config.publish_interval is None
