"""Whose exception it is: a signal handler's, or of the code that was called."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType

import pytest

from aikcache._concurrency import outside
from aikcache._concurrency.outside import let_out


class Limit(Exception):
    """A job's time is over."""


class Handler:
    def __call__(self, number: int, frame: FrameType | None) -> None:
        raise Limit

    def method(self, number: int, frame: FrameType | None) -> None:
        raise Limit


def function(number: int, frame: FrameType | None) -> None:
    raise Limit


@pytest.fixture(
    params=[function, Handler(), Handler().method, partial(Handler().method)],
    ids=["function", "object", "method", "partial"],
)
def handler(request: pytest.FixtureRequest) -> Iterator[Callable[[int, FrameType | None], None]]:
    before = signal.signal(signal.SIGUSR1, request.param)
    yield request.param
    signal.signal(signal.SIGUSR1, before)


def raised(code: Callable[[], object]) -> Exception:
    try:
        code()
    except Exception as error:
        return error
    raise AssertionError


@pytest.mark.usefixtures("handler")
def test_what_a_signal_handler_raised_is_let_out() -> None:
    error = raised(lambda: signal.raise_signal(signal.SIGUSR1))
    with pytest.raises(Limit):
        let_out(error)


@pytest.mark.usefixtures("handler")
def test_what_other_code_raised_stays() -> None:
    let_out(raised(lambda: 1 / 0))


def test_handlers_are_not_asked_for_about_what_the_package_itself_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the breaker is open each call meets such an error: reading 62 handlers took longer than the call."""
    monkeypatch.setattr(outside, "_PACKAGE", __file__.rpartition("test_")[0])
    monkeypatch.setattr(signal, "getsignal", lambda number: pytest.fail("asked"))
    let_out(raised(lambda: 1 / 0))
