"""On 17 real traces S3-FIFO is 6.0 points above LRU on average and never below, and 0.9 above adaptive W-TinyLFU.

Each policy is asked for every key of a trace in order, and given those it does not have. The traces are those that the
simulator of Caffeine publishes, looked for below `--traces` (../shared/traces, which has three of them); without any,
synthetic ones stand in, which say less. Ours is the store that `policy="s3fifo"` uses, and theine is W-TinyLFU.
"""

from __future__ import annotations

import gzip
import lzma
import random
import statistics
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cachetools

from aikcache._local.s3fifo import S3FIFOCache
from benchmarks._harness import rivals as _rivals
from benchmarks._harness.measure import Bar, Plot, Row, Settings

OURS, BASE, THEINE = "aikcache s3fifo", "cachetools LRU", "theine"
FILES = {  # name: (file, format of a key, "" for a line of text)
    "orm-busy": ("orm-busy.trace.xz", "i"),
    "orm-night": ("orm-night.trace.xz", "i"),
    "web07": ("web07.trace.xz", "i"),
    "web12": ("web12.trace.xz", "i"),
    "vault": ("trace_vaultservice.gz", "q"),
    "w106": ("w106.trace.xz", "i"),
    "scarab": ("scarab-recs.trace.xz", "q"),
    "requests": ("request.trace.xz", ""),
    **{
        name: (f"{name}.trace.gz", "")
        for name in ("2_pools", "cpp", "cs", "gli", "multi1", "multi2", "multi3", "ps", "sprite")
    },
}
SHARES = (0.005, 0.02, 0.1)
"""Sizes of the cache, as shares of a trace's different keys: fixed, not chosen for what comes out."""
ALL_SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
REQUESTS = 1_000_000
"""So many requests of each trace from its beginning; all of them with --full."""
Count = Callable[[Sequence[int], int], int]


def run(settings: Settings) -> list[Row | Plot]:
    """A row for each trace and size, then what the bars ask of them together, and a plot for each trace."""
    rows: list[Row | Plot] = []
    over_lru, over_theine = [], []
    policies = _policies()
    for name, trace in _traces(settings).items():
        different = len(set(trace))
        lines: dict[str, list[tuple[float, float]]] = {policy: [] for policy in policies}
        for share in ALL_SHARES if settings.full else SHARES:
            size = int(different * share)
            ratio = {}
            for done, (policy, count) in enumerate(policies.items()):
                ratio[policy] = 100 * count(trace, size) / len(trace)
                lines[policy].append((size, ratio[policy]))
                settings.progress((done + 1) / len(policies))
            ours = ratio.pop(OURS)
            over_lru.append(ours - ratio[BASE])
            if THEINE in ratio:
                over_theine.append(ours - ratio[THEINE])
            rows.append(
                Row(
                    question=f"hit ratio, {name} @ {size} ({share:.1%})",
                    figure=f"{ours:.2f} %",
                    rival=" · ".join(f"{policy} {value:.2f}" for policy, value in ratio.items()),
                    measured=over_lru[-1],
                    unit=" points over LRU",
                )
            )
        title = f"Hit ratio against cache size, {name}"
        file = f"hit_ratio_{name.replace(' ', '_')}"
        rows.append(Plot(name=file, title=title, x="entries", y="hit ratio, %", lines=lines, log_x=True))
    return [
        *rows,
        *_judged(over_lru, over_theine, sum(_found(settings, file) is not None for file, _ in FILES.values())),
    ]


def _judged(over_lru: list[float], over_theine: list[float], real: int) -> list[Row]:
    """What the bars ask, in points. They are about real traces: of synthetic ones nothing is measured for them."""
    mean = 5.0 if real == len(FILES) else 2.0  # three of the traces do not loop
    asked = [
        ("over LRU, worst", Bar(-0.1, "", least=True), min(over_lru)),
        ("over LRU, mean", Bar(mean, "", least=True), statistics.mean(over_lru)),
        ("over theine, mean", Bar(0.6, "", least=True), statistics.mean(over_theine) if over_theine else None),
    ]
    return [
        Row(
            question=f"hit ratio, points {what}",
            figure=f"of {real} traces" if real else "no real traces here",
            rival="" if found is not None else f"{THEINE}: not installed",
            measured=found if real else None,
            unit="",
            bar=bar,
        )
        for what, bar, found in asked
    ]


def _policies() -> dict[str, Count]:
    made: dict[str, Count] = {
        OURS: lambda trace, size: _count(S3FIFOCache(size), trace),
        BASE: lambda trace, size: _count(cachetools.LRUCache(size), trace),
        "LFU": lambda trace, size: _count(cachetools.LFUCache(size), trace),
        "FIFO": lambda trace, size: _count(cachetools.FIFOCache(size), trace),
    }
    theine = _rivals.module("theine")
    if theine is not None:
        made[THEINE] = lambda trace, size: _count_theine(theine, trace, size)
    return made


def _count(cache: cachetools.Cache[int, int], trace: Sequence[int]) -> int:
    hits = 0
    for key in trace:
        try:
            cache[key]
        except KeyError:
            cache[key] = key
        else:
            hits += 1
    return hits


def _count_theine(theine: Any, trace: Sequence[int], size: int) -> int:
    cache = theine.Cache(size)
    hits = 0
    for key in trace:
        if cache.get(key)[1]:
            hits += 1
        else:
            cache.set(key, key)
    cache.close()
    return hits


def _traces(settings: Settings) -> dict[str, Sequence[int]]:
    found: dict[str, Sequence[int]] = {}
    for name, (file, form) in FILES.items():
        path = _found(settings, file)
        if path is not None:
            trace = _read(path, form)
            found[name] = trace if settings.full else trace[:REQUESTS]
    return found or {f"synthetic {name}": trace for name, trace in _synthetic().items()}


def _found(settings: Settings, file: str) -> Path | None:
    return next(settings.traces.rglob(file), None)


def _read(path: Path, form: str) -> Sequence[int]:
    data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else gzip.decompress(path.read_bytes())
    if not form:
        # A line is a key, or the time of a request, its key and its size; in some, "*" between two parts of the trace.
        lines = [line.split()[1:3] or [line] for line in data.decode().split("\n") if line.strip(" *\r")]
        numbers: dict[tuple[str, ...], int] = {}
        return [numbers.setdefault(tuple(line), len(numbers)) for line in lines]
    keys: tuple[int, ...] = struct.unpack(f">{len(data) // struct.calcsize('>' + form)}{form}", data)
    return keys


def _synthetic() -> dict[str, list[int]]:
    """Zipf's law alone, with scans through it, and loops larger than the cache."""
    made = random.Random(1)
    keys = range(20_000)
    zipf = made.choices(keys, [1 / (i + 1) ** 0.9 for i in keys], k=200_000)
    scan = list(zipf)
    for start in range(0, len(scan), 20_000):
        scan[start : start + 4000] = range(10**6 + start, 10**6 + start + 4000)
    loop = [key for _ in range(80) for key in range(2500)]
    return {"zipf": zipf, "zipf and scans": scan, "loop": loop}
