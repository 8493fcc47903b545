"""Sessions that no slow machine makes fail, and processes that have them."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, TypeAlias

import pytest

from aikcache import CacheConfig
from aikcache.flask import sessions
from aikcache.sessions import SessionStore

from ._workers import PATIENCE


def make_rings_patient(patch: pytest.MonkeyPatch, seconds: float = PATIENCE) -> None:
    """Key rings made from here on wait so long for an answer: they have no argument for that."""
    patient = functools.partial(CacheConfig, timeout=seconds, connect_timeout=seconds)
    patch.setattr("aikcache._keyring.store.CacheConfig", patient)


def make_flask_patient(patch: pytest.MonkeyPatch) -> None:
    """So do the sessions of applications."""
    make_rings_patient(patch)
    patient = functools.partial(SessionStore, timeout=PATIENCE, connect_timeout=PATIENCE)
    patch.setattr(sessions, "SessionStore", patient)


Send: TypeAlias = Callable[[bytes], object]
"""Writes a line, which the process that forked reads."""


@contextmanager
def forked(count: int, work: Callable[[int, Send], object]) -> Iterator[BinaryIO]:
    """Runs `work` in as many processes of its own, and gives their output. All exit with the block."""
    reading, writing = os.pipe()
    children = []
    for number in range(count):
        if (child := os.fork()) == 0:
            status = 1
            try:
                os.close(reading)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(int(6 * PATIENCE))
                work(number, lambda lines: os.write(writing, lines + b"\n"))
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    os.close(writing)
    with os.fdopen(reading, "rb") as lines:
        try:
            yield lines
        except BaseException:
            for child in children:
                os.kill(child, signal.SIGKILL)
            raise
        finally:
            ended = [os.waitpid(child, 0)[1] for child in children]
    assert ended == [0] * count
