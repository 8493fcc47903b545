"""What is read of others' snapshots: labels that Prometheus can show, and no more of them than processes write."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from aikcache._engine import reading
from aikcache._engine.families import INSTRUMENTS
from aikcache._engine.tally import BOUNDS, MAX_OPERATIONS, Tally
from aikcache.prometheus import ReadingCollector

TIMES = [1] * (len(BOUNDS) + 1) + [1.0]


def _shown(value: Any) -> str:
    """A scrape of one snapshot of ours and this one."""
    registry = CollectorRegistry(auto_describe=False)
    total = reading.merged([reading.take(Tally()), reading.unpack(value)])
    registry.register(ReadingCollector("shop", total))
    return generate_latest(registry).decode()


def test_every_label_is_bounded() -> None:
    """By a number, or by a set that holds all that this process counts."""
    assert {label for one in INSTRUMENTS for label in one.labels} == {*reading._KNOWN, *reading._OPEN}
    tally = Tally()
    tally.sessions.join()
    tally.command_errors["get", "RemoteTimeoutError"] = 1
    mine = reading.take(tally)
    assert reading.unpack(reading.pack(mine)).samples == mine.samples


@pytest.mark.parametrize("label", ["\ud800", "a\nb", "a\x1b[2J", "a" * 301])
def test_text_that_cannot_be_printed_is_no_label(label: str) -> None:
    """A scrape answers, without it."""
    samples = {"hits": [[label, "local", 5], ["shop:price", "local", 7]], "command_errors": [["get", label, 1]]}
    text = _shown({"samples": samples, "timings": {"command_seconds": {label: TIMES}, "load_seconds": {label: TIMES}}})
    assert '{operation="shop:price",tier="local"} 7.0' in text
    assert label not in text


def test_labels_of_others_are_bounded() -> None:
    """Thousands of values are `other`, whose numbers add up."""
    many = [f"x{n}" for n in range(20_000)]
    samples = {
        "command_errors": [[one, one, 1] for one in many],
        "errors": [[one, another, 1] for one in many[:300] for another in many[:60]],
        "hits": [["shop:price", one, 1] for one in many],
        "keyring_keys": [[one, 1] for one in many],
    }
    text = _shown({"samples": samples, "timings": {"command_seconds": dict.fromkeys(many, TIMES)}})
    lines = text.splitlines()
    assert 'shop_cache_hits_total{operation="shop:price",tier="other"} 20000.0' in lines
    assert 'shop_cache_command_seconds_count{command="other"} 340000.0' in lines
    assert sum(line.startswith("shop_cache_command_errors_total{") for line in lines) <= 51 + 14  # 14: at 0
    assert sum(line.startswith("shop_cache_errors_total{") for line in lines) <= 6 * MAX_OPERATIONS + 1
    assert sum(line.startswith("shop_keyring_keys{") for line in lines) == 1
    assert len(lines) < 6 * MAX_OPERATIONS + 500
