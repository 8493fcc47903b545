"""The items of a dictionary that other threads may change at the same time.

Making a dictionary's items, or a copy of it, allocates as it goes. On CPython 3.11 each allocation may start a garbage
collection, which runs finalizers, and meanwhile other threads run. So `list(d.items())` may raise "changed size during
iteration", and iterating over `d.copy()` may too. A list of the keys or of the values allocates nothing in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")
_GONE = object()


def items(shared: Mapping[K, V]) -> list[tuple[K, V]]:
    """The items; one that is removed or replaced while this is called may be missing, or the new one."""
    get = shared.get
    found = ((key, get(key, _GONE)) for key in list(shared))
    return [(key, value) for key, value in found if value is not _GONE]  # type: ignore[misc]
