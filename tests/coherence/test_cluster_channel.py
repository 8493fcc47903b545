"""The channels to a cluster's primaries, where an exception interrupts the caller that found the change. No server."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from aikcache._coherence import channel, cluster_channel
from aikcache._coherence.cluster_channel import ClusterChannel
from aikcache._concurrency.reporter import RateLimitedReporter
from aikcache._concurrency.thread import Daemon
from aikcache._redis.cluster.client import Cluster
from aikcache._redis.cluster.topology import Address, Topology
from aikcache._settings.config import CacheConfig
from aikcache.testing import wait_until

from .._interrupts import Stop, interrupt

A, B, C, D = ("a", 1), ("b", 1), ("c", 1), ("d", 1)


class Idle(Daemon):
    """Starts no thread."""

    started = False

    def start(self) -> None:
        self.started = True


class Immediate(Daemon):
    """Works at once, in the caller's thread."""

    def start(self) -> None:
        self._work()


class Listener:
    """Counts how often the local tier is emptied."""

    emptied = 0

    def __getattr__(self, name: str) -> Any:
        return lambda *values: None

    def channel_live(self, *, emptied: bool, alive_at: float) -> None:
        self.emptied += emptied


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "Daemon", Idle)
    monkeypatch.setattr(cluster_channel, "Daemon", Immediate)


class Staged:
    """The channels of a cache that listens to A, B and C, of which C does not answer."""

    def __init__(self, **settings: Any) -> None:
        self.listener = Listener()
        self.cluster = Cluster(CacheConfig(url="redis+cluster://a:1,b:1,c:1", **settings))
        remote: Any = SimpleNamespace(stamps=None)
        listener: Any = self.listener
        self.feed = ClusterChannel(self.cluster, remote, listener, RateLimitedReporter())
        self.change(A, B, C)
        self.feed.start()
        self.former = self.daemon(C)
        self.answer(A, B)

    def change(self, *owners: Address) -> None:
        self.cluster._install(Topology(1, dict(enumerate(owners)), frozenset(owners), frozenset({A, B, C, D})))

    def answer(self, *addresses: Address) -> None:
        for address in addresses:
            self.feed.report(self.feed._by_address[address], self.feed.clock())

    def daemon(self, address: Address) -> Any:
        return self.feed._by_address[address].channel._daemon


def interrupted(*owners: Address) -> list[Staged]:
    """After C has gone: one for each point at which `primaries_changed` can be interrupted."""
    found: list[Staged] = []
    for point in range(1, 1000):
        staged = Staged()
        staged.change(*owners)
        if not interrupt(point, staged.feed.primaries_changed, Stop)[0]:
            return found
        found.append(staged)
    raise AssertionError("it does not end")


def test_channels_that_become_live_empty_the_local_tier_though_interrupted() -> None:
    """Else it would serve what was invalidated while they were not live."""
    for staged in interrupted(A, B):
        staged.answer(A, B)
        assert staged.feed.live_since is not None
        assert staged.listener.emptied >= 1


def test_a_new_primary_is_listened_to_and_a_former_one_is_not_though_interrupted() -> None:
    """The next heartbeat of another primary, or the next read, completes what an exception has interrupted."""
    for staged in interrupted(A, B, D):
        staged.answer(A)
        staged.feed.start()
        assert staged.feed._by_address.keys() == {A, B, D}
        assert staged.daemon(D).started
        assert staged.former.stopping.is_set()
        assert staged.feed.live_since is None


def test_a_streaming_provider_is_asked_at_each_heartbeat() -> None:
    """As on one server: a new token begins a new generation of the node's connections."""

    class Streaming:
        token = "first"

        def is_streaming(self) -> bool:
            return True

        def get_credentials(self) -> tuple[str]:
            return (self.token,)

    provider = Streaming()
    staged = Staged(credential_provider=provider)
    primary = staged.feed._by_address[A]
    for token, generations in (("first", 0), ("second", 1)):
        provider.token = token
        assert primary.heartbeat == ("CLUSTER", "INFO")
        wait_until(lambda: not primary.connections._credentials.under_way, 60, "the answer")
        wait_until(lambda expected=generations: primary.connections.generation == expected, 60, "the generation")  # type: ignore[misc]


def test_no_lock_is_held_while_log_handlers_and_observers_run() -> None:
    """They are user code: one that hangs must hold up no other thread, and none may wait for a lock of ours."""
    staged = Staged()
    reports = ["live", "refused", "lost"]
    free: list[bool] = []

    def report() -> None:
        free.append(not staged.feed._lock._is_owned())  # type: ignore[attr-defined]

    def reporting(*values: object, **named: object) -> None:
        assert staged.feed._lock._is_owned()  # type: ignore[attr-defined]
        staged.listener.later(report)

    for name in reports:
        setattr(staged.listener, f"channel_{name}", reporting)
    staged.change(A, B)
    staged.feed.primaries_changed()
    staged.answer(A, B)
    staged.feed._by_address[A].channel_refused("OOM")
    staged.feed._by_address[A].channel_lost()
    assert len(free) >= len(reports)
    assert all(free)


def test_reports_are_made_in_order() -> None:
    """A log handler that takes its time is not overtaken by the next report, which does not wait for it either."""
    staged = Staged()
    slow, go = threading.Event(), threading.Event()
    seen: list[str] = []

    def first() -> None:
        slow.set()
        assert go.wait(60)
        seen.append("lost")

    staged.listener.later(first)
    other = threading.Thread(target=staged.feed._make_reports, daemon=True)
    other.start()
    assert slow.wait(60)
    staged.listener.later(lambda: seen.append("live"))
    staged.feed._make_reports()
    go.set()
    other.join(60)
    assert seen == ["lost", "live"]
