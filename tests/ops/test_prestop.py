"""Who is asked for a failover before a primary stops, by a redis-cli that answers what a test says."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "ops/scripts/prestop-redis.sh"
CLI = """#!/bin/sh
while [ "$1" != --user ]; do [ "$1" = -p ] && port=$2; shift; done
shift 2
case "$*" in
"INFO replication") echo role:master ;;
"SENTINEL MASTER aikcache")
    [ -e "$ASKED" ] && now=redis-1 || now=redis-0
    printf '%s\\n' flags master config-epoch 1 num-slaves 2 ip $now port 6379
    ;;
"SENTINEL FAILOVER aikcache") echo "$port" >>"$ASKED"; echo "$SAID" >&2; [ "$SAID" = OK ] ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("timeout") is None, reason="the scripts need timeout")


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("OK", ["1"]),
        ("INPROG Failover already in progress", ["1"]),
        ("", ["1"]),  # no answer in time: it may be carried out later
        ("NOGOODSLAVE No suitable replica to promote", ["1", "2", "3"]),
    ],
)
def test_no_second_failover_is_asked_for_beside_one_that_may_be_under_way(
    said: str, asked: list[str], tmp_path: Path
) -> None:
    """A second Sentinel would not know of it, and promote another replica."""
    cli, secrets, log = tmp_path / "redis-cli", tmp_path / "secrets", tmp_path / "asked"
    cli.write_text(CLI)
    cli.chmod(0o755)
    secrets.mkdir()
    for user in ("monitor", "operator", "sentinels"):
        (secrets / user).write_text("a password")
    env = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SELF": "redis-0:6379",
        "SENTINELS": "s:1 s:2 s:3",
        "SECRETS": str(secrets),
        "WAIT": "60",
        "ASKED": str(log),
        "SAID": said,
    }
    done = subprocess.run(["sh", str(SCRIPT)], env=env, capture_output=True, text=True)
    assert (done.returncode, log.read_text().split()) == (0, asked)
    assert done.stderr.endswith("redis-1:6379 has taken over from redis-0:6379.\n")
