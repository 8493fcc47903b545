"""The table of faults: whatever Redis does, every call is answered, correctly and soon, and Redis is used again."""

from __future__ import annotations

from pathlib import Path

import pytest

from ._faults import FAULTS, measure

TIMEOUT, RESET = 0.2, 0.2
QUICK = {"timeout": TIMEOUT, "connect_timeout": TIMEOUT, "breaker_reset": RESET}


@pytest.mark.parametrize("name", FAULTS)
def test_whatever_redis_does_callers_are_served(name: str, binary: Path) -> None:
    """No call fails or gets an old answer, none takes longer than a few timeouts, and recovery follows the server's."""
    outcome = measure(name, binary, 0.5, **QUICK)
    assert outcome.failed == ()
    assert outcome.wrong == ()
    # Reading, leasing and storing are an operation each, the first of them may have to connect; then others wait.
    assert outcome.worst < 6 * TIMEOUT
    assert outcome.recovered < 2.0
    assert len(outcome.lines) <= 8
