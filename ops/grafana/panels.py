"""Every panel: its question, and the expressions that answer it.

Rows go from what users feel to what explains it. A counter is never shown raw, a ratio without traffic is a dash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .names import cache, ours, quantile, rate, redis, total

Kind = Literal["gauge", "stat", "timeseries", "bargauge"]


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture. `targets`: expression and legend. `steps`: colours from values on."""

    title: str
    description: str
    unit: str
    targets: tuple[tuple[str, str], ...]
    kind: Kind = "timeseries"
    width: int = 8
    steps: tuple[tuple[float | None, str], ...] = ((None, "green"),)
    top: float | None = None
    decimals: int | None = None
    listed: bool = False  # whether its legend is long: a table beside it, which scrolls
    signed: bool = False  # whether it may be less than 0


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


_RANGE, _POINT = "[$__range]", "[$__rate_interval]"
_HITS, _MISSES = total("hits_total"), total("misses_total")
_GOOD = ((None, "red"), (0.7, "orange"), (0.9, "green"))
_ANY_IS_BAD = ((None, "green"), (1.0, "red"))
_ERRORS = f"sum(increase({cache('errors_total')}{_RANGE}))"
_WRITTEN = f"sum(increase({cache('bytes_written_total')}{_RANGE}))"
_CALLS_BY_OPERATION = (
    f"sum by (operation) (increase({cache('hits_total')}{_RANGE})) + "
    f"sum by (operation) (increase({cache('misses_total')}{_RANGE}))"
)
_MEAN_LOAD = f"sum({rate(cache('load_seconds', 'sum'))}) / sum({rate(cache('load_seconds', 'count'))})"

ROWS = (
    Row("What users feel", (
        Panel("Hit rate", "Calls that were answered without running their function. A dash: there were no calls.",
              "percentunit", ((f"{_HITS} / (({_HITS} + {_MISSES}) > 0)", "hit rate"),), "gauge", 4, _GOOD, 1.0),
        Panel("Errors", "Problems within the chosen time that no caller felt: the function ran instead.", "short",
              ((_ERRORS, "errors"),), "stat", 4, _ANY_IS_BAD, decimals=0),
        Panel("Operations rate", "Calls a second: by the tier that answered, and misses.", "ops",
              ((total("hits_total", "tier"), "{{tier}}"), (_MISSES, "miss"))),
        Panel("Latency by operation", "99 of 100 round trips to Redis made for a cached operation took less. Local "
              "hits make none.", "s", ((quantile(0.99, "latency_seconds", "operation"), "{{operation}}"),),
              listed=True),
    )),
    Row("What it does", (
        Panel("Top 10 operations", "The cached operations with most calls within the chosen time.", "short",
              ((f"topk(10, {_CALLS_BY_OPERATION})", "{{operation}}"),), "bargauge", 12, decimals=0),
        Panel("Bytes written", "Stored in Redis within the chosen time.", "bytes", ((_WRITTEN, "bytes"),), "stat", 4,
              decimals=0),
        Panel("Loads saved", "Calls a second that did not run their function.", "ops", ((_HITS, "loads"),), width=4),
        Panel("Time saved", "Seconds of work in each second that hits made needless, at the mean time of a load.", "s",
              ((f"{_HITS} * ({_MEAN_LOAD})", "saved"),), width=4),
    )),
    Row("Coherence", (
        Panel("Coherent", "1: every process receives others' invalidations at once. 0: it checks with Redis instead.",
              "bool_on_off", ((f"min({cache('coherent')})", "all processes"),), "stat", 4,
              ((None, "red"), (1.0, "green"))),
        Panel("Breakers open", "Caches that have stopped asking Redis.", "short", ((f"sum({cache('breaker_open')})",
              "open"),), "stat", 4, _ANY_IS_BAD, decimals=0),
        Panel("Pending invalidations", "Those that could not be sent to Redis yet.", "short",
              ((f"sum({cache('pending_invalidations')})", "pending"),)),
        Panel("Oldest pending invalidation", "How long it has waited. AikcachePendingInvalidations fires at a minute.",
              "s", ((f"max by (instance) ({cache('pending_oldest_seconds')})", "{{instance}}"),)),
        Panel("Silence of the channel", "Since the last answered heartbeat was sent, the longest of all.", "s",
              ((f"max by (instance) ({cache('channel_silence_seconds')})", "{{instance}}"),)),
        Panel("Invalidations", "Names a second: made here (out), and received (in).", "ops",
              ((total("invalidations_total", "kind, direction"), "{{kind}} {{direction}}"),)),
        Panel("Changes of channel and breaker", "Within the interval of a point.", "short",
              ((f"sum by (state) (increase({cache('channel_changes_total')}{_POINT}))", "channel {{state}}"),
               (f"sum by (state) (increase({cache('breaker_changes_total')}{_POINT}))", "breaker {{state}}"))),
    )),
    Row("Loads and round trips", (
        Panel("Round trips to Redis", "By what was asked, the median and 99 of 100. The same ones as in Latency by "
              "operation.", "s", ((quantile(0.5, "command_seconds", "command"), "{{command}} p50"),
                                  (quantile(0.99, "command_seconds", "command"), "{{command}} p99"))),
        Panel("Loads", "How long the functions run, the median and 99 of 100.", "s",
              ((quantile(0.5, "load_seconds", "operation"), "{{operation}} p50"),
               (quantile(0.99, "load_seconds", "operation"), "{{operation}} p99")), listed=True),
        Panel("Failed round trips", "A second, by what went wrong.", "ops",
              ((total("command_errors_total", "command, error_type"), "{{command}} {{error_type}}"),)),
        Panel("Stale answers and failed loads", "Calls a second that got a value past its time, and loads that failed.",
              "ops", ((total("stale_total", "operation"), "stale {{operation}}"),
                      (total("loads_total", "operation", result="error"), "failed {{operation}}")), listed=True),
        Panel("Local tier", "Entries held in memory by all processes.", "short",
              ((f"sum({cache('local_entries')})", "entries"),)),
        Panel("Sweeps", "Sweeps of a glob that are under way.", "short",
              ((f"sum({cache('sweeps_running')})", "running"),)),
    )),
    Row("Sessions and key ring", (
        Panel("Sessions", "Events a second. refused: a cookie or a record that is none of ours; unavailable: Redis was "
              "away; dropped: what a request wrote after a logout.", "ops",
              ((f"sum by (event) ({rate(ours('session_total'))})", "{{event}}"),)),
        Panel("Keys of the ring", "By their state, as the process that knows most of each. One is active.", "short",
              ((f"max by (state) ({ours('keyring_keys')})", "{{state}}"),)),
        Panel("Next rotation", "Until the next key must be made. AikcacheKeyRotationOverdue fires below 0.", "s",
              ((f"min by (instance) ({ours('keyring_next_rotation_seconds')})", "{{instance}}"),), signed=True),
    )),
    Row("Redis", (
        Panel("Memory", "Used, and each server's limit. A cache is meant to be full.", "bytes",
              ((redis("memory_used_bytes"), "{{instance}}"),
               (f"{redis('memory_max_bytes')} > 0", "{{instance}} limit")), listed=True),
        Panel("Connected clients", "Connections to each server.", "short",
              ((redis("connected_clients"), "{{instance}}"),)),
        Panel("Commands", "Commands a second that the servers carried out.", "ops",
              ((f"sum by (instance) ({rate(redis('commands_processed_total'))})", "{{instance}}"),)),
        Panel("Evictions", "Keys a second that were dropped for want of memory, in Redis and in local tiers.", "ops",
              ((f"sum by (instance) ({rate(redis('evicted_keys_total'))})", "{{instance}}"),
               (total("evictions_total", "tier"), "{{tier}} tier"))),
        Panel("Replication", "Bytes that a replica has yet to copy.", "bytes",
              ((f"{redis('master_repl_offset')} - on (job, instance) group_right () "
                f"{redis('connected_slave_offset_bytes')}", "{{slave_ip}}:{{slave_port}}"),)),
        Panel("Roles", "Which server is the primary: it has replicas.", "short",
              ((redis("connected_slaves"), "{{instance}}"),)),
    )),
)  # fmt: skip
