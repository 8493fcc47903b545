"""What a run has shown: the workers' measurements added up, as a table of 100 columns and as JSON.

Calls are counted by the workers themselves and hits by the cache, so the ratios are not the cache's own word for it.
Latencies are what the caller saw, of all processes together; those without cache are of the same functions, by
`.bypass`, over a sample of the same calls.
"""

from __future__ import annotations

import dataclasses
import json
import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from _catalog_load import QUERIES, operation_of
from _catalog_worker import Checked, Counts, Served

MIN_HITS = 0.9
_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Latency:
    """Median and 99th percentile, in microseconds; NaN when nothing was measured."""

    median: float
    p99: float

    @classmethod
    def of(cls, nanoseconds: Iterable[int]) -> Latency:
        """The two figures for these measurements."""
        ordered = sorted(nanoseconds)
        return cls(quantile(ordered, 0.5) / 1000, quantile(ordered, 0.99) / 1000)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


@dataclass(frozen=True, slots=True)
class OperationReport:
    """One row of the table."""

    operation: str
    calls: int
    counts: Counts
    cached: Latency
    uncached: Latency

    @property
    def hit_ratio(self) -> float:
        """Share of the calls answered by either tier."""
        return _share(self.counts.local_hits + self.counts.remote_hits, self.calls)

    @property
    def local_ratio(self) -> float:
        """Share of the calls answered by the local tier."""
        return _share(self.counts.local_hits, self.calls)

    @property
    def remote_ratio(self) -> float:
        """Share answered by the remote tier, of the calls that reached it."""
        return _share(self.counts.remote_hits, self.calls - self.counts.local_hits)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run."""

    operations: tuple[OperationReport, ...]
    total: OperationReport
    seconds: float
    warm_ratio: float
    writes: int
    write: Latency
    checked: tuple[Checked, ...]
    min_hits: float

    @property
    def wrong(self) -> int:
        """Answers that differed from the database's, in all processes."""
        return sum(checked.wrong for checked in self.checked)

    @property
    def passed(self) -> bool:
        """Whether the run did what the example promises."""
        return self.total.hit_ratio > self.min_hits and self.wrong == 0


def summarize(served: Sequence[Served], checked: Sequence[Checked], min_hits: float = MIN_HITS) -> Report:
    """Add up what the workers have measured."""
    operations = tuple(_operation(name, served, checked) for name in QUERIES)
    used = tuple(operation for operation in operations if operation.calls)
    total = OperationReport(
        "all",
        sum(operation.calls for operation in operations),
        sum((operation.counts for operation in operations), Counts()),
        Latency.of(_joined(latency for worker in served for latency in worker.latencies.values())),
        Latency.of(_joined(latency for process in checked for latency in process.latencies.values())),
    )
    writes = _joined(worker.write_latencies for worker in served)
    seconds = max(worker.seconds for worker in served)
    warm = sum((worker.warm_counts for worker in served), Counts())
    warm_ratio = _share(warm.local_hits + warm.remote_hits, sum(worker.warm_calls for worker in served))
    return Report(used, total, seconds, warm_ratio, len(writes), Latency.of(writes), tuple(checked), min_hits)


def _operation(name: str, served: Sequence[Served], checked: Sequence[Checked]) -> OperationReport:
    latencies = _joined(worker.latencies[name] for worker in served)
    return OperationReport(
        operation_of(name),
        len(latencies),
        sum((worker.counts.get(name, Counts()) for worker in served), Counts()),
        Latency.of(latencies),
        Latency.of(_joined(process.latencies[name] for process in checked)),
    )


def _joined(parts: Iterable[array[int]]) -> array[int]:
    joined = array("q")
    for part in parts:
        joined.extend(part)
    return joined


def table(report: Report) -> str:
    """The run's figures per operation."""
    above = f"{'':27}{'':>7}{'hit ratio, %':>19}{'':>7}{'with cache, µs':>16}{'without, µs':>15}{'stored':>9}"
    names = ("calls", "all", "local", "remote", "loads", "median", "p99", "median", "p99", "KiB")
    head = f"{'operation':27}" + "".join(f"{n:>{w}}" for n, w in zip(names, _WIDTHS, strict=True))
    rows = [_row(operation) for operation in report.operations]
    return "\n".join([above, head, "-" * _WIDTH, *rows, "-" * _WIDTH, _row(report.total)])


_WIDTHS = (7, 6, 6, 7, 7, 8, 8, 7, 8, 9)


def _row(operation: OperationReport) -> str:
    counts = operation.counts
    cells = (
        str(operation.calls),
        *map(_percent, (operation.hit_ratio, operation.local_ratio, operation.remote_ratio)),
        str(counts.loads),
        *map(_microseconds, (operation.cached.median, operation.cached.p99)),
        *map(_microseconds, (operation.uncached.median, operation.uncached.p99)),
        f"{counts.bytes_written / 1024:.0f}",
    )
    return f"{operation.operation:27}" + "".join(f"{c:>{w}}" for c, w in zip(cells, _WIDTHS, strict=True))


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def _microseconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def verdict(report: Report, settled: float) -> str:
    """The two promises of the example, and whether they were kept."""
    compared = sum(checked.compared for checked in report.checked)
    counts = sum((checked.counts for checked in report.checked), Counts())
    total, write = report.total, report.write
    lines = [
        f"Hit ratio   {_percent(total.hit_ratio)} % of {total.calls} calls, beginning with an empty cache"
        f" (must be above {report.min_hits:.0%}).",
        f"            {_percent(report.warm_ratio)} % in the second half of the load.",
        f"Answers     {report.wrong} wrong of {compared}: each compared, in value and in type, with the database's,",
        f"            {settled:g} s after the load, in {len(report.checked)} processes, one of them new to the load.",
        f"            {counts.local_hits} came from local tiers, {counts.remote_hits} from the remote tier, "
        f"{counts.loads} had to be loaded.",
        f"Writes      {report.writes}, median {write.median / 1000:.1f} ms, p99 {write.p99 / 1000:.1f} ms: "
        "reading the file, commit, invalidation.",
    ]
    errors = report.total.counts.errors
    if errors:
        lines.append(f"Errors      {errors} counted by the cache; each call got the database's answer instead.")
    differences = dict.fromkeys(line for checked in report.checked for line in checked.differences)
    lines += [f"  wrong: {line}"[:_WIDTH] for line in differences]
    return "\n".join([*lines, "", "PASSED" if report.passed else "FAILED"])


def as_json(report: Report) -> str:
    """The same as one JSON object; ratios are fractions of 1, latencies microseconds."""

    def row(operation: OperationReport) -> dict[str, object]:
        ratios = {name: getattr(operation, name) for name in ("hit_ratio", "local_ratio", "remote_ratio")}
        return {**dataclasses.asdict(operation), **ratios}

    content = {
        "passed": report.passed,
        "seconds": report.seconds,
        "warm_ratio": report.warm_ratio,
        "writes": report.writes,
        "write": dataclasses.asdict(report.write),
        "total": row(report.total),
        "operations": [row(operation) for operation in report.operations],
        "processes_checked": len(report.checked),
        "answers_compared": sum(checked.compared for checked in report.checked),
        "answers_wrong": report.wrong,
        "answers_from_cache": sum(c.counts.local_hits + c.counts.remote_hits for c in report.checked),
        "differences": [line for checked in report.checked for line in checked.differences],
    }
    return json.dumps(_without_nan(content), indent=2) + "\n"


def _without_nan(value: object) -> object:
    """JSON has no NaN: what was not measured is null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
