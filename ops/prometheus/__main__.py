"""Makes the files of the rules: `python -m ops.prometheus`."""

from __future__ import annotations

from .files import files

for path, text in files():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
