"""What is logged, and how often."""

from __future__ import annotations

import logging

import pytest

from aikcache import Cache, EncodeError
from aikcache._concurrency.reporter import AGAIN, LONGEST, MOST_CAUSES, OTHER, RateLimitedReporter
from aikcache._engine.publisher import Publisher


def test_causes_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Beyond MOST_CAUSES whatever comes has one cause: nothing grows, and one line a minute is logged for all of it."""
    now = 1000.0
    reporter = RateLimitedReporter(lambda: now)
    for i in range(3 * MOST_CAUSES):
        reporter.report(f"key:p:f{i}", f"trouble {i}")
    assert len(reporter.counts) == MOST_CAUSES + 1
    assert reporter.counts[OTHER] == 2 * MOST_CAUSES
    assert len(caplog.records) == MOST_CAUSES + 1
    reporter.report("key:p:f0", "known, and said already")
    assert reporter.counts["key:p:f0"] == 2
    assert len(caplog.records) == MOST_CAUSES + 1


def test_a_cause_is_logged_again_after_a_minute_with_its_count(caplog: pytest.LogCaptureFixture) -> None:
    """What goes on is logged once a minute, with the number of times it was not."""
    now = 1000.0
    reporter = RateLimitedReporter(lambda: now)
    for _ in range(3):
        reporter.report("redis", "away", level=logging.ERROR)
    now += AGAIN
    reporter.report("redis", "away", level=logging.ERROR)
    assert [record.getMessage() for record in caplog.records] == ["away", "away (2 more since the last line)"]


@pytest.mark.parametrize("words", [["a"], ["b" * 90, "c" * 90], ["d" * 5000]])
def test_the_whole_error_is_logged_however_long_the_key(words: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """A result that cannot be kept is logged with the whole of its error, whose way out is its end."""

    def f(*words: str) -> object:
        return object()

    with pytest.raises(EncodeError) as raised:
        Cache(strict=True).cached("p", operation="f")(f)(*words)
    kept = Cache().cached("p", operation="f")(f)
    kept(*words)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"a result of {kept.key(*words)} was not cached: {raised.value}"


def test_a_log_line_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """What is longer than any line of ours loses its middle."""
    RateLimitedReporter(lambda: 1000.0).report("x", f"what {'x' * 10_000} and what to do")
    (line,) = [record.getMessage() for record in caplog.records]
    assert len(line) == LONGEST
    assert line.startswith("what x")
    assert line.endswith("x and what to do")


def test_a_log_handler_that_raises_fails_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the application's, and so is its failure; the line counts as logged."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("the disk is full")

    handler = Broken()
    logging.getLogger("aikcache").addHandler(handler)
    try:
        reporter = RateLimitedReporter()
        reporter.report("redis", "away")
        with Cache() as cache:
            Publisher(cache.stats, None, 3600, 1, reporter, {}).log()
    finally:
        logging.getLogger("aikcache").removeHandler(handler)
    assert reporter.counts == {"redis": 1}
