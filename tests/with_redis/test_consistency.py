"""No read is staler than guaranteed, whatever fails: `benchmarks.consistency` for a while, and proof that it sees.

AIKCACHE_CONSISTENCY_SECONDS says how long; without it 15 seconds, and 20 where servers are required, as in CI.
Longer runs, behind Sentinel and on a cluster too, are made by hand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from aikcache._redis.sides import Sides
from aikcache.testing import Server, wait_until
from benchmarks.consistency.faults import ALL, CONNECTION_FAULTS, WORKER_FAULTS
from benchmarks.consistency.options import TAKEOVERS
from benchmarks.consistency.refusals import ALL as REFUSING
from benchmarks.consistency.refusals import misconf

from ._workers import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = os.environ.get("AIKCACHE_REQUIRE_SERVERS") == "1"
SECONDS = float(os.environ.get("AIKCACHE_CONSISTENCY_SECONDS") or (20 if REQUIRED else 15))


def run(tmp_path: Path, seconds: float, *options: str) -> tuple[int, dict[str, Any]]:
    """The exit status and the outcome."""
    file = tmp_path / "outcome.json"
    command = [sys.executable, "-m", "benchmarks.consistency", f"--seconds={seconds}", f"--json={file}", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 300)
    assert file.exists(), f"it failed:\n{done.stdout}\n{done.stderr}"
    return done.returncode, json.loads(file.read_text())


@pytest.fixture
def kind(servers: dict[str, Path]) -> str:
    """One kind of server: the other is left to runs by hand, for these take long."""
    if not servers:
        message = "no server is installed"
        pytest.fail(message) if REQUIRED else pytest.skip(message)
    return next(iter(servers))


def test_no_read_is_staler_than_guaranteed_under_any_fault(kind: str, tmp_path: Path) -> None:
    """Processes read, write and invalidate while all that can fail fails: every read is as new as it was promised."""
    options = ["--server", kind, "--max-staleness", "2", "--faults", ",".join(ALL)]
    status, outcome = run(tmp_path, SECONDS, *options)
    assert (status, outcome["violations"]) == (0, {}), "\n".join(outcome["first"])
    # With so little of either, nothing would have been shown.
    assert outcome["reads"] > 20 * SECONDS
    assert outcome["changes"] > SECONDS
    assert len(outcome["faults"]) >= min(SECONDS / 5, len(ALL))


def test_no_read_is_staler_than_guaranteed_when_writes_are_refused(kind: str, tmp_path: Path) -> None:
    """The same while a server answers reads and refuses writes, for each reason that it may have."""
    options = ["--server", kind, "--max-staleness", "1.5", "--faults", ",".join(REFUSING)]
    status, outcome = run(tmp_path, 15, *options)
    assert (status, outcome["violations"]) == (0, {}), "\n".join(outcome["first"])
    assert len(outcome["faults"]) >= 3
    assert outcome["refused"] > 10


def test_a_primary_that_cannot_save_survives_being_replaced(binary: Path) -> None:
    """As happens on a busy machine: it becomes a replica, applies its new primary's writes, and is a server again."""
    config = ["repl-diskless-sync-delay 0"]
    with Server(binary=binary, port=0, config=config) as old, Server(binary=binary, port=0, config=config) as new:
        first, second = redis.Redis.from_url(old.url), redis.Redis.from_url(new.url)

        def follows(replica: redis.Redis, primary: Server) -> None:
            replica.replicaof("127.0.0.1", str(primary.port))
            wait_until(lambda: replica.info("replication")["master_link_status"] == "up", PATIENCE, "the replica")

        follows(second, old)
        with misconf(old, first):
            second.replicaof("NO", "ONE")
            follows(first, new)
            second.set("written", 1)
            wait_until(lambda: first.get("written"), PATIENCE, "the write")
        first.replicaof("NO", "ONE")
        assert first.set("written", 2)
        first.close()
        second.close()


@pytest.mark.parametrize("topology", ["sentinel", "cluster"])
def test_no_read_is_staler_than_guaranteed_across_takeovers(topology: str, kind: str, tmp_path: Path) -> None:
    """The same while primaries are killed, stopped and replaced, and workers are killed and stopped."""
    faults = ",".join((*TAKEOVERS, *CONNECTION_FAULTS, *WORKER_FAULTS))
    status, outcome = run(tmp_path, 15, "--topology", topology, "--server", kind, "--faults", faults)
    assert (status, outcome["violations"]) == (0, {}), "\n".join(outcome["first"])
    assert outcome["reads"] > 20 * 15
    assert outcome["changes"] > 15
    assert outcome["takeovers"]


@pytest.mark.skipif(not Sides.possible(), reason="only root can cut a network in two, on Linux")
def test_no_read_is_staler_than_guaranteed_in_a_partition(kind: str, tmp_path: Path) -> None:
    """The same with few writes while the primary, a Sentinel and two processes are cut off from the majority."""
    options = ["--topology", "sentinel", "--server", kind, "--max-staleness", "2"]
    options += ["--faults", "partition", "--writes", "few", "--just-started", "off"]
    status, outcome = run(tmp_path, 12, *options)
    assert (status, outcome["violations"]) == (0, {}), "\n".join(outcome["first"])
    assert outcome["takeovers"]


def test_strong_reads_see_all_that_had_returned(kind: str, tmp_path: Path) -> None:
    """With consistency="strong" no read returns what a process had invalidated before, whatever happens to channels."""
    faults = "kill-channel,kill-data,silence-channel,stop-worker,kill-worker,restart-old,flushall"
    options = ["--server", kind, "--consistency", "strong", "--faults", faults]
    status, outcome = run(tmp_path, 10, *options)
    assert (status, outcome["violations"]) == (0, {}), "\n".join(outcome["first"])
    assert outcome["reads"] > 200
    assert outcome["changes"] > 10


BROKEN = {
    "push": ["--faults", "none"],
    "lease": ["--faults", "none"],
    "replay": ["--faults", "noreplicas", "--max-staleness", "1.5"],
    "strong": ["--faults", "silence-channel", "--consistency", "strong"],
}


@pytest.mark.parametrize("broken", BROKEN)
def test_the_checker_notices_a_rule_that_is_removed(broken: str, kind: str, tmp_path: Path) -> None:
    """The same check fails when pushes are ignored, when a load may store without its lease, and so on."""
    for _ in range(10):  # what threads make of it differs: once in a while six seconds show nothing
        status, outcome = run(tmp_path, 6, "--server", kind, *BROKEN[broken], "--break", broken)
        if status:
            assert set(outcome["violations"]) & {"own", "live", "bound", "refused", "strong"}
            return
    pytest.fail("nothing was noticed")


def test_the_checker_notices_a_new_primary_that_is_sent_nothing(kind: str, tmp_path: Path) -> None:
    """The same check fails when what a primary acknowledged after its replacement is not sent to the next one."""
    options = ["--topology", "sentinel", "--server", kind, "--faults", "manual", "--break", "resend"]
    for _ in range(10):
        status, outcome = run(tmp_path, 8, *options)
        if status:
            assert set(outcome["violations"]) & {"own", "live", "bound"}
            return
    pytest.fail("nothing was noticed")
