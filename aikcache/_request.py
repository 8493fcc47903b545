"""One call, as the tiers need it, and what its result becomes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ._local import Region
from ._patterns import ANY_TAG, tag_group
from ._policy import Policy
from ._stamps import digest

MISSING: Any = object()
"""No value; `None` is one."""


@dataclass(slots=True)
class Request:
    """One call, as the tiers need it. `tags` are known before the load; `late_tags` gives those of its result."""

    key: str
    region: Region
    local_key: Hashable
    policy: Policy
    ttl: float
    load: Callable[[], object]
    tags: tuple[str, ...] = ()
    late_tags: Callable[[object], Iterable[str]] | None = None
    relink: bool = True  # whether the wrapper looks entries up by `local_key`
    began: float = 0.0  # when the first question was asked, and where the region stood then
    asked: float = 0.0  # when the latest was
    epoch: int = 0
    groups: tuple[str, ...] = ()
    known: dict[str, bytes | None] = field(default_factory=dict)  # the stamps as of the first question
    seen: bytes = b""  # what stood remotely and was of no use

    def all_groups(self) -> tuple[str, ...]:
        return self.groups if self.late_tags is None else (*self.groups, ANY_TAG)

    def digest(self, tags: Iterable[str] | None = None) -> bytes:
        """Of the stamps known, for a frame with `tags` (by default those known before the load)."""
        names = (
            self.groups if tags is None else (*self.groups[: len(self.groups) - len(self.tags)], *map(tag_group, tags))
        )
        return digest(b"".join(self.known[name] or b"" for name in names))


class Ready(NamedTuple):
    """A result ready to be kept: its frame (empty where it is for this process alone), its seconds, its tags."""

    frame: bytes
    seconds: float
    tags: tuple[str, ...]

    @property
    def keep_ms(self) -> int:
        return max(int(self.seconds * 1000), 1)
