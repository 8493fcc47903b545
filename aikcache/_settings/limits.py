"""Bounds that no setting changes."""

from typing import Final

MAX_EXTRA: Final = 1 << 20
"""Bytes that a frame may have besides its payload: key and tags, header and seal."""
