"""Metrics by their names, looked up: one that was renamed or dropped ends the build of the dashboard."""

from __future__ import annotations

from pathlib import Path

from aikcache.metrics import INSTRUMENTS

PREFIX = "aikernel"
APPLICATION = 'job=~"$job",instance=~"$instance"'
SERVER = 'job="redis",instance=~"$redis"'
_EXPORTER = Path(__file__).parents[1] / "prometheus" / "redis_exporter.txt"
_REDIS = {line for line in _EXPORTER.read_text(encoding="utf-8").splitlines() if not line.startswith("#")}
_OURS = {one.name: one for one in INSTRUMENTS}


def cache(name: str, part: str = "bucket", **labels: str) -> str:
    """A selector of the library's metric, as in `cache("hits_total", tier="local")`; of a histogram that part."""
    return ours(f"cache_{name}", part, **labels)


def ours(name: str, part: str = "bucket", **labels: str) -> str:
    """The same of any metric of the library, as in `ours("keyring_keys")`."""
    one = _OURS[f"_{name}"]
    if unknown := set(labels) - set(one.labels):
        raise KeyError(f"{name} has no label {unknown}, it has {one.labels}")
    inner = "".join(f',{label}="{value}"' for label, value in labels.items())
    suffix = f"_{part}" if one.kind == "histogram" else ""
    return f"{PREFIX}_{name}{suffix}{{{APPLICATION}{inner}}}"


def redis(name: str) -> str:
    """A selector of redis_exporter's metric."""
    if f"redis_{name}" not in _REDIS:
        raise KeyError(f"redis_exporter has no redis_{name}")
    return f"redis_{name}{{{SERVER}}}"


def rate(selector: str) -> str:
    """A second's worth, over as many scrapes as the panel's width asks for."""
    return f"rate({selector}[$__rate_interval])"


def total(name: str, by: str = "", **labels: str) -> str:
    """The rate of one of the library's counters, added up."""
    _grouped(name, by)
    grouped = f"sum by ({by}) " if by else "sum"
    return f"{grouped}({rate(cache(name, **labels))})"


def quantile(which: float, name: str, by: str = "") -> str:
    """A quantile of one of the library's histograms."""
    _grouped(name, by)
    return f"histogram_quantile({which}, sum by ({', '.join(filter(None, ['le', by]))}) ({rate(cache(name))}))"


def _grouped(name: str, by: str) -> None:
    labels = _OURS[f"_cache_{name}"].labels
    if unknown := set(filter(None, by.split(", "))) - set(labels):
        raise KeyError(f"{name} cannot be added up by {unknown}, it has {labels}")
