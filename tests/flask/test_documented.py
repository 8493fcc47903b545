"""docs/flask.md is complete. (Its code runs in `tests/docs/test_code.py`.)"""

from __future__ import annotations

import re
from pathlib import Path

from aikcache.flask import settings

TEXT = (Path(__file__).parents[2] / "docs" / "flask.md").read_text()


def test_the_page_names_every_setting_of_the_extension() -> None:
    """And no other."""
    assert set(re.findall(r"AIKCACHE_FLASK_[A-Z_]+", TEXT)) == set(settings.OF_FLASK)
