"""Makes the dashboard's file: `python -m ops.grafana`."""

from __future__ import annotations

from .dashboard import files

for path, text in files():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
