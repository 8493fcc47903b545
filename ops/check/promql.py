"""The metrics that an expression reads, and who gives them: the library's table, redis_exporter, or a rule."""

from __future__ import annotations

import re
from collections.abc import Iterable

from aikcache.metrics import INSTRUMENTS

from .tools import OPS

_AGGREGATIONS = "sum|min|max|avg|count|topk|bottomk|quantile|stddev|stdvar|group|count_values"
_STRINGS = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'')
_SELECTORS = re.compile(r"\{[^}]*\}|\[[^\]]*\]")
_LABEL_LISTS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_WORDS = re.compile(r"(?<![\w:.$])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])")
_KEYWORDS = {"and", "or", "unless", "bool", "offset", *_AGGREGATIONS.split("|"), "Inf", "NaN"}


def metrics(expr: str) -> set[str]:
    """The names of all metrics in an expression that promtool has accepted."""
    bare = _SELECTORS.sub("", _STRINGS.sub('""', expr))
    return set(_WORDS.findall(_LABEL_LISTS.sub("", bare))) - _KEYWORDS


def emitted(prefix: str = "aikernel") -> set[str]:
    """Every name that there is on the wire."""
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    names = {f"{prefix}{one.name}{part}" for one in INSTRUMENTS for part in parts.get(one.kind, ("",))}
    exporter = (OPS / "prometheus" / "redis_exporter.txt").read_text(encoding="utf-8").splitlines()
    return names | {line for line in exporter if not line.startswith("#")} | {"up"}


def unknown(exprs: Iterable[tuple[str, str]], recorded: Iterable[str] = ()) -> list[str]:
    """What no program emits and no rule records, by the name of who asks for it."""
    known = emitted() | set(recorded)
    return [f"{owner} reads {name}, which nobody emits" for owner, expr in exprs for name in metrics(expr) - known]
