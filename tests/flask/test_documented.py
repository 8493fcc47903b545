"""What docs/flask.md shows runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import aikcache
from aikcache.flask import settings

TEXT = (Path(__file__).parents[2] / "docs" / "flask.md").read_text()


def test_the_code_of_the_page_runs() -> None:
    """Each block does what the text around it says."""
    prices = {"tea": 3}
    names: dict[str, Any] = {"load_price": prices.__getitem__, "save_price": prices.__setitem__, "__name__": "shop"}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert len(blocks) == 2
    try:
        exec(blocks[0], names)
        app = names["app"] = names["create_app"]({"AIKCACHE_URL": None})
        exec(blocks[1], names)
        client = app.test_client()
        assert client.get("/price/tea").json == {"price": 3}
        names["change"]("tea", 4)
        assert client.get("/price/tea").json == {"price": 4}
    finally:
        aikcache.configure()


def test_the_page_names_every_setting_of_the_extension() -> None:
    """And no other."""
    assert set(re.findall(r"AIKCACHE_FLASK_[A-Z_]+", TEXT)) == set(settings.OF_FLASK)
