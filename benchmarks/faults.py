"""What callers feel of each way in which Redis fails, with the default settings: the table of docs/faults.md.

`python -m benchmarks.faults [--write]`. Six threads read and update through a cache without a local tier, and four of
another process read, while a real server is made to fail. Every answer is checked: none fails, none is older than an
update of its own process that has returned, and none elsewhere older than one that had `max_staleness` before. The
stages are those of the tests (`tests/with_redis/_faults.py`).
"""

from __future__ import annotations

import argparse
import sys

from aikcache._embedded.binaries import find_server
from benchmarks._harness.measure import ROOT, duration
from benchmarks._harness.report import circumstances
from tests.with_redis._fault_calls import REMAINS, Outcome, measure
from tests.with_redis._faults import FAULTS
from tests.with_redis._workers import Worker

LASTING = 3.0
HEAD = (
    "fault", "calls", "failed", "old answers", "old elsewhere", "oldest elsewhere", "slowest call", "calls over 10 ms",
    "used again after", "log lines", "errors counted", "breaker opened",
)  # fmt: skip
TEXT = """# Redis fails: what callers feel

Made by `python -m benchmarks.faults --write`; do not edit. {circumstances}

Six threads read and update through a cache with the default settings (`timeout` 0.5 s, `connect_timeout` 1 s, breaker
after 5 failures, a probe each second, `max_staleness` 5 s) and `local_ttl=0`, so that nothing is answered without Redis
but by the function itself, which costs nothing: the slowest call is the latency that was added. Four threads of another
process read, two through a local tier and two without. Each fault lasts {lasting:g} seconds, and {more:g} beyond
`max_staleness` where the server goes on answering reads and refuses writes (READONLY, NOREPLICAS, OOM, MISCONF).

*Old answers* are older than an update of the same process that has returned. Elsewhere such answers are allowed until
`max_staleness` after that: *old elsewhere* counts those that were older, *oldest elsewhere* is the oldest there was.
*Used again* is from the server's return until values are stored and found, the channel lives and nothing is pending.

{table}

No call may fail, and no answer may be old or, elsewhere, older than `max_staleness`; the same stages are tests
(`tests/with_redis/test_faults.py`), on Redis and on Valkey. A fault that answers at once costs next to nothing. One
that is silent costs each thread up to `connect_timeout` + `timeout` once, until five have failed; from then on one call
a second is the probe and pays for all. An update made meanwhile is kept, and sent before anything is read again.
"""


def cells(outcome: Outcome) -> tuple[str, ...]:
    return (
        outcome.fault, f"{outcome.calls}", f"{len(outcome.failed)}", f"{len(outcome.wrong)}",
        f"{len(outcome.elsewhere)}", duration(outcome.oldest), duration(outcome.worst), f"{outcome.slow}",
        duration(outcome.recovered), f"{len(outcome.lines)}", f"{outcome.errors}", f"{outcome.opened}",
    )  # fmt: skip


def main() -> int:
    """Measure every fault; exit status 1 when a call failed or was answered old."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults")
    parser.add_argument("--server", choices=("redis", "valkey"), default="redis", help="which server (default: redis)")
    parser.add_argument("--write", action="store_true", help="write docs/faults.md")
    parser.add_argument("fault", nargs="*", metavar="FAULT", help="only these (default: all)")
    options = parser.parse_args()
    binary = find_server(options.server)
    outcomes = []
    other = Worker()
    try:
        for name in options.fault or FAULTS:
            outcomes.append(measure(name, binary, LASTING, other))
            print(" | ".join(cells(outcomes[-1])), file=sys.stderr, flush=True)
    finally:
        other.stop()
    lines = [HEAD, ("---",) + ("---:",) * (len(HEAD) - 1), *map(cells, outcomes)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    about = "; ".join(f"{what}: {value}" for what, value in circumstances().items() if what != "command")
    text = TEXT.format(circumstances=about, lasting=LASTING, more=REMAINS, table=table)
    print(text)
    if options.write:
        (ROOT / "docs").mkdir(exist_ok=True)
        (ROOT / "docs" / "faults.md").write_text(text, encoding="utf-8")
    return 1 if any(outcome.failed or outcome.wrong or outcome.elsewhere for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
