"""Which invalidations are sent again to a server that takes over."""

from __future__ import annotations

import pytest

from aikcache._coherence import recent as _recent
from aikcache._coherence.recent import ALL, REPLAY, Recent

PREFIX = "shop:v1:"


def key(number: int) -> tuple[str, str]:
    return ("keys", f"{PREFIX}price:get:{number}")


def test_an_invalidation_is_kept_until_a_majority_has_followed_for_long_enough() -> None:
    """Only time with evidence of a majority counts: in an hour without it nothing is forgotten."""
    recent = Recent(100.0, PREFIX)
    recent.add([key(1)])
    recent.turn(3700.0, 105.0)  # cut off since 105
    assert recent.names() == {key(1): None}
    recent.turn(3710.0, 3709.0)
    recent.add([key(2)])
    assert list(recent.names()) == [key(1), key(2)]
    recent.turn(3710.0 + REPLAY, 3709.0 + REPLAY)
    assert list(recent.names()) == [key(1), key(2)]
    recent.turn(3712.0 + REPLAY, 3711.0 + REPLAY)
    assert list(recent.names()) == [key(2)]


def test_an_invalidation_is_kept_once() -> None:
    """The same invalidation a thousand times is kept once."""
    recent = Recent(0.0, PREFIX)
    for _ in range(1000):
        recent.add([key(1)])
    assert recent.names() == {key(1): None}


@pytest.mark.parametrize("turned", [False, True])
def test_too_many_keys_become_their_operations(turned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit keys become the groups that cover them: too much is invalidated, nothing is lost."""
    monkeypatch.setattr(_recent, "MAX_RECENT", 10)
    recent = Recent(0.0, PREFIX)
    for number in range(10):
        recent.add([key(number)])
        assert len(recent.names()) == number + 1
        if turned and number == 5:
            recent.turn(100.0, 99.0)
    recent.add([("globs", "shop:*x")])
    names = {("groups", "price:get"): None, ("globs", "shop:*x"): None}
    assert recent.names() == names
    recent.add([key(11)])
    assert recent.names() == (names if turned else {**names, key(11): None})


def test_too_many_operations_become_an_invalidation_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where users choose what comes before the second colon."""
    monkeypatch.setattr(_recent, "MAX_RECENT", 10)
    recent = Recent(0.0, PREFIX)
    for number in range(11):
        recent.add([("keys", f"{PREFIX}user:{number}:name")])
    assert ALL in recent.names()
    assert recent.names() == {ALL: None}
