"""The table of faults: whatever Redis does, every call is answered, correctly and soon, and Redis is used again."""

from __future__ import annotations

from pathlib import Path

import pytest

from ._fault_calls import measure
from ._faults import FAULTS
from ._workers import Worker

TIMEOUT, RESET = 0.2, 0.2
QUICK = {"timeout": TIMEOUT, "connect_timeout": TIMEOUT, "breaker_reset": RESET, "max_staleness": 1.5}


@pytest.mark.parametrize("name", FAULTS)
def test_whatever_redis_does_callers_are_served(name: str, binary: Path, worker: Worker) -> None:
    """No call fails or gets an old answer, none takes longer than a few timeouts, and recovery follows the server's."""
    outcome = measure(name, binary, 0.5, worker, **QUICK)
    assert outcome.failed == ()
    assert outcome.wrong == ()
    assert outcome.elsewhere == ()
    # A few timeouts are one second, and who waits for another's lease does so for five. These bounds are for a machine
    # that stalls, and tell a call that hangs.
    assert outcome.worst < 15
    assert outcome.recovered < 30
    assert len(outcome.lines) <= 8
