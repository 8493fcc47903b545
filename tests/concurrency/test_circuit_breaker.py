"""When a breaker opens, and who is informed."""

from __future__ import annotations

from aikcache._concurrency.circuit_breaker import Breaker


def test_an_opening_is_counted_and_reported_once_though_another_thread_counts_on() -> None:
    """The other's failure comes between the count that opens it and the report."""
    limit = 5
    changes: list[tuple[bool, str]] = []

    def clock() -> float:
        if breaker.failures == limit:
            breaker.failure("another thread's")
        return 0.0

    breaker = Breaker(limit, 1.0, clock, lambda is_open, cause: changes.append((is_open, cause)))
    for _ in range(limit):
        breaker.failure("this one's")
    assert breaker.opened == 1
    assert [is_open for is_open, _ in changes] == [True]
