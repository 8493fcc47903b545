"""What the README shows runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import aikcache

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_code_of_the_readme_runs_on_a_real_server(redis_url: str) -> None:
    """Every Python block runs, in order, against a server, and does what the text around it says."""
    prices = {"tea": 3}
    loads: list[str] = []

    def load_from_database(product: str, currency: str) -> dict[str, Any]:
        loads.append(product)
        return {"amount": prices[product], "currency": currency}

    names: dict[str, Any] = {
        "load_from_database": load_from_database,
        "write_to_database": prices.__setitem__,
    }
    try:
        assert len(BLOCKS) == 3
        exec(BLOCKS[0].replace("redis://localhost:6379/0", redis_url), names)
        price = names["price"]
        assert price("tea") == price("tea", currency="EUR") == {"amount": 3, "currency": "EUR"}
        assert loads == ["tea"]
        assert price.key("tea") == "catalog:v1:price:price:tea:currency|EUR"
        exec(BLOCKS[1], names)
        assert price("tea") == {"amount": 4, "currency": "EUR"}
        assert price.many(["tea", ("tea", "USD")])[1] == {"amount": 4, "currency": "USD"}
        exec(BLOCKS[2], names)
    finally:
        aikcache.configure()


def test_the_readme_is_short_and_names_both_commands() -> None:
    """A newcomer reads at most 150 lines, and finds the two commands among them."""
    assert len(README.splitlines()) <= 150
    assert "make demo" in README
    assert "make test" in README
