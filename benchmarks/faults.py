"""What callers feel of each way in which Redis fails, with the default settings: the table of docs/faults.md.

`python -m benchmarks.faults [--write]`. Six threads read and update through a cache without a local tier while a real
server is made to fail for three seconds. Every answer is checked: none fails, and none is older than an update that has
returned. The stages are those of the tests (`tests/with_redis/_faults.py`).
"""

from __future__ import annotations

import argparse
import sys

from aikcache._binaries import find_server
from tests.with_redis._faults import FAULTS, Outcome, measure

from ._measure import ROOT, duration
from ._report import circumstances

LASTING = 3.0
HEAD = ("fault", "calls", "failed", "old answers", "slowest call", "calls over 10 ms", "used again after", "log lines",
        "errors counted", "breaker opened")  # fmt: skip
TEXT = """# Redis fails: what callers feel

Made by `python -m benchmarks.faults --write`; do not edit. {circumstances}

Six threads read and update through a cache with the default settings (`timeout` 0.5 s, `connect_timeout` 1 s, breaker
after 5 failures, a probe each second) and `local_ttl=0`, so that nothing is answered without Redis but by the function
itself, which costs nothing: the slowest call is the latency that was added. Each fault lasts {lasting:g} seconds.
*Used again* is from the server's return until values are stored and found, the channel lives and nothing is pending.

{table}

No call may fail, and no answer may be older than an update that has returned; the same stages are tests
(`tests/with_redis/test_faults.py`), on Redis and on Valkey. A fault that answers at once costs next to nothing. One
that is silent costs each thread up to `connect_timeout` + `timeout` once, until five have failed; from then on one call
a second is the probe and pays for all. An update made meanwhile is kept, and told before anything is read again.
"""


def cells(outcome: Outcome) -> tuple[str, ...]:
    return (
        outcome.fault, f"{outcome.calls}", f"{len(outcome.failed)}", f"{len(outcome.wrong)}", duration(outcome.worst),
        f"{outcome.slow}", duration(outcome.recovered), f"{len(outcome.lines)}", f"{outcome.errors}",
        f"{outcome.opened}",
    )  # fmt: skip


def main() -> int:
    """Measure every fault; exit status 1 when a call failed or was answered old."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults")
    parser.add_argument("--server", choices=("redis", "valkey"), default="redis", help="which server (default: redis)")
    parser.add_argument("--write", action="store_true", help="write docs/faults.md")
    options = parser.parse_args()
    binary = find_server(options.server)
    outcomes = []
    for name in FAULTS:
        outcomes.append(measure(name, binary, LASTING))
        print(" | ".join(cells(outcomes[-1])), file=sys.stderr, flush=True)
    lines = [HEAD, ("---",) + ("---:",) * (len(HEAD) - 1), *map(cells, outcomes)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    about = "; ".join(f"{what}: {value}" for what, value in circumstances().items() if what != "command")
    text = TEXT.format(circumstances=about, lasting=LASTING, table=table)
    print(text)
    if options.write:
        (ROOT / "docs").mkdir(exist_ok=True)
        (ROOT / "docs" / "faults.md").write_text(text, encoding="utf-8")
    return 1 if any(outcome.failed or outcome.wrong for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
