"""Random numbers are the system's, and stay below one."""

from __future__ import annotations

import os

import pytest

from aikcache._concurrency import chance


def test_the_largest_number_is_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of bytes that are all ones too: 1 - chance has a logarithm."""
    monkeypatch.setattr(os, "urandom", lambda size: b"\xff" * size)
    assert 1 - 2**-52 < chance.random() < 1
    monkeypatch.setattr(os, "urandom", lambda size: b"\x00" * size)
    assert (chance.random(), chance.uniform(0.5, 1.5)) == (0.0, 0.5)


def test_numbers_differ() -> None:
    """Of a thousand none comes twice, and both halves are met."""
    numbers = [chance.uniform(2, 4) for _ in range(1000)]
    assert len(set(numbers)) == 1000
    assert 2 <= min(numbers) < 3 < max(numbers) < 4
